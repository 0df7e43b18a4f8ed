package cadence_test

import (
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/proxy/cadence"
)

func TestTotalsGoWithASummaryAndWhileTheGroupIsSlow(t *testing.T) {
	var x cadence.Totals
	summary, other := cadence.Turn{Summary: true}, cadence.Turn{}
	sum := outlier.Summary{N: 10, K: 1, Overdue: 250 * time.Millisecond, Slower: 1}
	for _, step := range []struct {
		name string
		turn *cadence.Turn
		edit func()
		tell bool
	}{
		{"the first summary", &summary, func() {}, true},
		{"a summary without news", &summary, func() {}, false},
		{"any other report", &other, func() { sum.N = 20 }, false},
		{"a summary with news", &summary, func() {}, true},
		{"any other report while the group is slow", &other, func() { sum.Slower = 4 }, true},
		{"and the next", &other, func() {}, true},
		{"no more when it is over", &other, func() { sum.Slower = 1.5 }, false},
	} {
		step.edit()
		got, tell := x.Weigh(step.turn, "api", &sum)
		if tell != step.tell {
			t.Errorf("%s: told %v, want %v", step.name, tell, step.tell)
		}
		if want := (merge.ClusterTotals{Service: "api", N: sum.N, K: sum.K, Overdue: sum.Overdue, Slower: sum.Slower}); got != want {
			t.Errorf("%s: got %+v, want %+v", step.name, got, want)
		}
		if step.turn.Tell {
			t.Errorf("%s: totals became a reason to report", step.name)
		}
	}
}
