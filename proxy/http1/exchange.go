package http1

import (
	"context"
	"io"
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
	sent    bool // bytes of this attempt's request have been written
	interim int  // interim responses so far
	headed  bool // the attempt has brought a final head

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
	buf := c.in
	c.cluster, c.retry, c.route, c.request, c.perTry = nil, nil, 0, 0, 0
	c.admitted, c.retrying, c.reached, c.refused = false, false, false, false
	c.tried.Reset()
	c.data, c.rest, c.whole = c.req.size, c.req.size, false
	c.beginBody()
	c.head, c.interim, c.headed, c.answered, c.lost = 0, 0, false, false, false
	if c.out.head == nil {
		c.out.head = getBuffer(smallBuffer)
	}
	r := &c.record
	path := c.req.target.of(buf)
	if c.req.absolute && (len(path) == 0 || path[0] != '/') {
		path = appendTarget(nil, &c.req, buf)
	}
	*r = AccessRecord{
		Start: c.now, Client: c.client, Inbound: c.srv.deps.Inbound != nil,
		Method: c.req.method.of(buf), Host: c.req.authority.of(buf), Path: path,
		Minor: int(c.req.minor), Attempts: c.attempts[:0],
	}
	if c.req.identified.len() > 0 {
		r.RequestID = c.req.identified.of(buf)
	} else {
		appendID(c.id[:0], rand.Uint64(), rand.Uint64())
		r.RequestID = c.id[:]
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
		}
		if !c.admit() {
			return c.reject(503, UpstreamOverflow, "too many requests")
		}
	}
	if ok, keep := c.collect(); !ok {
		return keep
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
// for briefly, so that it needs no goroutine and can be sent again. ok is false
// if the request ends here.
func (c *conn) collect() (ok, keep bool) {
	limit := int(c.srv.cfg.RetryBuffer)
	for waiting := false; ; {
		data, used, p := c.body.take(c.in[c.rest:c.w], c.srv.limits)
		if p != nil {
			return false, c.refuseBody(p)
		}
		c.data += copy(c.in[c.data:], data)
		c.rest += used
		if c.body.done {
			c.whole = true
			c.record.BodyReceived = int64(c.data - c.req.size)
			return true, true
		}
		c.w = c.data + copy(c.in[c.data:], c.in[c.rest:c.w])
		c.rest = c.data
		have := c.data - c.req.size
		if c.req.continues || have+int(min(c.body.left, int64(limit)+1)) > limit {
			c.record.BodyReceived = int64(have)
			return true, true
		}
		if !waiting {
			waiting = true
			c.guard.expect(collecting, c.now+collectFor, never)
		}
		if len(c.in)-c.w < minRoom {
			c.grow(2 * len(c.in))
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
			return true, true
		case byEnd:
			return false, c.vanish(LocalReset, "")
		}
		return false, c.vanish(DownstreamTermination, "connection ended within a request body")
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
		switch c.originOf() {
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
	result := outlier.HTTPResult{Ending: ending, HeadersSeen: c.headed, Age: c.now - c.begun}
	if c.cluster != nil {
		result.Overdue = c.cluster.Overdue()
	} else if in := c.srv.deps.Inbound; in.Overdue != nil {
		result.Overdue = in.Overdue()
	}
	outcome := outlier.Outcome{Now: c.now, Route: c.route}
	if c.headed {
		result.Status, result.RetryAfter, result.Origin = c.res.status, c.res.retryAfter, c.originOf()
		result.BodyStalled = c.now - time.Duration(c.guard.moved.Load())
		outcome.RetryAfter = c.res.wait
	}
	if c.up != nil {
		outcome.Conn = c.up.Hash()
	}
	outcome.Class, outcome.Level = outlier.ClassifyHTTP(result), result.Level()
	c.attempt.End(outcome)

	r := &c.record.Attempts[len(c.record.Attempts)-1]
	r.Duration, r.Ending, r.Class, r.Status, r.Reused = c.now-c.begun, ending, outcome.Class, result.Status, c.reused
}

// originOf is what an inbound sidecar says of its application. From anybody else
// the field is noise.
func (c *conn) originOf() string {
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
	if e, ok := err.(*upstream.ConnectError); ok { //nolint:errorlint // Get and Fresh return exactly this type.
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
	c.headed = true
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
		if c.stopPump(); c.starved {
			return outlier.EndClientNotReading // nor sending
		}
		return outlier.EndRouteTimeout // no head yet, so it was not the answer's body
	}
	if c.rw > 0 || c.interim > 0 {
		c.record.Detail = "connection ended within a response head"
		return outlier.EndBadFraming
	}
	if werr != nil && err == io.EOF { //nolint:errorlint // Read returns it bare.
		err = werr
	}
	switch upstream.Ending(err) {
	case outlier.EndOwnErrno, outlier.EndLocalLimit:
		return outlier.EndOwnErrno
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
