package outlier

import "time"

// A hard failure opens a suspicion: two probes of our own, at most 20 and 120 ms
// later. Both hard, with no answer in between: the endpoint is down, and no
// more evidence is waited for. Waiting, not voting, is what makes this safe:
// one reset connection, a listener that restarts and a full accept queue look
// the same for a moment (SWIM; Das, Gupta, Motivala 2002).
const (
	firstProbe  = 20 * time.Millisecond
	secondProbe = 120 * time.Millisecond
	// answerMargin is by how much an attempt must have begun after the failure
	// for its answer to contradict it.
	answerMargin = 20 * time.Millisecond
	// probeGrace is how long past its timeout a result may still come.
	probeGrace = time.Second
	// After a contradiction the hard path is shut for a while: longer after
	// three in a row, so that an endpoint that resets now and then is not probed
	// all day.
	shutOnce    = time.Second
	shutOften   = 10 * time.Second
	oftenInARow = 3
	// confirmedFor is how long a confirmed suspicion may wait for room under the cap.
	confirmedFor = 2 * time.Second
	// hardNews is for how long a hard failure is news.
	hardNews = time.Second
)

// suspicion is the open question whether an endpoint is down.
type suspicion struct {
	open   bool
	at     time.Duration // end of the failure that opened it
	level  Level
	due    [2]time.Duration
	sent   int
	back   int // results that came
	failed int // of these hard
	expire time.Duration

	hint   uint64 // the hard failure of the latest probe for a hint
	hinted bool   // it was that which opened this one

	seen       uint64        // the newest hard failure that was looked at
	shut       time.Duration // no new suspicion before
	overturned int           // contradictions in a row
}

func (s *suspicion) confirmed() bool { return s.open && s.failed >= len(s.due) }

// close ends it. contradicted says that the endpoint was seen to be well.
func (s *suspicion) close(now time.Duration, contradicted bool) {
	*s = suspicion{seen: s.seen, shut: now + shutOnce, overturned: s.overturned}
	if !contradicted {
		s.overturned = 0
		return
	}
	if s.overturned++; s.overturned >= oftenInARow {
		s.shut = now + shutOften
	}
}

// watchSuspicion opens a suspicion at hard news, sends its probes, and closes
// it when an answer contradicts it.
func (d *Detector) watchSuspicion(m *member, now time.Duration, r *Result) {
	s := &m.suspect
	word := m.ep.hard.Load()
	_, end := unspan(word)
	fresh := word != s.seen
	s.seen = word
	if m.Draining {
		return
	}
	if end != Never && now-end < hardNews {
		d.active = true
		r.Urgency = UrgencyHard
	}
	if !m.judged() || (m.record.state.Out() && m.record.state != Suspended) {
		s.open = false
		return
	}
	if fresh && !s.open && now >= s.shut {
		s.open, s.at, s.level, s.hinted = true, end, Level(word&3), word == s.hint
		s.due = [2]time.Duration{now + d.upTo(firstProbe), now + d.upTo(secondProbe)}
		s.expire = s.due[1] + d.probeTimeout() + probeGrace
	}
	if !s.open {
		return
	}
	if start, _ := unspan(m.ep.answer.Load()); start > s.at+answerMargin {
		s.close(now, true)
		return
	}
	if now >= s.expire {
		s.close(now, false)
		return
	}
	d.active = true
	if s.sent < len(s.due) {
		if now < s.due[s.sent] {
			r.wakeAt(s.due[s.sent])
			return
		}
		s.sent++
		if !d.probes.take(float64(d.cfg.ProbeRate), now) {
			s.back++ // not made; the other one may still tell something
			return
		}
		r.Probes = append(r.Probes, Probe{ID: m.ID, Level: s.level, Timeout: d.probeTimeout(), N: s.sent})
		if s.sent < len(s.due) {
			r.wakeAt(s.due[s.sent])
		}
	}
}

// probeTimeout is how long a probe waits: no longer than an answer may take.
func (d *Detector) probeTimeout() time.Duration { return min(d.cfg.ProbeTimeout, d.overdue) }

// upTo is jitter that never makes it later: a crash is to be confirmed within 150 ms.
func (d *Detector) upTo(t time.Duration) time.Duration {
	return time.Duration(float64(t) * (1 - d.cfg.Jitter*d.rng.Float64()))
}

func (d *Detector) jitter(t time.Duration) time.Duration {
	j := d.cfg.Jitter
	return time.Duration(float64(t) * (1 - j + 2*j*d.rng.Float64()))
}

// Probed brings back the result of a probe, our own or one that the control
// plane ordered: level is how deep it reached for, start and end are its
// instants. A good probe lowers no score, because an endpoint that accepts
// may still fail its requests; a failed one counts as an attempt. Step should
// follow.
func (d *Detector) Probed(id string, level Level, res ProbeResult, start, end time.Duration) {
	d.now = max(d.now, end)
	m := d.byID[id]
	if m == nil {
		return
	}
	if res == ProbeOK {
		m.idle.pinged = max(m.idle.pinged, end)
		m.ep.forgive()
	}
	d.shareProbed(m, res)
	switch m.record.state {
	case Ejected, Probing, Probation:
		d.recoveryProbed(m, res, end)
		return
	}
	if m.fleet.state() != Suspended || res.Hard() { // else it is known, and no evidence for more
		d.countProbe(m, res, start, end)
	}
	m.suspect.probed(level, res, start, end)
	if res == ProbeOK && level == LevelApp && m.record.state == Suspended {
		m.ep.answered(start, end)
	}
}

// Suspects says whether it is an open question if a member is down: then whoever asks
// has been asked.
func (d *Detector) Suspects(id string) bool {
	m := d.byID[id]
	return m != nil && m.suspect.open
}

// Hinted brings back the result of a probe that something else than an attempt gave
// reason for, such as idle connections that the endpoint closed. A failure is one
// attempt, which opens a suspicion as any other does, and confirms none. Step should
// follow.
func (d *Detector) Hinted(id string, level Level, res ProbeResult, start, end time.Duration) {
	if res == ProbeOK {
		d.Probed(id, level, res, start, end)
		return
	}
	d.now = max(d.now, end)
	if m := d.byID[id]; m != nil && !m.record.state.Out() {
		d.countProbe(m, res, start, end)
		if res.Hard() {
			m.suspect.hint = m.ep.hard.Load()
		}
	}
}

// probed takes a result into an open suspicion.
func (s *suspicion) probed(level Level, res ProbeResult, start, end time.Duration) {
	if !s.open {
		return
	}
	if res == ProbeOK && level >= s.level && start > s.at {
		s.close(end, true)
		return
	}
	if s.back < s.sent {
		s.back++
	}
	if res.Hard() {
		s.failed++
	}
	if s.back == len(s.due) {
		if s.failed >= len(s.due) {
			s.expire = end + confirmedFor
			return
		}
		s.close(end, false)
	}
}

// countProbe books a failed probe as an attempt of our own.
func (d *Detector) countProbe(m *member, res ProbeResult, start, end time.Duration) {
	class := res.class()
	if class == Ignore || m.Draining {
		return
	}
	m.ep.broke.Store(0) // a connection of its own, whatever broke just before
	a := m.ep.Start(start, false)
	m.ep.End(&a, Outcome{Class: class, Now: end, Level: res.Level()})
}
