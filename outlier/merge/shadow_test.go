package merge

import (
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// try switches the service of a fleet to shadow mode.
func (f *fleet) try() {
	f.policy.Outlier.Mode = outlier.Shadow
	f.setService()
	f.run(100 * ms)
}

func TestShadowModeGivesBackWhatStoodBefore(t *testing.T) {
	// The verdict goes out, is probed, tested and ramped; the switch comes in each state.
	for _, state := range []outlier.State{outlier.Ejected, outlier.Probing, outlier.Probation, outlier.Ramp} {
		f := newFleet(t, mesh{callers: 5, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, seed: 7})
		f.run(12 * time.Second)
		f.targets[2].fault = always(errs)
		if _, ok := f.ejected(2, 10*time.Second); !ok {
			t.Fatal("not ejected")
		}
		f.targets[2].fault = always(works)
		if !f.until(f.now+time.Minute, func() bool { return f.state(2) == state }) {
			t.Fatalf("never %s, but %s", state, f.state(2))
		}
		f.try()
		if got := f.state(2); got != outlier.In {
			t.Errorf("%s when shadow mode began, and then %s, want in", state, got)
		}
		f.run(30 * time.Second)
		if v := f.verdicts(); v[len(v)-1].To != outlier.In || f.state(2) != outlier.In {
			t.Errorf("%s when shadow mode began: %s", state, describe(v))
		}
	}
}

func TestShadowModeEndsASuspend(t *testing.T) {
	f := newFleet(t, mesh{callers: 5, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, seed: 7})
	f.run(12 * time.Second)
	f.targets[2].fault = always(hangs)
	if !f.until(f.now+10*time.Second, func() bool { return f.state(2) == outlier.Suspended }) {
		t.Fatalf("it is %s, want suspended", f.state(2))
	}
	f.try()
	if got := f.state(2); got != outlier.In {
		t.Errorf("it is %s, want in", got)
	}
}

func TestShadowModeEndsAVerdictForAZone(t *testing.T) {
	f := newFleet(t, mesh{callers: 9, endpoints: 6, zones: []string{"east", "west", "north"}, rate: 50, base: 0.001, seed: 7})
	f.run(12 * time.Second)
	f.targets[2].fault = onlyIn("west", errs)
	e := f.table.endpoints[f.targets[2].Key]
	if !f.until(f.now+20*time.Second, func() bool { return e.out("west") && !e.out(Fleet) }) {
		t.Fatalf("got %s\nwant a verdict for the zone west", describe(f.verdicts()))
	}
	f.try()
	if e.out("west") {
		t.Errorf("still out for the zone: %s", describe(f.verdicts()))
	}
}

func TestInShadowModeANewInstanceGetsItsFullShareAtOnce(t *testing.T) {
	f := newFleet(t, mesh{callers: 5, endpoints: 6, rate: 50, base: 0.001, seed: 7})
	f.run(5 * time.Second)
	f.try()
	specs := []Endpoint{{Key: Key{"api", "new"}, Weight: 1}}
	for _, target := range f.targets {
		specs = append(specs, target.Endpoint)
	}
	f.table.SetService("api", f.policy, specs, f.now)
	f.table.Step(f.now)
	if got := f.table.endpoints[Key{"api", "new"}].fleet.state; got != outlier.In {
		t.Errorf("it is %s, want in", got)
	}
}

func TestAnOperatorsOrderHoldsInShadowMode(t *testing.T) {
	f := newFleet(t, mesh{callers: 5, endpoints: 6, rate: 50, base: 0.001, seed: 7})
	f.run(5 * time.Second)
	k := f.targets[2].Key
	if err := f.table.Override(k, Override{Kind: OverrideEject, Reason: "kernel upgrade"}, f.now); err != nil {
		t.Fatal(err)
	}
	f.run(time.Second)
	f.try()
	f.run(10 * time.Second)
	if got := f.state(2); got != outlier.Ejected {
		t.Errorf("ejected by an operator, and %s, want ejected", got)
	}
	if err := f.table.Release(k, f.now); err != nil {
		t.Fatal(err)
	}
	f.run(100 * ms)
	if got := f.state(2); got != outlier.In {
		t.Errorf("released, and %s, want in at once", got)
	}
}
