package outlier

import (
	"slices"
	"time"
)

const (
	witnessFor    = time.Second // how old a hard failure may be to bear witness
	historyPoints = 3
)

// Evidence is what there is to report, one for each member that ever had an
// attempt, in the order of the members.
func (d *Detector) Evidence(now time.Duration) []Evidence {
	all := make([]Evidence, 0, len(d.members))
	for _, m := range d.members {
		if m.ep.started.Load() == 0 {
			continue
		}
		e := Evidence{
			ID: m.ID, Counts: d.told(m), Score: m.score(), Overdue: m.wait.overdue,
			State: m.record.state, Rule: m.record.rule,
		}
		e.Excursion = e.Score > 0
		hard := m.ep.hard.Load()
		e.LastOKStart, e.LastOK = unspan(m.ep.answer.Load())
		e.LastHardStart, e.LastHard = unspan(hard)
		if e.LastHard > e.LastOK && now-e.LastHard <= witnessFor {
			e.Witness, e.WitnessAt = Level(hard&3), e.LastHard
		}
		e.Relief = m.fleet.state() == Suspended && e.LastOK > m.fleet.at
		if e.Excursion {
			e.Routes = slices.Clone(m.exc.routes)
		}
		e.Slow = m.slow.news(now)
		if e.Excursion || e.Slow {
			e.History = d.history(m)
		}
		if m.Draining {
			e.State, e.Overdue = Draining, 0
		}
		all = append(all, e)
	}
	return all
}

// LastHard is the level and the end of the newest hard failure; [Never] if there was
// none.
func (e *Endpoint) LastHard() (Level, time.Duration) {
	word := e.hard.Load()
	_, end := unspan(word)
	return Level(word & 3), end
}

// history is up to three readings from before the excursion, oldest first. The last
// is that of its very beginning.
func (d *Detector) history(m *member) []Point {
	before, most := d.now, historyPoints
	if m.exc.open {
		before, most = m.exc.since-1, most-1 // one of that very instant has its first failure
	}
	if m.slow.news(d.now) {
		before = min(before, m.slow.since)
	}
	last, _ := d.snapshotAt(before)
	var points []Point
	for n := max(m.firstSnap, d.snapped-snapshots, last-most+1); n <= last; n++ {
		if p := d.point(m, n); p.At <= before {
			points = append(points, p)
		}
	}
	if m.exc.open {
		p := PointAt(m.exc.since, m.exc.base)
		p.N, p.K = p.N-m.withheld, p.K-m.withheld
		points = append(points, p)
	}
	return points
}

// History is the youngest whole-second reading of a member's counts taken at
// or before an instant; false if none so old is kept.
func (d *Detector) History(id string, at time.Duration) (Point, bool) {
	m := d.byID[id]
	if m == nil {
		return Point{}, false
	}
	n, _ := d.snapshotAt(at)
	if n < m.firstSnap || d.snapAt[n%snapshots] > at {
		return Point{}, false
	}
	return d.point(m, n), true
}

func (d *Detector) point(m *member, n int) Point {
	c, held := m.snap(n)
	p := PointAt(d.snapAt[n%snapshots], c)
	p.N, p.K = p.N-held, p.K-held
	return p
}

// Summary sums the cluster up.
func (d *Detector) Summary(now time.Duration) Summary {
	s := Summary{Overdue: d.overdue, LHM: d.self.LHM()}
	total := d.past
	for _, m := range d.members {
		t := m.ep.Counts().Tally()
		total.N += t.N
		total.K += t.K
	}
	s.N, s.K = uint64(total.N), uint64(total.K)
	if len(d.groups) > 0 {
		s.Pg = d.groups[0].pg
	}
	p := d.percentiles()
	s.P50, s.P90, s.P99 = p.P50, p.P90, p.P99
	s.Slower = d.latency.slower(d.shared)
	if counts := d.shared.latency.Load(); counts != nil {
		for i := range counts {
			if n := counts[i].Load(); n > 0 {
				s.Latency = append(s.Latency, LatencyCount{Bucket: i, Count: n})
			}
		}
	}
	return s
}

// slowTallies are a member's answers since a snapshot, and those slower than t90 and
// than t99 among them.
func (d *Detector) slowTallies(m *member, from int) (often, tail Tally) {
	c := d.countsSince(m, from)
	oks := int64(c.N - c.K())
	return Tally{N: oks, K: min(oks, int64(c.N90))}, Tally{N: oks, K: min(oks, int64(c.N99))}
}

// slowRatios are the shares of slow and very slow answers of the counted members of a
// group since a snapshot, sorted once per Step.
func (d *Detector) slowRatios(g *group, from int) (often, tail Ratios) {
	key := windowOf{g, from}
	if r, ok := d.slows[key]; ok {
		return r[0], r[1]
	}
	var tallies [2][]Tally
	for _, m := range g.members {
		if m.counted() {
			a, b := d.slowTallies(m, from)
			tallies[0], tallies[1] = append(tallies[0], a), append(tallies[1], b)
		}
	}
	r := [2]Ratios{NewRatios(tallies[0]), NewRatios(tallies[1])}
	d.slows[key] = r
	return r[0], r[1]
}

// watchLatency runs the latency tests.
func (d *Detector) watchLatency(m *member, now time.Duration, r *Result) {
	if d.cfg.Latency == LatencyOff {
		m.slow = slowness{}
		return
	}
	if until := m.slow.weighed.Until; until != 0 && now >= until {
		m.slow.weighed = Weight{}
		d.stale = true
	}
	if m.now == m.before && !m.slow.alarmed {
		return
	}
	if m.record.state == Suspended {
		return // what is answered now is late because of the hang that is over with it
	}
	often, tail := m.slow.often, m.slow.tail
	changed := m.slow.step(d.cfg, m.now.Sub(m.before), now, func(since time.Duration) (own, others SlowShares) {
		from, _ := d.snapshotAt(since)
		often, tail := d.slowRatios(m.group, from)
		mine90, mine99 := d.slowTallies(m, from)
		return SlowShares{mine90.Rate(), mine99.Rate()}, SlowShares{often.Without(mine90), tail.Without(mine99)}
	})
	d.active = d.active || m.slow.often > SlowOften.Fail // more than one slow answer
	if m.judged() && m.slow.newsworthy(often, tail, now) {
		r.Urgency = max(r.Urgency, UrgencySoft)
	}
	if !changed || m.Draining {
		return
	}
	c := Change{ID: m.ID, From: m.record.state, To: m.record.state, Rule: RuleLatency, At: now, Explain: d.explain(m, RuleLatency, now)}
	c.Explain.Weight = m.slow.share(now)
	r.Changes = append(r.Changes, c)
}
