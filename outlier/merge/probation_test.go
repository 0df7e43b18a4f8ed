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
