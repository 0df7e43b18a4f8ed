package merge

import (
	"math"
	"slices"
	"time"
)

// census is what the caps need to know of a whole group, counted once per Step and
// kept true by set: a group in which a thousand endpoints ask to leave and may not
// would be looked at a thousand times.
type census struct {
	g      *group
	step   uint64
	judged int     // endpoints that do not drain
	views  []Scope // the fleet's, and those of zones with verdicts of their own, sorted
	out    []int   // how many are out, by view
	loads  map[Scope]load
}

// load is what the endpoints of a group carry in one view.
type load struct {
	total float64 // attempts per second on all
	left  int     // endpoints that are not out, and do not refuse
	peak  float64 // the most that these have carried together
}

// census gives that of this Step.
func (t *Table) census(g *group) *census {
	if g.census == nil || g.census.step != t.steps {
		g.census = g.count()
		g.census.step = t.steps
	}
	return g.census
}

// count takes a census.
func (g *group) count() *census {
	c := &census{g: g, judged: g.judged(), views: g.views()}
	for _, view := range c.views {
		c.out = append(c.out, g.countOut(view))
	}
	return c
}

// move takes e out of the census, or back in, around a change of its verdicts.
func (c *census) move(e *endpoint, by int) {
	if c == nil || e.leaving() {
		return
	}
	for i, view := range c.views {
		if e.out(view) {
			c.out[i] += by
		}
	}
	c.loads = nil
}

// outOf is how many are out in one view. Who has no verdicts of his own sees those of
// the fleet.
func (c *census) outOf(view Scope) int {
	if i, found := slices.BinarySearch(c.views, view); found {
		return c.out[i]
	}
	return c.out[0]
}

// concerned lists whose eyes a verdict of that scope concerns: those of the zone, or
// everybody's.
func (c *census) concerned(s Scope) []Scope {
	if s != Fleet {
		return []Scope{s}
	}
	return c.views
}

// load is how many would remain that take connections if e left, which is not out, what
// each of them would carry, and the most that it should.
func (c *census) load(e *endpoint, view Scope, now time.Duration) (left int, each, room float64) {
	all, known := c.loads[view]
	if !known {
		all = c.g.load(view, now)
		if c.loads == nil {
			c.loads = make(map[Scope]load)
		}
		c.loads[view] = all
	}
	if !e.leaving() && !e.refuses() {
		all.left--
		all.peak -= e.peak()
	}
	if all.left == 0 || all.peak == 0 {
		return all.left, 0, math.Inf(1) // nothing is known of what they can carry
	}
	n := float64(all.left)
	return all.left, all.total / n, c.g.service.policy.Outlier.Headroom * all.peak / n
}

func (g *group) load(view Scope, now time.Duration) (all load) {
	for _, o := range g.endpoints {
		if o.leaving() {
			continue
		}
		o.series.advance(now)
		all.total += o.settledRate(now)
		if !o.out(view) && !o.refuses() {
			all.left++
			all.peak += o.peak()
		}
	}
	return all
}

// refuses says that the newest that is known of e is a hard failure.
func (e *endpoint) refuses() bool { return e.lastHard > max(e.lastOK, e.idle.goodAt) }

// peak is the largest healthy rate that e is known to have carried.
func (e *endpoint) peak() float64 { return slices.Max(e.peaks[:]) }

// scores counts the endpoints of a group that are in, and those of them of which the
// evidence has come a good part of the way. It begins when it is first asked for.
type scores struct {
	counted    bool
	in, scored int
}

// besides counts those of the group but e, which is not in the count.
func (s *scores) besides(e *endpoint) (others, scored int) {
	if !s.counted {
		s.counted = true
		for _, o := range e.group.endpoints {
			if o != e {
				s.move(o, 1)
			}
		}
	}
	return s.in, s.scored
}

// move takes e out of the count, or back in, around a reading of its rows.
func (s *scores) move(e *endpoint, by int) {
	if !s.counted || e.leaving() || e.fleet.state.Out() {
		return
	}
	s.in += by
	if e.fast.open && e.fast.last.h > 0 && 4*e.fast.last.t > e.fast.last.h {
		s.scored += by
	}
}
