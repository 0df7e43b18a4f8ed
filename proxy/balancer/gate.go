package balancer

import (
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Gate limits how often an endpoint on trial is picked. Its settings are
// immutable; the time of the last pick is shared by all gates that descend from
// one another by With, so that a new Set does not open the gate.
type Gate struct {
	gap    time.Duration
	due    time.Duration
	single bool
	last   *atomic.Int64
}

// never is the last pick of a gate without any.
const never = -int64(1) << 62

// stuck is after how long a gate for one at a time no longer waits for the
// attempt before: it may be a stream of hours that began before the trial.
const stuck = time.Second

// NewGate returns a gate that leaves at least gap between two picks (0: none);
// when there was no pick for due (0: never) the endpoint takes the next fair
// one beyond its weight; single: none while an attempt is in flight.
func NewGate(gap, due time.Duration, single bool) *Gate {
	g := &Gate{gap: gap, due: due, single: single, last: new(atomic.Int64)}
	g.last.Store(never)
	return g
}

// With is the gate of the same endpoint under other settings.
func (g *Gate) With(gap, due time.Duration, single bool) *Gate {
	return &Gate{gap: gap, due: due, single: single, last: g.last}
}

// isDue reports whether the endpoint waits for a pick out of turn.
func (g *Gate) isDue(now time.Duration) bool {
	return g.due > 0 && int64(now)-g.last.Load() >= int64(g.due)
}

// enter takes the pick at now if the gate is open. Of several at once one gets
// through when there is a gap.
func (g *Gate) enter(now time.Duration, stats *outlier.Endpoint) bool {
	last := g.last.Load()
	since := time.Duration(int64(now) - last)
	if since < g.gap || g.single && since < stuck && stats.Inflight() > 0 {
		return false
	}
	return g.last.CompareAndSwap(last, int64(now)) || g.gap == 0
}
