package cluster

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/overhear-mesh/overhear/outlier"
)

// metrics are the numbers of one cluster, written by Run.
type metrics struct {
	probes       results
	pings        results
	hints        atomic.Uint64
	hintProbes   results
	invalidPaths atomic.Uint64

	mu      sync.Mutex
	changes map[ChangeKind]uint64
}

// ChangeKind is a kind of change of belief.
type ChangeKind struct {
	To   outlier.State
	Rule outlier.Rule
	// Refused is why the change was not made; empty: it was.
	Refused string
}

// results counts probes by how they ended.
type results [outlier.Unhealthy + 1]atomic.Uint64

func (r *results) add(p outlier.ProbeResult) {
	if int(p) < len(r) {
		r[p].Add(1)
	}
}

func (r *results) counts() map[outlier.ProbeResult]uint64 {
	out := make(map[outlier.ProbeResult]uint64)
	for i := range r {
		if n := r[i].Load(); n > 0 {
			out[outlier.ProbeResult(i)] = n
		}
	}
	return out
}

func (m *metrics) changed(c outlier.Change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changes == nil {
		m.changes = make(map[ChangeKind]uint64)
	}
	m.changes[ChangeKind{To: c.To, Rule: c.Rule, Refused: c.Refused}]++
}

// Stats are a cluster's numbers since it began.
type Stats struct {
	Changes      map[ChangeKind]uint64
	Probes       map[outlier.ProbeResult]uint64 // on suspicion and by order
	Pings        map[outlier.ProbeResult]uint64 // of idle endpoints
	Hints        uint64                         // idle connections closed as by an endpoint that dies
	HintProbes   map[outlier.ProbeResult]uint64 // that these made
	InvalidPaths uint64                         // how often the ping path was found wrong
}

// Stats returns the cluster's numbers.
func (c *Cluster) Stats() Stats {
	m := &c.metrics
	m.mu.Lock()
	changes := maps.Clone(m.changes)
	m.mu.Unlock()
	return Stats{
		Changes: changes, Probes: m.probes.counts(), Pings: m.pings.counts(),
		Hints: m.hints.Load(), HintProbes: m.hintProbes.counts(), InvalidPaths: m.invalidPaths.Load(),
	}
}
