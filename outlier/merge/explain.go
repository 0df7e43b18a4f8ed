package merge

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// topReporters is how many reporters an explanation names.
const topReporters = 5

func nats(milli int64) float64 { return float64(milli) / float64(nat) }

// explainBase is what every explanation of e has in common.
func (t *Table) explainBase(e *endpoint, r *record, now time.Duration) Explanation {
	x := Explanation{
		Service: e.Key.Service, Instance: e.Key.Instance, Labels: e.Labels, Scope: r.scope,
		State: r.state.String(), Epoch: r.epoch, Rule: r.rule.String(), N: r.n, Since: Span(now - r.since),
		Pg: e.group.baseline.Pg, PgMeasured: e.group.measured(), Rate: e.rate, Override: e.override,
	}
	for _, d := range t.domains {
		if d.muted(now) {
			x.Muted = append(x.Muted, d.name)
		}
	}
	slices.Sort(x.Muted)
	if p := &e.pace; p.weight > 0 {
		x.Weight = e.weight()
		x.Findings = append(x.Findings, e.paceFinding())
	}
	return x
}

// explainRow adds what a row says.
func (t *Table) explainRow(x *Explanation, w *row, now time.Duration) {
	if !w.open {
		return
	}
	read := w.last
	if read.h == 0 {
		return // nobody has judged it yet
	}
	x.Counts, x.Window = w.classes, Span(now-w.since)
	x.Counts.N, x.Counts.K = read.n, read.k
	x.Reporters, x.Domains = read.reporters, read.domains
	x.T, x.LargestC, x.Threshold = nats(read.t), nats(read.largest), nats(read.h)
	x.P0, x.P1, x.W = read.odds.P0, read.odds.P1, read.w
	steps := read.odds.Steps()
	var all []ReporterShare
	for i := range w.active {
		entry := &w.active[i]
		if entry.n == entry.fromN {
			continue
		}
		r := t.slots[entry.slot]
		all = append(all, ReporterShare{
			Reporter: r.ID, Domain: r.domain.name, Zone: r.Zone, N: int64(entry.n - entry.fromN), K: int64(entry.k - entry.fromK),
			C: nats(entry.value(steps, t.observers[entry.slot].divisor, now)), Muted: r.domain.muted(now),
		})
	}
	slices.SortFunc(all, compareShares)
	x.Top = all[:min(len(all), topReporters)]
}

// explainTrial says how the test of a probation stands; nil if there is none.
func (t *Table) explainTrial(e *endpoint, r *record, now time.Duration) *Trial {
	tr := r.trial
	if tr == nil || tr.bases == nil {
		return nil
	}
	odds := e.group.trialOdds(r)
	steps := odds.Steps()
	x := &Trial{Score: nats(tr.score), Out: nats(outlier.ProbationOut), P0: odds.P0, P1: odds.P1}
	for rep := range tr.bases {
		if t.reporters[rep.ID] != rep || slices.Contains(tr.shut, rep.domain) {
			continue
		}
		counts := t.outcomes(e, tr, rep)
		n, k, muted := int64(counts.N), int64(counts.K()), rep.domain.muted(now)
		if !muted {
			x.Counts.add(counts)
		}
		x.Reporters = append(x.Reporters, ReporterShare{
			Reporter: rep.ID, Domain: rep.domain.name, Zone: rep.Zone, N: n, K: k, C: nats(steps.LLR(n, k)), Muted: muted,
		})
	}
	slices.SortFunc(x.Reporters, compareShares)
	for _, d := range tr.shut {
		x.Replaced = append(x.Replaced, d.name)
	}
	return x
}

func compareShares(a, b ReporterShare) int {
	return cmp.Or(-cmp.Compare(a.C, b.C), cmp.Compare(a.Reporter, b.Reporter))
}

// explainSuspicion adds who has bad news and what the probes said.
func (t *Table) explainSuspicion(x *Explanation, e *endpoint, now time.Duration) {
	s := &e.susp
	for _, list := range [][]witness{s.hard, s.stalled} {
		for _, w := range list {
			x.Witnesses = append(x.Witnesses, Witness{
				Reporter: w.reporter.ID, Domain: w.reporter.domain.name, Zone: w.reporter.Zone,
				Kind: w.kind, Level: w.level.String(), Age: Span(now - w.at),
			})
		}
	}
	asked := s.answered
	if s.active {
		asked = s.orders
	}
	x.Probes = append(x.Probes, probeAnswers(asked, now)...)
}

