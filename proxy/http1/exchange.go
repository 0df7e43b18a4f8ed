package http1

import (
	"context"
	"sync"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/syntax"
	"github.com/overhear-mesh/overhear/proxy/trace"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// task is one request with all that is done for it. What is decided about it is the
// embedded Exchange's business. Requests of all connections use the same tasks, one
// after the other, and those their buffers.
type task struct {
	exchange.Exchange

	// in[:w] is what the client has sent: the head of the request, which is req, then
	// what follows it. While the head is in use nothing moves it.
	in  []byte
	w   int
	req request

	// The request body: in[req.size:data] has been decoded, in[rest:w] has not
	// been looked at. whole says that it is all there; what then is at rest belongs
	// to the next request.
	body       body
	data, rest int
	whole      bool
	upgrade    string // the protocol that is asked for, of those that are allowed; "": none

	up      *upstream.Conn // of the attempt
	hedge   *hedge         // beside it; nil: none
	retryAs outlier.Ending // to decide a retry by, if the ending is not; see upstream.StreamError

	out   outbox // towards the endpoint, then towards the client
	head  int    // length of the request head in out.head, 0 until it is built
	tail  []byte // ends a body in chunks
	resp  []byte // resp[:rw] is what the endpoint has sent
	rw    int
	res   response
	reply body

	answered bool // bytes of a final response are on their way to the client
	lost     bool // the client's connection is of no use any more
	pump
	watcher
}

var tasks = sync.Pool{New: func() any { return new(task) }}

// getTask returns a task with a small buffer for the request.
func getTask() *task {
	t := tasks.Get().(*task)
	if t.in == nil {
		t.in = getBuffer(smallBuffer)
	}
	return t
}

// putTask takes a task back whose request, if there was one, is over.
func putTask(t *task) {
	t.Exchange, t.pump = exchange.Exchange{}, pump{} // what is theirs must not live on for it
	t.in, t.resp, t.out.head, t.w = keepSmall(t.in), keepSmall(t.resp), keepSmall(t.out.head), 0
	tasks.Put(t)
}

// answer handles the request whose head is in c.req, and reports whether the
// connection can carry another one.
func (c *conn) answer(ctx context.Context) bool {
	c.requests++
	c.guard.begin(c.now, c.srv.cfg.StreamIdleTimeout)
	c.open()
	keep := c.handle(ctx)
	c.stopPump()
	c.stopWatch()
	c.endAttempt(outlier.EndLocalLimit) // unless it has ended, which it should have
	c.dropUpstream()
	c.Leave(c.now)
	c.account()
	return keep && !c.lost
}

// open begins the exchange and its record.
func (c *conn) open() {
	c.Open(c.now, c.client, c.major, c.minor(), c.srv.deps.Inbound != nil)
	if n := c.srv.deps.TrustedHops; n > 0 {
		c.Trust(n, c.forwarded)
	}
	c.HasBody, c.GRPC, c.Fields = c.req.hasBody(), c.req.grpc, c
	if c.bridged != nil {
		c.Matched = c.bridged.Matched()
	}
	c.data, c.rest, c.whole = c.req.size, c.req.size, false
	c.upgrade = c.req.wanted(c.in, &c.srv.deps.Upgrades)
	c.beginBody()
	c.head, c.answered, c.lost = 0, false, false
	if c.out.head == nil {
		c.out.head = getBuffer(smallBuffer)
	}
	if c.req.identified.len() == 0 {
		c.NewID()
	}
	c.place()
	c.title()
}

// forwarded yields the values of x-forwarded-for, the last first.
func (c *conn) forwarded(yield func([]byte) bool) {
	for i := range c.req.fields {
		if f := &c.req.fields[len(c.req.fields)-1-i]; f.kind == syntax.ForwardedFor && !yield(f.value.of(c.in)) {
			return
		}
	}
}

// place finds the request's place in a trace.
func (c *conn) place() {
	policy := c.srv.deps.Trace
	if policy == nil {
		return
	}
	var in trace.Incoming
	for i := range c.req.fields {
		if f := &c.req.fields[i]; f.kind == syntax.Trace {
			in.Set(f.name.of(c.in), f.value.of(c.in))
		}
	}
	c.Record.Trace = policy.Place(&in)
}

// Field implements router.Fields.
func (c *conn) Field(name string) ([]byte, bool) {
	for i := range c.req.fields {
		if f := &c.req.fields[i]; syntax.Is(f.name.of(c.in), name) {
			return f.value.of(c.in), true
		}
	}
	return nil, false
}

// minor is of the version that the client speaks, which may be another one than
// that of the request here: see Server.ServeConn.
func (c *conn) minor() int {
	if c.major > 1 {
		return 0
	}
	return int(c.req.minor)
}

// title fills in what the record takes from the head: again when the head has
// moved to another buffer, since the old one is somebody else's from then on.
func (c *conn) title() {
	buf, r := c.in, &c.Record
	r.Method, r.Host = c.req.method.of(buf), c.req.authority.of(buf)
	r.Path = c.req.target.of(buf)
	switch {
	case c.req.connect:
		r.Path = nil
	case c.req.absolute && (len(r.Path) == 0 || r.Path[0] != '/'):
		r.Path = appendTarget(nil, &c.req, buf)
	}
	r.RequestID = c.ID()
	if c.req.identified.len() > 0 {
		r.RequestID = c.req.identified.of(buf)
	}
}

// account closes the record.
func (c *conn) account() {
	if c.srv.deps.Log != nil {
		c.now = c.srv.deps.Clock.Now()
		for i := range c.req.fields {
			if f := &c.req.fields[i]; f.kind == syntax.Other && syntax.Is(f.name.of(c.in), "user-agent") {
				c.Record.UserAgent = f.value.of(c.in)
			}
		}
	}
	c.overrule()
	c.Account(&c.srv.deps, c.now)
}

// overrule notes that the client has got another answer than the endpoint's: what is a
// whole one here may be none in the version that the client speaks.
func (c *conn) overrule() {
	if c.bridged == nil {
		return
	}
	if why := c.bridged.Overruled(); why != "" {
		r := &c.Record
		r.Status, r.Detail = 502, why
		r.Flags = r.Flags&^exchange.DownstreamTermination | exchange.UpstreamProtocolError
	}
}

// handle finds out where the request goes and takes it there.
func (c *conn) handle(ctx context.Context) bool {
	if c.req.connect && !c.srv.deps.Upgrades.Connect() {
		return c.reject(501, exchange.DownstreamProtocolError, "CONNECT is not supported")
	}
	if !c.cleanPath() {
		return c.give(c.Slashed(&c.srv.deps.Paths), "")
	}
	stall, refusal := c.Route(&c.srv.deps, c.now)
	if c.Delay > 0 {
		if !c.delay() {
			return false
		}
		stall, refusal = c.Proceed(c.now)
	}
	if refusal != nil {
		return c.give(refusal, "")
	}
	if stall == 0 {
		stall = c.srv.cfg.StreamIdleTimeout
	}
	if !c.collect() {
		return false
	}
	c.guard.begin(c.now, stall)
	if c.whole {
		c.guard.awaited(c.now, c.Request, c.PerTry)
	}
	return c.try(ctx)
}

// collect takes the body as far as it is there, or nearly: a short one is waited
// for briefly, so that it needs no goroutine and can be sent again. It reports
// whether the request goes on.
func (c *conn) collect() bool {
	limit := int(c.srv.cfg.RetryBuffer)
	for waiting := false; ; {
		data, used, p := c.body.take(c.in[c.rest:c.w], c.srv.limits)
		if p != nil {
			c.refuseBody(p)
			return false
		}
		c.data += copy(c.in[c.data:], data)
		c.rest += used
		if c.body.done {
			c.whole = true
			c.Record.BodyReceived = int64(c.data - c.req.size)
			return true
		}
		c.w = c.data + copy(c.in[c.data:], c.in[c.rest:c.w])
		c.rest = c.data
		have := c.data - c.req.size
		if c.req.continues || have+int(min(c.body.left, int64(limit)+1)) > limit {
			c.Record.BodyReceived = int64(have)
			return true
		}
		if !waiting {
			waiting = true
			c.guard.expect(collecting, c.now+collectFor, wheel.Never)
		}
		if len(c.in)-c.w < minRoom {
			c.grow(2 * len(c.in))
			c.title()
		}
		n, err := c.nc.Read(c.in[c.w:])
		c.w += n
		if n > 0 || err == nil {
			c.now = c.srv.deps.Clock.Now()
			continue
		}
		switch c.guard.settle() {
		case byCollect:
			c.Record.BodyReceived = int64(have)
			return true
		case byEnd:
			c.vanish(exchange.LocalReset, "")
			return false
		}
		c.vanish(exchange.DownstreamTermination, "connection ended within a request body")
		return false
	}
}

func (c *conn) beginBody() {
	switch {
	case c.req.chunked:
		c.body.begin(inChunks, 0)
	case c.req.length > 0:
		c.body.begin(sized, c.req.length)
	default:
		c.body.begin(noBody, 0)
	}
}

// try makes attempts until one brings an answer that is passed on, or the policy
// gives up.
func (c *conn) try(ctx context.Context) bool {
	c.Endpoint = c.Pick(&c.srv.deps, c.now, false)
	if c.Endpoint == nil {
		return c.give(c.Nobody(), "")
	}
	for fresh := false; ; {
		ending, ok := c.attemptOnce(ctx, fresh)
		if ok && c.switches() {
			return c.tunnel(ctx)
		}
		if ok && !c.Answer.Doubtful() {
			return c.relay()
		}
		next, decision := c.again(ending, ok)
		if next == nil {
			if ok {
				return c.relay()
			}
			return c.fail(ending)
		}
		if ok {
			c.discardAnswer()
		}
		if decision == resilience.AskBudget && !c.pause() {
			return c.fail(c.guard.reason().ending())
		}
		c.Endpoint, fresh = next, decision == resilience.RetryFresh
	}
}

// again decides whether an attempt is followed by another one, and on which
// endpoint; nil is none. answered says that the attempt brought an answer, with a
// status that may be worth another attempt.
func (c *conn) again(ending outlier.Ending, answered bool) (*upstream.Endpoint, resilience.Decision) {
	as := ending
	if c.retryAs != outlier.EndComplete {
		as = c.retryAs
	}
	return c.Again(&c.srv.deps, c.now, exchange.Failure{
		Ending:   as,
		Answered: answered,
		// What has not been sent is still in the buffer. After an error of this
		// machine in the middle of an exchange nobody knows what was processed.
		Replayable: !c.Sent || c.whole && ending != outlier.EndOwnErrno,
		Over:       c.guard.reason() > byTry,
	})
}

// pause waits before a retry. It reports whether the request is still wanted.
func (c *conn) pause() bool { return c.sleep(c.Backoff()) }

func (c *conn) sleep(wait time.Duration) bool {
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.guard.wake:
		}
	}
	c.now = c.srv.deps.Clock.Now()
	return c.guard.reason() == uninterrupted
}
