package outlier

import (
	"math"
	"sync/atomic"
	"time"
)

// costDecay is the time constant of the peak EWMA where answers are rare.
const costDecay = 10 * time.Second

// retryAfterMax bounds what a Retry-After may cost an endpoint.
const retryAfterMax = 300 * time.Second

// Endpoint holds what the hot path writes about one endpoint. All of it is
// atomic: any goroutine may start and end attempts at any time, no lock, no
// allocation, no clock. Only a [Detector] makes one. 192 bytes, in whole
// cache lines: one for the ring, one for what both ends of an attempt touch,
// one for the counters.
type Endpoint struct {
	ring ring // attempts that await headers

	started  atomic.Uint32 // attempts ever begun; in flight is what has not ended of them
	score    atomic.Int64  // s1, milli-nats
	answer   atomic.Uint64 // newest OK or Overload, a span
	hard     atomic.Uint64 // newest Conn, a span with the level in its low bits
	cost     atomic.Uint64 // peak EWMA, packed by packCost
	conf     atomic.Pointer[conf]
	watched  atomic.Uint32 // not 0: wake on every counted outcome
	lastFail atomic.Int64

	n, conn, timeout, server, over, cens, ignored, n90, n99 atomic.Uint32

	slot   uint32        // the name under which failures enter the cluster's ring; immutable
	broke  atomic.Uint32 // when a connection broke that was counted: ms + 1, 0 never
	served atomic.Uint32 // routes that were answered lately, where requests are hashed: a bit for each, two may share one
	runs   atomic.Uint64 // failures in a row, see runsOf; 0 without a rule that asks
	// Attempts on routes that are slow by nature await headers outside of the ring:
	// so many began, so many are answered.
	lateBegun, lateAnswered atomic.Uint32
}

// conf is what the slow path hands to the hot path; immutable.
type conf struct {
	steps    Steps
	h        int64         // alarm threshold of score
	ceiling  int64         // score never exceeds it: what was refused long ago must not take hours to forget
	t90, t99 time.Duration // slow, very slow; 0: unknown
	p50      time.Duration // never 0: what an endpoint without news is taken to cost
	p90, p99 time.Duration
	stall    time.Duration // an answer later than this ends a stall
	penalty  time.Duration // what a hard failure is booked as
	turn     time.Duration // from one attempt to the next, about, while all are well; 0: unknown
	runs     runs          // how long a run of failures must be to be told; all 0: nobody asks
	hashed   bool          // keep Endpoint.served
	overdue  time.Duration // D_over
	// overdueLate is that of slowRoutes, the routes that are slow by nature, whose
	// attempts stay out of the ring.
	overdueLate time.Duration
	slowRoutes  uint64
	poison      uint64             // routes whose failures count against nobody
	routeFails  *[routeSlots]int64 // what a failure on each route is worth; nil: steps.Fail
	since       time.Duration      // attempts that began before tell of an earlier life: counted, but neither scored nor booked
	early       *early             // counts these; nil: there was no earlier life
	sampleMask  uint32             // of every sampleMask+1 OKs one enters the histogram
	shared      *shared
}

// early is what attempts came to that ended in a later life of their endpoint than they
// began in.
type early struct{ ok, conn, timeout, server atomic.Uint32 }

// shared is what all endpoints of a cluster write into. What is behind a pointer is
// made when first it is written: of the clusters of a large mesh few are called.
type shared struct {
	ring    atomic.Pointer[[ringFailures]atomic.Uint64] // the newest failures: see failureWord
	head    atomic.Uint32                               // how many were ever written
	stalled atomic.Bool                                 // some route has a stall to tell
	latency atomic.Pointer[[histBuckets]atomic.Uint32]
	routes  [routeSlots]atomic.Pointer[routeCounts]
}

// ringFailures is how many failures are kept from one Step to the next.
const ringFailures = 256

// made is what p points to, made by whoever asks first.
func made[T any](p *atomic.Pointer[T]) *T {
	if v := p.Load(); v != nil {
		return v
	}
	p.CompareAndSwap(nil, new(T))
	return p.Load()
}

// answers are how many answers a route's counters tell of, and how many of late ones.
func (s *shared) answers(slot int) (oks, late uint32) {
	c := s.routes[slot].Load()
	if c == nil {
		return 0, 0
	}
	return c.oks.Load(), c.late.Load()
}

