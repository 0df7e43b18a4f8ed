package http2

import (
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/syntax"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// pushAnswer sends the client what there is of the answer.
func (x *relay) pushAnswer(b *batch) {
	if !x.answered || x.dead {
		return
	}
	end := x.respEnd && !x.hasTail
	if len(x.resp) > 0 || end {
		n := x.conn.link.send(b, &x.down, x.resp, end)
		x.passed(b, n)
		x.resp = x.resp[:copy(x.resp, x.resp[n:])]
	}
	if len(x.resp) > 0 || !x.respEnd {
		return
	}
	if x.hasTail {
		x.conn.link.sendHead(b, &x.down, true, x.encodeTail)
	}
	x.finish(b)
}

// passed counts n bytes of the answer that have gone to the client.
func (x *relay) passed(b *batch, n int) {
	if n == 0 {
		return
	}
	x.moved = b.now
	x.Record.BodySent += int64(n)
	if x.up.id != 0 {
		x.up.link.used(b, &x.up, x.up.id, n)
	}
}

// head takes in the head of an answer that has been owed for so long.
func (x *relay) head(b *batch, fields []hpack.HeaderField, end bool, owed time.Duration) {
	var r response
	f := r.parse(fields)
	switch {
	case f == nil && r.status < 200 && (end || x.Interim >= maxInterim):
		f = errStatus
	case f == nil && end && r.length > 0 && !r.bodiless(x.req.method):
		f = errLength
	}
	if f != nil {
		x.badAnswer(b, f)
		return
	}
	if r.status < 200 {
		x.Interim++
		x.conn.link.sendHead(b, &x.down, false, func(e *encoder) { x.encodeResponse(e, &r, b.now) })
		return
	}
	length := r.length
	if r.bodiless(x.req.method) {
		length = 0
	}
	x.up.link.expect(&x.up, length)
	x.Headed = true
	x.Answer = answerOf(&r, &x.Try)
	x.Attempt.Headers(b.now)
	x.tryAt, x.hedgeAt = wheel.Never, wheel.Never
	if x.Answer.Doubtful() {
		if x.again(b) {
			return
		}
	}
	x.answered = true
	x.second.drop(b, outlier.EndHedgeLoser)
	if x.streams() {
		x.requestAt = x.callerAt
	}
	x.Record.Status = r.status
	x.Record.Flags |= exchange.OriginFlags(x.Answer.Origin)
	x.conn.link.sendHead(b, &x.down, end, func(e *encoder) { x.encodeResponse(e, &r, b.now) })
	if end {
		x.respEnd = true
		x.endWhole(b, owed)
		x.finish(b)
	}
}

// answerOf is what a head says of an attempt.
func answerOf(r *response, t *exchange.Try) exchange.Answer {
	a := exchange.Answer{Status: r.status, RetryAfter: r.retryAfter, Wait: r.wait, Origin: t.Believe([]byte(r.origin)), GRPC: r.grpc}
	hearStatus(&a, r.grpcStatus, r.pushback)
	return a
}

// again makes another attempt in place of an answer that is worth one, or leaves the
// request to the one that runs beside it.
func (x *relay) again(b *batch) bool {
	if x.Hedge.Runs() {
		if !x.Rejects(&x.Try) {
			return false
		}
		x.end(b, outlier.EndComplete)
		x.dropUp(b, codeCancel)
		x.promote(b)
		return true
	}
	next, decision := x.Again(&x.conn.srv.deps, b.now, exchange.Failure{Ending: outlier.EndComplete, Answered: true, Replayable: x.keep})
	if next == nil {
		return false
	}
	x.end(b, outlier.EndComplete)
	x.dropUp(b, codeCancel)
	x.next(b, next, decision)
	return true
}

// next goes on with the endpoint that is to be tried, at once or after a pause.
func (x *relay) next(b *batch, ep *upstream.Endpoint, decision resilience.Decision) {
	x.Endpoint = ep
	if decision == resilience.AskBudget {
		if wait := x.Backoff(); wait > 0 {
			x.resumeAt = b.now + wait
			x.arm()
			return
		}
	}
	x.attempt(b)
}

// hearStatus takes in grpc-status, wherever it stood.
func hearStatus(a *exchange.Answer, status string, pushback bool) {
	if code, ok := syntax.Number(status); ok {
		a.GRPCSeen, a.GRPCStatus = true, int(code)
	}
	a.Pushback = a.Pushback || pushback
}

// tail takes in the trailers of an answer that have been owed for so long.
func (x *relay) tail(b *batch, fields []hpack.HeaderField, owed time.Duration) {
	if f := checkTrailers(fields); f != nil {
		x.badAnswer(b, f)
		return
	}
	for i := range fields {
		switch f := &fields[i]; f.Name {
		case "grpc-status":
			hearStatus(&x.Answer, f.Value, false)
		case "grpc-retry-pushback-ms":
			hearStatus(&x.Answer, "", true)
		}
	}
	x.respTail = append(x.respTail[:0], fields...)
	x.hasTail, x.respEnd = true, true
	x.endWhole(b, owed)
	x.pushAnswer(b)
}
