package outlier

import "time"

const (
	doubtNoSuspend = 4               // lhm from which we suspend nobody
	silenceMost    = 2 * time.Second // of what an endpoint's own rhythm may ask for
	silenceGaps    = 3
)

// watchWaiting counts the member's attempts that await headers, by age.
func (d *Detector) watchWaiting(m *member, now time.Duration, r *Result) {
	w := &m.wait
	w.overdue, w.young, w.newest = 0, 0, Never
	if delta := m.now.Cens - m.before.Cens; delta > 0 {
		w.censored = append(w.censored, censored{now + d.overdue, int(delta)})
	}
	for len(w.censored) > 0 && w.censored[0].until <= now {
		w.censored = w.censored[1:]
	}
	for _, c := range w.censored {
		w.overdue += c.n
	}
	m.ep.ring.moveOld(now)
	if m.ep.Inflight() > 0 {
		d.countWaiting(m, now, r)
	} else {
		w.late = w.late[:0]
	}
	if w.overdue == 0 || m.Draining {
		return
	}
	d.active = true
	r.Urgency = UrgencyHard
}

func (d *Detector) countWaiting(m *member, now time.Duration, r *Result) {
	w := &m.wait
	// An attempt that began long before the newest answer was left behind by
	// an earlier stall, or is slow by nature: it says nothing of now.
	since := m.answerEnd()
	if since != Never {
		since -= d.overdue
	}
	cur := epoch(now)
	if since <= time.Duration(cur-min(cur, ringOld))*ringWidth {
		w.overdue += max(0, int(m.ep.ring.old.Load()))
	}
	for age := uint64(0); age < ringOld && age <= cur; age++ {
		n, part := m.ep.ring.slot(cur - age).waiting()
		if n == 0 {
			continue
		}
		began := time.Duration(cur-age) * ringWidth
		if began < since {
			continue
		}
		// Wholly older: even the last that began in this slot is overdue.
		if due := began + time.Duration(part+1)*ringPart + d.overdue; due > now {
			w.young += n
			r.wakeAt(due)
			continue
		}
		w.overdue += n
		w.newest = max(w.newest, began)
	}
	d.countLate(m, since, now)
	if w.overdue+w.young > 0 {
		r.wakeAt(time.Duration(cur+1)*ringWidth + time.Millisecond)
	}
}

// lateEvery is how far apart the marks of attempts on slow routes are.
const lateEvery = 50 * time.Millisecond

// countLate counts those that await headers on routes that are slow by nature. They
// are not told apart by age; but of those that had begun by an instant, no fewer
// wait than have not been answered by now. since is when an attempt must have begun
// to say something.
func (d *Detector) countLate(m *member, since, now time.Duration) {
	w := &m.wait
	begun := m.ep.lateBegun.Load()
	answered := m.ep.lateAnswered.Load() // later: more may have been answered, never fewer
	if begun == answered {
		w.late = w.late[:0]
		return
	}
	if n := len(w.late); n == 0 || now-w.late[n-1].at >= lateEvery {
		w.late = append(w.late, lateMark{now, begun})
	}
	old := 0
	for len(w.late) > 1 && now-w.late[1].at >= d.overdueLate {
		w.late = w.late[1:]
	}
	if mark := w.late[0]; now-mark.at >= d.overdueLate && mark.at >= since {
		if old = int(int32(mark.begun - answered)); old > 0 {
			w.overdue += old
			w.newest = max(w.newest, mark.at)
		}
	}
	w.young += max(0, int(int32(begun-answered))-max(0, old))
}

// suspendOverdue takes out, reversibly, what has stopped to answer. Overdue
// attempts are no failures: they may still be answered, and impatient clients
// that give up before their timeout must not hide a hang.
func (d *Detector) suspendOverdue(now time.Duration, r *Result) {
	for _, m := range d.members {
		l := &m.record
		if l.state == Suspended {
			if m.ep.answer.Load()>>spanEnd != l.suspended>>spanEnd {
				d.resume(m, now, r)
			}
			continue
		}
		if !m.judged() || l.state.Out() || d.astray || !d.stalled(m, now, r) {
			continue
		}
		refusal := refusedDoubt
		if d.self.LHM() < doubtNoSuspend {
			refusal = d.allow(m, RuleStalled, now, r)
		}
		if refusal != "" {
			d.refuse(m, Suspended, RuleStalled, refusal, now, r)
			continue
		}
		resume := In
		if l.state == Ramp {
			resume = Ramp
		}
		explain := d.explain(m, RuleStalled, now)
		explain.Checks, explain.Next = d.checks(m, RuleStalled, "", &explain), "the first answer ends it"
		c := m.becomes(Suspended, RuleStalled, now)
		l.resume, l.suspended, l.severity = resume, m.ep.answer.Load(), m.score()
		m.doubted = true
		c.Explain = explain
		r.Changes = append(r.Changes, c)
	}
}

// resume ends a suspension. Nothing is recorded; a ramp begins anew.
func (d *Detector) resume(m *member, now time.Duration, r *Result) {
	explain := d.explain(m, RuleStalled, now)
	explain.Reason = "an answer came"
	c := m.becomes(m.record.resume, RuleStalled, now)
	c.Explain = explain
	m.record.rampAt, m.record.rampFrom = now, rampStart
	m.ep.settle(now) // the answers that were late are late no more
	r.Changes = append(r.Changes, c)
}

// stalled says whether the attempts that wait say that the endpoint does not
// answer. It sets the Step at which silence will have lasted long enough.
func (d *Detector) stalled(m *member, now time.Duration, r *Result) bool {
	w := &m.wait
	// One overdue attempt is enough only if no other will tell soon.
	if w.overdue == 0 || (w.overdue == 1 && w.young > 0) {
		return false
	}
	end := m.answerEnd()
	if end == Never {
		return true
	}
	silence := d.cfg.StallSilence
	if oks := m.oks.mean(); oks > 0 {
		gaps := time.Duration(silenceGaps / oks * float64(time.Second))
		silence = max(silence, min(gaps, silenceMost))
	}
	if due := end + silence; due > now {
		r.wakeAt(due)
		return false
	}
	return true
}
