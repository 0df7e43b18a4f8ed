package merge

import (
	"fmt"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

const (
	// recoveryProbes are asked before real requests may try an endpoint, of which
	// recoveryGood must succeed.
	recoveryProbes = 3
	recoveryGood   = 2
	// hardRetry bounds the wait between failed probes after a hard verdict: what
	// refused connections is back at once when it is back.
	hardRetry = 5 * time.Second
	// hardOKs real successes suffice after a hard verdict, whose cause is plainly
	// gone when connections are accepted again; the ramp then starts higher.
	hardOKs      = 3
	rampFrom     = 0.10
	hardRampFrom = 0.25
	// faultShown is the part of the error rate at an ejection that its trial looks for:
	// a test that stops when it is sure stops while chance exaggerates.
	faultShown = 0.6
	// undecided is how long a probation may take before more sidecars help.
	undecided = time.Minute
	// forgive is the healthy time that takes one ejection off the record.
	forgive = time.Minute
	// restartWindow and restartMany: an instance that restarts so often keeps its
	// record.
	restartWindow = 5 * time.Minute
	restartMany   = 3
)

// record is the standing of an endpoint in one scope.
type record struct {
	scope    Scope
	state    outlier.State
	rule     outlier.Rule // of the newest ejection or suspend
	epoch    uint64
	n        int
	since    time.Duration
	rampFrom float64
	away     time.Duration // when it was last taken out; counts until it is in again
	cause    string        // why
	fault    float64       // smallest error rate of which the statistic has convicted it; 0: it has not
	explain  Explanation

	ends    time.Duration // hold-off, wait for the next probes, suspend or ramp
	wait    time.Duration // before the next probes, if these fail
	orders  []*order      // probes of the current try
	probed  []*order      // those of the newest try since it was taken out
	trial   *trial        // shares that were given out
	hung    time.Duration // when the stall began for which it was suspended; never: unknown
	forgave time.Duration // when n last fell, or became worth looking at
}

func (r *record) verdict(e *endpoint) Verdict {
	return Verdict{
		Key: e.Key, Scope: r.scope, State: r.state, Epoch: r.epoch, Rule: r.rule, N: r.n, Since: r.since,
		RampFrom: r.rampFrom, Override: e.override, Explain: r.explain,
	}
}

// set changes a verdict. Every change has an epoch above all that were before.
func (t *Table) set(e *endpoint, r *record, to outlier.State, rule outlier.Rule, reason string, now time.Duration) {
	from := r.state
	t.epoch++
	t.cancel(r.orders)
	r.orders = nil
	g := e.group
	g.census.move(e, -1)
	r.state, r.rule, r.epoch, r.since, r.forgave = to, rule, t.epoch, now, now
	if to.Out() && !from.Out() {
		r.away, r.cause = now, reason
	} else if to == outlier.In {
		r.cause = ""
	}
	g.census.move(e, 1)
	if r.scope != Fleet {
		g.census = nil // a zone may have come that had no verdicts of its own
	}
	r.rampFrom = 0
	if r.explain.Service == "" {
		r.explain = t.explainBase(e, r, now)
	}
	x := &r.explain
	x.State, x.Epoch, x.Rule, x.Reason, x.N, x.Since, x.Override = to.String(), r.epoch, rule.String(), reason, r.n, 0, e.override
	x.Next, x.ETA = "", 0
	r.explainAway(x, now)
	t.out.Changes = append(t.out.Changes, Change{From: from, To: to, Verdict: r.verdict(e), At: now})
	t.due(now + time.Millisecond)
}

// explainAway says since when, all in all, and why the endpoint is not in.
func (r *record) explainAway(x *Explanation, now time.Duration) {
	x.Away, x.Cause = 0, ""
	if r.state.Out() || r.state == outlier.Ramp && r.cause != "" {
		x.Away, x.Cause = Span(now-r.away), r.cause
	}
}

// amend corrects what set put into the newest change.
func (t *Table) amend(e *endpoint, r *record) {
	t.out.Changes[len(t.out.Changes)-1].Verdict = r.verdict(e)
}

// eject puts an endpoint out, with a record. The hold-off doubles with each
// ejection that is on it.
func (t *Table) eject(e *endpoint, s Scope, rule outlier.Rule, x Explanation, now time.Duration) {
	r := e.record(s)
	p := &e.group.service.policy.Outlier
	t.endRound(e)
	t.endTrial(r)
	e.susp.confirmed, e.susp.storm, e.susp.nextZone = never, false, ""
	if s == Fleet || rule == outlier.RuleHard {
		e.susp.unsolved = solved
	}
	e.gatherAt, e.scopeAt = never, never
	e.closeRows(s, now)
	r.convict(rule, x.Counts)
	if rule != outlier.RuleManual {
		r.n++
	}
	hold := holdOff(p, r.n)
	if r.state == outlier.Suspended && rule != outlier.RuleHard {
		hold = min(max(hold, now-r.away), p.HoldMax) // it has been tried all the time
	}
	r.explain = x
	r.probed = nil
	t.set(e, r, outlier.Ejected, rule, x.Reason, now)
	r.wait = hold
	r.ends = now + jittered(hold, p.Jitter, hash64(t.seed, "hold", e.Key.Service, e.Key.Instance, fmt.Sprint(r.epoch)))
	r.explain.Next, r.explain.ETA = nextProbes, Span(r.ends-now)
	t.amend(e, r)
	t.due(r.ends)
	if s == Fleet {
		// The fleet's verdict takes those of single zones in.
		for _, z := range e.zones {
			if z.rec.state != outlier.In {
				r.n = max(r.n, z.rec.n)
				t.endTrial(&z.rec)
				t.set(e, &z.rec, outlier.In, z.rec.rule, "the fleet's verdict takes its place", now)
			}
		}
	}
}

// convict notes how large a fault the statistic has found.
func (r *record) convict(rule outlier.Rule, seen Tally) {
	switch {
	case rule != outlier.RuleFast && rule != outlier.RuleSlow:
		r.fault = 0
	case seen.N > 0:
		if rate := float64(seen.K) / float64(seen.N); r.fault == 0 || rate < r.fault {
			r.fault = rate
		}
	}
}

// holdOff is how long an endpoint with n ejections on record waits.
func holdOff(p *outlier.Config, n int) time.Duration {
	return min(p.HoldMax, p.HoldBase<<min(max(n-1, 0), 16))
}

// recover moves every verdict of e along that has somewhere to go.
func (t *Table) recover(e *endpoint, now time.Duration) {
	t.recoverRecord(e, &e.fleet, now)
	for _, z := range e.zones {
		t.recoverRecord(e, &z.rec, now)
	}
}

func (t *Table) recoverRecord(e *endpoint, r *record, now time.Duration) {
	if e.own.draining && r.scope == Fleet && (r.state == outlier.In || r.state == outlier.Ramp) {
		t.set(e, r, outlier.Draining, outlier.RuleNone, "its own sidecar says that it is leaving", now)
	}
	if e.leaving() || e.override != nil && e.override.Kind == OverrideEject {
		return
	}
	if e.shadowed() && r.state != outlier.In && r.state != outlier.Draining {
		t.endTrial(r)
		t.set(e, r, outlier.In, r.rule, "the service is in shadow mode, where only an operator takes share from an endpoint", now)
		return
	}
	switch r.state {
	case outlier.Draining:
		t.set(e, r, outlier.In, outlier.RuleNone, "it stays after all", now)
		e.susp.shutUntil = now + witnessFor // what failed while it was leaving is no news
	case outlier.In:
		t.forgive(e, r, now)
	case outlier.Suspended:
		t.keepSuspended(e, r, now)
	case outlier.Ejected:
		if r.rule == outlier.RuleHard && t.answeredSince(e, r, now) {
			r.ends = now // a request that began after the verdict was answered: do not wait
		}
		if now < r.ends {
			t.due(r.ends)
			return
		}
		t.set(e, r, outlier.Probing, r.rule, "it has waited long enough, and is probed", now)
		t.probeAgain(e, r, now)
	case outlier.Probing:
		t.probing(e, r, now)
	case outlier.Probation:
		t.probation(e, r, now)
	case outlier.Ramp:
		if ends := r.since + e.group.service.policy.Outlier.Ramp; now < ends {
			t.due(ends)
			return
		}
		t.set(e, r, outlier.In, r.rule, "it has its full share again", now)
	}
}

// forgive takes one ejection off the record for each healthy minute in which
// somebody saw the endpoint well.
func (t *Table) forgive(e *endpoint, r *record, now time.Duration) {
	if r.n == 0 || now < r.forgave+forgive {
		return
	}
	if max(e.lastOK, e.idle.goodAt) > r.forgave {
		r.n--
		r.forgave = now
		if r.n == 0 {
			r.fault = 0
		}
	}
}

// answeredSince says whether a request that began after the verdict succeeded.
func (t *Table) answeredSince(e *endpoint, r *record, now time.Duration) bool {
	if e.lastOK <= r.since {
		return false
	}
	for i := range e.cells {
		c := &e.cells[i]
		if rep := t.slots[c.reporter]; (r.scope == Fleet || rep.Zone == string(r.scope)) && c.okStart > r.since+max(clockMargin, rep.jitter) && !rep.domain.muted(now) {
			return true
		}
	}
	return false
}

// probeAgain asks three fault domains whether the endpoint answers.
func (t *Table) probeAgain(e *endpoint, r *record, now time.Duration) {
	level := outlier.LevelApp // the deepest that a prober can
	try := fmt.Sprint(r.epoch, now)
	chosen := t.choose(t.probers(e, string(r.scope), now), recoveryProbes, func(c *reporter) uint64 {
		return hash64(t.seed, "recovery", e.Key.Service, e.Key.Instance, try, c.ID)
	})
	if len(chosen) == 0 && r.rule == outlier.RuleManual && !e.group.service.heard() {
		// A fleet that only takes our word, and gives none: the operator's has to do.
		t.ramp(e, r, rampFrom, "an operator's order is over, and nobody reports who could test it", now)
		return
	}
	if len(chosen) == 0 || !t.probes.has(now, len(chosen)) {
		r.ends = now + time.Second // nobody can tell at the moment
		t.due(r.ends)
		return
	}
	for _, c := range chosen {
		r.orders = append(r.orders, t.order(e, c, level, reasonRecovery, r.scope, now))
	}
	r.ends = never
}

// heard says whether anybody reports of the service.
func (s *service) heard() bool {
	return slices.ContainsFunc(s.reporters, func(r *reporter) bool { return r.live })
}

func (t *Table) probing(e *endpoint, r *record, now time.Duration) {
	if len(r.orders) == 0 {
		if now < r.ends {
			t.due(r.ends)
			return
		}
		t.probeAgain(e, r, now)
		return
	}
	t.news(e, r.orders, now)
	good, asked, open := 0, 0, 0
	r.probed = r.orders
	r.explain.Probes = probeAnswers(r.probed, now)
	for _, o := range r.orders {
		switch {
		case !o.done && now < o.deadline:
			open++
			asked++
		case !o.done || o.result == outlier.NotRun:
		default:
			asked++
			if o.result == outlier.ProbeOK {
				good++
			}
		}
	}
	if asked > 0 && good >= min(recoveryGood, asked) && (open == 0 || good >= recoveryGood) {
		e.idle.goodAt = max(e.idle.goodAt, now)
		t.cancel(r.orders)
		if r.rule == outlier.RuleIdle {
			// Nobody sends requests that could put it to the test; pings took it out
			// and pings bring it back.
			t.ramp(e, r, rampFrom, "it answers pings again", now)
			return
		}
		t.beginProbation(e, r, "probes succeeded, and a few real requests test it", now)
		return
	}
	if open > 0 {
		return
	}
	if r.rule != outlier.RuleIdle && !slices.ContainsFunc(r.orders, func(o *order) bool { return !o.done || o.result != outlier.NotRun }) {
		t.beginProbation(e, r, "nobody can probe it, and a few real requests test it", now)
		return
	}
	t.cancel(r.orders)
	r.orders = nil
	limit := e.group.service.policy.Outlier.HoldMax
	if r.rule == outlier.RuleHard {
		limit = min(limit, hardRetry)
	}
	r.wait = min(2*r.wait, limit)
	r.ends = now + jittered(r.wait, e.group.service.policy.Outlier.Jitter, hash64(t.seed, "wait", e.Key.Service, e.Key.Instance, fmt.Sprint(now)))
	t.due(r.ends)
}

func (t *Table) ramp(e *endpoint, r *record, from float64, reason string, now time.Duration) {
	t.endTrial(r)
	e.closeRows(r.scope, now)
	t.set(e, r, outlier.Ramp, r.rule, reason, now)
	r.rampFrom = from
	t.amend(e, r)
	t.due(now + e.group.service.policy.Outlier.Ramp)
}

// appeared lets a new instance rise to its share like one that comes back.
func (t *Table) appeared(e *endpoint, now time.Duration) {
	e.newAt = never
	if e.fleet.state == outlier.In && !e.leaving() && !e.shadowed() {
		t.ramp(e, &e.fleet, rampFrom, "it is a new instance", now)
	}
}

// restarted is the fast path for an instance that was started again: what was known of
// it is void, and real requests may test it at once. One that keeps restarting is no
// new process each time but a sick one: it keeps its record and the evidence.
func (t *Table) restarted(e *endpoint, now time.Duration) {
	e.restartedAt = never
	e.restarts = append(slices.DeleteFunc(e.restarts, func(at time.Duration) bool { return now-at > restartWindow }), now)
	t.event(EventRestarted, e, "", "the instance was restarted", now)
	often := len(e.restarts) >= restartMany
	if !often {
		e.closeRows(Fleet, now)
		t.endRound(e)
		e.susp.shutUntil, e.susp.doubted, e.susp.confirmed = never, nil, never
		e.susp.unsolved = solved
	}
	for _, r := range e.records() {
		if often {
			continue
		}
		r.n, r.fault = 0, 0
		switch {
		case r.state != outlier.Ejected && r.state != outlier.Probing, e.leaving(), r.rule == outlier.RuleManual:
		case r.rule == outlier.RuleIdle:
			// Nobody sends requests that could put it to the test.
			if r.state == outlier.Ejected {
				r.ends = now
			}
		default:
			t.beginProbation(e, r, "the instance was restarted", now)
		}
	}
}

// records lists the standing of e in every scope.
func (e *endpoint) records() []*record {
	list := []*record{&e.fleet}
	for _, z := range e.zones {
		list = append(list, &z.rec)
	}
	return list
}
