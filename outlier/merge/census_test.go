package merge

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// plainMayLeave is mayLeave by somebody who looks at the whole group each time.
func plainMayLeave(g *group, e *endpoint, s Scope, hard bool, now time.Duration) bool {
	n := g.judged()
	views := []Scope{s}
	if s == Fleet {
		views = g.views()
	}
	for _, view := range views {
		out := g.countOut(view) + 1
		switch {
		case e.out(view), out < n && out <= g.service.policy.Outlier.Cap(n):
		case out >= n, !hard:
			return false
		default:
			if left, load, room := plainLoad(g, e, view, now); left == 0 || load > room {
				return false
			}
		}
	}
	return true
}

func plainLoad(g *group, e *endpoint, view Scope, now time.Duration) (left, load, room float64) {
	total, peak := 0.0, 0.0
	for _, o := range g.endpoints {
		if o.leaving() {
			continue
		}
		o.series.advance(now)
		total += o.settledRate(now)
		if o != e && !o.out(view) && !o.refuses() {
			left++
			peak += slices.Max(o.peaks[:])
		}
	}
	if left == 0 || peak == 0 {
		return left, 0, math.Inf(1)
	}
	return left, total / left, g.service.policy.Outlier.Headroom * peak / left
}

func plainBesides(e *endpoint) (others, scored int) {
	for _, o := range e.group.endpoints {
		if o == e || o.leaving() || o.fleet.state.Out() {
			continue
		}
		others++
		if o.fast.open && o.fast.last.h > 0 && 4*o.fast.last.t > o.fast.last.h {
			scored++
		}
	}
	return others, scored
}

func TestACensusTellsWhatALookAtTheWholeGroupWould(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 7))
	states := []outlier.State{outlier.In, outlier.Ejected, outlier.Suspended, outlier.Probation, outlier.Ramp}
	zones := []string{"a", "b", "c"}
	allowed, refused := 0, 0
	for world := range 300 {
		table := NewTable(DefaultConfig(), uint64(world))
		now := time.Minute
		var specs []Endpoint
		for i := range 1 + rng.IntN(12) {
			specs = append(specs, Endpoint{Key: Key{"api", fmt.Sprintf("e%02d", i)}, Draining: rng.IntN(8) == 0})
		}
		policy := DefaultPolicy()
		policy.Outlier.MaxOut, policy.Outlier.Headroom = rng.Float64(), 1+rng.Float64()
		table.SetService("api", policy, specs, now)
		g := table.services["api"].groups[0]
		for _, e := range g.endpoints {
			e.series.add(now-25*time.Second, now, 100*rng.Float64(), 0)
			if rng.IntN(3) > 0 {
				e.peaks[0] = 5 * rng.Float64()
			}
			if rng.IntN(3) == 0 {
				e.lastHard = now
			}
		}
		any := func() *endpoint { return g.endpoints[rng.IntN(len(g.endpoints))] }
		for range 20 {
			switch e := any(); rng.IntN(4) {
			case 0: // between two Steps
				table.steps++
				e.Draining = !e.Draining
			case 1:
				e.fast.open, e.fast.last.h, e.fast.last.t = true, 10, rng.Int64N(10)
			default:
				s := Fleet
				if rng.IntN(2) == 0 {
					s = Scope(zones[rng.IntN(len(zones))])
				}
				table.set(e, e.record(s), states[rng.IntN(len(states))], outlier.RuleFast, "", now)
			}
			for _, s := range []Scope{Fleet, "a", "b", "c"} {
				e, hard := any(), rng.IntN(2) == 0
				if got, want := table.census(g).outOf(s), g.countOut(s); got != want {
					t.Fatalf("world %d: %d are out for the %v, want %d", world, got, s, want)
				}
				got, detail := table.census(g).mayLeave(e, s, hard, now)
				if want := plainMayLeave(g, e, s, hard, now); got != want {
					t.Fatalf("world %d: %s may leave for the %v: %v (%s), want %v", world, e.Key, s, got, detail, want)
				}
				if got {
					allowed++
				} else {
					refused++
				}
			}
			g.scores = scores{}
			for _, e := range g.endpoints { // as decide does
				g.scores.move(e, -1)
				e.fast.last.t = rng.Int64N(10)
				others, scored := g.scores.besides(e)
				if o, s := plainBesides(e); others != o || scored != s {
					t.Fatalf("world %d: besides %s there are %d, %d with a score; want %d, %d", world, e.Key, others, scored, o, s)
				}
				g.scores.move(e, 1)
			}
		}
	}
	if allowed < 1000 || refused < 1000 {
		t.Errorf("%d allowed and %d refused, want many of both", allowed, refused)
	}
}

// Who hears nothing but refusals sends less: that the few who are left in could carry so
// little is no reason to leave all but one.
func TestWhereAllRefuseHalfAreKept(t *testing.T) {
	for _, rate := range []float64{1, 0.2} {
		f := newFleet(t, mesh{callers: 5, endpoints: 20, rate: 50, base: 0.001, seed: 1})
		f.run(30 * time.Second)
		for _, e := range f.targets {
			e.fault = always(crashed)
		}
		f.run(500 * ms)
		for _, e := range f.targets {
			e.rate = rate
		}
		worst := 0
		f.until(f.now+40*time.Second, func() bool {
			out := 0
			for i := range f.targets {
				if f.state(i).Out() {
					out++
				}
			}
			worst = max(worst, out)
			return false
		})
		if worst < 5 || worst > 10 {
			t.Errorf("%g/s: at most %d of 20 were out at once, want 5 to 10", rate, worst)
		}
	}
}

func TestWhomNobodyBelievesMakesNoEndpointRefuse(t *testing.T) {
	f, _ := withOneMuted(t)
	f.run(12 * time.Second) // the others have told of their successes
	f.until(f.now+20*time.Second, func() bool {
		for i, e := range f.targets {
			if f.table.endpoints[e.Key].refuses() {
				t.Errorf("endpoint %d refuses, by the word of one who is muted", i)
				return true
			}
		}
		return false
	})
}
