package http2

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// arm sees to it that visit is called in time.
func (x *relay) arm() {
	at := min(x.requestAt, x.tryAt, x.resumeAt, x.hedgeAt)
	if x.stall > 0 {
		at = min(at, x.moved+x.stall)
	}
	l := x.conn.link
	l.wheel.Arm(&l.timer, at)
}

// visit is the wheel's.
func (x *relay) visit(b *batch, st *stream, at place) time.Duration {
	x.mu.Lock()
	defer x.unlock()
	if !x.mine(st, at) || st != &x.down {
		return wheel.Never
	}
	switch now := b.now; {
	case now >= x.requestAt:
		x.requestAt = wheel.Never
		x.expire(b, outlier.EndRouteTimeout)
	case now >= x.tryAt:
		x.tryAt = wheel.Never
		ending := outlier.EndPerTryTimeout
		if x.pool != nil {
			ending = outlier.EndPeerWait
		}
		x.failed(b, ending, exchange.Failure{Ending: ending, Replayable: x.keep})
	case now >= x.resumeAt:
		x.resume(b)
	case now >= x.hedgeAt:
		x.hedgeAt = wheel.Never
		x.hedge(b)
	case x.stall > 0 && now >= x.moved+x.stall:
		x.expire(b, x.still())
	case x.idles() && now >= x.moved+x.BodyIdle:
		x.expire(b, outlier.EndBodyIdle)
	}
	if x.dead {
		return wheel.Never
	}
	next := min(x.requestAt, x.tryAt, x.resumeAt, x.hedgeAt)
	if x.stall > 0 {
		next = min(next, x.moved+x.stall)
	}
	if x.idles() {
		next = min(next, x.moved+x.BodyIdle)
	} else if x.BodyIdle > 0 && !x.respEnd {
		next = min(next, b.now+x.BodyIdle)
	}
	return next
}

// idles reports whether the endpoint owes the rest of an answer that should flow. A
// gRPC stream may rest between two messages.
func (x *relay) idles() bool {
	return x.BodyIdle > 0 && x.Headed && x.answered && !x.respEnd && len(x.resp) == 0 && x.whole && !x.Answer.GRPC
}

// still says why nothing has moved.
func (x *relay) still() outlier.Ending {
	switch {
	case x.answered && len(x.resp) > 0:
		return outlier.EndClientNotReading
	case x.answered:
		return outlier.EndBodyIdle
	case !x.whole && x.up.id != 0 && x.sent == x.base+int64(len(x.body)):
		return outlier.EndClientNotReading // nor sending
	}
	return outlier.EndRouteTimeout
}
