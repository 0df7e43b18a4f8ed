package http2

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// maxInterim bounds the interim responses of a request, as in proxy/http1.
const maxInterim = 8

// relay is one request between two HTTP/2 connections. It has no goroutine: the
// readers of both connections and the wheel drive it, one at a time under its lock.
// What it has of the request is kept until it cannot be needed for another attempt;
// what it has of the answer only as long as the client's window is shut.
type relay struct {
	mu sync.Mutex // guards everything
	exchange.Exchange
	conn *serverConn
	down stream // to the client
	up   stream // to the endpoint; its id is 0 while there is none

	req    request
	fields []hpack.HeaderField // what req.regular is of
	text   []byte              // what the record's slices are of

	body     []byte // of the request, from byte base on
	base     int64
	sent     int64 // bytes of the body that this attempt has been sent
	granted  int64 // bytes of the body for which the client has got its window back
	keep     bool  // base is 0, and stays so: the request can be sent again
	whole    bool  // the client has sent all
	trailers []hpack.HeaderField

	resetBy  code   // with which the endpoint has reset the attempt's stream
	answered bool   // the head of an answer has been passed on
	resp     []byte // data of the answer that the client's window does not take yet
	respEnd  bool   // the answer is complete
	respTail []hpack.HeaderField
	hasTail  bool

	seat
	second hedge

	stall     time.Duration // how long it may stand still; 0: for ever
	moved     time.Duration // when anything of a body or head last came
	callerAt  time.Duration // when the caller gives up, by grpc-timeout; wheel.Never
	requestAt time.Duration // when its time is up; wheel.Never
	tryAt     time.Duration // and the attempt's
	hedgeAt   time.Duration // when another one is to be made beside it
	resumeAt  time.Duration // when the next attempt begins, in a pause

	dead  bool // it is over
	freed bool // and given back
}

var relays = sync.Pool{New: func() any {
	x := new(relay)
	x.second.x = x
	return x
}}

// unlock ends a call into the relay, and gives it back if it is over.
func (x *relay) unlock() {
	free := x.dead && !x.freed
	if free {
		x.freed = true
		x.clear()
	}
	x.mu.Unlock()
	if free {
		relays.Put(x)
	}
}

// clear drops what must not live on in the pool.
func (x *relay) clear() {
	const keepFields, keepBytes = 64, 16 << 10
	if cap(x.fields) > keepFields {
		x.fields = nil
	}
	if cap(x.respTail) > keepFields {
		x.respTail = nil
	}
	clear(x.fields[:cap(x.fields)])
	clear(x.respTail[:cap(x.respTail)])
	x.fields, x.trailers, x.respTail = x.fields[:0], nil, x.respTail[:0]
	if cap(x.body) > keepBytes {
		x.body = nil
	}
	if cap(x.resp) > keepBytes {
		x.resp = nil
	}
	x.body, x.resp = x.body[:0], x.resp[:0]
	x.conn, x.req = nil, request{}
	x.up.place, x.down.place = place{}, place{}
}

// open makes the relay that of a request. The caller has the lock.
func (x *relay) open(b *batch, c *serverConn, r *request) {
	d := &c.srv.deps
	x.Open(b.now, c.client, 2, 0, d.Inbound != nil)
	if d.TrustedHops > 0 {
		x.Trust(d.TrustedHops, r.forwardedFor)
	}
	x.conn = c
	x.fields = append(x.fields[:0], r.regular...)
	x.req = *r
	x.req.regular = x.fields
	x.Fields, x.Matched = &x.req, r.route
	x.GRPC, x.HasBody = r.grpc, false
	x.base, x.sent, x.granted, x.keep, x.whole = 0, 0, 0, true, false
	x.answered, x.respEnd, x.hasTail = false, false, false
	x.pool, x.pending = nil, false
	x.stall, x.moved = c.srv.cfg.StreamIdleTimeout, b.now
	x.callerAt, x.requestAt, x.tryAt, x.resumeAt, x.hedgeAt = wheel.Never, wheel.Never, wheel.Never, wheel.Never, wheel.Never
	x.dead, x.freed = false, false

	t := x.text[:0]
	part := func(s string) (from, to int) {
		from = len(t)
		t = append(t, s...)
		return from, len(t)
	}
	m0, m1 := part(r.method)
	h0, h1 := part(r.authority)
	p0, p1 := part(r.path)
	a0, a1 := part(r.agent)
	i0, i1 := part(r.identified)
	x.text = t
	rec := &x.Record
	rec.Method, rec.Host, rec.Path, rec.UserAgent, rec.RequestID = t[m0:m1:m1], t[h0:h1:h1], t[p0:p1:p1], t[a0:a1:a1], t[i0:i1:i1]
	if r.identified == "" {
		rec.RequestID = x.NewID()
	}
	if d.Trace != nil {
		x.place(d.Trace)
	}
}

