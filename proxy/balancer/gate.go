package balancer

import (
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Gate limits how an endpoint on trial is picked. Its settings are immutable;
// the time of the last pick is shared by all gates that descend from one another
// by With, so that a new Set does not open the gate.
type Gate struct {
	every  time.Duration
	single bool
	last   *atomic.Int64
}

// unpicked is the last pick of an endpoint that was never picked.
const unpicked = -int64(1) << 62

// stuck is after how long a gate for one at a time no longer waits for the
// attempt before: it may be a stream of hours that began before the trial.
const stuck = time.Second

// NewGate returns a gate. With every > 0 the endpoint is picked once as soon as
// that time has passed since its last pick, and not before; its Weight then says
// nothing. single: it is not picked while an attempt is in flight.
func NewGate(every time.Duration, single bool) *Gate {
	g := &Gate{every: every, single: single, last: new(atomic.Int64)}
	g.last.Store(unpicked)
	return g
}

// With is the gate of the same endpoint under other settings.
func (g *Gate) With(every time.Duration, single bool) *Gate {
	return &Gate{every: every, single: single, last: g.last}
}

// open reports whether a pick may pass.
func (g *Gate) open(now time.Duration, stats *outlier.Endpoint) bool {
	since := time.Duration(int64(now) - g.last.Load())
	busy := g.single && since < stuck && stats.Inflight() > 0
	return since >= g.every && !busy
}

// enter takes the pick if the gate is open: of several at once one gets through.
func (g *Gate) enter(now time.Duration, stats *outlier.Endpoint) bool {
	last := g.last.Load()
	return g.open(now, stats) && g.last.CompareAndSwap(last, int64(now))
}