// Attempt is one try on one endpoint. It lives in its caller's state; the
// zero Attempt was never started.
type Attempt struct {
	start, asked, head time.Duration
	epoch              uint32 // of the start
	flags              uint8
}

const (
	attemptStarted uint8 = 1 << iota
	attemptAwaited       // counted in the ring
	attemptAnswered
	attemptLate // counted beside the ring
)

// Started is when the attempt began.
func (a *Attempt) Started() time.Duration { return a.start }

// Outcome is how an attempt ended.
type Outcome struct {
	Class Class
	// Now is the instant of the end.
	Now time.Duration
	// Level is how deep a broken connection broke ([HTTPResult.Level]). A Conn
	// failure without one is taken as LevelConnect.
	Level Level
	// Gateway says that a Server failure is one of a gateway ([HTTPResult.Gateway]).
	// Only [Config.RunGateway] asks; Conn and Timeout always are.
	Gateway bool
	// Route is the id of the route that the request took.
	Route uint16
	// Conn is a hash of the connection, 0 if there was none.
	Conn uint32
	// RetryAfter is what an Overload asked for, 0 if nothing.
	RetryAfter time.Duration
}

// Counts are an endpoint's cumulative counters. They wrap; only differences
// mean something.
type Counts struct {
	// N is OK + Conn + Timeout + Server.
	N       uint32 `json:"n"`
	Conn    uint32 `json:"conn"`
	Timeout uint32 `json:"timeout"`
	Server  uint32 `json:"server"`
	Over    uint32 `json:"over"`
	Cens    uint32 `json:"cens"`
	// N90 and N99 are OKs whose headers took longer than t90 and t99 of the group.
	N90 uint32 `json:"n90"`
	N99 uint32 `json:"n99"`
	// Route is how many of the failures were taken back later, because their route
	// fails everywhere. They are in N and in their kind; [Counts.Tally] leaves them
	// out. Only the detector that took them back knows of them.
	Route uint32 `json:"route,omitempty"`
}

// K is the number of failures.
func (c Counts) K() uint32 { return c.Conn + c.Timeout + c.Server }

// Sub is the change from an earlier reading; right across a wrap.
func (c Counts) Sub(o Counts) Counts {
	return Counts{
		N: c.N - o.N, Conn: c.Conn - o.Conn, Timeout: c.Timeout - o.Timeout, Server: c.Server - o.Server,
		Over: c.Over - o.Over, Cens: c.Cens - o.Cens, N90: c.N90 - o.N90, N99: c.N99 - o.N99, Route: c.Route - o.Route,
	}
}

// Tally is the counts as attempts and failures.
func (c Counts) Tally() Tally {
	// What was taken back may have been counted before the window began.
	route := min(int64(c.Route), int64(c.K()))
	return Tally{N: int64(c.N) - route, K: int64(c.K()) - route}
}

// Start counts an attempt in. deadlined says that it has a deadline, and may
// therefore be called overdue one day: long polls and streams have none.
func (e *Endpoint) Start(now time.Duration, deadlined bool) Attempt {
	flags, epoch := e.begin(now, deadlined)
	return Attempt{start: now, epoch: epoch, flags: flags}
}

// begin is what Start has to count. Start itself must be inlined: to return an Attempt
// costs more than to make one.
func (e *Endpoint) begin(now time.Duration, deadlined bool) (flags uint8, epoch uint32) {
	if !deadlined {
		e.started.Add(1)
		return attemptStarted, 0
	}
	at := uint64(now) / uint64(ringPart)
	s, part := e.ring.slot(at/ringParts), uint32(at%ringParts)
	if s.Load()>>slotPart == part { // so it mostly is on a busy endpoint
		s.Add(1)
	} else {
		s.enter(part)
	}
	e.started.Add(1)
	return attemptStarted | attemptAwaited, uint32(at / ringParts)
}

// StartOn is Start on a route that may be slow by nature: what is overdue on it would
// be overdue elsewhere long before.
func (e *Endpoint) StartOn(route uint16, now time.Duration, deadlined bool) Attempt {
	if !deadlined || e.conf.Load().slowRoutes>>routeSlot(route)&1 == 0 {
		return e.Start(now, deadlined)
	}
	e.started.Add(1)
	e.lateBegun.Add(1)
	return Attempt{start: now, flags: attemptStarted | attemptLate}
}

