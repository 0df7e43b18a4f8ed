package merge

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// How long an endpoint takes to answer, in the eyes of the fleet: the two latency
// tests of package outlier over what all reporters counted, without the f domains that
// speak loudest. A sidecar alone needs nine slow answers; of a thousand that share an
// endpoint's traffic each would wait for minutes. What comes out is a weight, for all
// callers, and never a verdict: slow answers are answers.

// pace is the latency test of one endpoint. It is open while there is evidence.
type pace struct {
	open        bool
	since       time.Duration
	asked       time.Duration        // when the other reporters were last asked
	entries     map[int32]*paceEntry // by slot of the reporter
	often, tail reading              // as read last

	weight float64       // that the fleet gives the endpoint; 0: full
	rising bool          // it is on its way back to 1
	moved  time.Duration // when weight was last looked at
	told   time.Duration // and last sent
	reason string
	held   time.Duration // when it was last told that the whole group is slow
	judged judgedPace
	gather time.Duration // until when it waits for neighbours that are slow as well; 0: it does not

	all    answers // that were told of
	second answers // the same, a second ago
	looked answers // the same, when weight was last looked at
	// usual and lately are their shares, over about 100 answers or 30 s and 20 answers.
	usual, lately outlier.SlowShares
}

// judgedPace is how slow an endpoint was when it was last judged.
type judgedPace struct {
	outlier.SlowShares
	at time.Duration
}

// answers are cumulative counts.
type answers struct{ n, slow, slowest int64 }

func (a answers) sub(b answers) answers {
	return answers{a.n - b.n, a.slow - b.slow, a.slowest - b.slowest}
}

func (a answers) shares() outlier.SlowShares {
	return outlier.SlowShares{Often: share(a.slow, a.n), Tail: share(a.slowest, a.n)}
}

// paceEntry is what one reporter adds to both tests.
type paceEntry struct{ often, tail entry }

const (
	// paceOpens is the evidence for which the silent are asked: two very slow answers.
	paceOpens = 3 * nat
	paceGap   = 250 * time.Millisecond // between two such questions
	// paceAgain is how often a weight that was lowered is looked at and sent again:
	// within it every reporter tells all that it knows. paceFor is how long it holds.
	paceAgain = 11 * time.Second
	paceFor   = 30 * time.Second
	// paceRise is between two steps back up, of paceStep each.
	paceRise = 2 * time.Second
	paceStep = 0.2
	// paceFull is the weight from which on the endpoint is as fast as the others.
	paceFull = 0.9
	// paceFew is how many answers a look needs.
	paceFew = 10
	// paceGather is how long an alarm waits where neighbours are slow as well: by then
	// it shows whether all of them are.
	paceGather = time.Second
	// paceAlike is how long what an endpoint was judged by excuses its neighbours, whose
	// alarms come one after the other.
	paceAlike = 2 * time.Second
)

// foldPace takes in what one reporter has counted since the last Step.
func (t *Table) foldPace(e *endpoint, s *staged, from Point, d outlier.Counts) {
	p := &e.pace
	oks := func(a, b Point) int64 { return int64(int32((b.N - b.K) - (a.N - a.K))) }
	p.all = p.all.sub(answers{-int64(d.N - d.K()), -int64(d.N90), -int64(d.N99)})
	if d.N == 0 || p.weight > 0 && !p.rising || e.group.service.policy.Outlier.Latency == outlier.LatencyOff {
		return
	}
	end := outlier.PointAt(s.at, s.counts)
	within := func(x Point) bool { // x tells of the time between from and end
		n := oks(x, end)
		return x.Paced && x.At >= from.At && x.At <= end.At && n >= 0 && int64(end.N90-x.N90) <= n && int64(end.N99-x.N99) <= n
	}
	if !p.open {
		if d.N99 == 0 {
			return
		}
		// It begins where that makes this reporter's evidence largest.
		value := func(x Point) int64 { return outlier.SlowTail.LLR(oks(x, end), int64(end.N99-x.N99)) }
		best, since := int64(0), never
		for _, x := range append([]Point{from}, s.points...) {
			if v := value(x); within(x) && v > 0 && v >= best {
				best, since = v, x.At
			}
		}
		if since == never {
			return
		}
		p.open, p.since, p.entries = true, since, map[int32]*paceEntry{}
	}
	c := &e.cells[s.cell]
	x := p.entries[c.reporter]
	base := from
	if x != nil {
		base = Point{N: x.often.fromN, N90: x.often.fromK, N99: x.tail.fromK}
	} else {
		x = &paceEntry{}
		p.entries[c.reporter] = x
		base.N, base.K = base.N-base.K, 0
	}
	for _, y := range s.points { // the youngest at or before the start
		if y.At <= p.since && within(y) {
			base = Point{N: y.N - y.K, N90: y.N90, N99: y.N99}
		}
	}
	n := end.N - end.K
	x.often = entry{cell: s.cell, slot: c.reporter, fromN: base.N, fromK: base.N90, n: n, k: end.N90, changed: s.at}
	x.tail = entry{cell: s.cell, slot: c.reporter, fromN: base.N, fromK: base.N99, n: n, k: end.N99, changed: s.at}
}

