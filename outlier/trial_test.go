package outlier

import (
	"math/rand/v2"
	"testing"
	"time"
)

// What a coarse test let back in once, it may not let in again and again.
func TestARareFaultIsNotReadmittedAgainAndAgain(t *testing.T) {
	back := 0
	const runs = 4
	for seed := range uint64(runs) {
		w := newWorld(t, 10, seed)
		w.load(1500, 150*second)
		w.run(20 * second)
		w.hosts["e03"].errors = 0.1
		w.run(140 * second)
		c, out := w.first("e03", Ejected, 20*second)
		if !out {
			t.Errorf("seed %d: 10 %% at 150/s was not found in 2 min", seed)
			continue
		}
		for _, r := range w.changes {
			if r.ID == "e03" && r.To == Ramp && r.Refused == "" && r.At > c.At {
				back++
			}
		}
	}
	if back > runs {
		t.Errorf("let back in %d times in %d runs of 2 min with 10 %% errors, want at most once each", back, runs)
	}
}

func TestALargeFaultIsTriedByTheFastTest(t *testing.T) {
	w := newWorld(t, 10, 1)
	w.load(500, 400*second)
	w.run(20 * second)
	h := w.hosts["e03"]
	h.errors = 0.5
	w.want2("e03", Ejected, 20*second, 30*second)
	h.errors = 0
	trial := w.want2("e03", Probation, w.now, w.now+10*second)
	ramp := w.want2("e03", Ramp, trial.At, trial.At+15*second)
	if n := h.picksSince(trial.At) - h.picksSince(ramp.At); n > 30 {
		t.Errorf("%d attempts until it was let back in, want about 22", n)
	}
}

// want2 runs until a member becomes something, until an instant at the latest.
func (w *world) want2(id string, to State, since, until time.Duration) Change {
	w.t.Helper()
	for w.now < until {
		if c, ok := w.first(id, to, since); ok {
			return c
		}
		w.runFor(10 * time.Millisecond)
	}
	return w.want(id, to, since)
}

// The trial's odds against what they are for: an endpoint whose fault was seen as a
// rate may seldom pass at that rate, and one that is well may seldom fail.
func TestATrialCanTellTheFaultThatEjected(t *testing.T) {
	for _, tt := range []struct{ pg, fault float64 }{{0, 0.5}, {0, 0.2}, {0, 0.1}, {0, 0.05}, {0.01, 0.5}, {0.01, 0.1}, {0.01, 0.06}, {0.03, 0.2}} {
		fast := FastOdds(Baseline{Pg: tt.pg, Endpoints: 10, Attempts: 1000}, DefaultConfig().Bounds())
		steps := TrialOdds(fast, tt.pg, tt.fault).Steps()
		rng := rand.New(rand.NewPCG(1, 1))
		pass := func(errors float64) float64 {
			passed := 0
			for range 4000 {
				score := ProbationStart
				for score > 0 && score < ProbationOut {
					if rng.Float64() < errors {
						score += steps.Fail
					} else {
						score += steps.OK
					}
				}
				if score <= 0 {
					passed++
				}
			}
			return float64(passed) / 4000
		}
		if got := pass(tt.fault); got > 0.03 {
			t.Errorf("p_g %v: %v errors pass in %.3f of the trials, want at most .03", tt.pg, tt.fault, got)
		}
		if got := pass(tt.pg); got < 0.93 {
			t.Errorf("p_g %v, fault %v: a good endpoint passes in %.3f of the trials, want .93 or more", tt.pg, tt.fault, got)
		}
	}
}

func TestOneThatTheFleetEjectedSlowlyIsTriedSlowly(t *testing.T) {
	w := newWorld(t, 10, 1)
	w.load(500, 600*second)
	w.run(20 * second)
	w.d.Fleet("e03", Verdict{State: Ejected, Epoch: 1, Rule: RuleSlow}, w.now)
	w.hosts["e03"].errors = 0.05
	w.d.CentralGone(w.now)
	trial := w.want2("e03", Probation, w.now, w.now+70*second)
	w.run(trial.At + 60*second)
	if c, back := w.first("e03", Ramp, trial.At); back {
		t.Errorf("with 5 %% errors it passed at %v a trial for which that was too little\n%s", c.At, w.story())
	}
}