// Overdue is the age at which an answer is overdue on a route: [Detector.Overdue], or
// later where the route is slow by nature.
func (e *Endpoint) Overdue(route uint16) time.Duration {
	c := e.conf.Load()
	if c.slowRoutes>>routeSlot(route)&1 != 0 {
		return c.overdueLate
	}
	return c.overdue
}

// Median is the group's usual time to headers: who gives up sooner learns nothing of
// the endpoint. It is 1 ms while nothing is known.
func (e *Endpoint) Median() time.Duration { return e.conf.Load().p50 }

// Asked notes, before Headers, that the endpoint got the last of its request only
// now, long after the attempt began: its latency counts from here. It is for
// requests that come slowly, which have no deadline until they are there.
func (a *Attempt) Asked(now time.Duration) { a.asked = now }

// Headers notes that the endpoint began to answer: final response headers,
// or the first byte over TCP.
func (e *Endpoint) Headers(a *Attempt, now time.Duration) {
	if a.flags&(attemptStarted|attemptAnswered) != attemptStarted {
		return
	}
	a.flags |= attemptAnswered
	a.head = now
	e.leaveRing(a, now)
}

// End counts the attempt out, once: a second End of the same attempt does
// nothing. wake says that Step should run now, not at its next turn.
func (e *Endpoint) End(a *Attempt, o Outcome) (wake bool) {
	if a.flags&attemptStarted == 0 {
		return false
	}
	deadlined := a.flags&(attemptAwaited|attemptLate) != 0
	if a.flags&attemptAnswered == 0 {
		a.head = o.Now
		e.leaveRing(a, o.Now)
	}
	a.flags = 0
	latency := a.head - max(a.start, a.asked)
	switch o.Class {
	case OK:
		return e.endOK(a, o, latency, deadlined)
	case Conn, Timeout, Server:
		return e.endFailure(a, o, latency)
	case Overload:
		e.over.Add(1)
		e.answered(a.start, o.Now)
		c := e.conf.Load()
		sample := c.p99
		if o.RetryAfter > 0 {
			sample = min(o.RetryAfter, retryAfterMax)
		}
		e.observe(millis(o.Now), sample, true)
		return e.watched.Load() != 0
	case Censored:
		e.cens.Add(1)
	default:
		e.ignored.Add(1)
	}
	return false
}

func (e *Endpoint) endOK(a *Attempt, o Outcome, latency time.Duration, deadlined bool) bool {
	c := e.conf.Load()
	if c.early != nil && a.start < c.since {
		c.early.ok.Add(1) // before n: see Fresh
	}
	n := e.n.Add(1)
	for {
		s := e.score.Load()
		if s <= 0 || e.score.CompareAndSwap(s, max(0, s+c.steps.OK)) {
			break
		}
	}
	ms := millis(o.Now)
	e.answeredAt(a.start, ms)
	if c.t90 > 0 && latency > c.t90 && a.start >= c.since {
		e.n90.Add(1)
		if latency > c.t99 {
			e.n99.Add(1)
		}
	}
	if c.runs != (runs{}) && e.runs.Load()&runsCounts != 0 {
		e.runs.And(^runsCounts)
	}
	if c.hashed && e.served.Load()&servedBit(o.Route) == 0 {
		e.served.Or(servedBit(o.Route))
	}
	if n&c.sampleMask == 0 {
		c.shared.sample(o.Route, latency)
	}
	if deadlined && latency >= c.stall {
		c.shared.stall(o.Route, latency)
	}
	if a.start >= c.since {
		e.observe(ms, latency, true)
	}
	return e.watched.Load() != 0
}

// sample notes one answer of many.
func (s *shared) sample(route uint16, latency time.Duration) {
	at, of := bucket(latency), made(&s.routes[routeSlot(route)])
	made(&s.latency)[at].Add(1)
	of.oks.Add(1)
	of.latency[at/routeCoarse].Add(1)
}

// stall notes an answer that came very late.
func (s *shared) stall(route uint16, latency time.Duration) {
	of := made(&s.routes[routeSlot(route)])
	of.late.Add(1)
	storeMax(&of.longest, int64(latency))
	s.stalled.Store(true)
}

// answered notes the newest answer, once a millisecond: it is told no more
// finely, and a store costs as much as a counter.
func (e *Endpoint) answered(start, end time.Duration) { e.answeredAt(start, millis(end)) }

