package outlier

import "time"

const (
	hardWait     = 5 * time.Second // the longest wait between probes after a hard cause
	secondGood   = 200 * time.Millisecond
	undecided    = 60 * time.Second // probation without a decision: the share doubles
	healthyFor   = 60 * time.Second // takes one ejection off the record
	hardOKs      = 3
	hardProbes   = 2
	hardRampFrom = 0.25
	fairShare    = 0.1 // of its fair share, on probation
)

// recover moves a member on its way back: hold-off, probe, probation, ramp.
// No timer alone restores traffic.
func (d *Detector) recover(m *member, now time.Duration, r *Result) {
	if m.Draining {
		return
	}
	l := &m.record
	switch l.state {
	case In, Ramp:
		d.advance(m, now, r)
		return
	case Suspended:
		return
	}
	if m.fleet.state().Out() {
		return // the control plane brings it back; ours waits
	}
	d.active = true
	switch l.state {
	case Ejected:
		answered := l.cause == RuleHard && m.answerEnd() > l.since
		if now < l.until && !answered {
			r.wakeAt(l.until)
			return
		}
		c := m.becomes(Probing, l.cause, now)
		l.probeAt, l.probeLost, l.probes, l.good = now, 0, 0, 0
		l.probeWait = l.hold
		c.Explain = d.explain(m, l.cause, now)
		c.Explain.Next, c.Explain.NextAt = "a probe that is answered lets a few requests test it", now
		r.Changes = append(r.Changes, c)
		d.probe(m, now, r)
	case Probing:
		d.probe(m, now, r)
	case Probation:
		d.probe(m, now, r)
		d.try(m, now, r)
	}
}

// advance ends a ramp, and lets the record fade while all is well.
func (d *Detector) advance(m *member, now time.Duration, r *Result) {
	l := &m.record
	if l.state == Ramp {
		d.active = true
		if now-l.rampAt >= d.cfg.Ramp {
			c := m.becomes(In, l.cause, now)
			l.healthy = now
			c.Explain = d.explain(m, l.cause, now)
			r.Changes = append(r.Changes, c)
		}
		return
	}
	if l.ejections > 0 && now-l.healthy >= healthyFor && m.alive() > now-healthyFor {
		l.ejections--
		l.healthy = now
	}
}

// probe sends the next probe of a recovery when it is due.
func (d *Detector) probe(m *member, now time.Duration, r *Result) {
	l := &m.record
	if l.probeLost != 0 && now >= l.probeLost {
		l.probeLost, l.probeAt = 0, now // its result is not coming
	}
	if l.probeLost != 0 || l.probeAt == Never {
		return
	}
	if now < l.probeAt {
		r.wakeAt(l.probeAt)
		return
	}
	if !d.probes.take(float64(d.cfg.ProbeRate), now) {
		return // at the next Step
	}
	l.probes++
	l.probeLost = now + d.probeTimeout() + probeGrace
	r.Probes = append(r.Probes, Probe{ID: m.ID, Level: l.level, Timeout: d.probeTimeout(), N: l.probes})
}

// probeAgain has an endpoint that was ejected from here probed at once.
func (d *Detector) probeAgain(m *member, now time.Duration) {
	l := &m.record
	d.pending = append(d.pending, m.becomes(Probing, l.cause, now))
	l.probeAt, l.probeLost, l.probes, l.good = now, 0, 0, 0
	l.probeWait, l.vouched = l.hold, true
}

// recoveryProbed takes in the result of a recovery's probe.
func (d *Detector) recoveryProbed(m *member, res ProbeResult, end time.Duration) {
	l := &m.record
	l.probeLost, l.probeAt = 0, Never
	switch {
	case res == NotRun:
		l.probeAt = end + firstProbe
	case res != ProbeOK:
		l.good = 0
		l.failed = l.state == Probation
		longest := d.cfg.HoldMax
		if l.cause == RuleHard {
			longest = min(longest, hardWait)
		}
		l.probeAt = end + min(l.probeWait, longest)
		l.probeWait = min(2*l.probeWait, longest)
	default:
		l.good++
		if l.state == Probing {
			d.beginProbation(m, end)
		}
	}
}