// readPace adds one of the tests up. Those who are silent tell, when there is time, of
// fast answers.
func (t *Table) readPace(e *endpoint, steps outlier.Steps, tail bool, now time.Duration) reading {
	p := &e.pace
	out := reading{at: now}
	sums := map[int32]int64{}
	for slot, x := range p.entries {
		o, y := &t.observers[slot], &x.often
		if tail {
			y = &x.tail
		}
		out.told += int64(y.n - y.fromN)
		if o.divisor == 0 {
			continue
		}
		if y.n != y.fromN {
			out.reporters++
		}
		sums[o.domain] += y.value(steps, o.divisor, now)
		out.n += int64(y.n - y.fromN)
		out.k += int64(y.k - y.fromK)
	}
	tops := make([]int64, 0, len(sums))
	for _, c := range sums {
		out.sum += c
		if c > 0 {
			tops = append(tops, c)
		}
	}
	slices.Sort(tops)
	out.domains = len(tops)
	for _, c := range tops[max(0, len(tops)-e.group.service.policy.LeaveOut):] {
		out.largest += c
	}
	out.sum += steps.OK * e.untold(&out)
	out.t = out.sum - out.largest
	return out
}

// untold is how many answers r knows nothing of yet, as many as usual supposed.
func (e *endpoint) untold(r *reading) int64 {
	return max(0, int64(e.rate*(r.at-e.pace.since).Seconds())-r.told)
}

// keepPace looks at the latency tests of e, and at what became of the weight that it
// was given.
func (t *Table) keepPace(e *endpoint, now time.Duration) {
	p := &e.pace
	policy := &e.group.service.policy
	switch {
	case !p.open && p.weight == 0:
		return
	case !e.judgeable() || policy.Outlier.Latency == outlier.LatencyOff:
		p.close()
		if p.weight > 0 {
			t.setWeight(e, 1, "another verdict stands", now)
		}
		return
	}
	if p.open {
		t.judgePace(e, policy, now)
	}
	if p.weight > 0 {
		t.restorePace(e, now)
	}
}

func (p *pace) close() {
	p.open, p.gather, p.entries, p.often, p.tail = false, 0, nil, reading{}, reading{}
}

func (t *Table) judgePace(e *endpoint, policy *Policy, now time.Duration) {
	p := &e.pace
	p.often = t.readPace(e, outlier.SlowOften, false, now)
	p.tail = t.readPace(e, outlier.SlowTail, true, now)
	p.often.h, p.tail.h = int64(policy.Outlier.HA*float64(nat)), int64(policy.Outlier.HB*float64(nat))
	over := func(r *reading) bool { return r.t >= r.h && r.domains > policy.LeaveOut }
	near := func(r *reading) bool { return 4*r.t > r.h }
	switch {
	case p.often.sum <= 0 && p.tail.sum <= 0, p.often.t <= clearAt && p.tail.t <= clearAt, now-p.since > paceFor:
		p.close()
	case over(&p.often) || over(&p.tail):
		if !t.slowTogether(e, now) && t.polled(e, p.since, now) {
			t.slowDown(e, now)
		}
	case now < p.asked+paceGap:
	case p.suspect():
		p.asked = now
		if !t.pollRunning(e, now) {
			t.poll(e, p.since, now, t.speaks(e, now))
		}
		if (near(&p.often) || near(&p.tail)) && now-p.since < watchFor {
			t.watchFor(e, now)
		}
	}
}