func (e *Endpoint) answeredAt(start time.Duration, ms uint64) {
	if e.answer.Load()>>spanEnd != ms+1 {
		e.answer.Store(spanTo(start, ms))
	}
}

func (e *Endpoint) endFailure(a *Attempt, o Outcome, latency time.Duration) bool {
	if o.Level == LevelApp && e.brokeJustNow(o.Now) {
		e.ignored.Add(1)
		return false
	}
	c := e.conf.Load()
	if i := routeSlot(o.Route); c.poison>>i&1 != 0 && o.Class != Conn {
		e.ignored.Add(1)
		made(&c.shared.routes[i]).aside.Add(1)
		c.shared.failed(failureWord(e.slot, o) | failureAside)
		return e.watched.Load() != 0
	}
	if c.early != nil && a.start < c.since {
		c.early.failed(o.Class) // before n: see Fresh
	}
	// n first: a reader that takes the kinds first never sees k > n.
	e.n.Add(1)
	switch o.Class {
	case Conn:
		e.conn.Add(1)
		level := o.Level
		if level == LevelNone {
			level = LevelConnect
		}
		e.hard.Store(span(a.start, o.Now)&^3 | uint64(level))
	case Timeout:
		e.timeout.Add(1)
	default:
		e.server.Add(1)
	}
	if a.start < c.since {
		return o.Class == Conn || e.watched.Load() != 0
	}
	if o.Class == Conn {
		e.penalise(c, o.Now)
	} else {
		e.observe(millis(o.Now), c.failureCost(latency), false)
	}
	storeMax(&e.lastFail, int64(o.Now))
	c.shared.failed(failureWord(e.slot, o))
	fail := c.steps.Fail
	if c.routeFails != nil && o.Class != Conn {
		fail = c.routeFails[routeSlot(o.Route)]
	}
	before := e.charge(c, fail)
	ran := c.runs != (runs{}) && e.run(c.runs, o)
	return o.Class == Conn || ran || before < c.h || e.watched.Load() != 0
}

func (e *early) failed(c Class) {
	switch c {
	case Conn:
		e.conn.Add(1)
	case Timeout:
		e.timeout.Add(1)
	default:
		e.server.Add(1)
	}
}

// failed puts a failure into the ring: the newest win.
func (s *shared) failed(word uint64) {
	ring := made(&s.ring)
	at := s.head.Add(1) - 1
	ring[at%ringFailures].Store(word)
}

// oneMoment is how far apart connections may break and still tell of one event.
const oneMoment = 100 * time.Millisecond

// brokeJustNow says that a connection that had been open broke in a moment that
// already counts: within 100 ms of one that was counted, with no answer since.
// A process that restarts, a load balancer that lets go, a router that drops its
// table break any number of connections, and all of it is one piece of news about
// the endpoint: it may not weigh more because the endpoint had more to do. If the
// endpoint is gone, connects that are refused and probes say so.
func (e *Endpoint) brokeJustNow(now time.Duration) bool {
	ms := uint32(millis(now)) + 1
	for {
		was := e.broke.Load()
		apart := int32(ms - was)
		answer := e.answer.Load() >> spanEnd
		if was != 0 && apart < int32(oneMoment/time.Millisecond) && apart > -int32(oneMoment/time.Millisecond) &&
			(answer == 0 || int32(uint32(answer)-was) <= 0) {
			return true
		}
		if e.broke.CompareAndSwap(was, ms) {
			return false
		}
	}
}

// charge adds one failure to the score.
func (e *Endpoint) charge(c *conf, fail int64) (before int64) {
	for {
		before = e.score.Load()
		if e.score.CompareAndSwap(before, min(before+fail, c.ceiling)) {
			return before
		}
	}
}

// leaveRing takes the attempt out of those that await headers.
func (e *Endpoint) leaveRing(a *Attempt, now time.Duration) {
	switch {
	case a.flags&attemptAwaited != 0:
		e.ring.leave(a.epoch, now)
	case a.flags&attemptLate != 0:
		e.lateAnswered.Add(1)
	}
}

// Inflight is how many attempts have begun and not ended: counted once, at
// the start, because every end is counted anyway.
func (e *Endpoint) Inflight() int {
	ended := e.n.Load() + e.over.Load() + e.cens.Load() + e.ignored.Load()
	return max(0, int(int32(e.started.Load()-ended)))
}

