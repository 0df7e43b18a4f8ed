package merge

import (
	"math"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

const nat = outlier.Nat

// clearAt is T at which a row ends: the endpoint has shown itself well. T = 0
// would not do: one domain's failures alone give T = 0, so failures that arrive
// one report at a time would never add up.
const clearAt = -2 * nat

// halfLife is the time in which the evidence of a reporter that has nothing new
// to say loses half of its weight.
const halfLife = time.Minute

// kind says which of the sequential tests a row is.
type kind uint8

const (
	fastRow kind = iota
	slowRow
	zoneRow
)

func (k kind) String() string { return [...]string{"fast", "slow", "zone"}[k] }

func (x *extra) place(k kind) *place {
	switch k {
	case fastRow:
		return &x.fast
	case slowRow:
		return &x.slow
	}
	return &x.zone
}

// row is one sequential test of an endpoint. It is open while it has evidence: it
// counts from since on. A cell that has not changed since then is its own base,
// so only those that have changed are in it.
type row struct {
	open     bool
	gen      uint32
	since    time.Duration // t_x
	cleared  time.Duration // when it was last closed
	active   []entry
	classes  Tally // of the reports since it opened, but of the muted
	last     reading
	failed   bool          // since the last reading
	oks      int64         // successes since then
	over     bool          // that was over the threshold
	rested   time.Duration // when it was looked at last and not read; never: not since
	held     time.Duration // when its verdict was first refused for the sake of others; never: it was not
	others   float64       // w, as it was
	othersAt time.Duration // then
}

// entry is one cell in a row: what it counted when the row began and now. Rows of
// a thousand reporters are added up at every Step, so an entry has all that takes.
type entry struct {
	cell, slot   int32
	fromN, fromK uint32
	n, k         uint32
	changed      time.Duration
}

// domainSum is c_d while a row is added up.
type domainSum struct {
	c    int64
	seen bool
}

// observer is what adding up a row needs to know of a reporter, by slot.
type observer struct {
	domain, zone int32 // of Table.domainList, Table.zoneIDs
	divisor      int64 // 1 + lhm; 0: muted
}

// reading is what a row says at one moment.
type reading struct {
	at        time.Duration
	sum, t    int64
	largest   int64 // what was left out
	n, k      int64
	told      int64 // attempts, of those too whose evidence is set aside
	reporters int   // that have counted an attempt: some only say, when asked, that they have none
	domains   int   // with c > 0
	h         int64
	spared    string // a zone that has left it, whereby h is less; empty: none
	odds      outlier.Odds
	w         float64
}

func (w *row) close(now time.Duration) {
	w.open, w.cleared, w.active, w.classes, w.last, w.rested = false, now, w.active[:0], Tally{}, reading{}, never
}

func (w *row) begin(since time.Duration) {
	w.open, w.since, w.oks, w.othersAt, w.rested, w.held = true, since, 0, never, never, never
	w.gen++
}

// open begins the rows that were closed and for which a failure has arrived. A
// row begins where that makes the evidence of the reporter who opened it
// largest, among the readings that he gave: that is where his own CUSUM was last
// at zero.
func (t *Table) open(e *endpoint, now time.Duration) {
	failed := false
	for i := range e.staged {
		s := &e.staged[i]
		if s.cell < 0 {
			continue
		}
		c := &e.cells[s.cell]
		failed = failed || s.counts.K() != c.counts.K()
		if r := t.slots[c.reporter]; r.Zone != "" {
			e.zoneOf(r, t.observers[c.reporter].zone)
		}
	}
	if !failed {
		return
	}
	t.closeRested(e, &e.fast, fastRow, nil, now)
	t.closeRested(e, &e.slow, slowRow, nil, now)
	for _, z := range e.zones {
		t.closeRested(e, &z.row, zoneRow, z, now)
	}
	g := e.group
	fast := outlier.FastOdds(g.baseline, g.service.policy.Outlier.Bounds()).Steps()
	if !e.fast.open {
		t.openRow(e, &e.fast, fast, "", now)
	}
	if !e.slow.open {
		t.openRow(e, &e.slow, outlier.SlowOdds(g.baseline.Pg).Steps(), "", now)
	}
	for _, z := range e.zones {
		if !z.row.open {
			t.openRow(e, &z.row, fast, z.name, now)
		}
	}
}

func (t *Table) openRow(e *endpoint, w *row, steps outlier.Steps, zone string, now time.Duration) {
	best, since := int64(0), never
	for i := range e.staged {
		s := &e.staged[i]
		if s.cell < 0 {
			continue
		}
		c := &e.cells[s.cell]
		r := t.slots[c.reporter]
		if s.counts.K() == c.counts.K() || r.divisor(now) == 0 || zone != "" && r.Zone != zone {
			continue
		}
		value := func(p Point) int64 { return steps.LLR(int64(s.counts.N-p.N), int64(s.counts.K()-p.K)) }
		own, at := value(Point{N: c.counts.N, K: c.counts.K()}), c.at
		for _, p := range s.points {
			if v := value(p); v >= own {
				own, at = v, p.At
			}
		}
		if own /= r.divisor(now); own > best || own == best && at < since {
			best, since = own, at
		}
	}
	if best > 0 {
		w.begin(min(max(since, w.cleared, now-30*time.Second), now))
	}
}

// count lets the change of a cell enter the row.
func (w *row) count(e *endpoint, s *staged, from Point, d outlier.Counts, k kind, muted bool) {
	if !w.open {
		return
	}
	c := &e.cells[s.cell]
	at := c.extra().place(k)
	if at.gen != w.gen {
		*at = place{gen: w.gen, index: int32(len(w.active)), hard: never, hardStart: never}
		base := w.base(s, from)
		w.active = append(w.active, entry{cell: s.cell, slot: c.reporter, fromN: base.N, fromK: base.K, changed: c.changed})
	}
	x := &w.active[at.index]
	for _, p := range s.points { // the youngest at or before the start
		if p.At > w.since {
			break
		}
		if int32(p.N-x.fromN) >= 0 && int32(p.K-x.fromK) >= 0 {
			x.fromN, x.fromK = p.N, p.K
		}
		if p.At == w.since {
			break
		}
	}
	x.n, x.k = s.counts.N, s.counts.K()
	w.failed = w.failed || d.K() > 0
	w.oks += int64(d.N - d.K())
	if d.N > 0 {
		x.changed = s.at
	}
	if !muted {
		w.classes.add(d)
	}
	at.conn += d.Conn
	if d.Conn > 0 && s.lastHard > never {
		if at.hard == never {
			at.hard = s.lastHard
		}
		at.hard, at.hardStart = min(at.hard, s.lastHard), max(at.hardStart, s.hardFrom)
	}
}

// base is what a cell had counted when the row began. Between two readings the
// successes are taken to be spread evenly, and the failures to be of later, so that
// none is hidden. To count from the older of the two would let answers from before the
// trouble speak for the endpoint: a reporter who is calm tells of up to ten seconds at
// once, and it takes few of those to end a row. The attempt that the beginning divides
// counts for the endpoint: where hundreds have an attempt each in ten seconds it is all
// that they tell, and lost it would look like a fault.
func (w *row) base(s *staged, from Point) Point {
	for _, p := range s.points {
		if p.At > w.since {
			if from.At < w.since && p.At > from.At {
				oks := float64((p.N - from.N) - (p.K - from.K))
				from.N += uint32(oks * float64(w.since-from.At) / float64(p.At-from.At))
			}
			break
		}
		from = p
		if p.At == w.since {
			break // what was told in the same instant came after it
		}
	}
	return from
}

// has says whether a cell is in the row. Rows of several zones count their generations
// apart, so that the place of a cell in one may look like a place in another.
func (w *row) has(e *endpoint, k kind, cell int32) bool {
	x := e.cells[cell].x
	if x == nil {
		return false
	}
	at := x.place(k)
	return at.gen == w.gen && int(at.index) < len(w.active) && w.active[at.index].cell == cell
}

// forget takes the cell at index i out of the row; the last cell of the endpoint
// is about to take its place.
func (w *row) forget(e *endpoint, k kind, i, last int32) {
	if !w.open {
		return
	}
	moves, goes := last != i && w.has(e, k, last), w.has(e, k, i)
	if moves {
		w.active[e.cells[last].x.place(k).index].cell = i
	}
	if !goes {
		return
	}
	at, end := e.cells[i].x.place(k).index, len(w.active)-1
	w.active[at] = w.active[end]
	if moved := w.active[at].cell; int(at) != end {
		if moved == i { // it was the endpoint's last cell and has just been renamed
			moved = last
		}
		e.cells[moved].x.place(k).index = at
	}
	w.active = w.active[:end]
}

// value is c of one cell: its log likelihood ratio since the row began, less for
// a reporter who distrusts himself, nothing for a muted one, and fading when
// there is no news.
func (x *entry) value(steps outlier.Steps, divisor int64, now time.Duration) int64 {
	if divisor == 0 {
		return 0
	}
	c := steps.LLR(int64(x.n-x.fromN), int64(x.k-x.fromK))
	if divisor > 1 {
		c = roundDiv(c, divisor)
	}
	if age := now - x.changed; age >= time.Second {
		c = (c*fade[min(age/time.Second, time.Duration(len(fade)-1))] + fadeOne/2) >> fadeBits
	}
	return c
}

// fade is what is left of evidence that is so many seconds old, in binary
// fractions.
const (
	fadeBits = 20
	fadeOne  = 1 << fadeBits
)

var fade = func() (f [512]int64) {
	for i := range f {
		f[i] = int64(math.Round(fadeOne * math.Exp2(-float64(i)*float64(time.Second)/float64(halfLife))))
	}
	return f
}()

func roundDiv(a, b int64) int64 {
	if a < 0 {
		return -((-a + b/2) / b)
	}
	return (a + b/2) / b
}

// only limits a reading to the observers of one zone, or to all the others. The
// zero value admits everybody.
type only struct {
	zone int32
	part part
}

type part uint8

const (
	everywhere part = iota
	within
	outside
)

func (o only) admits(zone int32) bool {
	return o.part == everywhere || (zone == o.zone) == (o.part == within)
}

// read adds the row up: per fault domain, then over the domains without the f
// that speak loudest against the endpoint. Observers of a zone that has a verdict
// of its own are not heard again, except in the row of that zone.
func (t *Table) read(e *endpoint, w *row, steps outlier.Steps, who only, now time.Duration) reading {
	out := reading{at: now}
	t.acc = t.acc[:0]
	t.top.reset(e.group.service.policy.LeaveOut)
	answered := e.zonesOut()
	all := who.part == everywhere && len(answered) == 0
	observers, sums, lone := t.observers, t.sums, t.lone
	for i := range w.active {
		x := &w.active[i]
		o := &observers[x.slot]
		if !all && (!who.admits(o.zone) || slices.Contains(answered, o.zone)) {
			continue
		}
		n, k := int64(x.n-x.fromN), int64(x.k-x.fromK)
		out.told += n
		if o.divisor == 0 {
			continue
		}
		if n > 0 {
			out.reporters++
		}
		out.n += n
		out.k += k
		c := x.value(steps, o.divisor, now)
		if lone[o.domain] { // most are: nothing to add up
			out.sum += c
			if c > 0 {
				out.domains++
				t.top.offer(c)
			}
			continue
		}
		sum := &sums[o.domain]
		if !sum.seen {
			*sum = domainSum{seen: true}
			t.acc = append(t.acc, o.domain)
		}
		sum.c += c
	}
	for _, d := range t.acc {
		c := sums[d].c
		sums[d].seen = false
		out.sum += c
		if c > 0 {
			out.domains++
			t.top.offer(c)
		}
	}
	out.largest = t.top.sum
	out.t = out.sum - out.largest
	return out
}

// charges adds up what each fault domain holds against the endpoint, into t.sums; it
// lists those domains.
func (t *Table) charges(e *endpoint, w *row, steps outlier.Steps, now time.Duration) []int32 {
	t.acc = t.acc[:0]
	answered := e.zonesOut()
	for i := range w.active {
		x := &w.active[i]
		o := &t.observers[x.slot]
		if slices.Contains(answered, o.zone) {
			continue
		}
		sum := &t.sums[o.domain]
		if !sum.seen {
			*sum = domainSum{seen: true}
			t.acc = append(t.acc, o.domain)
		}
		sum.c += x.value(steps, o.divisor, now)
	}
	return slices.DeleteFunc(t.acc, func(d int32) bool {
		t.sums[d].seen = false
		return t.sums[d].c <= 0
	})
}

// largest keeps the few largest of positive numbers, and their sum.
type largest struct {
	few   []int64 // as many as are wanted, 0 where there are none yet
	least int     // the smallest of them
	sum   int64
}

func (l *largest) reset(few int) {
	l.few = slices.Grow(l.few[:0], few)[:few]
	clear(l.few)
	l.least, l.sum = 0, 0
}

func (l *largest) offer(c int64) {
	if len(l.few) > 0 && c > l.few[l.least] {
		l.take(c)
	}
}

func (l *largest) take(c int64) {
	l.sum += c - l.few[l.least]
	l.few[l.least] = c
	if len(l.few) > 1 {
		l.least = slices.Index(l.few, slices.Min(l.few))
	}
}

// judge brings an open row up to date, closes it if the endpoint has shown itself
// well, and says whether it is over its threshold.
func (t *Table) judge(e *endpoint, w *row, k kind, zone *zone, now time.Duration) bool {
	if !w.open {
		return false
	}
	if w.rests(e, now) {
		w.rested = now
		return w.over
	}
	recent := w.othersAt != never && now-w.othersAt < othersRecent
	if !recent {
		w.others, w.othersAt = t.others(e, w.since, now), now
	}
	read := t.test(e, w, k, zone, now)
	if recent && 4*read.t > read.h {
		w.others, w.othersAt = t.others(e, w.since, now), now
		read = t.test(e, w, k, zone, now)
	}
	if read.t <= clearAt || read.sum <= 0 {
		w.close(now)
		return false
	}
	w.last, w.failed, w.oks, w.rested = read, false, 0, never
	w.over = read.t >= read.h && read.k >= leastFailures && read.domains > e.group.service.policy.LeaveOut
	t.trace(e, w, k, zone)
	return w.over
}

// readAgain is how long a row is not read that cannot have come near its threshold.
const readAgain = 500 * time.Millisecond

// closeRested ends a row that good news had ended before this failure, though nobody
// has looked: the failure begins another.
func (t *Table) closeRested(e *endpoint, w *row, k kind, zone *zone, now time.Duration) {
	if !w.open || w.rested == never {
		return
	}
	then := w.rested
	w.rested = never
	if w.last.t+2*w.oks*w.last.odds.Steps().OK > 0 {
		return // what went well since it was read is not nearly enough
	}
	if read := t.test(e, w, k, zone, now); read.t <= clearAt || read.sum <= 0 {
		w.close(then)
	}
}

// rests says whether what the row said a moment ago will do: nothing but failures
// raises T, and where a verdict was just refused, none is wanted.
func (w *row) rests(e *endpoint, now time.Duration) bool {
	if w.last.h == 0 || now-w.last.at >= readAgain {
		return false
	}
	return now < e.refusal.until || !w.failed && 4*w.last.t <= w.last.h
}

// leastFailures is how many failures a verdict of the statistic takes.
const leastFailures = 3

// othersRecent is how old w may be while a row is far from its threshold: to find out
// how the whole group does costs more than to add the row up.
const othersRecent = 500 * time.Millisecond

// test reads a row by the odds that its group's baseline gives.
func (t *Table) test(e *endpoint, w *row, k kind, zone *zone, now time.Duration) reading {
	g := e.group
	p := &g.service.policy
	base := g.baseline
	base.W = w.others
	var odds outlier.Odds
	var h int64
	switch k {
	case slowRow:
		// The group's present error rate counts as its usual one: a fault of the whole
		// group is no small effect of one endpoint.
		odds, h = outlier.SlowOdds(max(base.Pg, base.W)), int64(p.HSlow*float64(nat))
	case zoneRow:
		odds, h = outlier.FastOdds(base, p.Outlier.Bounds()), outlier.Threshold(zone.rate, p.Outlier.FalseEjectionInterval, p.HFleetMin, p.HFleetMax)
	default:
		odds, h = outlier.FastOdds(base, p.Outlier.Bounds()), outlier.Threshold(e.rate, p.Outlier.FalseEjectionInterval, p.HFleetMin, p.HFleetMax)
	}
	read := t.read(e, w, odds.Steps(), only{}, now)
	read.odds, read.w, read.h = odds, base.W, h
	if zone := e.leftLately(now); zone != "" && k != slowRow && h > leastAlike {
		read.h, read.spared = max(h/2, leastAlike), zone
	}
	return read
}