// reinstate ends a local ejection without a test of its own: the fleet tests, or
// has tested, and a probe of ours has shown that the way is there.
func (d *Detector) reinstate(m *member, now time.Duration) {
	l := &m.record
	d.pending = append(d.pending, m.becomes(In, l.cause, now))
	m.record = record{healthy: now, since: now, rule: l.rule}
	m.forget(now)
}

// beginProbation follows the first good probe. A hard cause asks for a second.
func (d *Detector) beginProbation(m *member, now time.Duration) {
	l := &m.record
	if l.vouched {
		// The fleet's probation has shown that it is well; our probe, that we reach it.
		d.reinstate(m, now)
		return
	}
	c := m.becomes(Probation, l.cause, now)
	m.forget(now)
	m.errorRate = FirstErrorRate
	l.trial, l.trialAt, l.doubled, l.failed = m.ep.Counts(), now, now, false
	l.earlier = int64(m.ep.Inflight())
	l.share = fairShare
	if fair := m.group.fairRate(); fair > 0 {
		l.share = min(fairShare, d.cfg.ProbationRate/fair)
	}
	if l.cause == RuleHard || l.cause == RuleIdle {
		l.probeAt = now + secondGood
	}
	c.Explain = d.explain(m, l.cause, now)
	c.Explain.Next = "a few real requests decide"
	d.pending = append(d.pending, c)
	d.stale = true
}

// try decides a probation: by the sequential test, or sooner where the cause
// was that nothing answered and now everything does.
func (d *Detector) try(m *member, now time.Duration, r *Result) {
	l := &m.record
	delta := m.now.Sub(l.trial)
	t := delta.Tally()
	// What was in flight before, and now runs into its timeout, tells of then.
	earlier := min(l.earlier, int64(delta.Timeout))
	t.N, t.K = t.N-earlier, t.K-earlier
	score := ProbationStart + d.trialSteps(m).LLR(t.N, t.K)
	// Nothing was sent for a whole hold-off before: what is overdue in the slot
	// of the trial's beginning is of the trial.
	hung := m.wait.newest > l.trialAt-ringWidth && m.answerEnd() <= m.wait.newest
	proven := l.good >= hardProbes && t.K == 0
	switch {
	case score >= ProbationOut, hung, l.failed:
		rule := l.cause
		explain := d.explain(m, rule, now)
		explain.Score, explain.Threshold = score, ProbationOut
		d.eject(m, rule, explain, now, r)
	case score <= 0:
		d.ramp(m, rampStart, now, r)
	case proven && l.cause == RuleHard && t.N >= hardOKs, proven && l.cause == RuleIdle:
		d.ramp(m, hardRampFrom, now, r)
	case now-l.doubled >= undecided:
		l.share, l.doubled = min(1, 2*l.share), now
	}
}

// trialSteps are what the attempts of a trial are worth. While the whole group
// suffers no fault is told from another, and the fast test's odds, which rise with
// it, decide.
func (d *Detector) trialSteps(m *member) Steps {
	if m.w > groupSuffers {
		return m.odds.Steps()
	}
	return TrialOdds(m.odds, m.group.pg, m.record.fault).Steps()
}

// learnFault notes at which rate a member fails that is about to be ejected. Where a
// trial had let it back in, that trial could not tell the fault: the next one looks
// for half of it.
func (m *member) learnFault(rule Rule) {
	l := &m.record
	switch {
	case l.state == Probation: // the fault that it was tried for has shown itself
	case !rule.asksGroup():
		l.fault = 1
	case l.ejections == 0 || l.fault == 1:
		l.fault = m.now.Sub(m.exc.base).Tally().Rate()
	default:
		l.fault = min(l.fault/2, m.now.Sub(m.exc.base).Tally().Rate())
	}
}

// ramp lets a member back in, with a share that rises.
func (d *Detector) ramp(m *member, from float64, now time.Duration, r *Result) {
	l := &m.record
	c := m.becomes(Ramp, l.cause, now)
	l.rampFrom, l.rampAt = from, now
	m.forget(now)
	c.Explain = d.explain(m, l.cause, now)
	c.Explain.Next, c.Explain.NextAt = "it has its full share", now+d.cfg.Ramp
	r.Changes = append(r.Changes, c)
}
