package outlier

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// View is what the picker may use, in the order of the members. The slice is
// never changed afterwards.
func (d *Detector) View() []Admission {
	if d.stale {
		d.refresh(d.now)
	}
	return d.view
}

// plain says whether nothing keeps the member from its full share, now or later.
func (m *member) plain() bool {
	return m.record.state == In && m.fleet.state() == In && !m.slow.alarmed && m.slow.weighed == (Weight{}) && !m.Draining
}

// refresh computes the view and says whether it differs.
func (d *Detector) refresh(now time.Duration) bool {
	d.stale = false
	view := slices.Grow(d.spare[:0], len(d.members))
	for _, m := range d.members {
		view = append(view, d.admit(m, now))
	}
	d.failOpen(view)
	if slices.Equal(view, d.view) {
		d.spare = view
		return false
	}
	d.view, d.spare = view, nil // it is published, and never touched again
	return true
}

// admit combines the local belief with the central one, towards avoiding:
// the smaller of both shares counts.
func (d *Detector) admit(m *member, now time.Duration) Admission {
	a := Admission{ID: m.ID, State: In, Weight: 1}
	switch {
	case m.plain():
		return a
	case m.Draining:
		return Admission{ID: m.ID, State: Draining}
	case d.cfg.Mode == Shadow:
		if m.fleet.verdict.Rule == RuleManual { // an operator's order is no part of the policy that is tried
			a.avoid(d.fleetShare(m, now))
		}
		return a
	}
	a.Weight = m.slow.share(now)
	a.avoid(d.localShare(m, now))
	a.avoid(d.fleetShare(m, now))
	return a
}

// avoid lowers a to b, if b is lower.
func (a *Admission) avoid(b Admission) {
	if b.State == In {
		return
	}
	if a.State == In || b.Weight < a.Weight || (b.Weight == a.Weight && b.Trickle > a.Trickle) {
		a.State = b.State
	}
	a.Weight = min(a.Weight, b.Weight)
	a.Trickle = max(a.Trickle, b.Trickle)
}

func (d *Detector) localShare(m *member, now time.Duration) Admission {
	l := &m.record
	switch l.state {
	case Suspended:
		return Admission{State: Suspended, Weight: d.cfg.Trickle, Trickle: d.trickle(m)}
	case Probation:
		return Admission{State: Probation, Weight: l.share}
	case Ramp:
		return Admission{State: Ramp, Weight: rampShare(l.rampFrom, l.rampAt, d.cfg.Ramp, now)}
	default: // In; Ejected and Probing, whose weight is 0
		return Admission{State: l.state}
	}
}

// trickle is the gap that gives a suspended endpoint its small share of what
// would be fair, and one attempt per second at least.
func (d *Detector) trickle(m *member) time.Duration {
	if d.cfg.Trickle <= 0 {
		return time.Second
	}
	perSecond := d.cfg.Trickle * m.group.fairRate()
	if perSecond <= 1 {
		return time.Second
	}
	return time.Duration(float64(time.Second) / perSecond).Round(time.Millisecond)
}

// fairRate is the attempts per second that each counted member would get if
// all were well.
func (g *group) fairRate() float64 {
	n, rate := 0, 0.0
	for _, m := range g.members {
		if m.counted() {
			n++
			rate += m.rate.mean()
		}
	}
	if n == 0 {
		return 0
	}
	return rate / float64(n)
}

func (d *Detector) fleetShare(m *member, now time.Duration) Admission {
	f := &m.fleet
	switch state := f.state(); state {
	case In:
		return Admission{}
	case Ramp:
		return Admission{State: Ramp, Weight: rampShare(f.verdict.RampFrom, f.at, d.cfg.Ramp, now)}
	case Probation:
		if f.shared(now) && f.check == shareGood {
			return Admission{State: Probation, Weight: f.weight}
		}
		return Admission{State: Probation}
	case Suspended:
		if f.shared(now) {
			return Admission{State: Suspended, Weight: d.cfg.Trickle, Trickle: time.Duration(float64(time.Second) / f.weight).Round(time.Millisecond)}
		}
		return Admission{State: Suspended}
	default:
		return Admission{State: state}
	}
}

// failOpen keeps the picker from running dry, for each priority: while less
// than the panic share is usable, the least bad of what is out is used all
// the same, suspended before ejected for soft reasons, the fleet's verdicts after
// one's own, lowest score first. What refuses connections is used only where there
// is nothing else at all, and what drains only when everything drains.
func (d *Detector) failOpen(view []Admission) {
	usable := false
	for _, g := range d.groups {
		if d.takeBack(g, view, false) {
			usable = true
		}
	}
	for _, g := range d.groups {
		if usable {
			return
		}
		usable = d.takeBack(g, view, true)
	}
	if !usable {
		for i := range view {
			view[i].Weight, view[i].Trickle, view[i].Panic = 1, 0, true
		}
	}
}

// takeBack fills one priority up to the panic share, and says whether anything
// in it can be used. last says that nothing else can.
func (d *Detector) takeBack(g *group, view []Admission, last bool) bool {
	n, usable := 0, 0
	var spare []*member
	for _, m := range g.members {
		if !m.counted() {
			continue
		}
		n++
		a := view[m.at]
		if a.Weight > 0 && !a.State.Out() {
			usable++
			continue
		}
		if last || !m.hardDown() {
			spare = append(spare, m)
		}
	}
	need := int(math.Ceil(d.cfg.Panic * float64(n)))
	if last {
		need = max(1, need)
	}
	if usable >= need || len(spare) == 0 {
		return usable > 0
	}
	slices.SortFunc(spare, func(a, b *member) int {
		return cmp.Or(cmp.Compare(a.badness(), b.badness()), cmp.Compare(a.hope(), b.hope()), cmp.Compare(a.record.severity, b.record.severity), cmp.Compare(a.ID, b.ID))
	})
	for _, m := range spare[:min(len(spare), need-usable)] {
		view[m.at].Weight, view[m.at].Trickle, view[m.at].Panic = 1, 0, true
	}
	return true
}

// hardDown says that the endpoint was taken out because it does not answer
// at all, or on an operator's word.
func (m *member) hardDown() bool { return m.badness() == 2 }

// badness orders what panic takes back: 0 suspended, 1 soft, 2 hard.
func (m *member) badness() int {
	bad := 0
	if m.record.state.Out() && m.record.state != Suspended {
		bad = severityOf(m.record.cause)
	}
	if s := m.fleet.state(); s.Out() && s != Suspended {
		bad = max(bad, severityOf(m.fleet.verdict.Rule))
	}
	return bad
}

// hope orders the equally bad: what is out only by its own observer's belief comes before
// what the whole fleet has left, since that may be his own fault; of each, what tests have
// begun on, then what is probed, then the rest.
func (m *member) hope() int {
	further := func(s State) int {
		switch s {
		case Probation:
			return 0
		case Probing:
			return 1
		}
		return 2
	}
	if s := m.fleet.state(); s.Out() {
		return 3 + further(s)
	}
	return further(m.record.state)
}

func severityOf(r Rule) int {
	if r == RuleHard || r == RuleIdle || r == RuleManual {
		return 2
	}
	return 1
}
