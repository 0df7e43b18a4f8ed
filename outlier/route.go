package outlier

import (
	"math"
	"slices"
	"sync/atomic"
	"time"
)

// A route that fails wherever it is served says nothing about the endpoints that
// serve it: a bad request, a broken table behind one path. Its failures would look
// like an endpoint's own wherever chance or a hash sends more of them.
//
// So each route is compared with the other routes of the cluster, over 2 s, over 10 s
// and since it began to fail. One that fails at five times their rate stands out: a failure on it is
// worth what its own rate on other endpoints leaves of it. If half of it fails, and
// on more than one endpoint, it is poison: its SERVER and TIMEOUT failures are set
// aside, those of the last 10 s too, and what was ejected because of them comes
// back, without a record. It stays poison until it is seen to be well, because what
// is hashed goes back to where it was. A cluster's only route never stands out:
// nothing tells its fault from one of the endpoints, and the error rate of the group
// speaks for all.
const (
	routeSlots     = 64 // routes that are told apart; of others two share a place
	routeLeast     = 20 // attempts that a comparison takes, on each side
	routeOnset     = 10 // the same since a route began to fail
	routeStandsOut = 5
	routeLeastRate = 0.05
	poisonRate     = 0.5
	poisonOthers   = 3           // failures on a second endpoint: the first is not to blame
	poisonKept     = time.Minute // after its last failure
	slowShare      = 0.01        // of late answers, from which a route is slow by nature
	slowLeast      = 10
	slowRest       = 100                   // answers on other routes, so that a share of them says something
	routeJudged    = 50 * time.Millisecond // between two comparisons at least

	routeSeconds = 10
	routeRecent  = 2
)

func routeSlot(route uint16) int { return int(route % routeSlots) }

// routeCounts is what the hot path counts of a route; of OKs a sample.
type routeCounts struct {
	oks     atomic.Uint32
	aside   atomic.Uint32 // failures that counted against nobody
	late    atomic.Uint32 // answers later than overdue_min
	longest atomic.Int64  // the latest of them, since the last Step
	latency [routeBuckets]atomic.Uint32
}

// Routes are told apart by a coarser histogram: 2 buckets an octave.
const (
	routeBuckets = histBuckets / routeCoarse
	routeCoarse  = 4
)

// routes are those that the detector has heard of.
type routes struct {
	of     [routeSlots]*route
	judged time.Duration
	newest time.Duration        // when one failed or was late
	poison uint64               // a bit for each
	p0     *[routeSlots]float64 // of those that stand out; nil: none does
	slow   uint64               // those that are slow by nature
	p99    time.Duration        // the longest of these; 0 while unknown
	news   []RouteChange
}

type route struct {
	id uint16 // of the newest failure: two routes may share the place

	oksSeen, lateSeen uint32 // taken from the hot path
	oks, late         seconds
	failed            seconds
	soft              map[uint32]*seconds // SERVER and TIMEOUT failures, by the endpoint's slot
	newest            time.Duration       // of these
	well              time.Duration       // since when it is poison no more; 0: it never was

	// A test of its own, of "mostly fails" against "seldom fails", finds out since when.
	score  int64
	onset  Tally  // since it left 0
	untold uint32 // failures since it was judged

	latencySeen [routeBuckets]uint32
	latency     [routeBuckets]float64
	p99         time.Duration // 0 while unknown
}

func (r *routes) get(i int) *route {
	if r.of[i] == nil {
		r.of[i] = &route{soft: make(map[uint32]*seconds)}
	}
	return r.of[i]
}

// seconds are numbers of events in each of the last ten seconds.
type seconds struct {
	now int64
	n   [routeSeconds]uint32
}

func (s *seconds) add(now time.Duration, n uint32) {
	s.forget(now)
	s.n[s.now%routeSeconds] += n
}

// forget makes room for the seconds that have begun since.
func (s *seconds) forget(now time.Duration) {
	second := int64(now / time.Second)
	for s.now = max(s.now, second-routeSeconds); s.now < second; {
		s.now++
		s.n[s.now%routeSeconds] = 0
	}
}

// last is the sum of the last so many seconds, the one that runs included.
func (s *seconds) last(now time.Duration, count int64) (sum int64) {
	s.forget(now)
	for i := range count {
		sum += int64(s.n[(s.now+routeSeconds-i)%routeSeconds])
	}
	return sum
}

// since is the sum from the second of an instant on, ten seconds at most.
func (s *seconds) since(at, now time.Duration) int64 {
	return s.last(now, min(routeSeconds, int64(now/time.Second)-int64(at/time.Second)+1))
}

