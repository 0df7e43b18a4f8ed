package merge

import (
	"cmp"
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
		if !t.probes.has(now, 1+neighbourReserve) {
			return
		}
		able := slices.DeleteFunc(t.confirmers(o, "", now), func(r *reporter) bool { return !r.probes.has(now, 1) })
		for _, r := range t.choose(able, 1, func(r *reporter) uint64 {
			return hash64(t.seed, "neighbour", o.Key.Service, o.Key.Instance, r.ID)
		}) {
			o.susp.checked = now
			o.susp.checks = append(o.susp.checks, t.order(o, r, outlier.LevelNone, reasonNeighbour, Fleet, now))
		}
	}
}

// settleChecks takes in what came of the probes that a neighbour's suspicion caused.
func (t *Table) settleChecks(e *endpoint, now time.Duration) {
	s := &e.susp
	t.news(e, s.checks, now)
	s.checks = slices.DeleteFunc(s.checks, func(o *order) bool {
		if !o.done && now >= o.deadline {
			delete(t.orders, o.id)
		}
		return o.done || now >= o.deadline
	})
}
