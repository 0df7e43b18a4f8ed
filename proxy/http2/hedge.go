package http2

import (
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// seat is a place among those who wait for a connection to an endpoint.
type seat struct {
	pool    *pool  // in whose queue it is; nil: in none
	ticket  uint64 // tells its places in queues apart, also over its reuse
	pending bool   // counted in the limit on waiting requests
}

// take opens t's stream on a connection of p, now or when there is one. It reports
// whether t has it, or a place to wait for it.
func (s *seat) take(b *batch, p *pool, t taker, c *cluster.Cluster) bool {
	switch {
	case p.find(b, t):
		return true
	case !s.wait(p, c):
		return false
	}
	p.enqueue(b, waiter{t, s.ticket})
	return true
}

// wait takes the place, if c may have one more; inbound c is nil.
func (s *seat) wait(p *pool, c *cluster.Cluster) bool {
	if c != nil && !s.pending {
		if !c.Limits().Pending.Acquire() {
			return false
		}
		s.pending = true
	}
	s.pool = p
	s.ticket++
	return true
}

// called reports whether a call of the pool is for the place, which then is free.
func (s *seat) called(p *pool, ticket uint64) bool {
	if s.pool != p || s.ticket != ticket {
		return false
	}
	s.pool = nil
	return true
}

// leave gives up the place of t, and the limit's.
func (s *seat) leave(t taker, c *cluster.Cluster) {
	if s.pool != nil {
		s.pool.forget(t)
		s.pool = nil
	}
	if s.pending {
		s.pending = false
		c.Limits().Pending.Release()
	}
}

// hedge is the second attempt of a request, beside one that is overdue: x.Hedge. As soon
// as it has brought an answer, or the first attempt none, its stream becomes the
// relay's own. The relay's lock guards it.
type hedge struct {
	x *relay // never another one, so that it may be read without the lock
	seat
	up   stream
	sent int64 // bytes of the body
}

// hedge makes a second attempt, if it may.
func (x *relay) hedge(b *batch) {
	if !x.keep || x.base > 0 {
		return
	}
	ep := x.PickHedge(b.now)
	if ep == nil {
		return
	}
	h := &x.second
	h.sent, h.up.id = 0, 0
	x.BeginHedge(ep, b.now)
	h.take(b, poolOf(x.conn.srv.client, ep))
}

// take opens the stream on a connection, now or when there is one.
func (h *hedge) take(b *batch, p *pool) {
	if !h.seat.take(b, p, h, h.x.Cluster) {
		h.drop(b, outlier.EndLocalLimit)
	}
}

// openOn implements taker.
func (h *hedge) openOn(b *batch, l *link) bool {
	x := h.x
	if !x.sendOn(b, l, &h.up, h, &x.Hedge) {
		return false
	}
	h.leave(h, x.Cluster)
	x.sendRest(b, &h.up, &h.sent)
	return true
}

// onLink implements taker.
func (h *hedge) onLink(b *batch, p *pool, ticket uint64) {
	h.x.mu.Lock()
	defer h.x.unlock()
	if h.called(p, ticket) {
		h.take(b, p)
	}
}

// onNoLink implements taker.
func (h *hedge) onNoLink(b *batch, p *pool, ticket uint64, ending outlier.Ending, _ string) (took bool) {
	h.x.mu.Lock()
	defer h.x.unlock()
	if !h.called(p, ticket) {
		return false
	}
	h.drop(b, ending)
	return true
}

// drop ends the attempt, if it runs.
func (h *hedge) drop(b *batch, ending outlier.Ending) {
	x := h.x
	if !x.Hedge.Runs() {
		return
	}
	h.leave(h, x.Cluster)
	var hash uint32
	if h.up.id != 0 {
		hash = h.up.link.hash
		h.up.link.reset(b, &h.up, codeCancel)
		h.up.id = 0
	}
	x.EndHedge(&x.conn.srv.deps, b.now, exchange.Ended{Ending: ending, Owed: b.now - x.Hedge.Begun, Conn: hash})
}

// promote goes on with the second attempt in place of the first, which has ended.
func (x *relay) promote(b *batch) {
	h := &x.second
	x.Promote()
	x.sent, x.resetBy = h.sent, codeNo
	x.tryAt = wheel.Never
	if x.PerTry > 0 {
		x.tryAt = x.Begun + x.PerTry
		x.arm()
	}
	if h.up.id == 0 {
		h.leave(h, x.Cluster)
		x.take(b, poolOf(x.conn.srv.client, x.Endpoint))
		return
	}
	h.up.link.move(&h.up, &x.up, x)
}

// move makes a stream that of another party, in another place.
func (l *link) move(from, to *stream, p party) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*to = *from
	to.party = p
	from.place = place{}
	if l.streams[to.id] != from {
		return // both sides have ended
	}
	l.streams[to.id] = to
	for i, st := range l.waiting {
		if st == from {
			l.waiting[i] = to
		}
	}
}