// routeFailed notes a failure that the hot path has told of.
func (d *Detector) routeFailed(m *member, f failure) {
	i := routeSlot(f.route)
	x := d.routes.get(i)
	x.id = f.route
	x.failed.add(d.now, 1)
	x.untold++
	d.routes.newest = d.now
	if f.class == Conn {
		return // a connection does not know what it will be used for
	}
	s := x.soft[f.slot]
	if s == nil {
		s = new(seconds)
		x.soft[f.slot] = s
	}
	s.add(d.now, 1)
	x.newest = d.now
	if !f.aside && d.routes.poison>>i&1 != 0 {
		d.setAside(m, i, 1) // it ended before its endpoint knew
	}
}

// askRoutes judges them anew, and lets every endpoint know what it changes.
func (d *Detector) askRoutes(now time.Duration) {
	was := d.routes.poison
	d.judgeRoutes(now)
	if d.routes.poison == was {
		return
	}
	clear(d.sorted) // it has what was set aside
	for _, g := range d.groups {
		d.conclude(g, now)
	}
}

// mix is what the routes did in one window: each, and all together.
type mix struct {
	seconds int64
	of      [routeSlots]Tally
	late    [routeSlots]int64
	all     Tally
	allLate int64
}

func (d *Detector) mix(seconds int64, now time.Duration) *mix {
	x := &mix{seconds: seconds}
	for i, r := range d.routes.of {
		if r == nil {
			continue
		}
		k := r.failed.last(now, seconds)
		x.of[i] = Tally{N: k + r.oks.last(now, seconds), K: k}
		x.late[i] = r.late.last(now, seconds)
		x.all.N += x.of[i].N
		x.all.K += k
		x.allLate += x.late[i]
	}
	return x
}

// rest is what the other routes did.
func (x *mix) rest(i int) Tally { return Tally{N: x.all.N - x.of[i].N, K: x.all.K - x.of[i].K} }

// judgeRoutes compares the routes: each second, and before somebody is ejected.
func (d *Detector) judgeRoutes(now time.Duration) {
	r := &d.routes
	if now-r.judged < routeJudged && r.judged != 0 {
		return
	}
	r.judged = now
	mask := d.latency.mask
	for i := range r.of {
		oks, late := d.shared.answers(i)
		if oks == 0 && r.of[i] == nil {
			continue
		}
		x := r.get(i)
		answered := (oks - x.oksSeen) * (mask + 1)
		x.oks.add(now, answered)
		x.test(int64(answered))
		if late != x.lateSeen {
			r.newest = now
		}
		x.late.add(now, late-x.lateSeen)
		x.oksSeen, x.lateSeen = oks, late
	}
	if (r.newest == 0 || now-r.newest > (routeSeconds+1)*time.Second) && r.poison|r.slow == 0 && r.p0 == nil {
		return // all is well
	}
	recent, long := d.mix(routeRecent, now), d.mix(routeSeconds, now)
	r.slow, r.p99, r.p0 = 0, 0, nil
	for i, x := range r.of {
		if x == nil {
			continue
		}
		if long.slow(i) {
			r.slow |= 1 << i
			r.p99 = max(r.p99, x.p99)
		}
		for slot, s := range x.soft {
			if s.last(now, routeSeconds) == 0 {
				delete(x.soft, slot)
			}
		}
		was := r.poison>>i&1 != 0
		is := was && now-x.newest < poisonKept
		for _, window := range [...]*mix{recent, long} {
			if t := window.of[i]; t.N >= routeLeast && t.Rate() < poisonRate {
				is = false
			}
			if max(window.of[i].N, 2*x.onset.N) >= routeLeast && d.standsOut(i, window, now) {
				is = true
			}
		}
		switch bit := uint64(1) << i; {
		case is:
			r.poison |= bit
		default:
			r.poison &^= bit
		}
		if is != was {
			t := long.of[i]
			r.news = append(r.news, RouteChange{Route: x.id, Poison: is, N: t.N, K: t.K, At: now})
		}
		switch {
		case is && !was:
			d.poisoned(i, x, now)
		case was && !is:
			x.well = now
		}
	}
}

var onsetSteps = Odds{0.1, 0.7}.Steps()

// test takes in so many answers, and the failures since the last time. Answers are
// sampled where there are many, so that a route of which a third fails may pass for
// poison for a moment. That does no harm: it stands out on several endpoints all the
// same.
func (r *route) test(answered int64) {
	failed := int64(r.untold)
	r.untold = 0
	if r.score += answered * onsetSteps.OK; r.score <= 0 {
		r.score, r.onset = 0, Tally{}
		answered = 0
	}
	r.score += failed * onsetSteps.Fail
	r.onset.N += answered + failed
	r.onset.K += failed
}

