package http1

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/syntax"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// attemptOnce makes one attempt on c.Endpoint: it brings a final response head into
// c.res, or says how it ended.
func (c *conn) attemptOnce(ctx context.Context, fresh bool) (outlier.Ending, bool) {
	c.beginAttempt()
	ending, ok := c.connect(ctx, fresh)
	if ok {
		if c.head == 0 || c.srv.deps.Trace != nil || c.Counted() { // each attempt is a span of its own
			c.buildRequest()
		}
		ending, ok = c.converse(ctx)
	}
	if !ok {
		c.endAttempt(ending)
		c.dropUpstream()
		c.guard.settleTry()
	}
	return ending, ok
}

func (c *conn) beginAttempt() {
	// Who is still being sent a body does not owe an answer yet.
	c.retryAs = outlier.EndComplete
	c.Begin(c.now, c.deadlined())
}

// deadlined reports whether somebody will give up on the attempt one day.
func (c *conn) deadlined() bool { return c.whole && (c.Request > 0 || c.PerTry > 0) }

// endAttempt tells what came of the attempt, once.
func (c *conn) endAttempt(ending outlier.Ending) {
	if c.Attempt.Ended() {
		return
	}
	var hash uint32
	if c.up != nil {
		hash = c.up.Hash()
	}
	c.End(&c.srv.deps, c.now, exchange.Ended{Ending: ending, Owed: c.owed(), Conn: hash})
}

// owed is for how long the endpoint has owed something: an answer, or the rest of
// one. While the client still has to send, nothing is due, and of a body that flows
// in either direction no more than what comes next.
func (c *conn) owed() time.Duration {
	switch {
	case c.Headed:
	case c.whole:
		return c.now - c.Begun
	case c.starved.Load():
		return 0
	}
	return max(0, c.now-time.Duration(c.guard.moved.Load()))
}

// hear takes in what the head of an answer to t says, which was read into buf.
func hear(t *exchange.Try, r *response, buf []byte, now time.Duration) {
	t.Headed = true
	t.Answer = exchange.Answer{
		Status: r.status, RetryAfter: r.retryAfter, Wait: r.wait,
		Origin: t.Believe(r.origin.of(buf)), GRPC: r.grpc,
	}
	if code, ok := syntax.Number(r.grpcStatus.of(buf)); ok {
		t.Answer.GRPCSeen, t.Answer.GRPCStatus = true, int(code)
	}
	t.Attempt.Headers(now)
}

// connect gets a connection to c.Endpoint.
func (c *conn) connect(ctx context.Context, fresh bool) (outlier.Ending, bool) {
	perTry := c.PerTry
	if !c.whole {
		perTry = 0 // it begins when the body has been sent
	}
	dialing := c.guard.try(ctx, c.now, perTry)
	up, reused, err := c.dial(dialing, c.Endpoint, c.now, fresh)
	if c.Cluster != nil && errors.Is(err, upstream.ErrTooManyConnections) {
		up, reused, err = c.queue(ctx, dialing, perTry)
	}
	if !reused {
		c.now = c.srv.deps.Clock.Now()
	}
	if err != nil {
		if why := c.guard.reason(); why != uninterrupted {
			return why.ending(), false
		}
		if e, ok := errors.AsType[*upstream.ConnectError](err); ok && e.Detail != "" {
			c.Record.Detail = e.Detail
		}
		return upstream.ConnectEnding(err), false
	}
	c.up, c.Reused, c.Reached = up, reused, true
	if why := c.guard.hold(up, c.hedgeAt()); why != uninterrupted {
		return why.ending(), false
	}
	return 0, true
}

var errPending = &upstream.ConnectError{Ending: outlier.EndLocalLimit, Err: errors.New("too many requests wait for a connection")}

// dial gets a connection to an endpoint, and says whether it has been used before. It
// changes nothing of c.
func (c *conn) dial(ctx context.Context, ep *upstream.Endpoint, now time.Duration, fresh bool) (*upstream.Conn, bool, error) {
	if c.Cluster != nil {
		pending := &c.Cluster.Limits().Pending
		if !pending.Acquire() {
			return nil, false, errPending
		}
		defer pending.Release()
	}
	switch {
	case c.srv.deps.Streams != nil && ep.Multiplexed():
		return c.srv.deps.Streams.Open(ctx, ep)
	case fresh:
		up, err := ep.Fresh(ctx)
		return up, false, err
	}
	return ep.Get(ctx, now)
}

// queue waits for one of the connections to c.Endpoint that there may be, among as many
// requests as may be pending. Meanwhile there is no attempt: the wait is ours, and a
// time-out in it is no news of the endpoint.
func (c *conn) queue(ctx, dialing context.Context, perTry time.Duration) (*upstream.Conn, bool, error) {
	pending := &c.Cluster.Limits().Pending
	if !pending.Acquire() {
		return nil, false, errPending
	}
	defer pending.Release()
	c.endAttempt(outlier.EndLocalLimit)
	return c.Endpoint.Await(dialing, func() context.Context {
		c.now = c.srv.deps.Clock.Now()
		c.BeginAgain(c.now, c.deadlined())
		return c.guard.try(ctx, c.now, perTry)
	})
}

