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
		if c.head == 0 || c.srv.deps.Trace != nil { // each attempt is a span of its own
			c.buildRequest()
		}
		ending, ok = c.converse()
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
	c.Begin(c.now, c.whole && (c.Request > 0 || c.PerTry > 0))
}

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

// hear takes in what the head of the answer says. It must still be where it was
// read.
func (c *conn) hear() {
	r := &c.res
	c.Headed = true
	c.Answer = exchange.Answer{
		Status: r.status, RetryAfter: r.retryAfter, Wait: r.wait,
		Origin: c.Believe(r.origin.of(c.resp)), GRPC: r.grpc,
	}
	if code, ok := syntax.Number(r.grpcStatus.of(c.resp)); ok {
		c.Answer.GRPCSeen, c.Answer.GRPCStatus = true, int(code)
	}
}

// connect gets a connection to c.Endpoint.
func (c *conn) connect(ctx context.Context, fresh bool) (outlier.Ending, bool) {
	perTry := c.PerTry
	if !c.whole {
		perTry = 0 // it begins when the body has been sent
	}
	dialing := c.guard.try(ctx, c.now, perTry)
	if c.Cluster != nil {
		pending := &c.Cluster.Limits().Pending
		if !pending.Acquire() {
			return outlier.EndLocalLimit, false
		}
		defer pending.Release()
	}
	var err error
	switch {
	case c.srv.deps.Streams != nil && c.Endpoint.Multiplexed():
		c.up, c.Reused, err = c.srv.deps.Streams.Open(dialing, c.Endpoint)
	case fresh:
		c.up, err = c.Endpoint.Fresh(dialing)
	default:
		c.up, c.Reused, err = c.Endpoint.Get(dialing, c.now)
	}
	if !c.Reused {
		c.now = c.srv.deps.Clock.Now()
	}
	if err != nil {
		return c.unconnected(err), false
	}
	c.Reached = true
	if why := c.guard.hold(c.up); why != uninterrupted {
		return why.ending(), false
	}
	return 0, true
}

// unconnected is why there is no connection.
func (c *conn) unconnected(err error) outlier.Ending {
	c.up = nil
	if why := c.guard.reason(); why != uninterrupted {
		return why.ending()
	}
	ending := outlier.EndUnreachable
	if e, ok := errors.AsType[*upstream.ConnectError](err); ok {
		ending = e.Ending
	}
	return ending
}

// converse sends the request and reads the head of the answer.
func (c *conn) converse() (outlier.Ending, bool) {
	werr := c.sendRequest()
	if werr == nil && !c.whole {
		c.startPump()
	}
	if c.resp == nil {
		c.resp = getBuffer(smallBuffer)
	}
	c.rw = 0
	c.res.reset()
	for {
		done, p := c.res.parse(c.resp[:c.rw], c.srv.limits)
		if p == nil && done && c.res.interim() && !c.switches() {
			if p = c.passInterim(); p == nil {
				continue
			}
		}
		if p != nil {
			c.srv.deps.Metrics.BadAnswers.Add(1)
			c.Record.Detail = p.text
			return outlier.EndBadFraming, false
		}
		if done {
			break
		}
		if c.rw == len(c.resp) {
			c.growResponse(c.srv.limits.bytes + 1)
		}
		n, err := c.up.Read(c.resp[c.rw:])
		c.now = c.srv.deps.Clock.Now()
		if n == 0 && err != nil {
			return c.silent(err, werr), false
		}
		c.rw += n
	}
	if why := c.guard.answered(); why != uninterrupted {
		return why.ending(), false
	}
	c.hear()
	if !c.whole {
		c.Attempt.Asked(time.Duration(c.guard.moved.Load()))
	}
	c.guard.moved.Store(int64(c.now))
	c.Attempt.Headers(c.now)
	return 0, true
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
	switch upstream.Ending(err) {
	case outlier.EndOwnErrno, outlier.EndLocalLimit:
		return outlier.EndOwnErrno
	}
	if c.rw > 0 || c.Interim > 0 {
		c.Record.Detail = "connection ended within a response head"
		return outlier.EndConnectionLost
	}
	// Also what would say something else of connecting: a host that has become
	// unreachable may have processed the request before.
	if c.Reused {
		return c.Endpoint.Lost(c.up, c.now)
	}
	return outlier.EndResetBeforeHeaders
}

// growResponse makes room for n bytes of response; offsets stay.
func (c *conn) growResponse(n int) {
	if n <= len(c.resp) {
		return
	}
	larger := getBuffer(n)
	copy(larger, c.resp[:c.rw])
	putBuffer(c.resp)
	c.resp = larger
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
