package merge

import (
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Each caller leaves what refuses it by its own rule and then sends nothing more. If the
// round about it ran out, nobody has anything to tell, and the endpoint is still down.
func TestADroppedSuspicionIsTakenUpAgainWhenNobodyTellsOfItAnyMore(t *testing.T) {
	for _, healed := range []bool{false, true} {
		f := newFleet(t, mesh{callers: 6, endpoints: 6, zones: twoZones, rate: 50, base: 0, seed: 7})
		f.run(12 * time.Second)
		down := f.targets[2]
		down.rate = 0 // nobody sends it anything after
		f.run(time.Second)
		e := f.table.endpoints[down.Key]
		c := f.callers[0].cells[down.Key]
		down.fault = func(_ *caller, now time.Duration) effect {
			if c.counts.Conn == 0 {
				return refuses
			}
			return effect{class: outlier.Conn, probe: outlier.NotRun, level: outlier.LevelConnect}
		}
		f.callers[0].attempt(c)
		f.run(1500 * ms)
		if len(f.verdicts()) > 0 || e.susp.active {
			t.Fatalf("verdicts %s, round open %t: want the suspicion dropped", describe(f.verdicts()), e.susp.active)
		}
		down.fault = always(crashed)
		if healed {
			down.fault = always(works)
		}
		orders := len(f.orders)
		f.run(4 * time.Second) // sooner than idle pings would tell
		v := f.verdicts(outlier.Ejected)
		switch {
		case healed && (len(v) > 0 || len(f.orders) != orders+1):
			t.Errorf("healed: %d probes and %s, want one probe and no verdict", len(f.orders)-orders, describe(v))
		case !healed && (len(v) == 0 || v[0].Verdict.Rule != outlier.RuleHard || v[0].Verdict.Scope != Fleet):
			t.Errorf("got %s\nwant a hard verdict for the fleet", describe(v))
		}
	}
}
