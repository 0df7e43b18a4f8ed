package merge

import (
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// dropped makes a fleet in which one attempt on an endpoint has failed as given, and the
// suspicion was dropped, because nobody else could tell. Nobody sends it anything after.
func dropped(t *testing.T, failure effect) (*fleet, *target) {
	t.Helper()
	f := newFleet(t, mesh{callers: 6, endpoints: 6, zones: twoZones, rate: 50, base: 0, seed: 7})
	f.run(12 * time.Second)
	down := f.targets[2]
	down.rate = 0
	f.run(time.Second)
	e := f.table.endpoints[down.Key]
	c := f.callers[0].cells[down.Key]
	down.fault = always(failure)
	f.callers[0].attempt(c)
	down.fault = always(effect{class: outlier.Conn, probe: outlier.NotRun, level: failure.level})
	f.run(1500 * ms)
	if len(f.verdicts()) > 0 || e.susp.active {
		t.Fatalf("verdicts %s, round open %t: want the suspicion dropped", describe(f.verdicts()), e.susp.active)
	}
	return f, down
}

// Each caller leaves what refuses it by its own rule and then sends nothing more. If the
// round about it ran out, nobody has anything to tell, and the endpoint is still down.
func TestADroppedSuspicionIsTakenUpAgainWhenNobodyTellsOfItAnyMore(t *testing.T) {
	for name, test := range map[string]struct {
		failure, now effect
		ejected      bool
	}{
		"still refuses":              {refuses, crashed, true},
		"healed":                     {refuses, works, false},
		"still resets what it takes": {resets, resets, true},
		"healed of that":             {resets, works, false},
	} {
		f, down := dropped(t, test.failure)
		down.fault = always(test.now)
		orders := len(f.orders)
		f.run(4 * time.Second) // sooner than idle pings would tell
		v := f.verdicts(outlier.Ejected)
		switch {
		case !test.ejected && (len(v) > 0 || len(f.orders) != orders+1):
			t.Errorf("%s: %d probes and %s, want one probe and no verdict", name, len(f.orders)-orders, describe(v))
		case test.ejected && (len(v) == 0 || v[0].Verdict.Rule != outlier.RuleHard || v[0].Verdict.Scope != Fleet):
			t.Errorf("%s: got %s\nwant a hard verdict for the fleet", name, describe(v))
		}
	}
}

func TestWhoIsLookedAtAgainKeepsNoOtherCrashWaiting(t *testing.T) {
	f, down := dropped(t, refuses)
	down.fault = always(hangs) // its probe has no answer for long
	orders := len(f.orders)
	if !f.until(f.now+4*time.Second, func() bool { return len(f.orders) > orders }) {
		t.Fatal("it is not looked at again")
	}
	other := f.targets[1] // of the other zone: down is not asked about as its neighbour
	first := never
	other.fault = func(_ *caller, now time.Duration) effect {
		if first == never {
			first = now
		}
		return crashed
	}
	if _, ok := f.ejected(1, time.Second); !ok {
		t.Fatalf("no verdict: %v", f.events)
	}
	if len(f.table.endpoints[down.Key].susp.checks) == 0 {
		t.Fatal("the probe of the one that is looked at again is over: nothing is shown")
	}
	if took := f.now - first; took >= hardGather {
		t.Errorf("the verdict came %v after the first failure, want it within less than %v", took, hardGather)
	}
}
