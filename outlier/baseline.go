package outlier

import (
	"math"
	"time"
)

// tick is what each whole second brings: snapshots, the baseline, self-doubt,
// and the thresholds that follow from them.
func (d *Detector) tick(now time.Duration) {
	dt := now - d.second
	first := d.snapped == 0
	d.second = now
	d.nextTick = now/time.Second*time.Second + time.Second
	d.doubt(now)
	if d.latency.tick(d.shared, now) {
		d.drawRoutes()
	}
	d.judgeRoutes(now)
	d.still++
	for _, m := range d.members {
		if m.now != m.second {
			d.still = 0
		}
		if !first && dt > 0 {
			d.learn(m, dt)
		}
		if d.snapped%routeSeconds == 0 {
			m.served = m.ep.served.Swap(0)
		}
		m.second = m.now
		m.keep(d.snapped)
	}
	d.snapAt[d.snapped%snapshots] = now
	d.snapped++
	for _, g := range d.groups {
		d.baseline(g, now)
	}
	d.setOverdue(now)
	for _, g := range d.groups {
		d.conclude(g, now)
	}
}

// learn moves a member's averages by the last second.
func (d *Detector) learn(m *member, dt time.Duration) {
	delta := m.now.Sub(m.second)
	t := delta.Tally()
	if t.N > 0 {
		m.errorRate += (t.Rate() - m.errorRate) * ErrorRateStep(t.N, dt)
	}
	m.rate.add(float64(t.N)/dt.Seconds(), dt)
	m.oks.add(float64(t.N-t.K+int64(delta.Over))/dt.Seconds(), dt)
	if !m.Draining {
		m.group.attempts += t.N
	}
}

// baseline is p_g, and how much load the group carries while it is well.
func (d *Detector) baseline(g *group, now time.Duration) {
	rates := make([]float64, 0, len(g.members))
	usable, out := 0, 0
	var load Tally
	from, length := d.snapshotAt(now - 10*time.Second)
	for _, m := range g.members {
		if !m.counted() {
			continue
		}
		t := d.since(m, from)
		load.N += t.N
		if m.out() {
			out++
			continue
		}
		usable++
		if now-m.joined >= young {
			rates = append(rates, m.errorRate)
		}
	}
	if pg, ok := TrimmedMean(rates); ok {
		g.pg = pg
	}
	g.usual.Note(g.pg, now)
	g.rate = 0
	if length >= time.Second {
		g.rate = float64(load.N) / length.Seconds()
	}
	if out == 0 && usable > 0 {
		minute := int64(now / time.Minute)
		p := &g.peaks[minute%int64(len(g.peaks))]
		if p.minute != minute {
			*p = peak{minute: minute}
		}
		p.rate = max(p.rate, g.rate/float64(usable))
	}
}

// healthyPeak is the most that one endpoint of the group carried over 10 s,
// within the last 10 minutes, while none was out.
func (g *group) healthyPeak(now time.Duration) float64 {
	minute, best := int64(now/time.Minute), 0.0
	for _, p := range g.peaks {
		if minute-p.minute < int64(len(g.peaks)) {
			best = max(best, p.rate)
		}
	}
	return best
}

// conclude turns the baseline into each member's thresholds. Members without
// an excursion share one window.
func (d *Detector) conclude(g *group, now time.Duration) {
	n := g.size()
	g.weigh()
	for _, m := range g.members {
		from := d.window(m, now)
		d.reconfigure(m, d.others(m, d.since(m, from), from), n)
	}
}

// weigh notes what a member gets for its weight: of late, if that is less than for the
// last half a minute.
func (g *group) weigh() {
	rate, weights := 0.0, 0.0
	for _, m := range g.members {
		if m.counted() {
			rate += m.rate.mean()
			weights += m.baseWeight()
		}
	}
	if g.rate > 0 {
		rate = min(rate, g.rate)
	}
	g.perWeight = rate / max(1, weights)
}

func (m *member) baseWeight() float64 { return float64(max(1, m.Weight)) }

