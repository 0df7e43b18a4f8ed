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
	if !f.until(f.now+4*time.Minute, func() bool { return f.state(0) == outlier.Ejected }) {
		t.Errorf("nobody else tests it, and it is %s, want it sent back", f.state(0))
	}
}

// Whoever is asked in the place of those whose requests failed may send nothing for as long
// as he is asked: he has few requests, or has left the endpoint by himself.
func TestAProbationWhoseOtherTestersSendNothingEnds(t *testing.T) {
	for seed := range uint64(10) {
		f := newFleet(t, mesh{callers: 2 + int(seed%4), endpoints: 4, rate: 50, seed: seed})
		f.run(12 * time.Second)
		k := f.targets[0].Key
		if err := f.table.Override(k, Override{Kind: OverrideEject, Reason: "kernel upgrade", By: "ann"}, f.now); err != nil {
			t.Fatal(err)
		}
		f.run(12 * time.Second) // all have told of what was before
		if err := f.table.Release(k, f.now); err != nil {
			t.Fatal(err)
		}
		if !f.until(f.now+10*time.Second, func() bool { return f.state(0) == outlier.Probation }) {
			t.Fatalf("seed %d: no probation, but %s", seed, f.state(0))
		}
		var tester *caller
		f.targets[0].fault = func(c *caller, _ time.Duration) effect {
			if tester != nil {
				return works
			}
			tester = c
			return errs
		}
		in := func() bool {
			for _, c := range f.callers {
				if tester != nil && c != tester {
					c.cells[k].shareTill = 0
				}
			}
			return f.state(0) == outlier.In
		}
		if !f.until(f.now+4*time.Minute, in) {
			t.Errorf("seed %d: well but for the first request, and %s after four minutes, want it in", seed, f.state(0))
		}
	}
}

