package outlier

import (
	"slices"
	"testing"
)

func TestTheFleetsWeightHoldsUntilItLapses(t *testing.T) {
	w := newWorld(t, 4, 1)
	w.load(100, 60*second)
	w.run(10 * second)
	weight := func(id string) float64 { return w.admitted(id).Weight }
	w.d.SetWeight("e01", Weight{Share: 0.2, Until: w.now + 5*second}, "slow for all", w.now)
	w.doStep()
	if got := weight("e01"); got != 0.2 {
		t.Errorf("weight %v, want the fleet's 0.2", got)
	}
	i := slices.IndexFunc(w.changes, func(c Change) bool { return c.Fleet && c.Rule == RuleLatency })
	if i < 0 || w.changes[i].Explain.Weight != 0.2 || w.changes[i].Explain.Reason != "slow for all" || w.changes[i].To != In {
		t.Errorf("told: %s, want the weight with its reason and no other state", w.story())
	}
	w.run(14 * second)
	if got := weight("e01"); got != 0.2 {
		t.Errorf("4 s later: weight %v, want 0.2", got)
	}
	w.run(16 * second)
	if got := weight("e01"); got != 1 {
		t.Errorf("after it has lapsed: weight %v, want 1", got)
	}
	w.d.SetWeight("e01", Weight{Share: 0.001, Until: w.now + 5*second}, "", w.now)
	w.d.SetWeight("nobody", Weight{Share: 0.5, Until: w.now + 5*second}, "", w.now)
	w.doStep()
	if got := weight("e01"); got != 0.1 {
		t.Errorf("weight %v, want at least a tenth: slow answers are answers", got)
	}
}