// explainCandidate says why a verdict is about to be given, or is refused.
func (t *Table) explainCandidate(c *candidate, now time.Duration) Explanation {
	e := c.e
	x := t.explainBase(e, e.record(c.scope), now)
	x.Scope, x.Rule, x.Guards = c.scope, c.rule.String(), c.guards
	w := c.row
	if w == nil {
		w = &e.fast
	}
	t.explainRow(&x, w, now)
	if c.rule == outlier.RuleHard || c.rule == outlier.RuleStalled {
		t.explainSuspicion(&x, e, now)
	}
	x.Reason = c.reason
	if x.Reason == "" {
		x.Reason = fmt.Sprintf("%d of %d attempts failed within %v, by the counts of %s: score %.1f, and a verdict takes %.1f",
			x.Counts.K, x.Counts.N, time.Duration(x.Window).Round(time.Millisecond), sidecars(x.Reporters), x.T, x.Threshold)
	}
	return x
}

// Explain says what the table believes of an endpoint and why. If several
// verdicts hold, the fleet's is told, else that of the first zone which has one.
// For an endpoint that is in, it is the evidence against it at this moment.
func (t *Table) Explain(k Key, now time.Duration) (Explanation, bool) {
	e := t.endpoints[k]
	if e == nil {
		return Explanation{}, false
	}
	r := &e.fleet
	if r.state == outlier.In {
		for _, z := range e.zones {
			if z.rec.state != outlier.In {
				r = &z.rec
				break
			}
		}
	}
	if r.state != outlier.In && r.explain.Service != "" {
		x := r.explain
		x.State, x.Epoch, x.N, x.Since, x.Override = r.state.String(), r.epoch, r.n, Span(now-r.since), e.override
		x.Next, x.ETA = t.next(e, r, now)
		r.explainAway(&x, now)
		x.Avoiders = t.avoiders(e, now)
		if r.state != outlier.Ejected && r.state != outlier.Suspended { // else they are those of the verdict
			x.Probes = probeAnswers(r.probed, now)
		}
		if trial := t.explainTrial(e, r, now); trial != nil {
			x.Trial = trial
		}
		return x, true
	}
	x := t.explainBase(e, r, now)
	x.Rule = outlier.RuleNone.String() // that of its last verdict is over
	x.Avoiders = t.avoiders(e, now)
	t.explainRow(&x, &e.fast, now)
	t.explainSuspicion(&x, e, now)
	x.Next, x.ETA = t.next(e, r, now)
	x.Guards = t.holdsBack(e, now)
	return x, true
}

// holdsBack lists what keeps the evidence against an endpoint that is in from
// leading to a verdict.
func (t *Table) holdsBack(e *endpoint, now time.Duration) []Guard {
	var all []Guard
	held := func(name, format string, args ...any) {
		all = append(all, Guard{Name: name, Detail: fmt.Sprintf(format, args...)})
	}
	if e.pinned() {
		held("pin", "an operator keeps it in")
	}
	if t.doubtful(e) {
		t.whyNotYet(e, held, now)
	}
	if r := &e.refusal; r.told != 0 && now-r.told < tellAgain {
		for _, g := range r.guards {
			g.Age = Span(now - r.told)
			all = append(all, g)
		}
	}
	for _, name := range t.mutes {
		if d := t.domains[name]; d != nil && d.muted(now) && t.complains(e, d) {
			held("mute", "what %s says against it is not counted for another %v: %s", d.name, brief(d.mutedUntil-now), d.reason)
		}
	}
	s := &e.susp
	if s.denied != "" && now-s.deniedAt < tellAgain {
		all = append(all, Guard{
			Name: "contradiction", Age: Span(now - s.deniedAt),
			Detail: fmt.Sprintf("an attempt or a probe of %s began after the failure and went well", s.denied),
		})
	}
	var doubted []string
	for d, v := range s.doubted {
		if now < v.until {
			doubted = append(doubted, fmt.Sprintf("%s for another %v", d.name, brief(v.until-now)))
		}
	}
	if len(doubted) > 0 {
		slices.Sort(doubted)
		held("shut", "not believed when it cannot connect, since others could: %s", strings.Join(doubted, ", "))
	}
	if now < s.shutUntil {
		held("shut", "failed connections are not acted upon for another %v", brief(s.shutUntil-now))
	}
	return all
}