// converse sends the request and brings the head of the answer.
func (c *conn) converse(ctx context.Context) (outlier.Ending, bool) {
	if c.resp == nil {
		c.resp = getBuffer(smallBuffer)
	}
	c.rw = 0
	c.res.reset()
	werr, rerr := c.sendRequest()
	c.sendErr = werr
	if werr == nil && !c.whole {
		c.startPump()
	}
	ending, ok := c.readAnswer(ctx, werr, rerr)
	if why := c.guard.answered(); ok && why != uninterrupted {
		ending, ok = why.ending(), false
	}
	if ok {
		if !c.whole {
			c.Attempt.Asked(time.Duration(c.guard.moved.Load()))
		}
		c.guard.moved.Store(int64(c.now))
		hear(&c.Try, &c.res, c.resp, c.now)
	}
	if c.hedge != nil {
		return c.compare(ending, ok)
	}
	return ending, ok
}

// readAnswer reads a final head, or says what it means that there is none. werr is of
// sending the request, err of a first read.
func (c *conn) readAnswer(ctx context.Context, werr, err error) (outlier.Ending, bool) {
	for {
		switch {
		case err == nil:
		case !c.guard.calm():
			return c.silent(err, werr), false
		case c.hedge == nil:
			c.beginHedge(ctx)
		case c.overtaken():
			return 0, true
		}
		done, p := c.parseAnswer()
		if p != nil {
			c.srv.deps.Metrics.BadAnswers.Add(1)
			c.Record.Detail = p.text
			return outlier.EndBadFraming, false
		}
		if done {
			return 0, true
		}
		if c.rw == len(c.resp) {
			c.growResponse(c.srv.limits.bytes + 1)
		}
		var n int
		n, err = c.up.Read(c.resp[c.rw:])
		c.now = c.srv.deps.Clock.Now()
		if c.rw += n; n > 0 {
			err = nil
		}
	}
}

// parseAnswer looks for a final head in what has come, and passes interim ones on.
func (c *conn) parseAnswer() (done bool, p *problem) {
	for {
		done, p := c.res.parse(c.resp[:c.rw], c.srv.limits)
		if p != nil || !done || !c.res.interim() || c.switches() {
			return done, p
		}
		if p := c.passInterim(); p != nil {
			return false, p
		}
	}
}

// silent is what it means that a connection ended without a final head. err is
// of reading, werr of writing: what the endpoint managed to say before it closed
// has been read by now.
func (c *conn) silent(err, werr error) outlier.Ending {
	if why := c.guard.reason(); why != uninterrupted {
		if why != byStall {
			return why.ending()
		}
		if c.stopPump(); c.starved.Load() {
			return outlier.EndClientNotReading // nor sending
		}
		return outlier.EndRouteTimeout // no head yet, so it was not the answer's body
	}
	if werr != nil && errors.Is(err, io.EOF) {
		err = werr
	}
	if e, ok := errors.AsType[*upstream.StreamError](err); ok {
		c.retryAs = e.Retry
		return e.Ending
	}
	begun := c.rw > 0 || c.Interim > 0
	if begun {
		c.Record.Detail = "connection ended within a response head"
	}
	return breakOf(&c.Try, c.up, begun, err, c.now)
}

// breakOf is what it means that a connection broke before a final head; begun says that
// something had come.
func breakOf(t *exchange.Try, up *upstream.Conn, begun bool, err error, now time.Duration) outlier.Ending {
	if e, ok := errors.AsType[*upstream.StreamError](err); ok {
		return e.Ending
	}
	switch upstream.Ending(err) {
	case outlier.EndOwnErrno, outlier.EndLocalLimit:
		return outlier.EndOwnErrno
	}
	switch {
	case begun:
		return outlier.EndConnectionLost
	case t.Reused:
		// Also what would say something else of connecting: a host that has become
		// unreachable may have processed the request before.
		return t.Endpoint.Lost(up, now)
	}
	return outlier.EndResetBeforeHeaders
}

// growResponse makes room for n bytes of response; offsets stay.
func (c *conn) growResponse(n int) {
	if n > len(c.resp) {
		c.resp = changeBuffer(c.resp, c.rw, n)
	}
}

// passInterim passes an interim response on (RFC 9110, section 15.2) and makes
// room for the next head.
func (c *conn) passInterim() *problem {
	if c.res.status == 101 {
		return errSwitching
	}
	if c.Interim++; c.Interim > maxInterim {
		return errInterim
	}
	if c.req.minor >= 1 {
		c.buildInterim()
		if _, err := c.out.send(c.nc, nil, nil); err != nil {
			c.guard.interrupt(byClient) // the next read finds it
		}
	}
	c.rw = copy(c.resp, c.resp[c.res.size:c.rw])
	c.res.reset()
	return nil
}

const maxInterim = 8

// dropUpstream closes the attempt's connection, if it still has one.
func (c *conn) dropUpstream() {
	if c.up == nil {
		return
	}
	c.guard.release(false)
	c.up.Discard()
	c.up = nil
}