func TestWhoIsReplacedDecidesWhenNobodyTakesOver(t *testing.T) {
	f := newFleet(t, mesh{callers: 2, endpoints: 4, rate: 50, seed: 13})
	f.run(12 * time.Second)
	f.targets[0].fault = always(errs)
	if _, ok := f.ejected(0, 10*time.Second); !ok {
		t.Fatal("not ejected")
	}
	in := func() bool {
		f.callers[1].cells[f.targets[0].Key].shareTill = 0 // it never tests
		return f.state(0) == outlier.In
	}
	f.until(f.now+15*time.Minute, in)
	f.targets[0].fault = always(works)
	if !f.until(f.now+6*time.Minute, in) {
		t.Errorf("well for six minutes, and %s, want it in", f.state(0))
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

// A share is 1 at most: what is undecided for long is not tested by fewer for that.
func TestWhatIsUndecidedIsTestedByMoreSidecars(t *testing.T) {
	f := newFleet(t, mesh{callers: 500, endpoints: 10, zones: twoZones, rate: 50, base: 0.001, seed: 3})
	f.run(30 * time.Second)
	e := f.table.endpoints[f.targets[2].Key]
	f.table.eject(e, Fleet, outlier.RuleFast, Explanation{}, f.now)
	if !f.until(f.now+10*time.Second, func() bool { return f.state(2) == outlier.Probation }) {
		t.Fatalf("no probation, but %s", f.state(2))
	}
	tr := e.fleet.trial
	for _, tr.doubted = range []bool{true, false} {
		var sidecars []int
		for tr.doubled = range 7 {
			tr.renewed = never
			f.table.shares(e, &e.fleet, f.now)
			sidecars = append(sidecars, len(tr.chosen))
		}
		if !slices.IsSorted(sidecars) || sidecars[0] == sidecars[6] {
			t.Errorf("doubted %v: minute by minute %v sidecars test it, want ever more", tr.doubted, sidecars)
		}
	}
}

// Where machines are few each has many sidecars, of which none makes the rate.
func TestManySidecarsOfTwoMachinesTestTogether(t *testing.T) {
	f := newFleet(t, mesh{callers: 100, endpoints: 10, rate: 50, seed: 3, node: func(i int) string { return []string{"a", "b"}[i%2] }})
	f.run(30 * time.Second)
	e := f.table.endpoints[f.targets[2].Key]
	f.table.eject(e, Fleet, outlier.RuleFast, Explanation{}, f.now)
	f.run(15 * time.Second)
	if got := f.state(2); got != outlier.In && got != outlier.Ramp {
		t.Errorf("well for 15 s, and %s, want it on its way in", got)
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
		if mended := f.now; !f.until(mended+45*time.Second, watch) {
			t.Errorf("seed %d: well for 45 s, and %s, want it in", seed, f.state(2))
		}
		if replaced > f.policy.LeaveOut {
			t.Errorf("seed %d: %d testers of one probation were replaced, want %d at most", seed, replaced, f.policy.LeaveOut)
		}
	}
}

// A test of what is still bad costs one request each of two sidecars, as nobody is asked
// twice while others have not been.
func TestATestOfWhatIsStillBadCostsTwoRequests(t *testing.T) {
	for name, share := range map[string]float64{"all": 1, "half": .5} {
		failed, tests := 0, 0
		for seed := range uint64(40) {
			f := newFleet(t, mesh{callers: 5, endpoints: 10, zones: twoZones, rate: 50, base: 0.001, seed: 60 + seed})
			f.run(30 * time.Second)
			bad := f.sometimes(share)
			f.targets[2].fault = func(c *caller, now time.Duration) effect {
				e := bad(c, now)
				if e != works && f.state(2) == outlier.Probation {
					failed++
				}
				return e
			}
			if _, ok := f.ejected(2, 10*time.Second); !ok {
				t.Fatalf("%s, seed %d: no verdict", name, seed)
			}
			f.run(20 * time.Second)
			tests += len(f.verdicts(outlier.Probation))
		}
		if tests < 100 || float64(failed) > 2.2*float64(tests) {
			t.Errorf("%s: %d requests failed in %d tests, want 2 in each", name, failed, tests)
		}
	}
}

// Where requests are so few that many sidecars take part, several of one machine may be
// under way before it is known that one has failed: still it is a single machine that says so.
func TestAMachineWhoseSidecarsAllSeeTestRequestsFailIsReplaced(t *testing.T) {
	replaced := 0
	for seed := range uint64(20) {
		f := newFleet(t, mesh{callers: 60, endpoints: 6, zones: twoZones, rate: 20, seed: 80 + seed, node: func(i int) string {
			return []string{"a", "b", "a", "c", "a", "d"}[i%6]
		}})
		f.run(20 * time.Second)
		k := f.targets[2].Key
		if err := f.table.Override(k, Override{Kind: OverrideEject, Reason: "kernel upgrade", By: "ann"}, f.now); err != nil {
			t.Fatal(err)
		}
		f.run(2 * time.Second)
		f.targets[2].fault = func(c *caller, _ time.Duration) effect {
			if c.Node == "a" {
				return hangs
			}
			return works
		}
		if err := f.table.Release(k, f.now); err != nil {
			t.Fatal(err)
		}
		f.changes = nil
		f.run(20 * time.Second)
		if v := f.verdicts(outlier.Ejected); len(v) != 0 {
			t.Errorf("seed %d: got %s\nwant it on its way back: only sidecars of one machine fail", seed, describe(v))
		}
		for _, e := range f.events {
			if e.Kind == EventReplaced {
				replaced++
			}
		}
	}
	if replaced == 0 {
		t.Error("the machine was never replaced: the test tests nothing")
	}
}

// What was suspended was tried all the time before it was ejected: it waits for as long as
// that has lasted, else the first test would be one more trickle.
func TestWhatHangsWaitsForItsFirstTestAsLongAsItWasTried(t *testing.T) {
	f := newFleet(t, mesh{callers: 5, endpoints: 10, zones: twoZones, rate: 20, base: 0.001, seed: 5})
	f.run(30 * time.Second)
	f.targets[2].fault = always(effect{class: outlier.Timeout, probe: outlier.ProbeOK})
	f.run(30 * time.Second)
	var suspended, ejected, probed time.Duration
	for _, ch := range f.verdicts(outlier.Suspended, outlier.Ejected, outlier.Probing) {
		switch at := ch.At; {
		case ch.To == outlier.Suspended && suspended == 0:
			suspended = at
		case ch.To == outlier.Ejected && ejected == 0:
			ejected = at
		case ch.To == outlier.Probing && probed == 0:
			probed = at
		}
	}
	tried := ejected - suspended
	if suspended == 0 || tried < 2*time.Second {
		t.Fatalf("suspended at %v and ejected at %v: want it tried for 2 s at least, else the test tests nothing", suspended, ejected)
	}
	if wait := probed - ejected; wait < tried*4/5 || wait > tried*6/5 {
		t.Errorf("tried for %v, and probed %v after it was ejected, want about as long", tried, wait)
	}
}

// retried has an operator take the endpoint out and let it in again, sooner than callers
// tell of what went well before.
func (f *fleet) retried(i int) {
	f.tb.Helper()
	k := f.targets[i].Key
	if err := f.table.Override(k, Override{Kind: OverrideEject, Reason: "kernel upgrade", By: "ann"}, f.now); err != nil {
		f.tb.Fatal(err)
	}
	f.stepAt = f.now
	f.run(500 * ms)
	if err := f.table.Release(k, f.now); err != nil {
		f.tb.Fatal(err)
	}
	if !f.until(f.now+10*time.Second, func() bool { return f.state(i) == outlier.Probation }) {
		f.tb.Fatalf("no probation, but %s", f.state(i))
	}
}

// What callers tell late, or what ends late, says how the endpoint was before it was out.
func TestWhatIsToldLateIsNoResultOfAProbation(t *testing.T) {
	for _, tt := range []struct {
		name     string
		class    outlier.Class // of what was outstanding
		observes bool
	}{
		{"successes", outlier.OK, false},
		{"timeouts", outlier.Timeout, false},
		{"successes, observers", outlier.OK, true},
		{"timeouts, observers", outlier.Timeout, true},
	} {
		for seed := range uint64(5) {
			f := newFleet(t, mesh{callers: 6, endpoints: 4, zones: twoZones, rate: 60, observes: tt.observes, seed: 100 + seed})
			f.run(15 * time.Second)
			k := f.targets[1].Key
			if tt.class == outlier.Timeout {
				for _, c := range f.callers { // else what went well outweighs it
					c.report(true)
				}
			}
			began := f.now
			f.retried(1)
			ends := f.now + 3*time.Second
			for _, c := range f.callers {
				c.cells[k].hanging = []time.Duration{began, began, began}
				c.urgent()
				f.at(ends, func() {
					c.cells[k].hanging = nil
					for range 3 {
						c.end(c.cells[k], tt.class, began, 0)
					}
				})
			}
			f.until(ends+12*time.Second, func() bool { // in which all is told
				for _, c := range f.callers {
					c.cells[k].shareTill = 0 // it makes no test request
				}
				return f.state(1) != outlier.Probation
			})
			x, _ := f.table.Explain(k, f.now)
			if f.state(1) != outlier.Probation || x.Trial == nil || x.Trial.Counts.N > 0 {
				t.Errorf("%s, seed %d: nobody has tested it, and it is %s: %s", tt.name, seed, f.state(1), x.Reason)
			}
		}
	}
}

// Who tells no results is judged by what it counts.
func TestObserversTestWhatComesBack(t *testing.T) {
	for seed := range uint64(5) {
		f := newFleet(t, mesh{callers: 6, endpoints: 4, zones: twoZones, rate: 60, observes: true, seed: 200 + seed})
		f.run(15 * time.Second)
		f.targets[1].fault = always(errs)
		if _, ok := f.ejected(1, 10*time.Second); !ok {
			t.Fatalf("seed %d: errors were not found", seed)
		}
		if !f.until(f.now+30*time.Second, func() bool { return f.state(1) == outlier.Probation }) {
			t.Fatalf("seed %d: no probation, but %s", seed, f.state(1))
		}
		if took, ok := f.ejected(1, 10*time.Second); !ok {
			t.Errorf("seed %d: test requests have failed for %v, and it is %s, want it sent back", seed, took, f.state(1))
		}
		f.targets[1].fault = always(works)
		if !f.until(f.now+time.Minute, func() bool { return f.state(1) == outlier.In }) {
			t.Errorf("seed %d: well for a minute, and %s, want it in", seed, f.state(1))
		}
	}
}
