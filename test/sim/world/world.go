package world

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/balancer"
	"github.com/overhear-mesh/overhear/proxy/resilience"
)

// epoch is the instant at which a world begins: above zero, because many a rule
// takes zero for never.
const epoch = 10 * time.Second

// World is one run.
type World struct {
	Scenario
	Ledger  *Ledger
	product Product
	rng     *rand.Rand

	now     time.Duration
	queue   queue
	funcs   []func()
	free    []uint32 // of funcs
	arrival time.Duration
	gap     float64 // mean, in ns, between arrivals
	zero    time.Duration
	end     time.Duration

	Endpoints []*Endpoint
	links     []uint16 // by caller and endpoint: place in paths; nil while there are no faults of paths
	paths     []Fault  // the first is none
	pairs     []pair   // by caller and endpoint
	requests  []Request
	idle      []uint32 // of requests
	policy    resilience.RetryPolicy
	budgets   []*resilience.Budget
	poisoned  map[int]uint16 // poisoned routes, by endpoint
}

// Endpoint is one endpoint's true nature.
type Endpoint struct {
	Index    int
	ID       string // of the instance
	Started  time.Duration
	Draining bool
	New      bool // joined after the world began

	mode     FaultKind // Heal, Crash, Listener, Hang, Blackhole or Unreachable
	errors   float64
	stall    float64
	cut      float64
	overload float64
	odd      bool // alternate: the next answer is a failure
	alt      bool
	limit    float64
	trailers float64 // with an error
	bare     float64 // share of answers without trailers
	slow     float64 // factor
	slowPart float64
	frozen   time.Duration // stands still until
	pausing  uint32        // generation of its pauses
	service  float64       // ns for one request, of one with a capacity
	busy     time.Duration // until when its queue keeps it busy
	parked   []waiting     // requests that it does not answer
	lives    int
	inflight int
}

// waiting is a request, if its generation is still the same.
type waiting struct{ id, gen uint32 }

// pair is the connections between a caller and an endpoint. One that dies is not
// found out before it is used; what was idle for a moment is looked at first, so
// that a crash shows as a refused connection and not as a reset.
type pair struct {
	used   time.Duration // when one was put back last
	idle   int16
	serial uint16
	timed  bool // its endpoint will look whether they have been idle for too long
}

func (w *World) pair(caller, endpoint int) *pair {
	return &w.pairs[caller*w.Scenario.Endpoints+endpoint]
}

// idleTimeout is how long a connection is kept.
const idleTimeout = 30 * time.Second

// connectTimeout bounds a connect.
const connectTimeout = time.Second

// unavailable is gRPC's status of a server that cannot serve.
const unavailable = 14

// bodyIdle is how long a body may stand still.
const bodyIdle = 15 * time.Second

// queueLimit is how long the queue of an endpoint with a capacity may get.
const queueLimit = 500 * time.Millisecond

// Request is a user's request with its current attempt.
type Request struct {
	Caller   int
	Endpoint int // of the attempt
	Attempts int
	Route    uint16
	Key      uint64 // for balancers that hash
	Unsafe   bool
	Began    time.Duration
	Started  time.Duration // the attempt
	Conn     uint32
	Idle     time.Duration // how long the connection had been idle
	Tried    balancer.Tried
	TriedAt  [7]int // endpoints, for products without counters of ours
	// Attempt is what an outlier.Endpoint keeps of it.
	Attempt outlier.Attempt

	how     outlier.HTTPResult
	headed  bool // its headers have been told
	fresh   bool
	live    bool
	flying  bool // an attempt is under way
	timer   bool // its end is its user's or its own time
	id, gen uint32
}

// New makes a world that has not begun.
func New(s Scenario, maker Maker, seed uint64) *World {
	w := &World{
		Scenario: s, rng: rand.New(rand.NewPCG(seed, 0x5eed)), now: epoch, zero: epoch + s.Warmup,
		policy: resilience.DefaultRetryPolicy(), poisoned: map[int]uint16{},
		pairs: make([]pair, s.Callers*s.Endpoints), paths: []Fault{{}},
	}
	w.end = w.zero + s.Length
	for i := range s.Endpoints {
		w.Endpoints = append(w.Endpoints, &Endpoint{Index: i, ID: instance(i, 0), Started: 0, slow: 1})
	}
	for range s.Callers {
		w.budgets = append(w.budgets, resilience.NewBudget(resilience.DefaultBudgetConfig()))
	}
	w.Ledger = newLedger(w)
	w.gap = float64(time.Second) / (s.Rate * float64(s.Endpoints))
	w.arrival = w.now + w.exp(w.gap)
	w.product = maker.New(w)
	for _, step := range s.Steps {
		w.At(w.zero+step.At, func() { w.apply(step) })
	}
	w.At(w.zero, w.Ledger.begin)
	return w
}

