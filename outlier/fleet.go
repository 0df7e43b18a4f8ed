package outlier

import "time"

const (
	// suspendLapse is how long a central suspension outlives the control plane.
	suspendLapse = 2 * time.Second
	// takeover is after how long without a control plane a sidecar brings back
	// on its own what was left out.
	takeover = 60 * time.Second
	// A ramp begins here and rises in this many steps.
	rampStart = 0.1
	rampSteps = 10
)

// central is what the control plane says about one endpoint, and how much of
// it holds.
type central struct {
	verdict  Verdict
	at       time.Duration // when the verdict's ramp began
	answered time.Duration // the newest answer that was looked at while it is suspended
	lapsed   bool          // the control plane is gone for too long
	finished bool          // the ramp is over

	epoch  uint64 // of the share
	weight float64
	until  time.Duration
	check  shareCheck
}

// shareCheck is the one probe that a share on probation may wait for.
type shareCheck uint8

const (
	shareUnchecked shareCheck = iota
	shareProbing
	shareGood
	shareBad
)

// state is the verdict as far as it holds.
func (c *central) state() State {
	if c.lapsed || c.finished {
		return In
	}
	return c.verdict.State
}

// shared says whether this sidecar may use what is out for others.
func (c *central) shared(now time.Duration) bool {
	return c.epoch == c.verdict.Epoch && c.weight > 0 && now < c.until && !c.lapsed
}

// Fleet brings a central verdict about one member. The control plane owns it:
// an earlier local record is absorbed, except a local hard ejection, which
// says something about the way from here that others cannot see. An older
// epoch is ignored; the zero verdict clears.
func (d *Detector) Fleet(id string, v Verdict, now time.Duration) {
	d.now = max(d.now, now)
	if m := d.byID[id]; m != nil {
		d.applyFleet(m, v, d.now)
	}
}

func (d *Detector) applyFleet(m *member, v Verdict, now time.Duration) {
	held := &m.fleet
	if v.Epoch < held.verdict.Epoch && v.Epoch != 0 {
		return
	}
	if held.verdict.State == v.State && held.verdict.Epoch == v.Epoch && held.verdict.Rule == v.Rule {
		if held.lapsed && !d.gone {
			held.lapsed = false
			d.stale = true
		}
		return
	}
	was := held.state()
	if held.epoch != v.Epoch {
		held.epoch, held.weight, held.check = 0, 0, shareUnchecked
	}
	held.verdict, held.at, held.lapsed, held.finished = v, now-v.RampAge, false, false
	d.stale = true
	m.watch()
	if was != v.State {
		d.pending = append(d.pending, Change{
			ID: m.ID, From: was, To: v.State, Rule: v.Rule, At: now, Fleet: true,
			Explain: Explanation{Rule: v.Rule, Reason: v.Reason, Epoch: v.Epoch},
		})
	}
	switch {
	case v.State.Out():
		m.suspect = suspicion{shut: m.suspect.shut}
		hardHere := m.record.state != Suspended && m.record.cause == RuleHard
		if m.record.state != In && !hardHere {
			d.pending = append(d.pending, m.becomes(In, v.Rule, now))
			m.record = record{healthy: now, since: now}
		}
		m.forget(now)
	case was.Out():
		m.forget(now)
		m.errorRate = FirstErrorRate
		if m.record.state.Out() {
			// Ejected hard from here. The fleet has shown that the endpoint is
			// well; one probe shows whether the way to it is.
			d.probeAgain(m, now)
		}
	}
}

// Share lets this sidecar use an endpoint that is out for the others: on
// probation with this share of its base weight, or suspended with this many
// attempts per second. It counts only with a verdict of the same epoch, until
// it lapses. Where our own newest news of the endpoint is bad, a share on probation
// begins after one good probe of ours.
func (d *Detector) Share(id string, epoch uint64, weight float64, until time.Duration) {
	m := d.byID[id]
	if m == nil {
		return
	}
	f := &m.fleet
	if f.epoch != epoch {
		f.check = shareUnchecked
	}
	f.epoch, f.weight, f.until = epoch, Clamp(weight, 0, 1), until
	d.stale = true
}

