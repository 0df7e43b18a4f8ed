package cadence_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
		// latency is what is told of the histogram.
		latency []outlier.LatencyCount
	}{
		{"the first summary", &summary, func() { sum.Latency = []outlier.LatencyCount{{Bucket: 3, Count: 7}, {Bucket: 9, Count: 1}} }, true, []outlier.LatencyCount{{Bucket: 3, Count: 7}, {Bucket: 9, Count: 1}}},
		{"a summary without news", &summary, func() {}, false, nil},
		{"any other report", &other, func() { sum.N = 20 }, false, nil},
		{"a summary with news", &summary, func() { sum.Latency[1].Count = 4 }, true, []outlier.LatencyCount{{Bucket: 9, Count: 4}}},
		{"any other report while the group is slow", &other, func() { sum.Slower = 4 }, true, nil},
		{"and the next", &other, func() {}, true, nil},
		{"no more when it is over", &other, func() { sum.Slower = 1.5 }, false, nil},
	} {
		step.edit()
		got, tell := x.Weigh(step.turn, "api", &sum)
		if tell != step.tell {
			t.Errorf("%s: told %v, want %v", step.name, tell, step.tell)
		}
		want := merge.ClusterTotals{Service: "api", N: sum.N, K: sum.K, Overdue: sum.Overdue, Slower: sum.Slower, Latency: step.latency}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
		if step.turn.Tell {
			t.Errorf("%s: totals became a reason to report", step.name)
		}
	}
}