// Run lets the whole story happen.
func (w *World) Run() *Ledger {
	w.Until(w.end)
	w.Ledger.finish()
	return w.Ledger
}

// Until lets time pass up to an instant of the world's clock.
func (w *World) Until(until time.Duration) {
	for {
		if len(w.queue.heap) > 0 && w.queue.heap[0].at <= w.arrival {
			if w.queue.heap[0].at > until {
				break
			}
			w.happen(w.queue.pop())
			continue
		}
		if w.arrival > until {
			break
		}
		w.now = w.arrival
		w.arrive()
	}
	w.now = until
}

// Now is the instant.
func (w *World) Now() time.Duration { return w.now }

// Zero is the instant that scenarios count from.
func (w *World) Zero() time.Duration { return w.zero }

// Rand is the world's dice.
func (w *World) Rand() *rand.Rand { return w.rng }

// At has f called at an instant.
func (w *World) At(at time.Duration, f func()) {
	var id uint32
	if n := len(w.free); n > 0 {
		id, w.free = w.free[n-1], w.free[:n-1]
		w.funcs[id] = f
	} else {
		id = uint32(len(w.funcs))
		w.funcs = append(w.funcs, f)
	}
	w.queue.push(event{at: max(at, w.now), kind: doFunc, id: id})
}

// Timer has the product's Wake called.
func (w *World) Timer(at time.Duration, id, gen uint32) {
	w.queue.push(event{at: max(at, w.now), kind: doWake, id: id, gen: gen})
}

func (w *World) happen(e event) {
	w.now = e.at
	switch e.kind {
	case doWake:
		w.product.Wake(e.id, e.gen)
	case doFunc:
		f := w.funcs[e.id]
		w.funcs[e.id] = nil
		w.free = append(w.free, e.id)
		f()
	default:
		r := &w.requests[e.id]
		if r.gen != e.gen || !r.live {
			return
		}
		switch e.kind {
		case doEnd:
			w.finishAttempt(e.id)
		case doGiveUp:
			w.giveUp(e.id)
		case doRetry:
			w.attempt(e.id)
		}
	}
}

// exp draws from an exponential distribution.
func (w *World) exp(mean float64) time.Duration {
	return time.Duration(w.rng.ExpFloat64() * mean)
}

// oneWay is how long a packet takes between two zones; -1 is the control plane's.
func (w *World) oneWay(a, b int) time.Duration {
	d := w.Far
	if a == b {
		d = w.Near
	}
	return d + time.Duration(w.rng.Float64()*w.Jitter*float64(d))
}

// beside has the sidecar beside an endpoint see a hard failure of its application.
func (w *World) beside(endpoint int, in time.Duration) {
	if p, ok := w.product.(interface{ Beside(endpoint int) }); ok {
		w.At(w.now+in, func() { p.Beside(endpoint) })
	}
}

// ToControl is how long a message takes between a caller and the control plane.
func (w *World) ToControl(caller int) time.Duration { return w.oneWay(w.Zone(caller), -1) }

func (w *World) roundTrip(caller, endpoint int) time.Duration {
	return 2 * w.oneWay(w.Zone(caller), w.Zone(endpoint))
}

// arrive is a user's new request.
func (w *World) arrive() {
	w.arrival = w.now + max(1, w.exp(w.gap))
	var id uint32
	if n := len(w.idle); n > 0 {
		id, w.idle = w.idle[n-1], w.idle[:n-1]
	} else {
		id = uint32(len(w.requests))
		w.requests = append(w.requests, Request{id: id})
	}
	r := &w.requests[id]
	r.Caller = 0
	if w.Callers > 1 {
		r.Caller = w.rng.IntN(w.Callers)
	}
	r.Attempts, r.Began, r.live = 0, w.now, true
	r.Tried.Reset()
	r.Route = 0
	if w.Routes > 1 {
		r.Route = uint16(w.rng.IntN(w.Routes))
	}
	r.Key = uint64(r.Route)
	if w.Keys > 0 {
		r.Key = w.rng.Uint64N(uint64(w.Keys))
	}
	r.Key = (r.Key + 1) * 0x9e3779b97f4a7c15 // spread, as a hash does
	r.Unsafe = w.Unsafe > 0 && w.rng.Float64() < w.Unsafe
	w.budgets[r.Caller].Deposit(w.now)
	w.Ledger.requests++
	w.attempt(id)
}

// deadline is when the request ends whatever happens, and how.
func (w *World) deadline(r *Request) (time.Duration, outlier.Ending) {
	if w.Patience > 0 && w.Patience < w.Timeout {
		return r.Began + w.Patience, outlier.EndClientAbort
	}
	return r.Began + w.Timeout, outlier.EndRouteTimeout
}