// SetWeight brings the weight that the fleet gives to an endpoint which is slow for
// all callers, with its reason; it holds beside our own belief, whichever is lower,
// until it lapses.
func (d *Detector) SetWeight(id string, w Weight, reason string, now time.Duration) {
	d.now = max(d.now, now)
	m := d.byID[id]
	if m == nil || d.cfg.Latency == LatencyOff {
		return
	}
	was := 1.0
	if d.now < m.slow.weighed.Until {
		was = m.slow.weighed.Share
	}
	w.Share = Clamp(w.Share, rampStart, 1)
	m.slow.weighed = w
	d.stale = true
	if w.Share != was {
		d.pending = append(d.pending, Change{
			ID: m.ID, From: m.record.state, To: m.record.state, Rule: RuleLatency, At: d.now, Fleet: true,
			Explain: Explanation{Rule: RuleLatency, Reason: reason, Weight: w.Share},
		})
	}
}

// CentralGone says that the control plane cannot be reached: what it
// suspended comes back after 2 s; what it took out is brought back by this
// sidecar's own recovery after 60 s.
func (d *Detector) CentralGone(now time.Duration) {
	if !d.gone {
		d.gone, d.goneAt = true, now
	}
}

// CentralBack ends CentralGone. What this sidecar took over stays its own
// until the control plane speaks of it again.
func (d *Detector) CentralBack(now time.Duration) { d.gone = false }

// shareProbed takes in the probe that a share on probation waits for.
func (d *Detector) shareProbed(m *member, res ProbeResult) {
	if m.fleet.check != shareProbing {
		return
	}
	switch res {
	case ProbeOK:
		m.fleet.check = shareGood
		if m.record.state.Out() {
			// Ejected hard from here: the way is there again, the test does the rest.
			d.reinstate(m, d.now)
		}
	case NotRun:
		m.fleet.check = shareUnchecked
	default:
		m.fleet.check = shareBad
	}
	d.stale = true
}

// followFleet lets central verdicts lapse, finish and be taken over.
func (d *Detector) followFleet(m *member, now time.Duration, r *Result) {
	f := &m.fleet
	switch f.state() {
	case Ramp:
		if now-f.at >= d.cfg.Ramp {
			f.finished = true
			r.Changes = append(r.Changes, Change{ID: m.ID, From: Ramp, To: In, Rule: f.verdict.Rule, At: now, Fleet: true})
		}
	case Suspended:
		if at := m.answerEnd(); at > max(f.at, f.answered) {
			f.answered = at
			r.Urgency = UrgencyHard // all others wait for this
		}
		if d.gone && now-d.goneAt >= suspendLapse {
			f.lapsed = true
			m.watch()
			r.Changes = append(r.Changes, Change{ID: m.ID, From: Suspended, To: In, Rule: f.verdict.Rule, At: now, Fleet: true})
		}
	case Ejected, Probing, Probation:
		if d.gone && now-d.goneAt >= takeover {
			was := f.state()
			f.lapsed = true
			r.Changes = append(r.Changes, Change{ID: m.ID, From: was, To: In, Rule: f.verdict.Rule, At: now, Fleet: true})
			if !m.record.state.Out() {
				m.record.ejections = max(1, m.record.ejections)
				m.record.cause, m.record.level = f.verdict.Rule, LevelApp
				m.record.fault = 1
				if f.verdict.Rule == RuleSlow {
					m.record.fault = 0 // the least that a trial can look for
				}
				m.record.hold, m.record.until = d.cfg.HoldBase, now
				r.Changes = append(r.Changes, m.becomes(Ejected, f.verdict.Rule, now))
			}
			return
		}
		d.checkShare(m, now, r)
	}
}

// checkShare asks for the probe that opens a share on probation, if there is a doubt
// that the endpoint can be reached from here. That it is up the fleet's probes have
// shown: where hundreds of sidecars with few requests each share in a test, a probe by
// each would be more than the test.
func (d *Detector) checkShare(m *member, now time.Duration, r *Result) {
	f := &m.fleet
	if f.verdict.State != Probation || !f.shared(now) {
		return
	}
	_, failed := unspan(m.ep.hard.Load())
	if f.check == shareUnchecked && !m.record.state.Out() && (failed == Never || failed < m.answerEnd()) {
		f.check = shareGood
		d.stale = true
		return
	}
	if f.check == shareUnchecked && d.probes.take(float64(d.cfg.ProbeRate), now) {
		f.check = shareProbing
		r.Probes = append(r.Probes, Probe{ID: m.ID, Level: LevelApp, Timeout: d.probeTimeout(), N: 1})
	}
}

// rampShare is where a ramp stands: from its start to full in ten steps.
func rampShare(from float64, began, length, now time.Duration) float64 {
	if from <= 0 {
		from = rampStart
	}
	done := Clamp(float64(now-began)/float64(length), 0, 1)
	return min(1, from+(1-from)*float64(int(done*rampSteps))/rampSteps)
}