// slowTogether says whether to wait, because many neighbours of e are slow as well.
func (t *Table) slowTogether(e *endpoint, now time.Duration) bool {
	p := &e.pace
	others, slow := 0, 0
	for _, o := range e.group.endpoints {
		if o == e || o.leaving() || o.fleet.state.Out() {
			continue
		}
		others++
		if o.pace.suspect() {
			slow++
		}
	}
	if slow < max(2, int(math.Ceil(0.3*float64(others)))) {
		p.gather = 0
		return false
	}
	if p.gather == 0 {
		p.gather = now + paceGather
	}
	if now < p.gather {
		t.due(p.gather)
		return true
	}
	return false
}

// slowDown lowers the weight of an endpoint that is over a threshold, unless its whole
// group is slow.
func (t *Table) slowDown(e *endpoint, now time.Duration) {
	p := &e.pace
	a, b := p.often, p.tail
	own := outlier.SlowShares{Often: share(a.k, a.n), Tail: share(b.k, b.n)}
	others := e.group.pace(e, now)
	weight := own.Weight(others)
	since := p.since
	slower := t.slowerOf(p.entries, e, now)
	p.close()
	p.judged = judgedPace{own, now}
	if slower >= outlier.SlowerMuch || weight > paceFull || leastShares(own, others, a.n).Weight(others) > paceFull {
		if now-p.held >= tellAgain || p.held == 0 {
			p.held = now
			t.event(EventPaceHeld, e, "", "it is slow, and keeps its share: "+slowText(own, a.n)+", "+alikeText(others, slower), now)
		}
		return
	}
	over := a
	if a.t < a.h {
		over = b
	}
	reason := slowText(own, a.n) + fmt.Sprintf(", within %v and by the counts of %s: score %.1f, and it takes %.0f",
		(now-since).Round(time.Millisecond), sidecars(a.reporters), nats(over.t), nats(over.h))
	t.setWeight(e, weight, reason, now)
}

// slowText says in words how slow an endpoint is.
func slowText(own outlier.SlowShares, n int64) string {
	return fmt.Sprintf("%.0f %% of %d answers took longer than nine in ten usually do, and %.0f %% longer than 99 in 100", 100*own.Often, n, 100*own.Tail)
}

// leastShares are own without what chance adds at most to one that is like the others:
// of several that are as slow one always looks slowest, by few answers and in the while
// in which it was.
func leastShares(own, others outlier.SlowShares, n int64) outlier.SlowShares {
	if others.Often <= 0.1 && others.Tail <= 0.01 {
		return own // they are as fast as usual
	}
	least := func(own, others float64) float64 {
		return max(min(own, others), own-2.5*math.Sqrt(others*(1-others)/float64(max(n, 1))))
	}
	return outlier.SlowShares{Often: least(own.Often, others.Often), Tail: least(own.Tail, others.Tail)}
}

// alikeText says why the neighbours excuse it: by what they themselves show, or by what
// those who call them say.
func alikeText(others outlier.SlowShares, slower float64) string {
	if slower >= outlier.SlowerMuch {
		return fmt.Sprintf("and its callers wait for the whole group %.1f times as long as usual", slower)
	}
	return fmt.Sprintf("and of its typical neighbour's %.0f %% and %.0f %%: that is no reason to prefer them", 100*others.Often, 100*others.Tail)
}

// weight is the part of its share that the endpoint gets; 0: all of it.
func (e *endpoint) weight() float64 {
	if e.shadowed() {
		return 0
	}
	return e.pace.weight
}

// paceFinding is why the endpoint has the weight that it has.
func (e *endpoint) paceFinding() string {
	return fmt.Sprintf("it is slow for all callers and %s %.0f %% of its share: %s", e.gets(), 100*e.pace.weight, e.pace.reason)
}

func (e *endpoint) gets() string {
	if e.shadowed() {
		return "would get, but for shadow mode,"
	}
	return "gets"
}

func share(k, n int64) float64 { return outlier.Tally{N: n, K: min(k, n)}.Rate() }

// restorePace looks each eleven seconds whether an endpoint whose weight was lowered
// is as fast as the others again, and then lets its weight rise.
func (t *Table) restorePace(e *endpoint, now time.Duration) {
	p := &e.pace
	switch {
	case p.rising && now >= p.moved+paceRise:
		t.setWeight(e, p.weight+paceStep, "it answers as fast as its neighbours again", now)
	case p.rising || now < p.moved+paceAgain:
	default:
		seen := p.all.sub(p.looked)
		own := seen.shares()
		weight := own.Weight(e.group.pace(e, now))
		switch {
		case seen.n < paceFew && now < p.moved+paceFor:
		case seen.n < paceFew || weight >= paceFull:
			t.setWeight(e, p.weight+paceStep, "it answers as fast as its neighbours again", now)
			p.rising = p.weight > 0
		default:
			t.setWeight(e, weight, slowText(own, seen.n), now)
		}
	}
	if p.weight > 0 && now >= p.told+paceAgain {
		t.sendWeight(e, p.weight, now)
	}
}