// standsOut compares one route with the rest of them, and says whether it is poison.
func (d *Detector) standsOut(i int, window *mix, now time.Duration) (poison bool) {
	r := &d.routes
	k, worst, second := int64(0), int64(0), int64(0)
	for _, s := range r.of[i].soft {
		of := s.last(now, window.seconds)
		k += of
		if of > worst {
			worst, second = of, worst
		} else {
			second = max(second, of)
		}
	}
	n, rest := window.of[i].N, window.rest(i)
	rate := Tally{N: n, K: k}.Rate()
	if onset := r.of[i].onset; onset.N >= routeOnset {
		rate = max(rate, onset.Rate())
	}
	if rest.N < routeLeast || rate < max(routeLeastRate, routeStandsOut*rest.Rate()) {
		return false
	}
	if q := (Tally{N: n - worst, K: k - worst}).Rate(); q > 0 {
		if r.p0 == nil {
			r.p0 = new([routeSlots]float64)
		}
		r.p0[i] = max(r.p0[i], 2*q+0.005)
	}
	return rate >= poisonRate && second >= poisonOthers
}

// slow says that a route's answers are often late while those of others are not:
// that is no stall, which hits all of them.
func (x *mix) slow(i int) bool {
	oks := x.of[i].N - x.of[i].K
	rest := x.rest(i)
	return x.late[i] >= slowLeast && float64(x.late[i]) > slowShare*float64(oks) &&
		rest.N-rest.K >= slowRest && float64(x.allLate-x.late[i]) < slowShare*float64(rest.N-rest.K)
}

// poisoned takes back what a route did before it was known to be poison.
func (d *Detector) poisoned(i int, x *route, now time.Duration) {
	for slot, s := range x.soft {
		if m := d.bySlot[slot]; m != nil {
			d.takeBackRoute(m, i, s, x.well, now)
		}
	}
	for _, m := range d.members {
		d.withdraw(m, i, now)
	}
}

// takeBackRoute sets aside what a route did to a member in the last 10 s, but not what
// already was when the route was poison before; well is when that ended.
func (d *Detector) takeBackRoute(m *member, i int, s *seconds, well, now time.Duration) {
	n := s.since(well, now)
	d.setAside(m, i, uint32(n))
	// Each reading of before learns of its part: else that excuses what came later.
	earlier := func(at time.Duration) uint32 { return uint32(max(0, n-s.since(at, now))) }
	if h := m.history; h != nil {
		for snap := max(m.firstSnap, d.snapped-snapshots); snap < d.snapped; snap++ {
			h.counts[snap%snapshots].Route += earlier(d.snapAt[snap%snapshots])
		}
	}
	if m.exc.open {
		m.exc.base.Route += earlier(m.exc.since)
	}
	if m.record.state == Probation {
		m.record.trial.Route += earlier(m.record.trialAt)
	}
}

// setAside takes failures of a route out of what counts against a member.
func (d *Detector) setAside(m *member, i int, n uint32) {
	m.aside += n
	m.now.Route = m.aside
	made(&d.shared.routes[i]).aside.Add(n)
	of := func(c RouteCount) bool { return routeSlot(c.Route) == i }
	m.ep.runs.Store(0) // which of a run they were nobody knows
	at := slices.IndexFunc(m.exc.routes, of)
	if at < 0 {
		return // not of this excursion: the score has forgotten them
	}
	scored := min(n, m.exc.routes[at].Failures)
	if m.exc.routes[at].Failures -= scored; m.exc.routes[at].Failures == 0 {
		m.exc.routes = slices.DeleteFunc(m.exc.routes, of)
	}
	m.ep.discharge(int64(scored) * m.ep.conf.Load().steps.Fail)
}

// discharge lowers the score.
func (e *Endpoint) discharge(by int64) {
	for {
		was := e.score.Load()
		if was <= 0 || e.score.CompareAndSwap(was, max(0, was-by)) {
			return
		}
	}
}

// charges are what a member was ejected for.
type charges struct {
	score, threshold, step int64
	failures, run          int
	routes                 []RouteCount
}

// fallWithout drops a route's failures, and says that the rest would not have sufficed.
func (c *charges) fallWithout(i int) bool {
	c.routes = slices.DeleteFunc(c.routes, func(r RouteCount) bool {
		if routeSlot(r.Route) != i {
			return false
		}
		c.score -= int64(r.Failures) * c.step
		c.failures -= int(r.Failures)
		return true
	})
	if c.run > 0 {
		return c.failures < c.run
	}
	return c.score < c.threshold
}

// withdraw lets a member back in whose ejection rested on a poison route: at once and
// without a record, because there never was a fault.
func (d *Detector) withdraw(m *member, i int, now time.Duration) {
	l := &m.record
	switch l.state {
	case Ejected, Probing, Probation:
	default:
		return
	}
	if l.charges == nil || !l.charges.fallWithout(i) {
		return
	}
	explain := d.explain(m, l.cause, now)
	explain.Reason = "what it was ejected for were failures of a route that fails on other endpoints as well"
	c := m.becomes(In, l.cause, now)
	c.Explain = explain
	m.record = record{ejections: max(0, l.ejections-1), healthy: now, since: now, rule: l.rule}
	m.forget(now)
	d.pending = append(d.pending, c)
	d.stale = true
}

