package outlier

import (
	"cmp"
	"slices"
	"time"
)

// idleProof is how long an answer protects from pings that fail.
const idleProof = 10 * time.Second

// idleBackoff is how soon a missed ping is repeated.
var idleBackoff = [...]time.Duration{
	250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second,
}

// idleness is what pings say about an endpoint without traffic: a belief that
// it is down, moved by each ping, as Trinocular does for networks.
type idleness struct {
	belief int64
	misses int           // in a row
	pinged time.Duration // the newest good ping or probe
	life   time.Duration // the answer that due rests on
	after  time.Duration // the silence after which it counts as idle
	due    time.Duration // of the next ping
	asked  time.Duration // not probed as a partner before
}

// heard notes the newest answer to a request, which says more than any ping.
func (i *idleness) heard(life time.Duration, d *Detector) {
	if life == i.life {
		return
	}
	i.life, i.after = life, d.jitter(d.cfg.IdleAfter)
	i.due = life + i.after
	i.belief, i.misses = BeliefRest, 0
}

// down says whether pings alone take the endpoint out: never against traffic.
func (i *idleness) down(answer, now time.Duration) bool {
	return i.belief >= BeliefDown && (answer == Never || now-answer >= idleProof)
}

// Pinged brings back the result of an idle ping, our own or a leased one. A
// ping that was refused is a hard failure like any other. Step should follow.
func (d *Detector) Pinged(id string, ok bool, res ProbeResult, now time.Duration) {
	d.now = max(d.now, now)
	m := d.byID[id]
	if m == nil || res == NotRun && !ok {
		return
	}
	i := &m.idle
	i.belief = Belief(i.belief, ok)
	if ok {
		i.misses, i.pinged = 0, max(i.pinged, now)
		i.due = now + d.jitter(d.cfg.IdleAfter)
		m.ep.forgive()
		return
	}
	i.due = now + idleBackoff[min(i.misses, len(idleBackoff)-1)]
	i.misses++
	if res.Hard() && !m.record.state.Out() {
		d.countProbe(m, res, now, now)
	}
}

// Idle lists the members that have not answered a request for a while, those
// that are due for a ping first.
func (d *Detector) Idle(now time.Duration) []IdleMember {
	idle := make([]IdleMember, 0, len(d.members))
	for _, m := range d.members {
		if m.Draining || m.out() && m.record.state != Suspended {
			continue
		}
		i := &m.idle
		i.heard(max(m.answerEnd(), m.joined), d)
		if now-i.life < i.after {
			continue
		}
		idle = append(idle, IdleMember{ID: m.ID, Silent: now - i.life, Belief: i.belief, Due: i.due})
	}
	slices.SortStableFunc(idle, func(a, b IdleMember) int {
		return cmp.Or(cmp.Compare(a.Due, b.Due), cmp.Compare(a.ID, b.ID))
	})
	return idle
}
