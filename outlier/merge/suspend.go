package merge

import (
	"fmt"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

const (
	// suspendFor is how long a suspend stands without new signs of a stall, beside the
	// time that the trickle needs to show one: see stands. Beyond standMost nobody has
	// requests that could show anything, and whoever has the next finds out.
	suspendFor = 2 * time.Second
	standMost  = 30 * time.Second
	// trickleSidecars go on trying a suspended endpoint, so that somebody notices when
	// it answers again; more of them, up to trickleMost, where those have too few
	// requests to make an attempt per trickleGap between them.
	trickleSidecars = 3
	trickleMost     = 30
	// trickleGap lies before the first turn; what goes on hanging is tried less and less
	// often, up to each trickleGapMost.
	trickleGap     = time.Second
	trickleGapMost = 4 * time.Second
	// trickleChance is the number of requests, as many as are the endpoint's fair
	// share, that the turn of a sidecar must let it expect: one of them is spent.
	trickleChance = 3
	// shareFor is when a share lapses that is not renewed, shareRenew how often it
	// is.
	shareFor   = 5 * time.Second
	shareRenew = 2 * time.Second
)

// suspend stops traffic reversibly: attempts hang at several fault domains and
// nobody has an answer.
func (t *Table) suspend(e *endpoint, s Scope, now time.Duration) {
	rec := e.record(s)
	t.endRound(e)
	if rec.state != outlier.In && rec.state != outlier.Ramp {
		return
	}
	c := &candidate{e: e, rule: outlier.RuleStalled, scope: s}
	c.reason = fmt.Sprintf("requests to it hang at %s, and nobody has an answer", machines(t.domainsOf(string(s), e.susp.stalled, e.susp.hard)))
	ok, detail := t.census(e.group).mayLeave(e, s, false, now)
	if !c.guard("cap", ok, "%s", detail) {
		t.refuse(c, "cap", now)
		e.susp.shutUntil = now + shutFor
		return
	}
	if e.shadowed() {
		t.refuse(c, "shadow", now)
		e.susp.shutUntil = now + shutFor
		return
	}
	rec.hung = e.susp.firstAt - e.susp.first.overdue(e)
	rec.explain = t.explainCandidate(c, now)
	t.set(e, rec, outlier.Suspended, outlier.RuleStalled, c.reason, now)
	t.tryAgain(e, rec, now)
	rec.ends = now + t.stands(e, rec.trial)
}

// keepSuspended renews or ends a suspend. The first answer ends it; so does the
// want of any sign that attempts still hang.
func (t *Table) keepSuspended(e *endpoint, rec *record, now time.Duration) {
	if at := t.answered(e, rec.scope, now); at > rec.since {
		if rec.hung != never {
			e.group.service.stalls.note(at-rec.hung, now)
		}
		t.endTrial(rec)
		t.set(e, rec, outlier.In, outlier.RuleStalled, "it answers again", now)
		return
	}
	t.tryAgain(e, rec, now)
	stands := t.stands(e, rec.trial)
	for _, i := range e.hot {
		x := e.cells[i].x
		stalled := x.overdueAt
		if x.probe == outlier.TimedOut {
			stalled = max(stalled, x.probeEnd)
		}
		if !t.slots[e.cells[i].reporter].domain.muted(now) {
			rec.ends = max(rec.ends, stalled+stands)
		}
	}
	if now >= rec.ends {
		t.endTrial(rec)
		t.set(e, rec, outlier.In, outlier.RuleStalled, "nothing hangs any more", now)
		return
	}
	t.due(rec.ends)
}

// answered is when an observer in the scope last had an answer.
func (t *Table) answered(e *endpoint, s Scope, now time.Duration) time.Duration {
	if s == Fleet {
		return max(e.lastOK, e.overAt)
	}
	at := never
	for i := range e.cells {
		if r := t.slots[e.cells[i].reporter]; r.Zone == string(s) && !r.domain.muted(now) {
			at = max(at, e.cells[i].lastOK)
		}
	}
	return at
}

// tryAgain finds out whether a suspended endpoint answers: by requests, and where the
// application is known to answer pings by these first.
func (t *Table) tryAgain(e *endpoint, rec *record, now time.Duration) {
	if rec.trial == nil {
		rec.trial = &trial{next: rec.since + trickleGap}
		t.chooseTricklers(e, rec, now) // of whose requests [Table.stands] goes by
	}
	tr := rec.trial
	if t.answersPings(e, rec, now) {
		t.trickle(e, rec, now)
		return
	}
	if tr.pings >= tr.tried+min(tr.tried+pingsPerTry, pingsMost) {
		tr.tried, tr.next = tr.pings, never
		t.trickle(e, rec, now)
	}
	tr.next, tr.tries = never, 0
}

// pingsPerTry is after how many pings requests try an endpoint although none was answered,
// first, and then twice as many, up to pingsMost: who pings may be broken, and so may be
// what answers pings.
const (
	pingsPerTry = 8
	pingsMost   = 64
)

// answersPings says whether a request may have an answer for all that pings tell, one
// each trickleGap, of the sidecars in turn. A request that hangs is a user's, a ping is
// nobody's. But an answer to a ping ends no suspend: a process may answer these and
// nothing else.
func (t *Table) answersPings(e *endpoint, rec *record, now time.Duration) bool {
	policy := &e.group.service.policy
	if kind := e.group.service.ping.kind(policy.Ping); kind != PingHTTP && kind != PingGRPC {
		t.cancel(rec.orders)
		rec.orders = nil
		return true
	}
	tr, next := rec.trial, rec.since+trickleGap
	if len(rec.orders) > 0 {
		o := rec.orders[0]
		next = o.sent + trickleGap
		switch {
		case o.done:
			t.news(e, rec.orders, now)
			// What answers that it is ill does answer.
			tr.pinged = o.result != outlier.TimedOut && !o.result.Hard()
		case now < o.deadline:
			return tr.pinged
		default:
			tr.pinged = true // whoever was asked is gone
		}
	}
	if now < next {
		t.due(next)
		return tr.pinged
	}
	t.cancel(rec.orders)
	rec.orders = nil
	tr.pings++
	chosen := t.choose(t.probers(e, string(rec.scope), now), 1, func(r *reporter) uint64 {
		return hash64(t.seed, "stalled", e.Key.Service, e.Key.Instance, fmt.Sprint(tr.pings), r.ID)
	})
	if len(chosen) == 0 || !t.probes.has(now, 1) {
		return true
	}
	rec.orders = []*order{t.order(e, chosen[0], outlier.LevelApp, reasonRecovery, rec.scope, now)}
	if tr.next == never {
		t.chooseTricklers(e, rec, now) // they may have changed
	}
	return tr.pinged
}

// trickle lets a few sidecars go on trying, in turn: each attempt that hangs renews the
// suspend, and the first that is answered ends it. Turns begin gap apart, so that the
// endpoint gets one attempt in this time from all of them together. A turn lasts that
// long where requests are many. Where they are few it lasts longer, up to a whole cycle,
// in which the sidecar may make one attempt: turns overlap then, and there are still no
// more attempts than turns.
func (t *Table) trickle(e *endpoint, rec *record, now time.Duration) {
	tr := rec.trial
	if now < tr.next {
		t.due(tr.next)
		return
	}
	for tr.turn < len(tr.chosen) && !tr.chosen[tr.turn].askable(t, now) {
		tr.turn++
	}
	if tr.turn >= len(tr.chosen) {
		t.chooseTricklers(e, rec, now)
	}
	if len(tr.chosen) == 0 {
		tr.next = now + trickleGap
		t.due(tr.next)
		return
	}
	r := tr.chosen[tr.turn]
	tr.turn++
	tr.tries++
	gap := tr.gap()
	tr.next = now + gap
	t.due(tr.next)
	turn := time.Duration(len(tr.chosen)) * gap
	if fair := t.fairRate(e, r); fair > 0 {
		turn = min(turn, max(gap, time.Duration(trickleChance/fair*float64(time.Second))))
	}
	t.out.Shares = append(t.out.Shares, Share{
		Reporter: r.ID, Key: e.Key, Epoch: rec.epoch, For: turn, Trickle: turn,
		Weight: e.group.service.policy.Outlier.Trickle,
	})
}

// gap is the time from one turn to the next: twice the last, as far as each of the chosen
// makes use of its turn within a second.
func (tr *trial) gap() time.Duration {
	each := min(tr.rate/float64(max(len(tr.chosen), 1)), 1)
	most := time.Duration(each * float64(trickleGapMost))
	return max(min(trickleGap<<min(tr.tries, 16), most), trickleGap)
}

// chooseTricklers chooses whose requests may try a suspended endpoint.
func (t *Table) chooseTricklers(e *endpoint, rec *record, now time.Duration) {
	list := t.choose(t.users(e, rec.scope, now), trickleMost, func(r *reporter) uint64 {
		return hash64(t.seed, "trickle", e.Key.Service, e.Key.Instance, r.ID)
	})
	tr := rec.trial
	tr.chosen, tr.turn, tr.rate = nil, 0, 0
	for i, r := range list {
		if i >= trickleSidecars && tr.rate >= float64(time.Second/trickleGap) {
			break
		}
		tr.chosen = append(tr.chosen, r)
		tr.rate += t.fairRate(e, r)
	}
}

// stands is how long a sign of a stall holds: until the trickle, if the stall goes
// on, must have shown the next. An attempt is made by chance, and is overdue after
// the reporter's own D_over.
func (t *Table) stands(e *endpoint, tr *trial) time.Duration {
	overdue := time.Duration(0)
	for _, r := range tr.chosen {
		overdue = max(overdue, r.overdue(e))
	}
	rate := min(tr.rate, 1/tr.gap().Seconds()) / 2
	if rate == 0 {
		return standMost
	}
	return min(suspendFor+overdue+time.Duration(trickleChance/rate*float64(time.Second)), standMost)
}

// fairRate is the attempts per second that a reporter would make on e if all
// endpoints of the group were well.
func (t *Table) fairRate(e *endpoint, r *reporter) float64 {
	u := r.services[e.Key.Service]
	if u == nil {
		return 0
	}
	return u.rate / float64(max(t.census(e.group).judged, 1))
}

// overdue is the reporter's D_over for e: the age from which it calls an attempt
// overdue.
func (r *reporter) overdue(e *endpoint) time.Duration {
	if u := r.services[e.Key.Service]; u != nil && u.overdue > 0 {
		return u.overdue
	}
	return e.group.service.policy.Outlier.OverdueMax
}

const (
	// patienceFactor is how much longer than the longest pause that an endpoint of the
	// service has come back from a stall must be. patienceMost bounds the wait, as it
	// bounds D_over: a process that stands still for longer is suspended each time.
	patienceFactor = 1.5
	patienceMost   = 1750 * time.Millisecond
)

// pauses are the longest stalls of the last ten minutes that ended by themselves, by
// minute. What one endpoint does, a collector of garbage for example, the others of
// its service will do: the fleet suspends for the first such pause, and remembers.
type pauses [10]struct {
	minute int64
	length time.Duration
}

// note takes in a stall that has ended. One that was much longer than any patience is
// no pause but an outage, and teaches nothing.
func (p *pauses) note(length, now time.Duration) {
	if length > 2*patienceMost {
		return
	}
	minute := int64(now / time.Minute)
	s := &p[minute%int64(len(p))]
	if s.minute != minute {
		s.minute, s.length = minute, 0
	}
	s.length = max(s.length, length)
}

// patience is how long an endpoint of the service must hang to be suspended.
func (p *pauses) patience(now time.Duration) time.Duration {
	longest := time.Duration(0)
	for _, s := range p {
		if int64(now/time.Minute)-s.minute < int64(len(p)) {
			longest = max(longest, s.length)
		}
	}
	return min(time.Duration(patienceFactor*float64(longest)), patienceMost)
}

// hungLongEnough is the instant from which a stall is one for the fleet: nobody has
// had an answer for a moment, and for longer than the pauses that are usual here.
// Those who saw none of these pauses would call an attempt overdue too soon.
func (t *Table) hungLongEnough(e *endpoint, answered, now time.Duration) time.Duration {
	s := &e.susp
	patience := e.group.service.stalls.patience(now)
	at := answered + max(e.group.service.policy.Outlier.StallSilence, patience)
	return max(at, s.firstAt-s.first.overdue(e)+patience)
}