// setWeight gives an endpoint another weight, for all callers.
func (t *Table) setWeight(e *endpoint, weight float64, reason string, now time.Duration) {
	p := &e.pace
	was := p.weight
	if was == 0 {
		was = 1
	}
	weight = min(weight, 1)
	p.moved, p.looked = now, p.all
	if weight <= was {
		p.rising = false
	}
	p.weight = weight
	if math.Abs(weight-was) >= 0.05 {
		p.reason = reason
		t.event(EventPace, e, "", fmt.Sprintf("it %s %.0f %% of its share (%.0f %% before): %s", e.gets(), 100*weight, 100*was, reason), now)
	}
	t.sendWeight(e, weight, now)
	if weight == 1 {
		p.weight, p.rising, p.reason = 0, false, ""
	}
}

// sendWeight tells all who call e.
func (t *Table) sendWeight(e *endpoint, weight float64, now time.Duration) {
	e.pace.told = now
	if e.shadowed() {
		return
	}
	w := Weight{Key: e.Key, Weight: weight, For: paceFor, Reason: e.pace.reason}
	for _, r := range e.group.service.reporters {
		if r.live {
			w.Reporters = append(w.Reporters, r.ID)
		}
	}
	if len(w.Reporters) > 0 {
		t.out.Weights = append(t.out.Weights, w)
	}
}

// measurePace follows, each second, how many of e's answers are slow.
func (e *endpoint) measurePace() {
	p := &e.pace
	if d := p.all.sub(p.second); d.n > 0 {
		own := d.shares()
		follow(&p.usual, own, outlier.ErrorRateStep(d.n, time.Second))
		follow(&p.lately, own, latelyStep(d.n))
	}
	p.second = p.all
}

// latelyStep moves an average over 20 answers.
func latelyStep(n int64) float64 { return -math.Expm1(-float64(n) / 20) }

func follow(s *outlier.SlowShares, to outlier.SlowShares, step float64) {
	s.Often += step * (to.Often - s.Often)
	s.Tail += step * (to.Tail - s.Tail)
}

// shares are how slow the endpoint is, as far as that may excuse its neighbours. An alarm
// rests on what happened up to this instant, so that averages of whole seconds would set
// it against a time when all was well: with them goes what has come since, and what the
// endpoint's own test is made of, or was until a moment ago.
func (e *endpoint) shares(now time.Duration) outlier.SlowShares {
	p := &e.pace
	lately := p.lately
	if d := p.all.sub(p.second); d.n > 0 {
		follow(&lately, d.shares(), latelyStep(d.n))
	}
	worst := worse(p.usual, lately)
	if p.judged.at > 0 && now-p.judged.at < paceAlike {
		worst = worse(worst, p.judged.SlowShares)
	}
	if n := p.often.n + e.untold(&p.often); p.suspect() && n >= paceFew {
		worst = worse(worst, outlier.SlowShares{Often: share(p.often.k, n), Tail: share(p.tail.k, n)})
	}
	return worst
}

func worse(a, b outlier.SlowShares) outlier.SlowShares {
	return outlier.SlowShares{Often: max(a.Often, b.Often), Tail: max(a.Tail, b.Tail)}
}

// suspect says whether there is so much evidence that the silent are asked.
func (p *pace) suspect() bool { return p.open && max(p.often.sum, p.tail.sum) >= paceOpens }

// pace is how slow the typical neighbour of e is.
func (g *group) pace(e *endpoint, now time.Duration) outlier.SlowShares {
	var often, tail []float64
	for _, o := range g.endpoints {
		if o == e || o.leaving() || o.fleet.state.Out() || o.pace.all.n == 0 {
			continue
		}
		s := o.shares(now)
		often, tail = append(often, s.Often), append(tail, s.Tail)
	}
	if len(often) == 0 {
		return outlier.SlowShares{}
	}
	slices.Sort(often)
	slices.Sort(tail)
	n := len(often)
	return outlier.SlowShares{Often: (often[(n-1)/2] + often[n/2]) / 2, Tail: (tail[(n-1)/2] + tail[n/2]) / 2}
}