// Counts reads the counters; the kinds of failure before N, so that N is
// never less than their sum.
func (e *Endpoint) Counts() Counts {
	c := Counts{
		Conn: e.conn.Load(), Timeout: e.timeout.Load(), Server: e.server.Load(),
		Over: e.over.Load(), Cens: e.cens.Load(), N90: e.n90.Load(), N99: e.n99.Load(),
	}
	c.N = e.n.Load()
	return c
}

// Fresh reads the counters without the attempts that began in an earlier life of the
// endpoint, before it was last taken out or let back in. While one of these ends it may
// be less by that one for a moment, and is never more.
func (e *Endpoint) Fresh() Counts {
	c := e.Counts()
	conf := e.conf.Load()
	if conf == nil || conf.early == nil {
		return c
	}
	b := conf.early
	old := Counts{Conn: b.conn.Load(), Timeout: b.timeout.Load(), Server: b.server.Load()}
	old.N = b.ok.Load() + old.K()
	return c.Sub(old)
}

// Cost is what one more attempt on the endpoint may be expected to cost, in
// seconds: Latency times one more than are in flight (Finagle's P2C load metric).
func (e *Endpoint) Cost(now time.Duration) float64 {
	n := e.Inflight()
	latency, _ := e.Latency(now, n)
	return latency * float64(1+n)
}

// Latency is how long headers may be expected to take, in seconds, where so many
// attempts are in flight: peak EWMA. It drifts to the group's median while
// there is no news. Failures are booked so that they do not look fast, and so
// that a half-broken endpoint keeps the traffic that shows it up: only a hard
// failure is booked as a long latency. If nothing has been answered for longer
// than that, it is what an attempt has waited already, and awaited.
//
// A latency is not held for good against who is not asked for it: one answer that
// was slow by chance would leave a healthy endpoint with nothing for a while. After
// ten turns without an attempt it counts as the median, or after half as many as it
// is times slower than that, if these are more.
func (e *Endpoint) Latency(now time.Duration, inflight int) (seconds float64, awaited bool) {
	c := e.conf.Load()
	rest := float32(c.p50.Seconds())
	value, dear := rest, false
	if word := e.cost.Load(); word != 0 {
		known, stamp := unpackCost(word)
		value += (abs32(known) - rest) * decay(costAge(millis(now), stamp))
		dear = known > 0 && value > costDear*rest
	}
	if inflight > 0 {
		_, answered := unspan(e.answer.Load())
		if answered = max(0, answered); now-answered > time.Duration(value*1e9) {
			if waited := float32(e.ring.waited(answered, now).Seconds()); waited > value {
				return float64(waited), true
			}
		}
	}
	if dear && c.turn > 0 && e.unasked(c.turn*time.Duration(max(costTurns, value/rest/2)), now) {
		value = rest
	}
	return float64(value), false
}

// unasked reports whether nothing was answered for so long and no attempt in the ring
// began since. Of attempts outside of it, streams say, the ends alone are known.
func (e *Endpoint) unasked(long, now time.Duration) bool {
	_, last := unspan(e.answer.Load())
	last = max(last, time.Duration(e.lastFail.Load()))
	if now-last <= long {
		return false
	}
	_, asked := e.ring.oldest(last, now)
	return !asked
}

// observe adds a latency to the peak EWMA: a peak at once, anything less at most
// every 100 ms. A peak fades with time and with each answer that is faster: one slow
// answer among fast ones must not be held against an endpoint for ten seconds, while
// of what is slow each is slow, and tells so again. Of two that write
// at the same time one may be lost. Only an answer ends the penalty of a hard
// failure.
func (e *Endpoint) observe(ms uint64, latency time.Duration, answer bool) {
	sample := float32(latency) * 1e-9
	word := e.cost.Load()
	value, stamp := unpackCost(word)
	age := costAge(ms, stamp)
	switch {
	case value < 0 && !answer:
		return
	case word == 0 || value < 0:
		value = sample // the first news, or the end of a penalty
	case sample > value:
		value = sample
	case age < costEvery:
		return
	default:
		value = sample + (value-sample)*min(decay(age), costKeep)
	}
	e.cost.Store(packCost(value, ms))
}

// failureCost is what a soft failure is booked as: not below p90, because fast
// errors must not look fast; not above p99, because an endpoint that times out
// now and then, or whose timeout is long, must keep the traffic that shows it up.
func (c *conf) failureCost(latency time.Duration) time.Duration {
	if c.p99 == 0 {
		return latency
	}
	return min(max(latency, c.p90), c.p99)
}

