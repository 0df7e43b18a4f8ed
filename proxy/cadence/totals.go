package cadence

import (
	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// Totals remembers what the control plane knows of a cluster as a whole.
type Totals struct{ told merge.ClusterTotals }

// Weigh says whether the totals of a cluster belong into the report, and what they
// are. They are no reason to report: they go with a summary if they have changed, and
// with whatever is told while the cluster takes longer than usual to answer, because
// that puts its failures in another light.
func (x *Totals) Weigh(turn *Turn, service string, sum *outlier.Summary) (merge.ClusterTotals, bool) {
	t := merge.ClusterTotals{Service: service, N: sum.N, K: sum.K, Overdue: sum.Overdue, Slower: sum.Slower}
	if !turn.Summary || t == x.told {
		return t, sum.Slower >= outlier.SlowerMuch
	}
	x.told = t
	return t, true
}