// turnOf is the time between two attempts of so many per second, to a tenth, as a conf
// is not made anew for less; from 1 ms to a minute, in which a latency is forgotten.
func turnOf(rate float64) time.Duration {
	if rate <= 0 {
		return 0
	}
	seconds := math.Exp2(-math.Round(4*math.Log2(rate)) / 4)
	return time.Duration(Clamp(seconds, 0.001, 60) * float64(time.Second))
}

// others is w: how the rest of the group fares since a snapshot.
func (d *Detector) others(m *member, self Tally, from int) float64 {
	if d.hashed && d.keys > 0 && d.keys < fewKeys {
		return 0
	}
	return d.ratios(m.group, from).Without(self)
}

// size is how many members count.
func (g *group) size() (n int) {
	for _, m := range g.members {
		if m.counted() {
			n++
		}
	}
	return n
}

// windowOf names a group's ratios since a snapshot.
type windowOf struct {
	g    *group
	from int
}

// ratios are the error rates of the counted members of a group since a
// snapshot, sorted once per Step.
func (d *Detector) ratios(g *group, from int) Ratios {
	r, ok := d.sorted[windowOf{g, from}]
	if !ok {
		r = d.sortRatios(g, from)
		d.sorted[windowOf{g, from}] = r
	}
	return r
}

func (d *Detector) sortRatios(g *group, from int) Ratios {
	tallies := d.tallies[:0]
	for _, m := range g.members {
		if m.counted() {
			tallies = append(tallies, d.since(m, from))
		}
	}
	d.tallies = tallies
	return NewRatios(tallies)
}

// reconfigure hands the member's hot path its thresholds, if they changed.
func (d *Detector) reconfigure(m *member, w float64, n int) {
	c := d.confFor(m, w, n)
	old := m.ep.conf.Load()
	if old != nil {
		c.since, c.early = old.since, old.early
	}
	if old != nil && *old == c {
		return
	}
	if d.conf == nil || *d.conf != c { // most members share theirs
		d.conf = new(c)
	}
	m.ep.conf.Store(d.conf)
}

func (d *Detector) confFor(m *member, w float64, n int) conf {
	m.odds, m.w = d.odds(m, w, n), w
	if m.odds != d.common { // most members share theirs
		d.common, d.steps = m.odds, m.odds.Steps()
	}
	p := d.percentiles()
	h := d.threshold(m)
	c := conf{
		steps: d.steps, h: h, ceiling: 2 * h,
		p50: p.P50, p90: p.P90, p99: p.P99,
		stall: d.cfg.OverdueMin, penalty: d.cfg.ConnPenalty, turn: turnOf(m.group.perWeight * m.baseWeight()),
		sampleMask: d.latency.mask, shared: d.shared, runs: d.cfg.runs(), hashed: d.hashed,
		overdue: d.overdue, overdueLate: d.overdueLate, slowRoutes: d.routes.slow, poison: d.routes.poison,
	}
	c.routeFails = d.routeFails(m.odds, c.steps.Fail)
	if c.p50 == 0 {
		c.p50 = time.Millisecond
	}
	if p.P99 > 0 && d.cfg.Latency == LatencyWeight {
		c.t90 = max(p.P90*12/10, 2*p.P50)
		c.t99 = max(c.t90, p.P99*12/10)
	}
	return c
}

// odds are the hypotheses of the member's fast test, in a group of n.
func (d *Detector) odds(m *member, w float64, n int) Odds {
	return FastOdds(Baseline{Pg: m.group.pg, W: w, Endpoints: n, Attempts: m.group.attempts}, d.cfg.Bounds())
}

// threshold is h1, raised by self-doubt.
func (d *Detector) threshold(m *member) int64 {
	h := Threshold(m.rate.mean(), d.cfg.FalseEjectionInterval, d.cfg.HLocalMin, d.cfg.HLocalMax)
	return h * int64(2+d.self.LHM()) / 2
}

// percentiles are our own, or the control plane's while we do not know.
func (d *Detector) percentiles() Percentiles {
	if d.latency.known.P99 > 0 {
		return d.latency.known
	}
	return d.fleetP
}

