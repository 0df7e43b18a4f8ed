package cadence

import (
	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// Totals remembers what the control plane knows of a cluster as a whole.
type Totals struct {
	told    merge.ClusterTotals
	latency map[int]uint32 // by bucket
}

// Weigh says whether the totals of a cluster belong into the report, and what they
// are. They are no reason to report: they go with a summary if they have changed, and
// with whatever is told while the cluster takes longer than usual to answer, because
// that puts its failures in another light. Of the histogram only a summary tells, and
// only the buckets that have changed.
func (x *Totals) Weigh(turn *Turn, service string, sum *outlier.Summary) (merge.ClusterTotals, bool) {
	t := merge.ClusterTotals{Service: service, N: sum.N, K: sum.K, Overdue: sum.Overdue, Slower: sum.Slower}
	if !turn.Summary {
		return t, sum.Slower >= outlier.SlowerMuch
	}
	for _, c := range sum.Latency {
		if x.latency == nil {
			x.latency = make(map[int]uint32, len(sum.Latency))
		}
		if x.latency[c.Bucket] != c.Count {
			x.latency[c.Bucket] = c.Count
			t.Latency = append(t.Latency, c)
		}
	}
	was := x.told
	x.told = t
	x.told.Latency = nil
	return t, len(t.Latency) > 0 || t.N != was.N || t.K != was.K || t.Overdue != was.Overdue || t.Slower != was.Slower || t.Service != was.Service
}