// doubtful says whether the failures of e would suffice for a verdict if nothing
// held it back, the loudest domains included.
func (t *Table) doubtful(e *endpoint) bool {
	w := &e.fast
	return w.open && w.last.h > 0 && w.last.sum >= w.last.h
}

// whyNotYet says which check of the fast row has not been passed.
func (t *Table) whyNotYet(e *endpoint, held func(name, format string, args ...any), now time.Duration) {
	read, p := &e.fast.last, &e.group.service.policy
	switch {
	case read.domains <= p.LeaveOut:
		held("leave_one_out", "only %d of the %s with attempts on it saw it fail, and may be broken itself: a verdict takes %d",
			read.domains, machineCount(t.countSpeakers(&e.fast)), p.LeaveOut+1)
	case read.t < read.h:
		held("leave_one_out", "without the %s, which may be broken, the score is %.1f, and a verdict takes %.1f", loudest(p.LeaveOut), nats(read.t), nats(read.h))
	case read.k < leastFailures:
		held("evidence", "%d attempts failed, and a verdict takes %d", read.k, leastFailures)
	case len(e.poll.waiting) > 0:
		held("poll", "%s asked what they have counted, and may answer for another %v",
			were(len(e.poll.waiting)), brief(max(0, e.poll.sent+p.PollWait-now)))
	case e.scopeAt != never && now < e.scopeAt:
		held("zones", "only one zone sees it fail: the others have another %v to see the same", brief(e.scopeAt-now))
	case e.gatherAt != never && now < e.gatherAt:
		held("gather", "its neighbours look bad as well: all are judged together in %v", brief(e.gatherAt-now))
	}
}

// countSpeakers is the number of fault domains with evidence in a row.
func (t *Table) countSpeakers(w *row) int {
	seen := make(map[*domain]bool)
	for i := range w.active {
		seen[t.slots[w.active[i].slot].domain] = true
	}
	return len(seen)
}

// complains says whether a reporter of a domain sees an excursion of e.
func (t *Table) complains(e *endpoint, d *domain) bool {
	return slices.ContainsFunc(e.cells, func(c cell) bool { return c.excursion && t.slots[c.reporter].domain == d })
}

