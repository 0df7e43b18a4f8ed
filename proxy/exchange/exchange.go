package exchange

import (
	"context"
	"math/rand/v2"
	"net"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/syntax"
	"github.com/overhear-mesh/overhear/proxy/trace"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// Deps is what an engine gets from the sidecar around it.
type Deps struct {
	Clock clock.Clock
	// Router returns the table of the moment. Not used by an inbound server.
	Router func() *router.Table
	// Log is told each request; nil tells nobody.
	Log Logger
	// Metrics is counted in; nil counts for nobody.
	Metrics *Metrics
	// Inbound, if set, is where every request goes: the application beside this
	// sidecar.
	Inbound *InboundTarget
	// Trace places requests in traces; nil lets their headers pass.
	Trace *trace.Policy
	// Mirror sends copies of requests; nil: none are.
	Mirror Mirror
	// Paths are what becomes of a request's path; the zero value leaves it as it is.
	Paths Paths
	// Upgrades are what clients may change to; the zero value is nothing.
	Upgrades Upgrades
	// TrustedHops is how many proxies before this one are believed; see Exchange.Trust.
	TrustedHops int
	// Lifetime bounds the use of a client's connection.
	Lifetime upstream.Lifetime
	// Streams opens what an engine for one request on a connection uses in place of a
	// connection to an endpoint that speaks HTTP/2; nil: no endpoint does.
	Streams Streams
}

// Streams is proxy/http2's Client.
type Streams interface {
	// Open returns a connection for one exchange, and whether it is part of one that
	// has carried others. The error is an *upstream.ConnectError.
	Open(ctx context.Context, ep *upstream.Endpoint) (*upstream.Conn, bool, error)
}

// InboundTarget is the local application of an inbound server. Nothing is
// decided about it here: a failure is passed on with its name, so that whoever
// called can decide (see proxy/upstream, Endpoint.Inbound).
type InboundTarget struct {
	Endpoint *upstream.Endpoint
	// Timeout bounds a request; default 0, none: the caller has its own, and this
	// one must not be shorter.
	Timeout time.Duration
	// Overdue is the age from which an attempt without an answer counts as
	// overdue; nil: never.
	Overdue func() time.Duration
}

// Answer is what the head of a final response, and the end of a gRPC one, say.
type Answer struct {
	Status     int
	RetryAfter bool
	Wait       time.Duration // Retry-After in seconds; 0 if it is a date or absurd
	Origin     string        // what the endpoint says of its application; "": nothing to believe

	GRPC       bool // the response is gRPC
	GRPCSeen   bool // and has a grpc-status
	GRPCStatus int
	Pushback   bool // grpc-retry-pushback-ms
}

// Doubtful reports whether the head of an answer may be one for which the request is
// repeated.
func (a *Answer) Doubtful() bool {
	return a.Status >= 400 || a.Origin != "" || a.GRPC && a.GRPCSeen && a.GRPCStatus != 0
}

// Exchange is one request with all that is decided for it. It belongs to whoever
// carries the request, and is used again: Open begins the next one.
type Exchange struct {
	Record   Record
	attempts [10]AttemptRecord
	id       [36]byte // a request id of our own making

	Cluster  *cluster.Cluster // nil inbound
	Retry    *resilience.RetryPolicy
	Request  time.Duration // time-outs; 0 is none
	PerTry   time.Duration
	BodyIdle time.Duration // how long the answer may stand still; 0: no such rule of its own
	Delay    time.Duration // to be waited for between Route and Proceed, by a rule's fault
	HasBody  bool          // something follows the request's head
	Fields   router.Fields // of the request's head, for rules that ask; nil: none
	Dice     uint32        // by which a rule with several clusters chooses
	Matched  *router.Route // if the engine has looked already; nil: Route does
	GRPC     bool          // the caller speaks gRPC

	route    uint16
	mirror   *router.Route // of a copy that is to be sent; nil: none
	key      uint64        // for a balancer that hashes
	keyed    bool
	permit   resilience.Permit
	admitted bool // counted in the limit on requests
	retrying bool // counted in the limit on retries
	Reached  bool // some endpoint took a connection
	refused  bool // some endpoint did not
	replays  int  // attempts that repeated one on the same endpoint, over a fresh connection
	tried    cluster.Tried
	Interim  int // interim responses so far, of all attempts

	// Try is the attempt under way, Hedge the one beside it, if it runs.
	Try
	Hedge Try
}

// Try is one attempt and what it has brought so far.
type Try struct {
	Attempt  upstream.Attempt
	Begun    time.Duration
	Endpoint *upstream.Endpoint
	Reused   bool // its connection has carried others
	Sent     bool // bytes of the request have been written to it
	Headed   bool // it has brought a final head, which is Answer
	Answer   Answer

	place int // of its record in Record.Attempts
}

// Runs reports whether the attempt is under way.
func (t *Try) Runs() bool { return !t.Attempt.Ended() }

// Open begins an exchange and its record.
func (x *Exchange) Open(now time.Duration, client net.Addr, major, minor int, inbound bool) {
	x.Cluster, x.Retry, x.route, x.Request, x.PerTry, x.BodyIdle, x.Delay = nil, nil, 0, 0, 0, 0, 0
	x.admitted, x.retrying, x.Reached, x.refused, x.replays = false, false, false, false, 0
	x.HasBody, x.GRPC, x.Fields, x.Matched, x.keyed = false, false, nil, nil, false
	x.Dice = rand.Uint32()
	x.Interim, x.Try, x.Hedge, x.mirror = 0, Try{}, Try{}, nil
	x.tried.Reset()
	x.Record = Record{
		Start: now, Client: client, Inbound: inbound, Major: major, Minor: minor,
		GRPCStatus: -1, Attempts: x.attempts[:0],
	}
}

// NewID makes a request id.
func (x *Exchange) NewID() []byte {
	return syntax.AppendID(x.id[:0], rand.Uint64(), rand.Uint64())
}

// ID is what NewID has made.
func (x *Exchange) ID() []byte { return x.id[:] }

// SpanOf is the span of the attempt under way, or of its hedge.
func (x *Exchange) SpanOf(t *Try) trace.SpanID { return x.Record.Trace.Child(t.place) }

// Counted reports whether attempts carry their number, in router.AttemptCount.
func (x *Exchange) Counted() bool { return x.Record.Route != nil && x.Record.Route.AttemptCount }

// ResponseEdit is what the rule changes of the answer for the client; nil: nothing.
func (x *Exchange) ResponseEdit() *router.FieldEdit {
	if x.Record.Route == nil {
		return nil
	}
	return x.Record.Route.Response
}

// Number is 1 for the first attempt of a request.
func (t *Try) Number() int { return t.place + 1 }

// Refusal is an answer in place of an endpoint's.
type Refusal struct {
	Status int
	Flags  Flags
	GRPC   int    // the status for a caller that speaks gRPC; 0: what Status comes to
	Text   string // why, for client and log
	// Location is where a redirect leads; its answer has no body.
	Location string
	// Asked: a rule asked for this very answer, and Text is its whole body.
	Asked bool
}

var (
	noRoute    = &Refusal{Status: 404, Flags: NoRoute, Text: "no route"}
	noCluster  = &Refusal{Status: 503, Flags: NoCluster, Text: "no such cluster"}
	tooOften   = &Refusal{Status: 429, Flags: RateLimited, Text: "too many requests of this kind"}
	tooMany    = &Refusal{Status: 503, Flags: UpstreamOverflow, Text: "too many requests"}
	noEndpoint = &Refusal{Status: 503, Flags: NoHealthyUpstream, Text: "no healthy endpoint"}
)

// inboundRetry repeats only what a closed idle connection of the application has
// swallowed. Everything else is for the caller to repeat, elsewhere.
var inboundRetry = resilience.RetryPolicy{MaxAttempts: 2}

// Route finds out where the request goes and asks to be admitted there. stall is
// how long the exchange may stand still, if the route has its own opinion; 0: it
// has none. If it sets x.Delay, the request has to wait for so long, and then
// Proceed has the answer.
func (x *Exchange) Route(d *Deps, now time.Duration) (stall time.Duration, refusal *Refusal) {
	if in := d.Inbound; in != nil {
		x.Request, x.Retry = in.Timeout, &inboundRetry
		return 0, nil
	}
	q := x.asked()
	route := x.Matched
	if route == nil {
		route = d.Router().Match(&q, x.Dice)
	}
	if route == nil {
		return 0, noRoute
	}
	x.Record.Route = route
	switch {
	case !route.Rate.Allow(now):
		return 0, tooOften
	case route.Redirect != nil:
		return 0, &Refusal{Status: route.Redirect.Status, Text: "redirected by a rule", Location: route.Location(q.Scheme(), &q)}
	case route.Respond != nil:
		return 0, &Refusal{Status: route.Respond.Status, Text: route.Respond.Body, Asked: true}
	case route.Cluster == nil:
		return 0, noCluster
	}
	if route.Fault != nil {
		if x.Delay = route.Fault.Wait(rand.Float64()); x.Delay > 0 {
			x.Record.Flags |= DelayInjected
			return 0, nil
		}
	}
	return x.Proceed(now)
}

// Proceed is the rest of Route, for a request that has waited as long as it should.
func (x *Exchange) Proceed(now time.Duration) (stall time.Duration, refusal *Refusal) {
	route := x.Record.Route
	if route.Fault != nil {
		if a := route.Fault.Breaks(rand.Float64()); a != nil {
			return 0, &Refusal{Status: a.Status, GRPC: a.GRPCStatus, Flags: FaultInjected, Text: "a fault that a rule asks for"}
		}
	}
	q := x.asked()
	x.key, x.keyed = route.Key(&q, x.Record.Client)
	x.Cluster, x.Retry, x.route = route.Cluster, route.Retry, route.ID
	x.Request, x.PerTry = route.Timeout, route.PerTryTimeout
	if route.IdleTimeout > 0 {
		stall = route.IdleTimeout
	} else {
		x.BodyIdle = x.Cluster.BodyIdle()
	}
	if !x.admit(now) {
		return 0, tooMany
	}
	if m := route.Mirror; m != nil && rand.Float64() < m.Share {
		x.mirror = m.Route
	}
	return stall, nil
}

// asked is the request as rules see it.
func (x *Exchange) asked() router.Request {
	return router.Request{Host: x.Record.Host, Method: x.Record.Method, Path: x.Record.Path, GRPC: x.GRPC, Fields: x.Fields}
}

// admit asks the limits and the breaker of the cluster.
func (x *Exchange) admit(now time.Duration) bool {
	x.Cluster.Budget().Deposit(now)
	if !x.Cluster.Limits().Requests.Acquire() {
		return false
	}
	x.admitted = true
	var ok bool
	x.permit, ok = x.Cluster.Breaker().Allow(now)
	return ok
}

// GRPCStatus is the code that a caller gets who speaks gRPC.
func (r *Refusal) GRPCStatus() int {
	if r.GRPC != 0 {
		return r.GRPC
	}
	return GRPCStatus(r.Status)
}

// Leave gives back what the request holds of its cluster. Later calls do nothing.
func (x *Exchange) Leave(now time.Duration) {
	if x.retrying {
		x.retrying = false
		x.Cluster.Limits().Retries.Release()
	}
	if x.admitted {
		x.admitted = false
		x.Cluster.Limits().Requests.Release()
	}
	x.permit.Done(x.taught(), now)
}

// taught is what the request says about its cluster as a whole.
func (x *Exchange) taught() resilience.Result {
	switch {
	case x.Reached:
		return resilience.Reached
	case x.refused:
		return resilience.Refused
	}
	return resilience.Unknown
}

// Account closes the record and has it written.
func (x *Exchange) Account(d *Deps, now time.Duration) {
	m := d.Metrics
	m.Requests.Add(1)
	m.Status[min(x.Record.Status/100, 5)].Add(1)
	if n := len(x.Record.Attempts); n > 1 {
		m.Retries.Add(uint64(n - 1))
		x.countHedges(m)
	}
	if x.mirror != nil {
		m.Unmirrored.Add(1)
	}
	if d.Log == nil {
		return
	}
	x.Record.Duration, x.Record.Final = now-x.Record.Start, x.place
	x.Record.GRPC = x.GRPC || x.Headed && x.Answer.GRPC
	if x.Headed && x.Answer.GRPCSeen {
		x.Record.GRPCStatus = x.Answer.GRPCStatus
	}
	d.Log.Log(&x.Record)
}

// Pick chooses where an attempt goes; nil is nowhere. What is repeated because
// nothing was processed goes only where the request has not been.
func (x *Exchange) Pick(d *Deps, now time.Duration, untried bool) *upstream.Endpoint {
	if in := d.Inbound; in != nil {
		if len(x.Record.Attempts) > 0 {
			return nil
		}
		return in.Endpoint
	}
	ep := x.pick(now, &x.tried)
	if ep != nil && untried && x.tried.Has(ep) {
		return nil
	}
	return ep
}

// Nobody is the answer when Pick finds nobody for the first attempt.
func (x *Exchange) Nobody() *Refusal {
	if x.Cluster != nil && !x.Cluster.Known() {
		return noCluster
	}
	return noEndpoint
}

func (x *Exchange) pick(now time.Duration, tried *cluster.Tried) *upstream.Endpoint {
	if x.keyed {
		return x.Cluster.PickKeyed(x.key, now, tried)
	}
	return x.Cluster.Pick(now, tried)
}

// Begin starts an attempt on x.Endpoint. deadlined says that somebody will give up
// on it one day.
func (x *Exchange) Begin(now time.Duration, deadlined bool) {
	x.Try = Try{Endpoint: x.Endpoint}
	x.begin(&x.Try, now, deadlined)
}

func (x *Exchange) begin(t *Try, now time.Duration, deadlined bool) {
	x.tried.Add(t.Endpoint)
	t.Begun, t.Attempt = now, t.Endpoint.BeginOn(x.route, now, deadlined)
	t.place = min(len(x.Record.Attempts), len(x.attempts)-1) // the newest wins
	x.Record.Attempts = append(x.Record.Attempts[:t.place], AttemptRecord{Endpoint: t.Endpoint, Offset: now - x.Record.Start})
}

// BeginAgain begins an attempt anew that has ended because it had to wait for a place of
// ours: the wait was not the endpoint's.
func (x *Exchange) BeginAgain(now time.Duration, deadlined bool) {
	t := &x.Try
	t.Begun, t.Attempt = now, t.Endpoint.BeginOn(x.route, now, deadlined)
	x.Record.Attempts[t.place] = AttemptRecord{Endpoint: t.Endpoint, Offset: now - x.Record.Start}
}

// Ended is how an attempt ended.
type Ended struct {
	Ending outlier.Ending
	Owed   time.Duration // for how long the endpoint had owed something
	Conn   uint32        // the hash of its connection; 0: none
}

// End tells what came of the attempt, once: later calls do nothing.
func (x *Exchange) End(d *Deps, now time.Duration, e Ended) { x.end(&x.Try, d, now, e) }

func (x *Exchange) end(t *Try, d *Deps, now time.Duration, e Ended) {
	if !t.Runs() {
		return
	}
	ending := e.Ending
	result := outlier.HTTPResult{Ending: ending, HeadersSeen: t.Headed, Age: e.Owed}
	if x.Cluster != nil {
		result.Overdue = t.Endpoint.Stats.Overdue(x.route)
	} else if in := d.Inbound; in != nil && in.Overdue != nil {
		result.Overdue = in.Overdue()
	}
	switch ending {
	case outlier.EndPerTryTimeout:
		result.ShortDeadline = x.PerTry > 0 && x.PerTry < t.Endpoint.Stats.Median()
	case outlier.EndRouteTimeout:
		result.ShortDeadline = x.Request > 0 && x.Request < t.Endpoint.Stats.Median()
	}
	outcome := outlier.Outcome{Now: now, Route: x.route, Conn: e.Conn}
	if t.Headed {
		a := &t.Answer
		result.Status, result.RetryAfter, result.Origin = a.Status, a.RetryAfter, a.Origin
		result.GRPC, result.GRPCStatusSeen, result.GRPCStatus, result.Pushback = a.GRPC, a.GRPCSeen, a.GRPCStatus, a.Pushback
		result.BodyStalled = e.Owed
		outcome.RetryAfter = a.Wait
	}
	switch ending {
	case outlier.EndConnectRefused, outlier.EndConnectTimeout, outlier.EndUnreachable, outlier.EndTLS:
		x.refused = true
	}
	outcome.Class, outcome.Level, outcome.Gateway = outlier.ClassifyHTTP(result), result.Level(), result.Gateway()
	t.Attempt.End(outcome)

	r := &x.Record.Attempts[t.place]
	r.Duration, r.Ending, r.Class, r.Status, r.Reused = now-t.Begun, ending, outcome.Class, result.Status, t.Reused
}

// Believe is what an inbound sidecar says of its application, by the value of
// x-overhear-origin. From anybody else the field is noise.
func (t *Try) Believe(value []byte) string {
	if !t.Endpoint.Inbound || len(value) == 0 {
		return ""
	}
	switch string(value) {
	case outlier.OriginRefused:
		return outlier.OriginRefused
	case outlier.OriginReset:
		return outlier.OriginReset
	case outlier.OriginTimeout:
		return outlier.OriginTimeout
	}
	return ""
}