// attempt begins the next attempt of a request.
func (w *World) attempt(id uint32) {
	r := &w.requests[id]
	e := w.product.Pick(r)
	if e < 0 {
		w.Ledger.unserved++
		w.Ledger.failedRequest(r)
		w.release(r)
		return
	}
	r.Endpoint, r.Started, r.headed, r.timer = e, w.now, false, false
	r.Attempts++
	r.flying = true
	host := w.Endpoints[e]
	host.inflight++
	p := w.pair(r.Caller, e)
	if p.idle > 0 && w.now-p.used > idleTimeout {
		p.idle = 0
	}
	r.fresh, r.Idle = p.idle == 0, max(0, w.now-p.used)
	if r.fresh {
		r.Idle = 0
		p.serial++
	} else {
		p.idle--
	}
	// Connections are used last in first out: so many deep is the same one again.
	r.Conn = uint32(p.serial)<<8 | uint32(p.idle) + 1
	w.product.Start(r)
	w.Ledger.started(r)
	w.decide(r, host)
}

// decide draws how the attempt will end and when.
func (w *World) decide(r *Request, host *Endpoint) {
	trip := w.roundTrip(r.Caller, r.Endpoint)
	way := w.path(r.Caller, r.Endpoint)
	mode := host.mode
	if way.Kind == Blackhole || way.Kind == Unreachable {
		mode = way.Kind
	}
	r.how = outlier.HTTPResult{}
	switch mode {
	case Crash:
		if w.Inbound {
			w.beside(r.Endpoint, trip/2)
			r.how = outlier.HTTPResult{Status: 503, HeadersSeen: true, Origin: outlier.OriginRefused}
			w.endAt(r, trip)
			return
		}
		r.fresh = true // the dead ones are found out when they are looked at
		r.how.Ending = outlier.EndConnectRefused
		w.endAt(r, trip)
		return
	case Unreachable:
		r.how.Ending = outlier.EndUnreachable
		w.endAt(r, trip)
		return
	case Listener:
		if r.fresh {
			r.how.Ending = outlier.EndConnectRefused
			w.endAt(r, trip)
			return
		}
	case Blackhole:
		if r.fresh {
			r.how.Ending = outlier.EndConnectTimeout
			w.endAt(r, connectTimeout)
			return
		}
		w.park(r, nil)
		return
	}
	if r.fresh {
		trip *= 2
	}
	latency := trip + w.service(host)
	if way.Kind == Slow && w.chance(way.Share) {
		latency = time.Duration(float64(latency) * way.Factor)
	}
	r.how.Status, r.how.HeadersSeen = 200, true
	switch {
	case w.chance(w.Base), w.chance(host.errors), way.Kind == Errors && w.chance(way.Share):
		r.how.Status = 500
	case host.alt:
		if host.odd = !host.odd; host.odd {
			r.how.Status = 500
		}
	case host.overload > 0 && w.chance(host.overload):
		r.how.Status, r.how.RetryAfter = 503, true
	case host.limit > 0 && w.chance(host.limit):
		r.how.Status = 429
	case host.trailers > 0 && w.chance(host.trailers):
		r.how.GRPC, r.how.GRPCStatusSeen, r.how.GRPCStatus = true, true, unavailable
	case host.bare > 0 && w.chance(host.bare):
		r.how.GRPC = true
	case host.cut > 0 && w.chance(host.cut):
		r.how.Ending = outlier.EndBodyCut
	case host.stall > 0 && w.chance(host.stall):
		w.stallBody(r, latency)
		return
	}
	if route, ok := w.poisoned[r.Endpoint]; ok && route == r.Route {
		r.how.Status = 500
	}
	if host.service > 0 {
		wait := max(0, host.busy-w.now)
		if wait > queueLimit {
			r.how.Status = 503 // its queue is full
		} else {
			host.busy = max(host.busy, w.now) + time.Duration(host.service)
			latency += wait
		}
	}
	w.endAt(r, latency)
}

func (w *World) chance(p float64) bool { return p > 0 && (p >= 1 || w.rng.Float64() < p) }

// service is how long an endpoint works on a request.
func (w *World) service(host *Endpoint) time.Duration {
	work := float64(w.Latency)
	if w.Sigma > 0 {
		work *= math.Exp(w.Sigma * w.rng.NormFloat64())
	}
	if host.slow != 1 && w.chance(host.slowPart) {
		work *= host.slow
	}
	return time.Duration(work)
}

func (w *World) path(caller, endpoint int) Fault {
	if w.links == nil {
		return Fault{}
	}
	return w.paths[w.links[caller*w.Scenario.Endpoints+endpoint]]
}

