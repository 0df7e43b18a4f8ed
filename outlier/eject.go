package outlier

import (
	"cmp"
	"slices"
	"time"
)

// Why something was refused; told in [Change.Refused].
const (
	refusedEvidence = "evidence"    // too few failures, or all from one moment
	refusedGroup    = "group"       // the whole group suffers
	refusedGather   = "gather"      // waiting for neighbours who may go as well
	refusedSmall    = "small group" // the only other endpoint is not known to be well
	refusedLast     = "last"        // nothing else is usable
	refusedCap      = "cap"         // enough are out already
	refusedRoute    = "route"       // hashed requests of one route fail, those of others do not
	refusedShare    = "share"       // one of the runs that are only told
	refusedMuted    = "muted"       // the control plane has set our evidence aside
	refusedDoubt    = "self-doubt"  // it may be our own fault that nothing answers
)

const (
	gatherWait  = 300 * time.Millisecond
	gatherEnds  = 2 * gatherWait // a gathering that old is over
	gatherLeast = 2
	// gatherLow: a neighbour is a suspect too at this part of its threshold: one
	// failure among its last few attempts, two at a high base. At a quarter a
	// fault of the whole group ejects somebody twice as often, in the first
	// tenth of a second, when by chance one endpoint is hit before the rest.
	gatherLow   = 8
	partnerLife = 5 * time.Second // how fresh the other's sign of life must be
	refusalGap  = 10 * time.Second
	goneFor     = 500 * time.Millisecond // nothing but refusals, until all are gone
)

// HeldFor is how long an ejection may have been refused because of how the others do, or for
// want of room, and still rest on what was seen from the beginning. Beyond, the endpoint may
// have become well long ago, with so much against it that it takes minutes of successes to
// make up for, and who was in while all were gone would be left when all are back: it must
// be seen to fail again.
const HeldFor = time.Second

