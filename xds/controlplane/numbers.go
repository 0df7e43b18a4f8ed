package controlplane

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// numbers is what the loop counts of its own work.
type numbers struct {
	verdicts  map[verdictLabels]uint64
	refused   map[refusedLabels]uint64 // verdicts that a guard or a cap held back
	events    map[merge.EventKind]uint64
	suspected map[string]uint64 // suspicions, by service
	orders    map[string]uint64 // given, by kind
	probes    map[outlier.ProbeResult]uint64
	// envoyProbes are those that Envoys made.
	envoyProbes map[outlier.ProbeResult]uint64
	reports     uint64
	cells       uint64                   // taken over
	unheard     map[merge.Refusal]uint64 // cells and answers that the table set aside
	pushes      uint64
	push        histogram
	step        histogram
}

type verdictLabels struct {
	service string
	scope   string // "fleet" or "zone"
	state   outlier.State
	rule    outlier.Rule
}

type stateLabels struct {
	service string
	state   outlier.State
}

type refusedLabels struct{ service, why string }

func newNumbers() numbers {
	return numbers{
		verdicts: map[verdictLabels]uint64{}, refused: map[refusedLabels]uint64{}, events: map[merge.EventKind]uint64{},
		suspected: map[string]uint64{}, orders: map[string]uint64{}, probes: map[outlier.ProbeResult]uint64{},
		envoyProbes: map[outlier.ProbeResult]uint64{}, unheard: map[merge.Refusal]uint64{},
	}
}

// bounds are the upper bounds of histogram buckets in seconds: 50 µs to 1.6 s,
// by doubling.
var bounds = func() []float64 {
	all := make([]float64, 16)
	for i := range all {
		all[i] = 50e-6 * float64(int(1)<<i)
	}
	return all
}()

// histogram counts durations in the buckets of bounds.
type histogram struct {
	counts [16]uint64 // not cumulative
	count  uint64
	sum    float64
}

func (h *histogram) observe(d time.Duration) {
	s := d.Seconds()
	h.count++
	h.sum += s
	for i, b := range bounds {
		if s <= b {
			h.counts[i]++
			return
		}
	}
}

// cumulative is the histogram in the form of Prometheus.
func (h *histogram) cumulative() map[float64]uint64 {
	all := make(map[float64]uint64, len(bounds))
	sum := uint64(0)
	for i, b := range bounds {
		sum += h.counts[i]
		all[b] = sum
	}
	return all
}
