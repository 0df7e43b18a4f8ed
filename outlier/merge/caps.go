package merge

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// mayLeave is the one place that limits how much of a group may be out at once:
// a share of it, never the last, in the eyes of the fleet and of each zone. Hard
// failures may exceed the share while those who stay can carry the load: an
// endpoint that refuses connections carries nothing anyhow. Where those who stay refuse
// as well, there is nothing to be gained: all are gone, and the few that were left in
// would get everything at once when they are back.
func (c *census) mayLeave(e *endpoint, s Scope, hard bool, now time.Duration) (bool, string) {
	n := c.judged
	for _, view := range c.concerned(s) {
		if e.out(view) {
			continue // already counted
		}
		out := c.outOf(view) + 1
		limit := c.g.service.policy.Outlier.Cap(n)
		switch {
		case out >= n:
			return false, fmt.Sprintf("it is the last usable one of %d endpoints%s", n, view.eyes())
		case out <= limit:
		case !hard:
			return false, fmt.Sprintf("with it %d of %d endpoints would be out%s, and at most %d may be", out, n, view.eyes(), limit)
		default:
			left, load, room := c.load(e, view, now)
			switch {
			case left == 0:
				return false, fmt.Sprintf("with it %d of %d endpoints would be out%s, and those that are left refuse as well", out, n, view.eyes())
			case load > room:
				return false, fmt.Sprintf("without it each of the %d that are left%s would get %.0f requests/s, and %.0f/s is the most that they should", left, view.eyes(), load, room)
			}
		}
	}
	return true, fmt.Sprintf("%d of the service's %d endpoints were out before", c.outOf(s), n)
}

// eyes says in whose eyes something is so, where it is not so for everybody.
func (s Scope) eyes() string {
	if s == Fleet {
		return ""
	}
	return " for callers in zone " + string(s)
}

// views lists in whose eyes endpoints may be out: those of the fleet, and of every zone
// that has verdicts of its own.
func (g *group) views() []Scope {
	views := []Scope{Fleet}
	for _, e := range g.endpoints {
		for _, z := range e.zones {
			if z.rec.state.Out() && !slices.Contains(views, Scope(z.name)) {
				views = append(views, Scope(z.name))
			}
		}
	}
	slices.Sort(views)
	return views
}

// countOut counts who is out, never keeps the number.
func (g *group) countOut(view Scope) int {
	n := 0
	for _, e := range g.endpoints {
		if !e.leaving() && e.out(view) {
			n++
		}
	}
	return n
}

// settledRate is the attempts per second of the newest ten seconds that all
// reporters have told of.
func (e *endpoint) settledRate(now time.Duration) float64 {
	n, _ := e.series.between(now-settled-10*time.Second, now-settled)
	return n / 10
}

// takeBack fails open. When fewer than the panic share of a group are left, those
// that are out for soft reasons are used again, the least bad first. When nothing
// at all is left, because the others were taken out of the registry, the least
// bad of all is: a set is never empty.
func (t *Table) takeBack(g *group, now time.Duration) {
	n := t.census(g).judged
	wanted := int(math.Ceil(float64(n) * g.service.policy.Outlier.Panic))
	for _, view := range t.census(g).views {
		if n-t.census(g).outOf(view) >= wanted {
			continue
		}
		for _, r := range g.leastBad(view) {
			left := n - t.census(g).outOf(view)
			if soft := badness(r.rec) <= 1; left >= wanted || left >= 1 && !soft {
				break
			}
			t.endTrial(r.rec)
			t.set(r.e, r.rec, outlier.In, r.rec.rule, "too few endpoints are left, so that the least bad are used again", now)
		}
	}
}

// standing is a record with the endpoint that it is about.
type standing struct {
	e   *endpoint
	rec *record
}

// badness orders who is used again: suspended, soft reasons, hard reasons, and
// what an operator has ejected.
func badness(r *record) int {
	switch {
	case r.state == outlier.Suspended:
		return 0
	case r.rule == outlier.RuleManual:
		return 3
	case r.rule == outlier.RuleHard:
		return 2
	}
	return 1
}

// leastBad lists the verdicts that keep observers away from endpoints, those
// first that can best be withdrawn.
func (g *group) leastBad(view Scope) []standing {
	var list []standing
	for _, e := range g.endpoints {
		if e.leaving() {
			continue
		}
		for _, r := range e.records() {
			if r.state.Out() && (r.scope == Fleet || r.scope == view) {
				list = append(list, standing{e, r})
			}
		}
	}
	slices.SortFunc(list, func(a, b standing) int {
		return cmp.Or(cmp.Compare(badness(a.rec), badness(b.rec)), cmp.Compare(a.rec.explain.T, b.rec.explain.T), compareEndpoints(a.e, b.e))
	})
	return list
}
