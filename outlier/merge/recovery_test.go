package merge

import (
	"slices"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Where there is no traffic and no good ping, time alone forgives nothing.
func TestAnEjectionIsForgivenForAHealthyMinuteInWhichItWasSeenWell(t *testing.T) {
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	e := f.table.endpoints[f.targets[2].Key]
	e.fleet.n, e.fleet.forgave = 3, f.now
	for i, want := range []int{2, 1, 0, 0} {
		f.run(61 * time.Second)
		if e.fleet.n != want {
			t.Errorf("after %d minutes: %d on record, want %d", i+1, e.fleet.n, want)
		}
	}
	r := &record{scope: Fleet, n: 2, forgave: f.now}
	if f.table.forgive(e, r, f.now+time.Hour); r.n != 2 {
		t.Errorf("nobody has seen it since, and %d are on record, want 2", r.n)
	}
}

// What refused connections is back when it answers.
func TestAnAnswerEndsTheHoldOffAfterAHardVerdict(t *testing.T) {
	for _, rule := range []outlier.Rule{outlier.RuleHard, outlier.RuleFast} {
		f := quickstart(t, 50)
		f.run(12 * time.Second)
		e := f.table.endpoints[f.targets[2].Key]
		e.fleet.n = 5
		f.table.eject(e, Fleet, rule, Explanation{}, f.now)
		f.run(time.Second)
		if f.state(2) != outlier.Ejected {
			t.Fatalf("%s: %s during the hold-off, want ejected", rule, f.state(2))
		}
		f.callers[1].attempt(f.callers[1].cells[e.Key]) // an Envoy, for one, may still use it
		f.callers[1].report(true)
		f.run(100 * ms)
		if got, want := f.state(2) == outlier.Ejected, rule != outlier.RuleHard; got != want {
			t.Errorf("%s: after an answer it is %s", rule, f.state(2))
		}
	}
}

// Its process was killed, and may be back in a second: probes tell, and no request is lost.
func TestWhatHungAndThenRefusesIsProbedAtOnce(t *testing.T) {
	f := newFleet(t, mesh{callers: 5, endpoints: 10, zones: twoZones, rate: 20, seed: 5})
	f.patience = time.Second
	f.run(30 * time.Second)
	f.targets[2].fault = always(hangs)
	f.run(30 * time.Second)
	if f.state(2) != outlier.Suspended {
		t.Fatalf("it hangs, and users leave; %s, want suspended", f.state(2))
	}
	f.targets[2].fault = always(crashed)
	if _, ok := f.ejected(2, 10*time.Second); !ok {
		t.Fatalf("it refuses, and is %s", f.state(2))
	}
	f.targets[2].fault = always(works)
	if begun := f.now; !f.until(begun+hardRetry, func() bool { return f.state(2) == outlier.Probation }) {
		t.Errorf("back for %v, and %s, want its test begun", f.now-begun, f.state(2))
	}
}

func TestProbesOfWhatStaysDownBecomeRareAndCostNothingOnRecord(t *testing.T) {
	for rule, most := range map[outlier.Rule]time.Duration{outlier.RuleHard: 5 * time.Second, outlier.RuleFast: time.Minute} {
		f := quickstart(t, 50)
		f.run(12 * time.Second)
		e := f.table.endpoints[f.targets[2].Key]
		f.targets[2].fault = always(crashed)
		f.table.eject(e, Fleet, rule, Explanation{}, f.now)
		f.orders = nil
		var tries []time.Duration
		f.until(f.now+10*time.Minute, func() bool {
			if n := len(f.orders); n > 0 {
				tries, f.orders = append(tries, f.now), nil
			}
			return false
		})
		var gaps []time.Duration
		for i := range tries[1:] {
			gaps = append(gaps, tries[i+1]-tries[i])
		}
		if longest := slices.Max(gaps); longest > most*13/10 || longest < most*7/10 {
			t.Errorf("%s: the longest wait is %v, want about %v", rule, longest, most)
		}
		if !slices.IsSortedFunc(gaps[:3], func(a, b time.Duration) int { return int(a - b) }) {
			t.Errorf("%s: waits are %v, want them to grow", rule, gaps[:3])
		}
		if e.fleet.n != 1 {
			t.Errorf("%s: %d on record, want the one ejection", rule, e.fleet.n)
		}
	}
}

func TestAnEndpointThatMostZonesCannotReachIsOutForAll(t *testing.T) {
	f := newFleet(t, mesh{callers: 12, endpoints: 9, zones: []string{"a", "b", "c"}, rate: 50, base: 0.001, seed: 7})
	f.run(12 * time.Second)
	lost := map[string]bool{"a": true}
	f.targets[2].fault = func(c *caller, _ time.Duration) effect {
		if lost[c.Zone] {
			return cut
		}
		return works
	}
	if _, ok := f.ejected(2, 10*time.Second); !ok || f.verdicts(outlier.Ejected)[0].Verdict.Scope != "a" {
		t.Fatalf("got %s\nwant a verdict for zone a", describe(f.verdicts()))
	}
	lost["b"] = true
	if _, ok := f.ejected(2, 10*time.Second); !ok || f.verdicts(outlier.Ejected)[1].Verdict.Scope != Fleet {
		t.Fatalf("got %s\nwant a verdict for the fleet when a second of three zones is lost", describe(f.verdicts()))
	}
}

// withOneMuted is a fleet whose second caller is broken, and that domain, which is muted.
func withOneMuted(t *testing.T) (*fleet, *domain) {
	t.Helper()
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	f.callers[1].broken = true
	d := f.table.reporters[f.callers[1].ID].domain
	if !f.until(f.now+20*time.Second, func() bool { return d.muted(f.now) }) {
		t.Fatal("not muted")
	}
	return f, d
}

func TestAMuteEndsWhenItsTimeIsOver(t *testing.T) {
	f, d := withOneMuted(t)
	f.run(30 * time.Second)
	f.callers[1].broken = false
	if !f.until(f.now+2*time.Minute, func() bool { return !d.muted(f.now) && d.reason == "" }) {
		t.Fatal("the mute does not end")
	}
	f.run(time.Minute)
	if v := f.verdicts(); len(v) != 0 {
		t.Errorf("got %s\nwant no verdict", describe(v))
	}
	if d.muted(f.now) {
		t.Error("muted again, although it is well")
	}
}

// Others may have kept the excursion open meanwhile.
func TestWhatWasSaidDuringAMuteStaysOut(t *testing.T) {
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	e := f.table.endpoints[f.targets[2].Key]
	r := f.table.reporters[f.callers[1].ID]
	e.fast.begin(f.now - time.Second)
	e.fast.active = append(e.fast.active, entry{cell: e.index[r.slot], slot: r.slot, n: 50, k: 50, changed: f.now})
	against := func() int64 { return f.table.read(e, &e.fast, localSteps, only{}, f.now).largest }
	f.table.mute(r.domain, "a test", f.now)
	if got := against(); got != 0 {
		t.Errorf("%d against it while the one who says so is muted, want 0", got)
	}
	f.now += f.table.cfg.Mute
	f.table.unmute(f.now)
	if got := against(); got != 0 {
		t.Errorf("%d against it after the mute, want 0", got)
	}
}

// Not even when it ends just as domains are looked at that should be muted.
func TestWhatWasSaidDuringAMuteDoesNotMuteAgain(t *testing.T) {
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	r := f.table.reporters[f.callers[1].ID]
	accuse := func() {
		for _, target := range f.targets {
			e := f.table.endpoints[target.Key]
			e.fast.close(f.now)
			e.fast.begin(f.now - time.Second)
			e.fast.active = append(e.fast.active, entry{cell: e.index[r.slot], slot: r.slot, n: 50, k: 50, changed: f.now})
			e.fast.last.h, e.fast.last.odds, e.fast.last.at = 12*nat, outlier.Odds{P0: 0.02, P1: 0.2}, f.now
		}
	}
	accuse()
	f.table.second(f.now)
	if !r.domain.muted(f.now) {
		t.Fatal("not muted")
	}
	f.now = r.domain.mutedUntil
	for _, o := range f.table.reporters {
		o.heard = f.now
	}
	accuse()
	for _, e := range f.table.endpoints {
		for i := range e.cells {
			e.cells[i].changed = f.now
		}
	}
	f.table.weigh(r, f.now) // as its next report does
	f.table.Step(f.now)
	if r.domain.muted(f.now) {
		t.Error("muted again for what it said meanwhile")
	}
}