// secondRoute is how many errors on other routes, a tenth of all at least, say that it
// is not one route's fault.
const secondRoute = 2

// fewKeys is how many keys an endpoint needs before its errors can be compared with
// those of others that serve other keys.
const fewKeys = 10

// SetHashed tells that requests go where a key sends them, so that endpoints do not
// get the same mix. Then errors on one route say nothing of an endpoint that answers
// others well. keys is how many keys are active per endpoint; with few of them its
// neighbours are no measure at all. 0: nobody counts them.
//
// A test of each route within each endpoint would tell more; it is not made yet.
func (d *Detector) SetHashed(hashed bool, keys int) {
	d.hashed, d.keys = hashed, keys
	d.nextTick = min(d.nextTick, d.now) // the endpoints follow at the next Step
}

// oneRoute says that hardly more than one route's errors speak against a member that
// answers others, and that a key may have sent them there. An error now and then on
// another route is what every endpoint has.
func (d *Detector) oneRoute(m *member) bool {
	if !d.hashed || d.keys >= fewKeys {
		return false
	}
	delta := m.now.Sub(m.exc.base)
	var most RouteCount
	all := uint32(0)
	for _, r := range m.exc.routes {
		all += r.Failures
		if r.Failures > most.Failures {
			most = r
		}
	}
	if all == 0 && delta.Server > 2 {
		return false // the ring has lost which it was
	}
	if rest := all - most.Failures; rest >= secondRoute && rest*10 >= all {
		return false
	}
	others := m.served | m.ep.served.Load()
	if all > 0 {
		others &^= servedBit(most.Route)
	}
	return delta.Conn == 0 && delta.Timeout == 0 && others != 0
}

// holdBack keeps what one route's errors say of a hashed endpoint from those who hear
// of our counts, too. They do not see routes; and where many observers add up, a route
// that is pinned to one endpoint convicts it, and then the next one that it is pinned
// to. As soon as another route fails there, or a connection, all of it is told.
func (d *Detector) holdBack() {
	if !d.hashed {
		return
	}
	for _, m := range d.members {
		switch {
		case !m.exc.open || m.exc.told:
		case d.oneRoute(m):
			m.held = m.now.Sub(m.exc.base).Server
		default:
			m.held, m.exc.told = 0, true
		}
	}
}

// told are a member's counts as others hear of them: they never fall.
func (d *Detector) told(m *member) Counts {
	c := m.ep.Counts()
	if d.hashed { // what is newer has not been looked at
		c = m.now
		c.Route = 0
	}
	held := m.withheld + m.held
	c.N -= held
	c.Server -= held
	return c
}

// servedBit is a route's in Endpoint.served.
func servedBit(route uint16) uint32 { return 1 << (route % 32) }

// routeFails is what a failure on each route is worth to a member; nil if that
// makes no difference.
func (d *Detector) routeFails(o Odds, fail int64) *[routeSlots]int64 {
	if d.routes.p0 == nil {
		return nil
	}
	fails := new([routeSlots]int64)
	differs := false
	for i, p0 := range d.routes.p0 {
		fails[i] = fail
		if p0 = Clamp(p0, o.P0, d.cfg.P0Max); p0 > o.P0 {
			p1 := Clamp(min(4*p0, p0+0.3), max(o.P1, p0+0.01), p1Max)
			fails[i], differs = min(fail, milli(math.Log(p1/p0))), true
		}
	}
	if !differs {
		return nil
	}
	return fails
}

// drawRoutes reads the routes' histograms, whenever the group's percentiles are drawn.
func (d *Detector) drawRoutes() {
	for i, x := range d.routes.of {
		c := d.shared.routes[i].Load()
		if x == nil || c == nil {
			continue
		}
		total := 0.0
		for b := range x.latency {
			count := c.latency[b].Load()
			x.latency[b] = x.latency[b]/2 + float64(count-x.latencySeen[b])
			x.latencySeen[b] = count
			total += x.latency[b]
		}
		if x.p99 = 0; total >= histEnough {
			x.p99 = BucketUpper((quantileOf(x.latency[:], 0.99*total)+1)*routeCoarse - 1)
		}
	}
}

// quantileOf is the bucket in which a running sum reaches what is wanted.
func quantileOf(counts []float64, want float64) int {
	sum := 0.0
	for i, n := range counts {
		if sum += n; sum >= want {
			return i
		}
	}
	return len(counts) - 1
}