// penalise books a hard failure; a negative cost marks it, so that the next
// answer can put an end to it instead of averaging it away.
func (e *Endpoint) penalise(c *conf, now time.Duration) {
	e.cost.Store(packCost(-float32(c.penalty.Seconds()), millis(now)))
}

// forgive ends the penalty of a hard failure: a probe was answered.
func (e *Endpoint) forgive() {
	word := e.cost.Load()
	if value, _ := unpackCost(word); value < 0 {
		e.cost.CompareAndSwap(word, 0)
	}
}

// settle begins a new life of the endpoint: what it cost is forgotten, and
// attempts of before say nothing any more.
func (e *Endpoint) settle(now time.Duration) {
	if c := e.conf.Load(); c != nil { // else it has had no life yet
		c := *c
		c.since = now
		if c.early == nil {
			c.early = new(early)
		}
		e.conf.Store(&c)
	}
	e.cost.Store(0)
}

const (
	// costEvery is how often, in ms, a latency below the peak is averaged in.
	costEvery = 100
	// costKeep is what that leaves of the distance at most.
	costKeep = 7. / 8
	// costTurns is for how many turns a latency counts without an attempt: as many as
	// lie between two, in the mean, of what gets the least that p2c leaves.
	costTurns = 10
	// costDear is how many times the median must be for that: p2c takes less for equal.
	costDear = 2
)

// packCost packs a latency in seconds and the millisecond of its instant.
func packCost(value float32, ms uint64) uint64 {
	return ms<<32 | uint64(math.Float32bits(value))
}

func unpackCost(word uint64) (value float32, stamp uint32) {
	return math.Float32frombits(uint32(word)), uint32(word >> 32)
}

// costAge is how old a stamp is, in ms.
func costAge(ms uint64, stamp uint32) int32 {
	return max(0, int32(uint32(ms)-stamp))
}

// decay is e^(-ms/10s), by the first terms of its inverse: right to 2 % over
// the first 10 s, and a tenth of the time of the exact one.
func decay(ms int32) float32 {
	x := float32(ms) / float32(costDecay/time.Millisecond)
	return 1 / (1 + x*(1+x*(1./2+x*(1./6))))
}

func abs32(x float32) float32 {
	if x < 0 {
		return -x
	}
	return x
}

func storeMax(to *atomic.Int64, v int64) {
	for {
		was := to.Load()
		if was >= v || to.CompareAndSwap(was, v) {
			return
		}
	}
}

// millis is an instant in whole milliseconds.
func millis(now time.Duration) uint64 { return uint64(max(0, now)) / uint64(time.Millisecond) }

// spanEnd is the lowest bit of a span's end.
const spanEnd = 24

// span packs start and end of an attempt into one word, so that a reader
// never mixes two attempts: the end in ms + 1 above, the length in ms and two
// free bits below. 0 is never.
func span(start, end time.Duration) uint64 { return spanTo(start, millis(end)) }

func spanTo(start time.Duration, endMS uint64) uint64 {
	length := endMS - min(endMS, millis(start))
	return (endMS+1)<<spanEnd | min(length, 1<<22-1)<<2
}

// unspan answers Never, Never for the zero word.
func unspan(word uint64) (start, end time.Duration) {
	if word == 0 {
		return Never, Never
	}
	end = time.Duration(word>>spanEnd-1) * time.Millisecond
	return end - time.Duration(word>>2&(1<<22-1))*time.Millisecond, end
}

// maxSlots is how many endpoints of a cluster the ring of failures tells apart.
const maxSlots = 1 << 20

// failureWord packs a failure for the cluster's ring: who (20 bits), class
// (3), whether it was set aside (1), route (16), connection (24). Never 0.
func failureWord(slot uint32, o Outcome) uint64 {
	return uint64(slot)<<44 | uint64(o.Class)<<40 | uint64(o.Route)<<24 | uint64(o.Conn&(1<<24-1))
}

const failureAside uint64 = 1 << 43

type failure struct {
	slot  uint32
	class Class
	aside bool
	route uint16
	conn  uint32
}

func unfailure(word uint64) failure {
	return failure{slot: uint32(word >> 44), class: Class(word >> 40 & 7), aside: word&failureAside != 0, route: uint16(word >> 24), conn: uint32(word & (1<<24 - 1))}
}
