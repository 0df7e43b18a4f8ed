package merge

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Sample is what the statistic of one excursion was at a Step, for people who want to
// see how it went. Nothing is decided on it, and the table keeps none. Scores are nats.
type Sample struct {
	Key   Key
	Rule  outlier.Rule // that would take the endpoint out: fast or slow
	Scope Scope        // whose attempts are counted: everybody's or a zone's
	Since time.Duration
	At    time.Duration
	// T is what is compared with Threshold: Sum of all fault domains without Largest,
	// those that speak loudest against the endpoint.
	T, Sum, Largest, Threshold float64
}

// trace tells of a row that was just judged, once it has come a quarter of the way.
// Any failure opens a row, and at an error rate of one percent there is always some.
func (t *Table) trace(e *endpoint, w *row, k kind, zone *zone) {
	r := &w.last
	if 4*r.sum < r.h {
		return
	}
	s := Sample{
		Key: e.Key, Rule: outlier.RuleFast, Since: w.since, At: r.at,
		T: nats(r.t), Sum: nats(r.sum), Largest: nats(r.largest), Threshold: nats(r.h),
	}
	switch k {
	case slowRow:
		s.Rule = outlier.RuleSlow
	case zoneRow:
		s.Scope = Scope(zone.name)
	}
	t.out.Samples = append(t.out.Samples, s)
}
