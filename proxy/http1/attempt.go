package http1

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// attemptOnce makes one attempt on c.ep: it brings a final response head into
// c.res, or says how it ended.
func (c *conn) attemptOnce(ctx context.Context, fresh bool) (outlier.Ending, bool) {
	c.beginAttempt()
	ending, ok := c.connect(ctx, fresh)
	if ok {
		if c.head == 0 {
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
	c.tried.Add(c.ep)
	c.begun, c.sent, c.headed, c.reused = c.now, false, false, false
	// Who is still being sent a body does not owe an answer yet.
	c.attempt = c.ep.Begin(c.now, c.whole && (c.request > 0 || c.perTry > 0))
	n := len(c.record.Attempts)
	if n == len(c.attempts) {
		n-- // the newest wins
	}
	c.record.Attempts = append(c.record.Attempts[:n], AttemptRecord{Endpoint: c.ep, Offset: c.now - c.record.Start})
}

// endAttempt tells what came of the attempt, once.
func (c *conn) endAttempt(ending outlier.Ending) {
	if c.attempt.Ended() {
		return
	}
	result := outlier.HTTPResult{Ending: ending, HeadersSeen: c.headed, Age: c.owed()}
	if c.cluster != nil {
		result.Overdue = c.cluster.Overdue()
	} else if in := c.srv.deps.Inbound; in.Overdue != nil {
		result.Overdue = in.Overdue()
	}
	outcome := outlier.Outcome{Now: c.now, Route: c.route}
	if c.headed {
		result.Status, result.RetryAfter, result.Origin = c.res.status, c.res.retryAfter, c.origin
		result.BodyStalled = result.Age
		outcome.RetryAfter = c.res.wait
	}
	if c.up != nil {
		outcome.Conn = c.up.Hash()
	}
	outcome.Class, outcome.Level, outcome.Gateway = outlier.ClassifyHTTP(result), result.Level(), result.Gateway()
	c.attempt.End(outcome)

	r := &c.record.Attempts[len(c.record.Attempts)-1]
	r.Duration, r.Ending, r.Class, r.Status, r.Reused = c.now-c.begun, ending, outcome.Class, result.Status, c.reused
}

// owed is for how long the endpoint has owed something: an answer, or the rest of
// one. While the client still has to send, nothing is due, and of a body that flows
// in either direction no more than what comes next.
func (c *conn) owed() time.Duration {
	switch {
	case c.headed:
	case c.whole:
		return c.now - c.begun
	case c.starved.Load():
		return 0
	}
	return max(0, c.now-time.Duration(c.guard.moved.Load()))
}

// findOrigin is what an inbound sidecar says of its application. From anybody else
// the field is noise. The head must still be where it was read.
func (c *conn) findOrigin() string {
	if !c.ep.Inbound || c.res.origin.len() == 0 {
		return ""
	}
	switch string(c.res.origin.of(c.resp)) {
	case outlier.OriginRefused:
		return outlier.OriginRefused
	case outlier.OriginReset:
		return outlier.OriginReset
	case outlier.OriginTimeout:
		return outlier.OriginTimeout
	}
	return ""
}

// connect gets a connection to c.ep.
func (c *conn) connect(ctx context.Context, fresh bool) (outlier.Ending, bool) {
	perTry := c.perTry
	if !c.whole {
		perTry = 0 // it begins when the body has been sent
	}
	dialing := c.guard.try(ctx, c.now, perTry)
	if c.cluster != nil {
		pending := &c.cluster.Limits().Pending
		if !pending.Acquire() {
			return outlier.EndLocalLimit, false
		}
		defer pending.Release()
	}
	var err error
	if fresh {
		c.up, err = c.ep.Fresh(dialing)
	} else {
		c.up, c.reused, err = c.ep.Get(dialing, c.now)
	}
	if !c.reused {
		c.now = c.srv.deps.Clock.Now()
	}
	if err != nil {
		return c.unconnected(err), false
	}
	c.reached = true
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
	switch ending {
	case outlier.EndConnectRefused, outlier.EndConnectTimeout, outlier.EndUnreachable, outlier.EndTLS:
		c.refused = true
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
		if p == nil && done && c.res.interim() {
			if p = c.passInterim(); p == nil {
				continue
			}
		}
		if p != nil {
			c.srv.deps.Metrics.BadAnswers.Add(1)
			c.record.Detail = p.text
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
	c.headed, c.origin = true, c.findOrigin()
	if !c.whole {
		c.attempt.Asked(time.Duration(c.guard.moved.Load()))
	}
	c.guard.moved.Store(int64(c.now))
	c.attempt.Headers(c.now)
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
	switch upstream.Ending(err) {
	case outlier.EndOwnErrno, outlier.EndLocalLimit:
		return outlier.EndOwnErrno
	}
	if c.rw > 0 || c.interim > 0 {
		c.record.Detail = "connection ended within a response head"
		return outlier.EndConnectionLost
	}
	// Also what would say something else of connecting: a host that has become
	// unreachable may have processed the request before.
	if c.reused {
		return c.ep.Lost(c.up, c.now)
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
	if c.interim++; c.interim > maxInterim {
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