// mine locks the relay and reports whether news of the stream is the hedge's. If not, it
// is the relay's, if anybody's, which may have got the stream while the news was on its
// way; and nothing is locked.
func (h *hedge) mine(at place) bool {
	h.x.mu.Lock()
	if h.up.place == at && at.id != 0 && !h.x.dead {
		return true
	}
	h.x.unlock()
	return false
}

// onHeaders decides: unless the answer is one that would be repeated, it is the
// request's.
func (h *hedge) onHeaders(b *batch, _ *stream, at place, fields []hpack.HeaderField, end bool) {
	x := h.x
	if !h.mine(at) {
		x.onHeaders(b, &x.up, at, fields, end)
		return
	}
	defer x.unlock()
	var r response
	switch f := r.parse(fields); {
	case f != nil || r.status < 200 && end:
		x.conn.srv.deps.Metrics.BadAnswers.Add(1)
		h.drop(b, outlier.EndBadFraming)
		return
	case r.status < 200:
		return // the client has none of it: another head is to follow
	}
	x.Hedge.Headed, x.Hedge.Answer = true, answerOf(&r, &x.Hedge)
	if x.Rejects(&x.Hedge) {
		h.drop(b, outlier.EndComplete)
		return
	}
	owed := b.now - x.Hedge.Begun
	x.end(b, outlier.EndHedgeLoser)
	x.dropUp(b, codeCancel)
	x.promote(b)
	x.moved = b.now
	x.head(b, fields, end, owed)
}

// onData implements party: there is none before the head, and after it the stream is
// the relay's.
func (h *hedge) onData(b *batch, _ *stream, at place, p []byte, end bool) bool {
	if !h.mine(at) {
		return h.x.onData(b, &h.x.up, at, p, end)
	}
	defer h.x.unlock()
	h.x.conn.srv.deps.Metrics.BadAnswers.Add(1)
	h.drop(b, outlier.EndBadFraming)
	return false
}

func (h *hedge) onRoom(b *batch, _ *stream, at place) {
	if !h.mine(at) {
		h.x.onRoom(b, &h.x.up, at)
		return
	}
	defer h.x.unlock()
	h.x.sendRest(b, &h.up, &h.sent)
}

func (h *hedge) onReset(b *batch, _ *stream, at place, c code) {
	if !h.mine(at) {
		h.x.onReset(b, &h.x.up, at, c)
		return
	}
	defer h.x.unlock()
	h.drop(b, outlier.StreamReset(uint32(c)))
}

func (h *hedge) onLost(b *batch, _ *stream, at place, l *loss) {
	if !h.mine(at) {
		h.x.onLost(b, &h.x.up, at, l)
		return
	}
	defer h.x.unlock()
	ending, _ := l.ending(false)
	h.drop(b, ending)
}

func (h *hedge) visit(*batch, *stream, place) time.Duration { return wheel.Never }