// endAt has the attempt end as r.how says, or when the request's time is up.
func (w *World) endAt(r *Request, in time.Duration) {
	if at, ending := w.deadline(r); w.now+in >= at {
		r.how = outlier.HTTPResult{Ending: ending}
		r.timer = true
		in = max(0, at-w.now)
	}
	w.queue.push(event{at: w.now + in, kind: doEnd, id: r.id, gen: r.gen})
}

// park leaves a request without an answer until its time is up, or its endpoint
// answers again.
func (w *World) park(r *Request, host *Endpoint) {
	if host != nil {
		host.parked = append(host.parked, waiting{r.id, r.gen})
	}
	at, _ := w.deadline(r)
	w.queue.push(event{at: at, kind: doGiveUp, id: r.id, gen: r.gen})
}

// stallBody answers with headers and then nothing.
func (w *World) stallBody(r *Request, latency time.Duration) {
	id, gen := r.id, r.gen
	w.At(w.now+latency, func() {
		r := &w.requests[id]
		if r.gen != gen || !r.live {
			return
		}
		r.headed = true
		w.product.Headers(r)
		r.how.Ending = outlier.EndBodyIdle
		w.endAt(r, bodyIdle)
		if r.timer {
			r.how.HeadersSeen, r.how.Status, r.how.BodyStalled = true, 200, w.Timeout
		}
	})
}

// giveUp ends a request of which nothing has come.
func (w *World) giveUp(id uint32) {
	r := &w.requests[id]
	_, ending := w.deadline(r)
	r.how = outlier.HTTPResult{Ending: ending}
	r.timer = true
	w.ended(r)
}

// finishAttempt ends an attempt as it was decided when it began, unless its
// endpoint has stopped to answer meanwhile.
func (w *World) finishAttempt(id uint32) {
	r := &w.requests[id]
	host := w.Endpoints[r.Endpoint]
	if !r.timer && r.how.HeadersSeen && !r.headed {
		switch {
		case host.mode == Hang || host.mode == Blackhole:
			w.park(r, host)
			return
		case host.frozen > w.now:
			w.queue.push(event{at: host.frozen + w.oneWay(w.Zone(r.Caller), w.Zone(r.Endpoint)), kind: doEnd, id: r.id, gen: r.gen})
			return
		}
	}
	w.ended(r)
}

// ended is the end of an attempt, and often of its request.
func (w *World) ended(r *Request) {
	host := w.Endpoints[r.Endpoint]
	host.inflight--
	r.flying = false
	r.how.Age = w.now - r.Started
	r.gen++ // whatever else was to happen to it
	p := w.pair(r.Caller, r.Endpoint)
	if r.how.Ending == outlier.EndComplete {
		p.idle, p.used = min(p.idle+1, 256), w.now
		if w.KeepAlive > 0 && !p.timed {
			w.expire(r.Caller, host)
		}
	}
	good := r.how.Ending == outlier.EndComplete && r.how.Status < 500 && r.how.Status != 429 && !r.how.GRPC
	w.Ledger.ended(r, good)
	id := r.id
	w.product.End(r, r.how)
	r = &w.requests[id]
	if good {
		w.release(r)
		return
	}
	w.again(r)
}

// again tries a failed request once more, if the rules allow it.
func (w *World) again(r *Request) {
	ending := r.how.Ending
	if r.how.Origin == outlier.OriginReset {
		ending = outlier.EndResetBeforeHeaders // the sidecar there stands between, but the news is the same
	}
	switch w.policy.Decide(resilience.Failure{
		Ending: ending, Status: r.how.Status, Unprocessed: r.how.Origin == outlier.OriginRefused,
		Answered: r.how.HeadersSeen && (ending != outlier.EndComplete || r.how.GRPC) && r.how.Origin == "", Replayable: true, Safe: !r.Unsafe, Attempts: r.Attempts,
	}) {
	case resilience.Retry, resilience.RetryFresh:
		r.tried()
		w.attempt(r.id)
		return
	case resilience.AskBudget:
		if w.budgets[r.Caller].Withdraw(w.now) {
			r.tried()
			w.queue.push(event{at: w.now + w.policy.Backoff(r.Attempts, w.rng), kind: doRetry, id: r.id, gen: r.gen})
			return
		}
	}
	w.Ledger.failedRequest(r)
	w.release(r)
}

// tried remembers where the request has been.
func (r *Request) tried() {
	r.TriedAt[(r.Attempts-1)%len(r.TriedAt)] = r.Endpoint
}

// HasTried reports whether the request has been to an endpoint.
func (r *Request) HasTried(endpoint int) bool {
	return slices.Contains(r.TriedAt[:min(r.Attempts, len(r.TriedAt))], endpoint)
}

// release gives the request's place to another.
func (w *World) release(r *Request) {
	r.live = false
	r.gen++
	w.idle = append(w.idle, r.id)
}