// ejectSuspects takes out what the tests have found bad: what is down first,
// then the highest score first.
func (d *Detector) ejectSuspects(now time.Duration, r *Result) {
	type suspect struct {
		m     *member
		rule  Rule
		score int64
	}
	if d.self.Muted(now) {
		d.amnesty(now)
	}
	for _, g := range d.groups {
		d.relent(g, now)
	}
	var suspects []suspect
	least := max(1, milli(min(d.cfg.HLocalMin, d.cfg.HLocalMax))) // of all thresholds, which take a logarithm each
	for _, m := range d.members {
		s := m.record.state
		if !m.judged() || (s != In && s != Ramp && s != Suspended) {
			continue
		}
		score := m.score()
		switch {
		case m.suspect.confirmed():
			suspects = append(suspects, suspect{m, RuleHard, score})
		case d.ranEnough(m):
			suspects = append(suspects, suspect{m, RuleRun, score})
		case score >= least && score >= d.threshold(m):
			suspects = append(suspects, suspect{m, RuleFast, score})
		case m.idle.down(m.answerEnd(), now):
			suspects = append(suspects, suspect{m, RuleIdle, score})
		}
	}
	slices.SortFunc(suspects, func(a, b suspect) int {
		return cmp.Or(
			-cmp.Compare(b2i(a.rule == RuleHard), b2i(b.rule == RuleHard)),
			-cmp.Compare(a.score, b.score),
			cmp.Compare(a.m.ID, b.m.ID))
	})
	if slices.ContainsFunc(suspects, func(s suspect) bool { return s.rule.asksGroup() }) {
		d.askRoutes(now)
	}
	for _, s := range suspects {
		if s.score != s.m.score() && s.rule.asksGroup() && s.m.score() < d.threshold(s.m) && !d.ranEnough(s.m) {
			continue // it rested on a route
		}
		d.judge(s.m, s.rule, now, r)
	}
	if d.cfg.runs() == (runs{}) {
		return
	}
	for _, m := range d.members {
		if _, found, enforced := d.ran(m); found {
			if !enforced && m.judged() && !m.out() {
				d.refuse(m, Ejected, RuleRun, refusedShare, now, r)
			}
			m.ep.told(d.cfg.runs())
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// judge puts one suspect through the guards and the caps.
func (d *Detector) judge(m *member, rule Rule, now time.Duration, r *Result) {
	refusal := ""
	switch {
	case !rule.asksGroup():
	case d.self.Muted(now):
		refusal = refusedMuted
	default:
		refusal = d.guards(m, rule, now, r)
	}
	if refusal == "" {
		refusal = d.allow(m, rule, now, r)
	}
	if refusal != "" {
		if m.exc.held == 0 && (refusal == refusedGroup || refusal == refusedCap) {
			m.exc.held = now
		}
		d.refuse(m, Ejected, rule, refusal, now, r)
		return
	}
	if rule.asksGroup() && m.exc.held != 0 && now-m.exc.held >= HeldFor {
		m.acquit()
		return
	}
	explain := d.explain(m, rule, now)
	explain.Checks = d.checks(m, rule, "", &explain)
	d.eject(m, rule, explain, now, r)
}

// guards ask whether the evidence is good and whether it is this endpoint's
// fault rather than everybody's.
func (d *Detector) guards(m *member, rule Rule, now time.Duration, r *Result) string {
	if rule == RuleFast && !m.evident() {
		return refusedEvidence
	}
	if d.oneRoute(m) {
		return refusedRoute
	}
	from := d.window(m, now)
	if !Guard(d.since(m, from), d.surroundings(m, from, now), false).Pass {
		return refusedGroup
	}
	if d.gathering(m, now, r) {
		return refusedGather
	}
	return ""
}

// evident says that there are failures enough, and not all of one moment on one
// connection. A run has its length instead.
func (m *member) evident() bool {
	apart := time.Duration(m.ep.lastFail.Load()) - m.exc.first
	return m.now.Sub(m.exc.base).Tally().K >= minFailed && (m.exc.sources >= minSources || apart >= minApart)
}

// surroundings are how the rest of m's group does in m's window, and in longer ones.
func (d *Detector) surroundings(m *member, from int, now time.Duration) Surroundings {
	s := Surroundings{Usual: m.group.usual.Rate(), Slower: d.latency.slower(d.shared)}
	s.See(d.ratios(m.group, from), d.since(m, from), true)
	for _, back := range Windows {
		if n, _ := d.snapshotAt(now - back); n < from {
			s.See(d.ratios(m.group, n), d.since(m, n), false)
		}
	}
	last := func(back time.Duration) Tally { n, _ := d.snapshotAt(now - back); return d.since(m, n) }
	s.Lasts(last(Windows[0]), last(Windows[1]))
	return s
}

// gathering says whether to wait for neighbours that are suspects as well: a
// rack that fails should leave in one step, and a fault that turns out to be
// everybody's should eject nobody (Rapid's low and high watermark; Suresh et
// al. 2018). All that wait in the same 300 ms pass together, if the guard
// still lets them.
func (d *Detector) gathering(m *member, now time.Duration, r *Result) bool {
	g := m.group
	high, others := d.scored(m)
	need := min(others, max(gatherLeast, (3*others+9)/10))
	if others == 0 || high < need {
		return false
	}
	if g.gather == 0 || now-g.gather > gatherEnds {
		g.gather = now
	}
	if due := g.gather + gatherWait; due > now {
		r.wakeAt(due)
		return true
	}
	return false
}

// scored counts the neighbours of a member that are in, and those of them that have
// a score as well.
func (d *Detector) scored(m *member) (high, others int) {
	for _, o := range m.group.members {
		if o == m || !o.counted() || o.out() {
			continue
		}
		others++
		if o.score() > d.threshold(o)/gatherLow {
			high++
		}
	}
	return high, others
}

// allow is the only place that knows how much may be taken out. It is asked
// before each removal, whatever the rule, and answers why not, or "".
//
// At most max_out of a priority may be out, by local and central belief
// together, and one must stay usable. What refuses connections serves nobody,
// so hard failures may go further, as long as those that remain carry no more
// than they have been seen to bear, and do not refuse as well.
func (d *Detector) allow(m *member, rule Rule, now time.Duration, r *Result) string {
	if m.out() {
		return "" // no more is out than before
	}
	n, out, refusing := 0, 0, 0
	var partner *member
	for _, o := range m.group.members {
		if !o.counted() {
			continue
		}
		n++
		if o != m {
			partner = o
		}
		switch {
		case o.out():
			out++
		case o != m && o.refuses():
			refusing++
		}
	}
	usable := n - out - 1
	switch {
	case usable < 1:
		return refusedLast
	case n == 2 && !d.soundPartner(m, partner, rule, now, r):
		return refusedSmall
	case out+1 <= d.cfg.Cap(n):
		return ""
	case rule == RuleHard && usable > refusing && d.bearable(m.group, usable-refusing, now):
		return ""
	}
	return refusedCap
}

// relent takes back what only this observer has left, as far as it is more than max_out
// together with what the fleet has left, where nothing else is well: all are gone. The fleet
// has its own half; with ours beside it one or two would be in, and get everything at once
// when all are back.
func (d *Detector) relent(g *group, now time.Duration) {
	n, out := 0, 0
	var own []*member
	for _, m := range g.members {
		switch {
		case !m.counted():
			continue
		case m.fleet.state().Out():
			out++
		case m.record.state.Out():
			out++
			own = append(own, m)
		case !m.refuses() || m.answerEnd() > now-goneFor:
			return
		}
		n++
	}
	for _, m := range own {
		if out <= d.cfg.Cap(n) {
			return
		}
		if m.record.state != Suspended {
			d.reinstate(m, now)
			out--
		}
	}
}

// refuses says that the newest that is known of m is a hard failure.
func (m *member) refuses() bool {
	_, failed := unspan(m.ep.hard.Load())
	return failed != Never && failed > m.answerEnd()
}

// bearable says whether so few endpoints can carry the group's load.
func (d *Detector) bearable(g *group, usable int, now time.Duration) bool {
	peak := max(g.healthyPeak(now), g.rate/float64(len(g.members)))
	return g.rate/float64(usable) <= d.cfg.Headroom*peak
}

// soundPartner says whether the only other endpoint may be left alone: it
// must look better and have been alive lately. If only the sign of life is
// missing, it asks for one.
func (d *Detector) soundPartner(m, partner *member, rule Rule, now time.Duration, r *Result) bool {
	if partner.wait.overdue > 0 || 2*partner.score() >= d.threshold(partner) {
		return false
	}
	if rule == RuleHard || rule.asksGroup() {
		from := d.window(m, now)
		if 2*d.since(partner, from).Rate() > d.since(m, from).Rate() {
			return false
		}
	}
	if alive := partner.alive(); alive != Never && now-alive <= partnerLife {
		return true
	}
	if now >= partner.idle.asked && d.probes.take(float64(d.cfg.ProbeRate), now) {
		partner.idle.asked = now + time.Second
		r.Probes = append(r.Probes, Probe{ID: partner.ID, Level: LevelApp, Timeout: d.probeTimeout(), N: 1})
	}
	return false
}

// eject takes a member out, on record.
func (d *Detector) eject(m *member, rule Rule, explain Explanation, now time.Duration, r *Result) {
	l := &m.record
	level := LevelApp
	if rule == RuleHard {
		level = m.suspect.level
	}
	m.learnFault(rule)
	c := m.becomes(Ejected, rule, now)
	l.cause, l.level = rule, level
	l.ejections++
	l.severity = m.score()
	switch {
	case !rule.asksGroup():
		l.charges = nil
	case c.From != Probation: // a trial that fails leaves what led to it
		l.charges = &charges{
			score: l.severity, threshold: d.threshold(m), step: m.ep.conf.Load().steps.Fail,
			failures: int(m.now.Sub(m.exc.base).Tally().K), routes: m.exc.routes,
		}
		if explain.Run != nil {
			l.charges.run = explain.Run.Failures
		}
	}
	l.hold = d.holdOff(l.ejections)
	l.until = now + l.hold
	m.suspect.close(now, false)
	m.idle.belief, m.idle.misses = BeliefRest, 0
	m.forget(now)
	m.doubted = true
	explain.Ejections, explain.Hold = l.ejections, l.hold
	explain.Next, explain.NextAt = "it is probed", l.until
	c.Explain = explain
	r.Changes = append(r.Changes, c)
	d.active = true
}

// holdOff doubles with each ejection on record, within its bounds and jitter.
func (d *Detector) holdOff(ejections int) time.Duration {
	hold := d.cfg.HoldBase
	for i := 1; i < ejections && hold < d.cfg.HoldMax; i++ {
		hold *= 2
	}
	hold = d.jitter(min(hold, d.cfg.HoldMax))
	if d.cfg.HoldJitter > 0 {
		hold += time.Duration(d.rng.Int64N(int64(d.cfg.HoldJitter)))
	}
	return hold
}

// refuse tells that a removal was wanted and did not happen; of one that stays
// wanted for the same reason, again each 10 s.
func (d *Detector) refuse(m *member, to State, rule Rule, why string, now time.Duration, r *Result) {
	d.active = true
	told := m.refused[rule] // several rules may want the same, and be refused in turn
	if told.why == why && now-told.at < refusalGap {
		return
	}
	if m.refused == nil {
		m.refused = make(map[Rule]refusal)
	}
	m.refused[rule] = refusal{why, now}
	explain := d.explain(m, rule, now)
	explain.Checks = d.checks(m, rule, why, &explain)
	d.afterRefusal(m, why, &explain)
	r.Changes = append(r.Changes, Change{
		ID: m.ID, From: m.record.state, To: to, Rule: rule, At: now, Refused: why, Explain: explain,
	})
}