// begin finds out where the request goes and takes it there.
func (x *relay) begin(b *batch, end bool) {
	x.HasBody, x.whole = !end, end
	stall, refusal := x.Route(&x.conn.srv.deps, b.now)
	if x.Delay > 0 {
		x.delay(b)
		return
	}
	x.proceed(b, stall, refusal)
}

// proceed is the rest of begin, after a delay if there is one.
func (x *relay) proceed(b *batch, stall time.Duration, refusal *exchange.Refusal) {
	d := &x.conn.srv.deps
	if stall > 0 {
		x.stall = stall
	}
	if t := x.req.timeout; t > 0 {
		x.callerAt = x.Record.Start + t
		x.requestAt = x.callerAt
		if x.Request == 0 || t < x.Request {
			x.Request = t
		}
	}
	if x.whole {
		x.complete(b)
	}
	x.arm()
	if refusal == nil {
		if x.Endpoint = x.Pick(d, b.now, false); x.Endpoint == nil {
			refusal = x.Nobody()
		}
	}
	if refusal != nil {
		x.refuse(b, refusal)
		return
	}
	x.attempt(b)
}

// complete is told that the client has sent all: from now on time is the endpoint's.
func (x *relay) complete(b *batch) {
	x.whole = true
	if x.Request > 0 && !x.streams() {
		x.requestAt = min(x.requestAt, b.now+x.Request)
	}
	if x.PerTry > 0 && !x.Attempt.Ended() && !x.Headed {
		x.tryAt = b.now + x.PerTry
	}
	if !x.Attempt.Ended() && !x.Headed {
		x.Attempt.Asked(b.now)
		x.hedgeAt = x.HedgeAt(b.now)
	}
}

// streams reports whether a gRPC answer has begun. It may be a stream of messages
// without an end, and nobody can tell it from one message: from then on only the
// caller's own deadline counts.
func (x *relay) streams() bool { return x.answered && x.GRPC && x.Answer.GRPC }

// attempt makes an attempt on x.Endpoint.
func (x *relay) attempt(b *batch) {
	x.Begin(b.now, x.whole && (x.Request > 0 || x.PerTry > 0 || x.req.timeout > 0))
	x.sent = 0
	x.up.id = 0
	x.tryAt, x.resumeAt, x.hedgeAt = wheel.Never, wheel.Never, wheel.Never
	if x.whole {
		if x.PerTry > 0 {
			x.tryAt = b.now + x.PerTry
		}
		x.hedgeAt = x.HedgeAt(b.now)
		x.arm()
	}
	x.take(b, poolOf(x.conn.srv.client, x.Endpoint))
}

// unwait gives up the relay's place among those that wait for a connection.
func (x *relay) unwait() { x.leave(x, x.Cluster) }

// take opens the attempt's stream on a connection, now or when there is one.
func (x *relay) take(b *batch, p *pool) {
	if !x.seat.take(b, p, x, x.Cluster) {
		x.failed(b, outlier.EndLocalLimit, exchange.Failure{Ending: outlier.EndLocalLimit, Replayable: x.keep, Unprocessed: true})
	}
}

// onLink implements taker.
func (x *relay) onLink(b *batch, p *pool, ticket uint64) {
	x.mu.Lock()
	defer x.unlock()
	if x.called(p, ticket) {
		x.take(b, p)
	}
}

// onNoLink implements taker.
func (x *relay) onNoLink(b *batch, p *pool, ticket uint64, ending outlier.Ending, text string) (took bool) {
	x.mu.Lock()
	defer x.unlock()
	if !x.called(p, ticket) {
		return false
	}
	x.unwait()
	if text != "" {
		x.Record.Detail = text
	}
	x.failed(b, ending, exchange.Failure{Ending: ending, Replayable: x.keep, Unprocessed: true})
	return true
}

// openOn implements taker.
func (x *relay) openOn(b *batch, l *link) bool {
	if !x.sendOn(b, l, &x.up, x, &x.Try) {
		return false
	}
	x.unwait()
	x.pushBody(b)
	return true
}

// sendOn begins the stream of an attempt with the request's head, and reports whether the
// link had room for it.
func (x *relay) sendOn(b *batch, l *link, up *stream, p party, t *exchange.Try) bool {
	l.mu.Lock()
	if !l.acceptsLocked() {
		l.mu.Unlock()
		return false
	}
	t.Reused = l.nextID > 1
	l.beginLocked(b, up, p)
	end := x.whole && len(x.body) == 0 && x.trailers == nil
	l.sendHeadLocked(up, end, func(e *encoder) { x.encodeRequest(e, t) })
	l.mu.Unlock()
	b.touch(l)
	x.Reached, t.Sent = true, true
	return true
}

