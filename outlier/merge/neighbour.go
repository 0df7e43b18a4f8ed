package merge

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

const (
	// neighbourSample is how many neighbours of a suspect are asked about.
	neighbourSample = 3
	// neighbourReserve is how many of the fleet's probes stay for suspicions.
	neighbourReserve = 10
)

// askNeighbours has a few endpoints of e's zone probed once each, of which nobody had
// an answer since e failed. What takes an endpoint down often takes its zone, and
// traffic finds the others one by one, at a low rate long after. If one of them fails
// its probe it is a suspect like any other, with rounds and neighbours of its own, so
// that a zone of any size is found out, and leaves in one push.
func (t *Table) askNeighbours(e *endpoint, now time.Duration) {
	if e.Zone == "" || e.susp.zone != "" || len(e.susp.hard) == 0 {
		return
	}
	var list []*endpoint
	for _, o := range e.group.endpoints {
		s := &o.susp
		if o != e && o.Zone == e.Zone && o.judgeable() && o.lastOK <= e.susp.firstAt &&
			!s.active && s.confirmed == never && (s.checked == never || now >= s.checked+roundGap) {
			list = append(list, o)
		}
	}
	hash := func(o *endpoint) uint64 {
		return hash64(t.seed, "neighbour", e.Key.Service, e.Key.Instance, o.Key.Instance)
	}
	slices.SortFunc(list, func(a, b *endpoint) int { return cmp.Or(cmp.Compare(hash(a), hash(b)), compareEndpoints(a, b)) })
	for _, o := range list[:min(len(list), neighbourSample)] {
		if t.check(o, reasonNeighbour, "", outlier.LevelNone, now) {
			o.susp.checked = now
		}
	}
}

// lookAgain has an endpoint probed of which hard failures were told that nothing has
// decided, answered or contradicted since, and of which nobody tells any more: a round
// ran out, there was no room, or probes were short. Its callers may all have left it by
// their own rules by then, and who sends nothing has no news. It is asked as deep as the
// failure was, or as deep as it can be: an answer that is less deep contradicts nothing. If the
// probe fails, it is a suspect like any other.
func (t *Table) lookAgain(e *endpoint, now time.Duration) {
	s := &e.susp
	u := &s.unsolved
	switch {
	case u.at == never:
		return
	case !e.judgeable() || e.lastOK > u.at:
		*u = solved
		return
	case s.active || s.confirmed != never || len(s.hard) > 0 || len(s.checks) > 0:
		return
	}
	if u.patience == 0 {
		u.patience, u.again = roundGap, now+roundGap
	}
	if now < u.again {
		t.due(u.again)
		return
	}
	if t.check(e, reasonAgain, fmt.Sprint(now), u.level, now) {
		u.patience = min(2*u.patience, hardRetry)
		u.again = now + u.patience
	} else { // it is its turn as soon as there is a probe to spare
		u.again = now + roundGap
	}
	t.due(u.again)
}

// check has one reporter probe e, and says whether there was one that can.
func (t *Table) check(e *endpoint, reason, turn string, level outlier.Level, now time.Duration) bool {
	if !t.probes.has(now, 1+neighbourReserve) {
		return false
	}
	chosen := t.choose(t.probers(e, "", now), 1, func(r *reporter) uint64 {
		return hash64(t.seed, reason, e.Key.Service, e.Key.Instance, turn, r.ID)
	})
	for _, r := range chosen {
		e.susp.checks = append(e.susp.checks, t.order(e, r, level, reason, Fleet, now))
	}
	return len(chosen) > 0
}

// settleChecks takes in what came of the probes that were sent without a suspicion.
func (t *Table) settleChecks(e *endpoint, now time.Duration) {
	s := &e.susp
	t.news(e, s.checks, now)
	if slices.ContainsFunc(s.checks, func(o *order) bool {
		return o.done && o.result == outlier.ProbeOK && o.level >= s.unsolved.level
	}) {
		s.unsolved = solved
	}
	s.checks = slices.DeleteFunc(s.checks, func(o *order) bool {
		if !o.done && now >= o.deadline {
			delete(t.orders, o.id)
		}
		return o.done || now >= o.deadline
	})
}