// brief is a length of time for people.
func brief(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// afterRefusal says what happens next to a verdict that was held back, and when.
func (t *Table) afterRefusal(e *endpoint, why string, now time.Duration) (string, Span) {
	switch why {
	case "shadow":
		return "nothing: the service is in shadow mode", 0
	case "gather":
		return "it is judged together with its neighbours", Span(max(0, e.gatherAt-now))
	}
	return "it is judged again, if it still fails", Span(max(0, e.refusal.until-now))
}

const (
	nextProbes = "sidecars probe it"
	staysOut   = "it stays out until somebody releases it"
)

// next says what happens next, and when.
func (t *Table) next(e *endpoint, r *record, now time.Duration) (string, Span) {
	until := func(at time.Duration) Span { return Span(max(0, at-now)) }
	switch {
	case e.leaving():
		return "it leaves when its last requests are done", 0
	case e.override != nil && e.override.Kind == OverrideEject:
		if e.override.Until == 0 {
			return staysOut, 0
		}
		return "the order ends, and it comes back by probes and test requests", until(e.override.Until)
	case e.override != nil:
		if e.override.Until == 0 {
			return "it stays in until somebody releases it", 0
		}
		return "the order ends, and it is judged like any other", until(e.override.Until)
	}
	switch r.state {
	case outlier.Ejected:
		return nextProbes, until(r.ends)
	case outlier.Probing:
		if len(r.orders) > 0 {
			return "sidecars are probing it, and have answered by then", until(r.orders[0].deadline)
		}
		return nextProbes + " again", until(r.ends)
	case outlier.Probation:
		return fmt.Sprintf("test requests decide: %d answered well and %d failed so far; score %.1f, in again at 0 and out again at %.0f",
			r.trial.n-r.trial.k, r.trial.k, nats(r.trial.score), nats(outlier.ProbationOut)), 0
	case outlier.Ramp:
		return "it has its full share", until(r.since + e.group.service.policy.Outlier.Ramp)
	case outlier.Suspended:
		if len(r.orders) > 0 && !r.trial.pinged {
			return "requests try it again as soon as it answers a ping, and now and then until it does", 0
		}
		return "it is in again with its first answer, or when nothing hangs any more", until(r.ends)
	}
	switch {
	case e.susp.confirmed != never:
		return "it is ejected, as soon as its neighbours have answered", 0
	case e.susp.active:
		return "the sidecars that were asked to probe it have answered", until(e.susp.deadline)
	case e.gatherAt != never && now < e.gatherAt:
		return "it is judged together with its neighbours", until(e.gatherAt)
	case e.fast.open && e.fast.last.h > 0: // there is evidence, and it is shown
		return "it is judged again with each report that speaks of it", 0
	case e.pace.weight > 0:
		return "its share is looked at again, and rises while it is as fast as its neighbours", until(e.pace.moved + paceAgain)
	case r.n > 0:
		return "one ejection is taken off its record, if it goes on answering", until(r.forgave + forgive)
	}
	return "", 0
}

// Status lists all services with their endpoints, by name.
func (t *Table) Status(now time.Duration) []ServiceStatus {
	var list []ServiceStatus
	for _, name := range t.serviceNames() {
		s := t.services[name]
		if !s.known {
			continue
		}
		st := ServiceStatus{Service: name}
		for _, r := range s.reporters {
			if r.live && now-r.heard <= t.cfg.ReporterStale {
				st.Reporters++
			}
		}
		if len(s.groups) > 0 {
			st.Pg, st.Measured = s.groups[0].baseline.Pg, s.groups[0].measured()
		}
		for e := range s.endpoints {
			one := e.status(now)
			one.Avoiders = len(t.avoiders(e, now))
			st.Endpoints = append(st.Endpoints, one)
		}
		list = append(list, st)
	}
	return list
}

func (e *endpoint) status(now time.Duration) EndpointStatus {
	r := &e.fleet
	st := EndpointStatus{
		Instance: e.Key.Instance, Zone: e.Zone, State: r.state, Rule: r.rule, Epoch: r.epoch, N: r.n, Since: Span(now - max(r.since, e.added)),
		Rate: e.rate, Recent: e.recent(now), ErrorRate: e.errors, Measured: e.settled >= measuredFrom, Suspected: e.susp.active || e.susp.confirmed != never,
		Idle: len(e.idle.leases) > 0, Override: e.override, Weight: e.weight(),
	}
	if r.state.Out() {
		st.Away = Span(now - r.away)
	}
	if e.leaving() {
		st.State = outlier.Draining
	}
	if e.fast.open {
		st.T, st.Threshold = nats(e.fast.last.t), nats(e.fast.last.h)
	}
	for _, z := range e.zones {
		if z.rec.state != outlier.In {
			st.Zones = append(st.Zones, ZoneStatus{Zone: z.name, State: z.rec.state, Rule: z.rec.rule, Since: Span(now - z.rec.since)})
		}
	}
	return st
}

// Reporters lists all reporters, by id.
func (t *Table) Reporters(now time.Duration) []ReporterStatus {
	list := make([]ReporterStatus, 0, len(t.reporters))
	for _, r := range t.reporters {
		st := ReporterStatus{
			Reporter: r.Reporter, Domain: r.domain.name, Live: r.live, Heard: Span(now - r.heard), Jitter: Span(r.jitter),
			Muted: r.domain.muted(now), Accepted: r.accepted,
		}
		if st.Muted {
			st.Reason = r.domain.reason
		}
		if len(r.refused) > 0 {
			st.Refused = make(map[Refusal]uint64, len(r.refused))
			for why, n := range r.refused {
				st.Refused[why] = n
			}
		}
		list = append(list, st)
	}
	slices.SortFunc(list, func(a, b ReporterStatus) int { return cmp.Compare(a.ID, b.ID) })
	return list
}