// overdueMost is the most that D_over may be without doubt or stalls.
func (c Config) overdueMost() time.Duration {
	if c.Timeout > 0 {
		return min(c.OverdueMax, c.Timeout/2)
	}
	return c.OverdueMax
}

// setOverdue is D_over: four times the group's p99, and half as long again as
// the longest pause that endpoints came back from, which they may have again.
func (d *Detector) setOverdue(now time.Duration) {
	slow := d.routes.slow
	d.overdue = d.patience(d.overdueFor(d.percentiles().P99), ^slow, now)
	d.overdueLate = d.overdue
	if slow != 0 {
		d.overdueLate = max(d.overdue, d.patience(d.overdueFor(d.routes.p99), slow, now))
	}
}

// overdueFor is D_over for such a p99, without doubt or stalls.
func (d *Detector) overdueFor(p99 time.Duration) time.Duration {
	most := d.cfg.overdueMost()
	if p99 <= 0 {
		return most
	}
	return min(max(4*p99, d.cfg.OverdueMin), most)
}

// patience raises an age by the stalls of some routes that were waited through, and
// by self-doubt.
func (d *Detector) patience(over time.Duration, routes uint64, now time.Duration) time.Duration {
	minute := int64(now / time.Minute)
	for i := range d.stalls {
		s := &d.stalls[i]
		if minute-s.minute >= int64(len(d.stalls)) {
			continue
		}
		for route, length := range s.length {
			if routes>>route&1 != 0 {
				over = max(over, length*3/2)
			}
		}
	}
	return min(over*time.Duration(1+d.self.LHM()), overdueLimitDoubted)
}

// noteStall keeps the longest stalls that have ended since the last Step.
func (d *Detector) noteStall(now time.Duration) {
	if !d.shared.stalled.Load() {
		return
	}
	d.shared.stalled.Store(false)
	if d.stalls == nil {
		d.stalls = make([]stall, stallMinutes)
	}
	minute := int64(now / time.Minute)
	s := &d.stalls[minute%int64(len(d.stalls))]
	if s.minute != minute {
		*s = stall{minute: minute}
	}
	longer := false
	for i := range s.length {
		c := d.shared.routes[i].Load()
		if c == nil {
			continue
		}
		if length := time.Duration(c.longest.Swap(0)); length > s.length[i] {
			s.length[i], longer = length, true
		}
	}
	if longer {
		d.setOverdue(now)
	}
}

// doubt tells Self what the last second looked like from here.
func (d *Detector) doubt(now time.Duration) {
	active, turned := 0, 0
	for _, m := range d.members {
		t := m.now.Sub(m.second).Tally()
		bad := m.doubted || (t.K > 0 && 2*t.K >= t.N)
		m.doubted = false
		if t.N > 0 || bad {
			active++
		}
		if bad {
			turned++
		}
	}
	d.self.tally(now, active, turned)
}

// window is the snapshot from which a member's window runs: since its score
// left 0, between 1 s and 30 s ago.
func (d *Detector) window(m *member, now time.Duration) int {
	from := now - windowMin
	if m.exc.open {
		from = min(from, max(m.exc.since, now-windowMax))
	}
	n, _ := d.snapshotAt(from)
	return n
}

// snapshotAt is the youngest snapshot taken at or before an instant, the
// oldest that is kept if there is none so old, wholeLife if there was no
// earlier one at all; and how long ago it was taken.
func (d *Detector) snapshotAt(at time.Duration) (n int, ago time.Duration) {
	oldest := max(0, d.snapped-snapshots)
	for n = d.snapped - 1; n >= oldest; n-- {
		if t := d.snapAt[n%snapshots]; t <= at {
			return n, d.now - t
		}
	}
	if oldest > 0 {
		return oldest, d.now - d.snapAt[oldest%snapshots]
	}
	return wholeLife, d.now
}

// since is a member's tally since a snapshot.
func (d *Detector) since(m *member, snapshot int) Tally { return d.countsSince(m, snapshot).Tally() }

func (d *Detector) countsSince(m *member, snapshot int) Counts {
	if snapshot < m.firstSnap { // wholeLife too
		return m.now
	}
	before, _ := m.snap(snapshot)
	return m.now.Sub(before)
}
