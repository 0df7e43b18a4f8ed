package http1

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// exchange is one request with all that is done for it. It lives in its
// connection and is used again.
type exchange struct {
	record   AccessRecord
	attempts [10]AttemptRecord
	id       [36]byte // a request id of our own making

	cluster  *cluster.Cluster // nil inbound
	retry    *resilience.RetryPolicy
	route    uint16
	request  time.Duration // time-outs; 0 is none
	perTry   time.Duration
	bodyIdle time.Duration // how long the answer may stand still; 0: the guard's stall says that
	permit   resilience.Permit
	admitted bool // counted in the limit on requests
	retrying bool // counted in the limit on retries
	reached  bool // some endpoint took a connection
	refused  bool // some endpoint did not
	tried    cluster.Tried

	// The request body: in[req.size:data] has been decoded, in[rest:w] has not
	// been looked at. whole says that it is all there; what then is at rest belongs
	// to the next request.
	body       body
	data, rest int
	whole      bool

	attempt upstream.Attempt
	begun   time.Duration // when the attempt began
	up      *upstream.Conn
	ep      *upstream.Endpoint
	reused  bool
	sent    bool   // bytes of this attempt's request have been written
	interim int    // interim responses so far
	headed  bool   // the attempt has brought a final head
	origin  string // and this is what it says of the application; "" nothing to believe

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

// answer handles the request whose head is in c.req, and reports whether the
// connection can carry another one.
func (c *conn) answer(ctx context.Context) bool {
	c.guard.begin(c.now, c.srv.cfg.StreamIdleTimeout)
	c.open()
	keep := c.handle(ctx)
	c.stopPump()
	c.stopWatch()
	c.endAttempt(outlier.EndLocalLimit) // unless it has ended, which it should have
	c.dropUpstream()
	c.leave()
	c.account()
	return keep && !c.lost
}

// leave gives back what the request holds of its cluster, once.
func (c *conn) leave() {
	if c.retrying {
		c.retrying = false
		c.cluster.Limits().Retries.Release()
	}
	if c.admitted {
		c.admitted = false
		c.cluster.Limits().Requests.Release()
	}
	c.permit.Done(c.taught(), c.now)
}

// taught is what the request says about its cluster as a whole.
func (c *conn) taught() resilience.Result {
	switch {
	case c.reached:
		return resilience.Reached
	case c.refused:
		return resilience.Refused
	}
	return resilience.Unknown
}

// open begins the exchange and its record.
func (c *conn) open() {
	c.cluster, c.retry, c.route, c.request, c.perTry, c.bodyIdle = nil, nil, 0, 0, 0, 0
	c.admitted, c.retrying, c.reached, c.refused = false, false, false, false
	c.tried.Reset()
	c.data, c.rest, c.whole = c.req.size, c.req.size, false
	c.beginBody()
	c.head, c.interim, c.headed, c.answered, c.lost = 0, 0, false, false, false
	if c.out.head == nil {
		c.out.head = getBuffer(smallBuffer)
	}
	c.record = AccessRecord{
		Start: c.now, Client: c.client, Inbound: c.srv.deps.Inbound != nil,
		Minor: int(c.req.minor), Attempts: c.attempts[:0],
	}
	if c.req.identified.len() == 0 {
		appendID(c.id[:0], rand.Uint64(), rand.Uint64())
	}
	c.title()
}

// title fills in what the record takes from the head: again when the head has
// moved to another buffer, since the old one is somebody else's from then on.
func (c *conn) title() {
	buf, r := c.in, &c.record
	r.Method, r.Host = c.req.method.of(buf), c.req.authority.of(buf)
	r.Path = c.req.target.of(buf)
	if c.req.absolute && (len(r.Path) == 0 || r.Path[0] != '/') {
		r.Path = appendTarget(nil, &c.req, buf)
	}
	r.RequestID = c.id[:]
	if c.req.identified.len() > 0 {
		r.RequestID = c.req.identified.of(buf)
	}
}

// account closes the record.
func (c *conn) account() {
	m := c.srv.deps.Metrics
	m.Requests.Add(1)
	m.Status[min(c.record.Status/100, 5)].Add(1)
	if n := len(c.record.Attempts); n > 1 {
		m.Retries.Add(uint64(n - 1))
	}
	if c.srv.deps.Log == nil {
		return
	}
	c.now = c.srv.deps.Clock.Now()
	c.record.Duration = c.now - c.record.Start
	for i := range c.req.fields {
		if f := &c.req.fields[i]; f.kind == other && is(f.name.of(c.in), "user-agent") {
			c.record.UserAgent = f.value.of(c.in)
		}
	}
	c.srv.deps.Log.Log(&c.record)
}

// handle finds out where the request goes and takes it there.
func (c *conn) handle(ctx context.Context) bool {
	stall := c.srv.cfg.StreamIdleTimeout
	if in := c.srv.deps.Inbound; in != nil {
		c.request = in.Timeout
		c.retry = &inboundRetry
	} else {
		route := c.srv.deps.Router().Match(c.record.Host, c.record.Method, c.record.Path)
		switch {
		case route == nil:
			return c.reject(404, NoRoute, "no route")
		case route.Cluster == nil:
			c.record.Route = route
			return c.reject(503, NoCluster, "no such cluster")
		}
		c.record.Route = route
		c.cluster, c.retry, c.route = route.Cluster, route.Retry, route.ID
		c.request, c.perTry = route.Timeout, route.PerTryTimeout
		if route.IdleTimeout > 0 {
			stall = route.IdleTimeout
		} else {
			c.bodyIdle = c.cluster.BodyIdle()
		}
		if !c.admit() {
			return c.reject(503, UpstreamOverflow, "too many requests")
		}
	}
	if !c.collect() {
		return false
	}
	c.guard.begin(c.now, stall)
	if c.whole {
		c.guard.awaited(c.now, c.request, c.perTry)
	}
	return c.try(ctx)
}

// dice draws from the runtime's own source, which any goroutine may use.
var dice = rand.New(source{})

type source struct{}

func (source) Uint64() uint64 { return rand.Uint64() }

// inboundRetry repeats only what a closed idle connection of the application has
// swallowed. Everything else is for the caller to repeat, elsewhere.
var inboundRetry = resilience.RetryPolicy{MaxAttempts: 2}

// admit asks the limits and the breaker of the cluster.
func (c *conn) admit() bool {
	c.cluster.Budget().Deposit(c.now)
	if !c.cluster.Limits().Requests.Acquire() {
		return false
	}
	c.admitted = true
	var ok bool
	c.permit, ok = c.cluster.Breaker().Allow(c.now)
	return ok
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
			c.record.BodyReceived = int64(c.data - c.req.size)
			return true
		}
		c.w = c.data + copy(c.in[c.data:], c.in[c.rest:c.w])
		c.rest = c.data
		have := c.data - c.req.size
		if c.req.continues || have+int(min(c.body.left, int64(limit)+1)) > limit {
			c.record.BodyReceived = int64(have)
			return true
		}
		if !waiting {
			waiting = true
			c.guard.expect(collecting, c.now+collectFor, never)
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
			c.record.BodyReceived = int64(have)
			return true
		case byEnd:
			c.vanish(LocalReset, "")
			return false
		}
		c.vanish(DownstreamTermination, "connection ended within a request body")
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
	c.ep = c.pick(false)
	if c.ep == nil {
		return c.reject(503, NoHealthyUpstream, "no healthy endpoint")
	}
	for fresh := false; ; {
		ending, ok := c.attemptOnce(ctx, fresh)
		if ok && c.res.status < 500 {
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
		c.ep, fresh = next, decision == resilience.RetryFresh
	}
}

// again decides whether an attempt is followed by another one, and on which
// endpoint; nil is none. answered says that the attempt brought an answer, with a
// status that may be worth another attempt.
func (c *conn) again(ending outlier.Ending, answered bool) (*upstream.Endpoint, resilience.Decision) {
	failure := resilience.Failure{
		Ending:   ending,
		Answered: c.interim > 0,
		// What has not been sent is still in the buffer. After an error of this
		// machine in the middle of an exchange nobody knows what was processed.
		Replayable: !c.sent || c.whole && ending != outlier.EndOwnErrno,
		Safe:       c.repeatable(ending),
		Attempts:   len(c.record.Attempts),
	}
	if answered {
		failure.Status = c.res.status
		switch c.origin {
		case outlier.OriginRefused:
			failure.Unprocessed = true
		case outlier.OriginReset:
			// The sidecar there stands between, but the news is the same.
			failure.Ending = outlier.EndResetBeforeHeaders
		}
	} else {
		failure.Unprocessed = !c.sent
	}
	decision := c.retry.Decide(failure)
	switch {
	case decision == resilience.GiveUp, c.guard.reason() > byTry:
		return nil, decision
	case decision == resilience.RetryFresh:
		return c.ep, decision
	}
	next := c.pick(decision == resilience.Retry)
	if next == nil && decision == resilience.Retry && c.reused && !answered {
		return c.ep, resilience.RetryFresh // there is nobody else, and a fresh connection may do better
	}
	if decision == resilience.AskBudget && next != nil && !c.mayRetry() {
		return nil, decision
	}
	return next, decision
}

// pick chooses where an attempt goes; nil is nowhere. What is repeated because
// nothing was processed goes only where the request has not been.
func (c *conn) pick(untried bool) *upstream.Endpoint {
	if in := c.srv.deps.Inbound; in != nil {
		if len(c.record.Attempts) > 0 {
			return nil
		}
		return in.Endpoint
	}
	ep := c.cluster.Pick(c.now, &c.tried)
	if ep != nil && untried && c.tried.Has(ep) {
		return nil
	}
	return ep
}

// repeatable says whether the request may be repeated although it may have been
// processed. After a reset only what is safe and has no body is: that a server
// does its work twice is harmless only where it does none. The race with the
// close of an idle connection is one that the protocol itself asks to repeat
// (RFC 9112, section 9.3.1), for all idempotent methods.
func (c *conn) repeatable(ending outlier.Ending) bool {
	switch string(c.record.Method) {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return ending == outlier.EndKeepAliveRace || !c.req.hasBody()
	case "PUT", "DELETE":
		return ending == outlier.EndKeepAliveRace
	}
	return false
}

// mayRetry asks for what a retry costs.
func (c *conn) mayRetry() bool {
	if c.cluster == nil || !c.cluster.Budget().Withdraw(c.now) {
		return false
	}
	if !c.retrying {
		c.retrying = c.cluster.Limits().Retries.Acquire()
	}
	return c.retrying
}

// pause waits before a retry. It reports whether the request is still wanted.
func (c *conn) pause() bool {
	wait := c.retry.Backoff(len(c.record.Attempts), dice)
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