// pushBody sends the endpoint what there is of the request's body.
func (x *relay) pushBody(b *batch) {
	if x.up.id == 0 {
		return
	}
	x.sendRest(b, &x.up, &x.sent)
	if x.sent > x.granted {
		x.conn.link.used(b, &x.down, x.down.id, int(x.sent-x.granted))
		x.granted = x.sent
	}
	if len(x.body) > int(x.conn.srv.cfg.RetryBuffer) {
		x.keep = false
	}
	if x.whole && x.Mirrored() {
		x.mirror()
	}
	if !x.keep {
		x.body = x.body[:copy(x.body, x.body[x.sent-x.base:])]
		x.base = x.sent
	}
}

// sendRest sends what there is of the request behind its head, and has not been sent on
// that stream.
func (x *relay) sendRest(b *batch, up *stream, sent *int64) {
	rest := x.body[*sent-x.base:]
	end := x.whole && x.trailers == nil
	if len(rest) > 0 || end {
		*sent += int64(up.link.send(b, up, rest, end))
	}
	if x.whole && x.trailers != nil && *sent == x.base+int64(len(x.body)) {
		up.link.sendHead(b, up, true, x.encodeTrailers)
	}
}

// mine reports whether news of a stream is still news.
func (x *relay) mine(st *stream, at place) bool { return !x.dead && st.place == at && at.id != 0 }

func (x *relay) onHeaders(b *batch, st *stream, at place, fields []hpack.HeaderField, end bool) {
	x.mu.Lock()
	defer x.unlock()
	if !x.mine(st, at) {
		return
	}
	owed := x.owed(b.now)
	x.moved = b.now
	switch {
	case st == &x.down:
		if f := checkTrailers(fields); f != nil {
			x.blame(b, f)
			return
		}
		x.trailers = slices.Clone(fields)
		x.complete(b)
		x.arm()
		x.pushBody(b)
	case x.Headed:
		x.tail(b, fields, owed)
	default:
		x.head(b, fields, end, owed)
	}
}

func (x *relay) onData(b *batch, st *stream, at place, p []byte, end bool) bool {
	x.mu.Lock()
	defer x.unlock()
	if !x.mine(st, at) {
		return false
	}
	x.moved = b.now
	if st == &x.down {
		x.Record.BodyReceived += int64(len(p))
		x.body = append(x.body, p...)
		if end {
			x.complete(b)
			x.arm()
		}
		x.pushBody(b)
		return true
	}
	if !x.Headed {
		x.badAnswer(b, errNoHead)
		return false
	}
	if end {
		x.respEnd = true
		x.end(b, outlier.EndComplete)
	}
	if len(x.resp) == 0 { // as a rule the client reads, and nothing need be kept
		n := x.conn.link.send(b, &x.down, p, end)
		x.passed(b, n)
		if p = p[n:]; len(p) == 0 {
			if end {
				x.finish(b)
			}
			return true
		}
	}
	x.resp = append(x.resp, p...)
	return true
}

func (x *relay) onRoom(b *batch, st *stream, at place) {
	x.mu.Lock()
	defer x.unlock()
	switch {
	case !x.mine(st, at):
	case st == &x.down:
		x.pushAnswer(b)
	default:
		x.pushBody(b)
	}
}

func (x *relay) onReset(b *batch, st *stream, at place, c code) {
	x.mu.Lock()
	defer x.unlock()
	if !x.mine(st, at) {
		return
	}
	if st == &x.down {
		x.abort(b, outlier.EndClientAbort, exchange.DownstreamTermination)
		return
	}
	if b.now >= x.requestAt {
		// A gRPC server resets the stream when the caller's deadline has passed, which
		// is ours too: who is first is chance.
		x.expire(b, outlier.EndRouteTimeout)
		return
	}
	x.resetBy = c
	ending := outlier.StreamReset(uint32(c))
	x.failed(b, ending, exchange.Failure{Ending: ending, Replayable: x.keep})
}

func (x *relay) onLost(b *batch, st *stream, at place, l *loss) {
	x.mu.Lock()
	defer x.unlock()
	if !x.mine(st, at) {
		return
	}
	if st == &x.down {
		switch l.cause {
		case causeStopped:
			x.abort(b, outlier.EndLocalLimit, exchange.LocalReset)
		case causeFault:
			x.conn.srv.deps.Metrics.Malformed.Add(1)
			x.abort(b, outlier.EndClientAbort, exchange.DownstreamProtocolError)
		default:
			x.abort(b, outlier.EndClientAbort, exchange.DownstreamTermination)
		}
		return
	}
	ending, retry := l.ending(x.Headed)
	if l.cause == causeFault {
		x.conn.srv.deps.Metrics.BadAnswers.Add(1)
	}
	x.failed(b, ending, exchange.Failure{Ending: retry, Replayable: x.keep, Unprocessed: l.clean})
}
