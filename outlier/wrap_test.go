package outlier

import (
	"math"
	"testing"
)

// Counters are 32 bits wide and only ever grow: a busy endpoint's come round within days.
func TestTheCountersOfAnEndpointMayWrap(t *testing.T) {
	w := newWorld(t, 6, 1)
	for _, id := range w.order {
		e := w.d.Endpoint(id)
		const n, k = math.MaxUint32 - 1000, math.MaxUint32 - 5
		e.started.Store(n)
		e.n.Store(n)
		e.server.Store(k)
	}
	w.load(300, 120*second)
	w.run(60 * second) // 3 000 attempts on each
	for _, id := range w.order {
		if c := w.d.Endpoint(id).Counts(); c.N > 1<<31 {
			t.Fatalf("%s has counted to %d, want over the wrap", id, c.N)
		}
		if _, out := w.first(id, Ejected, 0); out {
			t.Errorf("%s was ejected\n%s", id, w.story())
		}
	}
	w.hosts["e03"].errors = 1
	w.run(62 * second)
	if c := w.want("e03", Ejected, 60*second); c.At > 61*second {
		t.Errorf("ejected at %v, want within a second of %v", c.At, 60*second)
	}
	if got := w.d.Endpoint("e03").Counts(); got.Server > 1<<31 {
		t.Errorf("its failures are at %d, want over the wrap as well", got.Server)
	}
	for _, id := range w.order {
		if n := w.d.Endpoint(id).Inflight(); n > 10 {
			t.Errorf("%s has %d in flight", id, n)
		}
	}
}
