package merge

import (
	"slices"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// With one caller nobody else can take over the test requests. The endpoint is out
// already: it stays out, is probed, and comes back when it is well.
func TestAProbationThatOnlyOneSidecarCanTestEnds(t *testing.T) {
	f := newFleet(t, mesh{callers: 1, bystanders: 2, endpoints: 2, zones: twoZones, rate: 30, inbound: true, seed: 11})
	f.run(12 * time.Second)
	k := f.targets[0].Key
	if err := f.table.Override(k, Override{Kind: OverrideEject, Reason: "kernel upgrade", By: "ann"}, f.now); err != nil {
		t.Fatal(err)
	}
	f.run(2 * time.Second)
	if err := f.table.Release(k, f.now); err != nil {
		t.Fatal(err)
	}
	if !f.until(f.now+10*time.Second, func() bool { return f.state(0) == outlier.Probation }) {
		t.Fatalf("no probation, but %s", f.state(0))
	}
	f.targets[0].fault = always(errs)
	if !f.until(f.now+time.Minute, func() bool { return f.state(0) == outlier.Ejected }) {
		t.Fatalf("all test requests failed, and it is %s, want it sent back", f.state(0))
	}
	f.targets[0].fault = always(works)
	if !f.until(f.now+3*time.Minute, func() bool { return f.state(0) == outlier.In }) {
		t.Errorf("well for three minutes, and %s, want it in", f.state(0))
	}
}

// Whoever takes over from a replaced sidecar may stop before it has sent anything.
func TestAProbationWhoseOtherTestersLeaveEnds(t *testing.T) {
	f := newFleet(t, mesh{callers: 1, bystanders: 2, endpoints: 2, zones: twoZones, rate: 30, inbound: true, seed: 12})
	f.run(12 * time.Second)
	k := f.targets[0].Key
	if err := f.table.Override(k, Override{Kind: OverrideEject, Reason: "kernel upgrade", By: "ann"}, f.now); err != nil {
		t.Fatal(err)
	}
	f.run(2 * time.Second)
	if err := f.table.Release(k, f.now); err != nil {
		t.Fatal(err)
	}
	if !f.until(f.now+10*time.Second, func() bool { return f.state(0) == outlier.Probation }) {
		t.Fatalf("no probation, but %s", f.state(0))
	}
	other := f.callers[1]
	other.attempt(other.cells[f.targets[1].Key]) // its last
	other.report(true)
	f.targets[0].fault = always(errs)
	replaced := func() bool {
		return slices.ContainsFunc(f.events, func(e Event) bool { return e.Kind == EventReplaced })
	}
	if !f.until(f.now+time.Minute, replaced) {
		t.Fatalf("the first sidecar was not replaced; it is %s", f.state(0))
	}
	if !f.until(f.now+3*time.Minute, func() bool { return f.state(0) == outlier.Ejected }) {
		t.Errorf("nobody else tests it, and it is %s, want it sent back", f.state(0))
	}
}

// The odds for errors of 20 % and more let one failure in twenty pass.
func TestATrialAfterASmallFaultTellsThatFault(t *testing.T) {
	readmitted := 0
	for seed := range uint64(3) {
		f := newFleet(t, mesh{callers: 20, endpoints: 10, zones: twoZones, rate: 100, base: 0.01, seed: seed})
		f.run(30 * time.Second)
		f.targets[2].fault = f.sometimes(0.05)
		if _, ok := f.ejected(2, 60*time.Second); !ok {
			t.Fatalf("seed %d: 5 %% errors not found", seed)
		}
		f.run(time.Minute)
		readmitted += len(f.verdicts(outlier.Ramp))
		if seed > 0 {
			continue
		}
		f.targets[2].fault = always(works)
		if !f.until(f.now+3*time.Minute, func() bool { return f.state(2) == outlier.In }) {
			t.Errorf("well for three minutes, and %s, want it in", f.state(2))
		}
	}
	if readmitted > 1 {
		t.Errorf("readmitted %d times in 3 minutes while it failed 5 %% of its requests, want once at most", readmitted)
	}
}

func TestTheFirstSuccessOfATrialComesSoonHoweverManySidecarsThereAre(t *testing.T) {
	for _, callers := range []int{5, 500} {
		f := newFleet(t, mesh{callers: callers, endpoints: 10, zones: twoZones, rate: 50, base: 0.001, seed: 3})
		f.run(30 * time.Second)
		f.targets[2].fault = always(errs)
		if _, ok := f.ejected(2, 10*time.Second); !ok {
			t.Fatalf("%d callers: no verdict", callers)
		}
		f.targets[2].fault = always(works)
		if !f.until(f.now+10*time.Second, func() bool { return f.state(2) == outlier.Probation }) {
			t.Fatalf("%d callers: no probation, but %s", callers, f.state(2))
		}
		e, begun := f.table.endpoints[f.targets[2].Key], f.now
		rate := 0.0
		for _, c := range e.fleet.trial.chosen {
			rate += f.table.fairRate(e, c)
		}
		if callers == 500 && (rate < firstRate || rate > 1.2*firstRate) {
			t.Errorf("%d callers: those who try it first make %.1f attempts per second, want %d", callers, rate, firstRate)
		}
		if !f.until(begun+20*time.Second, func() bool { return f.state(2) == outlier.Ramp }) {
			t.Errorf("%d callers: %v after its trial began it is %s, want ramp", callers, f.now-begun, f.state(2))
		}
	}
}

// Of those who alone see test requests fail as many may be broken as a verdict leaves out.
// One more, and it is the endpoint: else it would end with a single tester.
func TestSeveralWhoEachSeeTestRequestsFailAreNotAllReplaced(t *testing.T) {
	for seed := range uint64(20) {
		f := newFleet(t, mesh{callers: 5, endpoints: 6, zones: twoZones, rate: 50, seed: 40 + seed})
		f.run(12 * time.Second)
		f.targets[2].fault = f.sometimes(0.2)
		if _, ok := f.ejected(2, 10*time.Second); !ok {
			t.Fatalf("seed %d: 20 %% of errors not found", seed)
		}
		e, replaced := f.table.endpoints[f.targets[2].Key], 0
		watch := func() bool {
			if tr := e.fleet.trial; tr != nil {
				replaced = max(replaced, len(tr.shut))
			}
			return f.state(2) == outlier.In
		}
		f.until(f.now+10*time.Second, func() bool { watch(); return false })
		f.targets[2].fault = always(works)
		if mended := f.now; !f.until(mended+35*time.Second, watch) {
			t.Errorf("seed %d: well for 35 s, and %s, want it in", seed, f.state(2))
		}
		if replaced > f.policy.LeaveOut {
			t.Errorf("seed %d: %d testers of one probation were replaced, want %d at most", seed, replaced, f.policy.LeaveOut)
		}
	}
}
