package merge

import (
	"slices"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

var twoZones = []string{"east", "west"}

// quickstart is the size of the first example: five callers, six endpoints, two
// zones, every caller on a node of its own.
func quickstart(tb testing.TB, rate float64) *fleet {
	return newFleet(tb, mesh{callers: 5, endpoints: 6, zones: twoZones, rate: rate, base: 0.001, seed: 7})
}

func TestACrashTakesTheWholeFleetOffWithinTheTimeOfOneProbe(t *testing.T) {
	for _, rate := range []float64{0.1, 1, 50, 500} {
		for _, inbound := range []bool{false, true} {
			f := newFleet(t, mesh{callers: 5, endpoints: 6, zones: twoZones, rate: rate, base: 0.001, seed: 7, inbound: inbound})
			f.run(12 * time.Second)
			first := time.Duration(-1)
			f.targets[2].fault = func(*caller, time.Duration) effect {
				if first < 0 {
					first = f.now
				}
				return crashed
			}
			if _, ok := f.ejected(2, 2*time.Minute); !ok {
				t.Errorf("rate %v, inbound %v: no verdict\n%v", rate, inbound, f.events)
				continue
			}
			v := f.verdicts(outlier.Ejected)
			if took := f.now - first; took > 50*ms {
				t.Errorf("rate %v, inbound %v: verdict %v after the first failure, want at most 50ms", rate, inbound, took)
			}
			if len(v) != 1 || v[0].Verdict.Rule != outlier.RuleHard || v[0].Verdict.Scope != Fleet {
				t.Errorf("rate %v, inbound %v: got %s\nwant one hard verdict for the fleet", rate, inbound, describe(v))
			}
			for _, o := range f.orders {
				if inbound && o.Reason == reasonSuspicion && o.Level != outlier.LevelApp {
					t.Errorf("an endpoint behind a sidecar is probed at level %s, want app", o.Level)
				}
			}
		}
	}
}

func TestAFaultThatTwoRulesSeeAtOnceIsOneEjection(t *testing.T) {
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	f.targets[2].fault = always(errs)
	e := f.table.endpoints[f.targets[2].Key]
	e.refusal.until = forever // so that the statistic can be caught over its threshold
	if !f.until(f.now+10*time.Second, func() bool { return e.fast.open && e.fast.last.h > 0 && e.fast.last.t >= e.fast.last.h }) {
		t.Fatal("the statistic does not come over its threshold")
	}
	e.refusal.until, e.poll.waiting, e.poll.done = 0, nil, f.now
	e.susp.confirmed = f.now
	f.table.touch(e)
	v := f.table.Step(f.now + ms).Changes
	if len(v) != 1 || v[0].Verdict.Rule != outlier.RuleHard || v[0].Verdict.N != 1 {
		t.Errorf("got %s\nwant one hard verdict", describe(v))
	}
}

func TestAListenerThatIsGoneIsNoCrashWhileOldConnectionsAnswer(t *testing.T) {
	// Who has a connection that stands answers a probe with good news; one prober in
	// five has none just now, and one who never called the endpoint has none at all.
	for _, m := range []mesh{
		{callers: 10, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, seed: 7},
		{callers: 2, bystanders: 4, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, seed: 7},
	} {
		f := newFleet(t, m)
		f.run(12 * time.Second)
		// One attempt in 50 needs a new connection.
		f.targets[2].fault = func(c *caller, _ time.Duration) effect {
			switch {
			case f.rng.Float64() < 0.02:
				return refuses
			case c.bystander || f.rng.Float64() < 0.2:
				return effect{class: outlier.OK, probe: outlier.Refused}
			}
			return works
		}
		f.run(10 * time.Second)
		if v := f.verdicts(); len(v) != 0 {
			t.Errorf("%d bystanders: got %s\nwant no verdict", m.bystanders, describe(v))
		}
		if len(f.orders) == 0 {
			t.Errorf("%d bystanders: nobody was asked to probe", m.bystanders)
		}
	}
}

// A crash resets the connections that stand, and so nobody has one to answer a probe
// with: there is nothing to wait for.
func TestACrashOfWhichOnlyRefusalsAreSeenIsFoundInARoundTrip(t *testing.T) {
	f := newFleet(t, mesh{callers: 10, endpoints: 6, zones: twoZones, rate: 100, base: 0.001, seed: 7})
	f.run(12 * time.Second)
	f.targets[2].fault = always(refuses)
	if !f.until(f.now+time.Second, func() bool { return len(f.orders) > 0 }) {
		t.Fatal("nobody was asked to probe")
	}
	if took, ok := f.ejected(2, time.Second); !ok || took > 10*ms {
		t.Errorf("found %v, %v after the probes were ordered; want within 10ms", ok, took)
	}
}

// A probe is an attempt of its prober too, and both are told: it makes no difference
// which the table hears of first.
func TestARefusedProbeThatIsToldAsAnAttemptAlsoShowsThatConnectionsAreGone(t *testing.T) {
	f := newFleet(t, mesh{callers: 10, endpoints: 6, zones: twoZones, rate: 100, base: 0.001, seed: 7})
	f.run(12 * time.Second)
	f.targets[2].fault = always(refuses)
	f.deaf = true // polls go without an answer
	if !f.until(f.now+time.Second, func() bool { return len(f.orders) > 0 }) {
		t.Fatal("nobody was asked to probe")
	}
	for _, o := range f.orders {
		i := slices.IndexFunc(f.callers, func(c *caller) bool { return c.ID == o.Reporter })
		c := f.callers[i]
		cell := c.cells[f.targets[2].Key]
		cell.lastHard, cell.level = f.now, outlier.LevelConnect
		c.report(true)
		f.table.Probed(o.ID, o.Reporter, o.Level, outlier.Refused, f.now-ms, f.now, f.now)
	}
	if took, ok := f.ejected(2, time.Second); !ok || took > 30*ms {
		t.Errorf("found %v, %v after the probes were answered; want within 30ms, the wait for polls", ok, took)
	}
}

func TestRefusalsThatAreToldAfterAContradictionAreNoVerdict(t *testing.T) {
	// Answers are told of when there is time. Where that is each ten seconds, nobody has
	// told of one lately when the round after the contradiction may not begin yet.
	for _, quiet := range []bool{false, true} {
		f := newFleet(t, mesh{callers: 10, endpoints: 6, zones: twoZones, rate: 50, base: 0, seed: 7})
		f.run(12 * time.Second)
		f.targets[2].fault = always(works) // the listener is gone, and connections stand
		refused := func(callers ...*caller) {
			for _, c := range callers {
				cell := c.cells[f.targets[2].Key]
				cell.lastHard, cell.level = f.now, outlier.LevelConnect
				cell.counts.N++
				cell.counts.Conn++
				c.report(true)
			}
		}
		refused(f.callers[0])
		contradicted := func() bool {
			return slices.ContainsFunc(f.events, func(e Event) bool { return e.Kind == EventContradicted })
		}
		if !f.until(f.now+500*ms, contradicted) {
			t.Fatalf("nobody contradicts: %v", f.events)
		}
		refused(f.callers[5:]...) // their probes count as attempts
		if quiet {
			f.run(5 * ms)
			f.tamper = func(Report) []Report { return nil }
		}
		f.run(time.Second)
		if v := f.verdicts(); len(v) != 0 {
			t.Errorf("quiet %v: got %s\nwant no verdict", quiet, describe(v))
		}
	}
}

func TestAHangIsSuspendedSoonAfterAttemptsAreOverdueAndEndsWithTheFirstAnswer(t *testing.T) {
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	begin := f.now
	f.targets[2].fault = always(hangs)
	if !f.until(begin+5*time.Second, func() bool { return len(f.verdicts(outlier.Suspended)) > 0 }) {
		t.Fatalf("not suspended: %v", f.events)
	}
	if took := f.now - begin; took > overdueAge+400*ms {
		t.Errorf("suspended after %v, want at most %v", took, overdueAge+400*ms)
	}
	f.run(700 * ms)
	if v := f.verdicts(); len(v) != 1 || v[0].Verdict.Rule != outlier.RuleStalled {
		t.Errorf("got %s\nwant one suspend", describe(v))
	}
	f.targets[2].fault = always(works)
	f.run(6 * time.Second)
	if s := f.table.Status(f.now)[0].Endpoints[2]; s.State != outlier.In {
		t.Errorf("after it answers again: %s, want in; %s", s.State, describe(f.verdicts()))
	}
}

func TestWhatHungBeforeAnAnswerDoesNotSuspendAgain(t *testing.T) {
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	f.targets[2].fault = always(hangs)
	if !f.until(f.now+5*time.Second, func() bool { return len(f.verdicts(outlier.Suspended)) > 0 }) {
		t.Fatalf("not suspended: %v", f.events)
	}
	f.run(100 * ms)
	// From here on everything is answered. One caller tells so 350 ms later, the others
	// have not told anything since.
	open := false
	f.tamper = func(r Report) []Report {
		if !open {
			return nil
		}
		return []Report{r}
	}
	f.deaf = true // nor are they asked
	answered := f.now + ms
	f.run(350 * ms)
	for _, c := range f.callers {
		cell := c.cells[f.targets[2].Key]
		cell.lastOK, cell.okStart, cell.hanging = answered, answered-500*ms, nil // of requests that hung
		cell.counts.N++
	}
	open = true
	f.callers[0].report(true)
	open = false
	f.run(500 * ms)
	if v := f.verdicts(); len(v) != 2 || v[1].To != outlier.In {
		t.Errorf("got %s\nwant one suspend and its end", describe(v))
	}
}

func TestAStallThatOneZoneSeesJustAfterTheStartIsNotTheFleets(t *testing.T) {
	f := newFleet(t, mesh{callers: 8, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, seed: 7})
	f.run(time.Second) // the first summaries come within ten
	f.targets[2].fault = func(c *caller, _ time.Duration) effect {
		if c.Zone == "west" {
			return hangs
		}
		return effect{class: outlier.OK, probe: outlier.NotRun} // no probe reaches as deep as a request
	}
	f.run(2 * time.Second)
	for _, ch := range f.verdicts(outlier.Suspended) {
		if ch.Verdict.Scope != "west" {
			t.Errorf("got %s\nwant it suspended for the west alone: the east has answers, though it has not told of them", describe(f.verdicts()))
			break
		}
	}
	if len(f.verdicts(outlier.Suspended)) == 0 {
		t.Error("not suspended for anybody")
	}
}

func TestACallerWithABrokenNetworkIsBelievedByNobodyAndMuted(t *testing.T) {
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	f.callers[1].broken = true
	f.run(20 * time.Second)
	if v := f.verdicts(); len(v) != 0 {
		t.Errorf("got %s\nwant no verdict", describe(v))
	}
	muted := false
	for _, e := range f.events {
		muted = muted || e.Kind == EventMuted && e.Reporter == "node:node001"
	}
	if !muted {
		t.Error("the broken caller was not muted")
	}
}

func TestANodeWithThreeReportersThatIsCutOffGivesNoVerdict(t *testing.T) {
	f := newFleet(t, mesh{callers: 8, endpoints: 10, zones: twoZones, rate: 50, base: 0.01, seed: 3, node: func(i int) string {
		if i < 6 && i%2 == 0 { // three callers of the east
			return "cut"
		}
		return "node" + string(rune('a'+i))
	}})
	f.run(12 * time.Second)
	for _, c := range f.callers {
		c.broken = c.Node == "cut"
	}
	f.run(30 * time.Second)
	if v := f.verdicts(); len(v) != 0 {
		t.Errorf("got %s\nwant no verdict", describe(v))
	}
}

func TestAZoneThatIsDownLeavesInOnePush(t *testing.T) {
	for _, rate := range []float64{1, 5, 50, 500} {
		for _, inbound := range []bool{false, true} {
			for seed := range uint64(5) {
				f := newFleet(t, mesh{callers: 6, endpoints: 6, zones: twoZones, rate: rate, base: 0.001, seed: seed, inbound: inbound})
				f.run(12 * time.Second)
				first := time.Duration(-1)
				for _, e := range f.targets {
					if e.Zone != "west" {
						continue
					}
					e.fault = func(*caller, time.Duration) effect {
						if first < 0 {
							first = f.now
						}
						return crashed
					}
				}
				f.until(f.now+10*time.Second, func() bool { return len(f.verdicts(outlier.Ejected)) > 0 })
				f.run(100 * ms)
				v := f.verdicts(outlier.Ejected)
				if len(v) != 3 || v[0].At != v[2].At || v[0].At > first+50*ms {
					t.Errorf("%v/s, inbound %v, seed %d: first failure at %v, got %s\nwant all three of the west at one instant, within 50ms", rate, inbound, seed, first, describe(v))
				}
				for _, ch := range v {
					if f.byKey[ch.Verdict.Key].Zone != "west" {
						t.Errorf("%s of the healthy zone went", ch.Verdict.Key)
					}
				}
			}
		}
	}
}

func TestTheNeighboursOfACrashedEndpointAreProbedOnceAndStay(t *testing.T) {
	f := newFleet(t, mesh{callers: 6, endpoints: 12, zones: twoZones, rate: 5, base: 0, seed: 3})
	f.run(12 * time.Second)
	f.targets[1].fault = always(crashed)
	if _, ok := f.ejected(1, 10*time.Second); !ok {
		t.Fatalf("no verdict: %v", f.events)
	}
	asked := map[string]int{}
	for _, o := range f.orders {
		if o.Reason == reasonNeighbour {
			asked[o.Key.Instance]++
			if f.byKey[o.Key].Zone != f.targets[1].Zone {
				t.Errorf("%s is of another zone", o.Key)
			}
		}
	}
	if len(asked) != neighbourSample {
		t.Errorf("neighbours asked about: %v, want %d of five, once each", asked, neighbourSample)
	}
	f.run(800 * ms)
	if v := f.verdicts(); len(v) != 1 {
		t.Errorf("got %s\nwant the one that crashed", describe(v))
	}
}

func TestWhatOneZoneCannotReachIsOutForThatZoneOnly(t *testing.T) {
	for name, fault := range map[string]effect{"refused": cut, "errors": errs} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, mesh{callers: 8, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, seed: 5})
			f.run(12 * time.Second)
			f.targets[2].fault = onlyIn("west", fault)
			f.run(10 * time.Second)
			v := f.verdicts(outlier.Ejected)
			if len(v) == 0 || v[0].Verdict.Scope != "west" || v[0].Verdict.Key != f.targets[2].Key {
				t.Fatalf("got %s\nwant a verdict for the zone west", describe(f.verdicts()))
			}
			for _, ch := range v {
				if ch.Verdict.Scope != "west" {
					t.Errorf("got %s\nwant no verdict for others", describe(v))
				}
			}
		})
	}
}

func TestAFlappingEndpointIsHeldOffLongerEachTime(t *testing.T) {
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	begin := f.now
	f.targets[2].fault = func(_ *caller, now time.Duration) effect {
		if (now-begin)/(5*time.Second)%2 == 0 {
			return crashed
		}
		return works
	}
	f.run(10 * time.Minute)
	v := f.verdicts(outlier.Ejected)
	most := 0
	for _, ch := range v {
		most = max(most, ch.Verdict.N)
	}
	if most < 3 {
		t.Errorf("most ejections on record: %d, want it to grow; %s", most, describe(v))
	}
	if back := f.verdicts(outlier.In); len(back) > 12 {
		t.Errorf("it came back %d times in 10 minutes of flapping", len(back))
	}
	t.Logf("%d ejections, %d times in, most on record %d", len(v), len(f.verdicts(outlier.In)), most)
}

func TestRecoveryGoesByProbesProbationAndRamp(t *testing.T) {
	tests := map[string]struct {
		fault effect
		want  []outlier.State
		from  float64
	}{
		"hard": {crashed, []outlier.State{outlier.Ejected, outlier.Probing, outlier.Probation, outlier.Ramp, outlier.In}, 0.25},
		"soft": {errs, []outlier.State{outlier.Ejected, outlier.Probing, outlier.Probation, outlier.Ramp, outlier.In}, 0.10},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f := quickstart(t, 50)
			f.run(12 * time.Second)
			f.targets[2].fault = always(test.fault)
			if _, ok := f.ejected(2, 10*time.Second); !ok {
				t.Fatal("not ejected")
			}
			f.targets[2].fault = always(works)
			begin := f.now
			if !f.until(begin+time.Minute, func() bool { return len(f.verdicts(outlier.In)) > 0 }) {
				t.Fatalf("it never came back: %s", describe(f.verdicts()))
			}
			var got []outlier.State
			from := 0.0
			for _, ch := range f.verdicts() {
				got = append(got, ch.To)
				if ch.To == outlier.Ramp {
					from = ch.Verdict.RampFrom
				}
			}
			if len(got) != len(test.want) {
				t.Errorf("states: %v, want %v", got, test.want)
			}
			for i := range min(len(got), len(test.want)) {
				if got[i] != test.want[i] {
					t.Errorf("states: %v, want %v", got, test.want)
					break
				}
			}
			if from != test.from {
				t.Errorf("the ramp starts at %v, want %v", from, test.from)
			}
			if took := f.now - begin; took > 25*time.Second {
				t.Errorf("it was back after %v, want at most 25s", took)
			}
			t.Logf("back after %v: %s", f.now-begin, describe(f.verdicts()))
		})
	}
}

func TestAnEndpointThatIsStillBadFailsItsProbation(t *testing.T) {
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	f.targets[2].fault = always(errs)
	if _, ok := f.ejected(2, 10*time.Second); !ok {
		t.Fatal("not ejected")
	}
	failed := 0
	f.targets[2].fault = func(*caller, time.Duration) effect { failed++; return errs }
	f.run(time.Minute)
	v := f.verdicts(outlier.Ejected)
	if len(v) < 2 || v[len(v)-1].Verdict.N < 2 {
		t.Errorf("got %s\nwant it out again, with more on its record", describe(f.verdicts()))
	}
	for _, ch := range f.verdicts(outlier.Ramp, outlier.In) {
		t.Errorf("it came back: %s", describe([]Change{ch}))
	}
	// Probes reach the fault function too: three for each try.
	if failed > 12*len(v) {
		t.Errorf("%d attempts and probes went to it in %d tries", failed, len(v))
	}
}

func TestAGroupThatFailsTogetherIsNotEjected(t *testing.T) {
	for name, share := range map[string]float64{"30 %": 0.3, "100 %": 1} {
		for _, rate := range []float64{5, 50, 500} {
			f := newFleet(t, mesh{callers: 10, endpoints: 10, zones: twoZones, rate: rate, base: 0.01, seed: uint64(rate)})
			f.run(12 * time.Second)
			for _, e := range f.targets {
				e.fault = f.sometimes(share)
			}
			f.run(10 * time.Second)
			if v := f.verdicts(outlier.Ejected); len(v) != 0 {
				t.Errorf("all at %s, %v/s: got %s\nwant nobody ejected", name, rate, describe(v))
			}
		}
	}
}

func TestAServiceThatIsWhollyDownKeepsSomeEndpoint(t *testing.T) {
	for _, n := range []int{1, 2, 3, 6} {
		f := newFleet(t, mesh{callers: 5, endpoints: n, zones: twoZones, rate: 50, seed: 2})
		f.run(12 * time.Second)
		for _, e := range f.targets {
			e.fault = always(crashed)
		}
		f.run(20 * time.Second) // check looks after every Step
	}
}

func TestARestartOfTheOwnerReadmitsNobody(t *testing.T) {
	faults := map[string]effect{"crash": crashed, "errors": errs, "hang": hangs}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			f := quickstart(t, 50)
			f.run(12 * time.Second)
			f.targets[2].fault = always(fault)
			if !f.until(f.now+10*time.Second, func() bool { return len(f.verdicts()) > 0 }) {
				t.Fatal("no verdict")
			}
			f.run(500 * ms)
			saved := f.successor(3 * time.Second)
			for _, c := range f.callers {
				c.join()
				c.report(true)
			}
			seen := len(f.changes)
			var top uint64
			for _, v := range saved {
				top = max(top, v.Epoch)
			}
			f.stepAt = f.now
			if s := f.table.Status(f.now)[0].Endpoints[2]; !s.State.Out() {
				t.Errorf("after the restart it is %s, want out", s.State)
			}
			f.run(30 * time.Second)
			for _, ch := range f.changes[seen:] {
				if ch.Verdict.Key != f.targets[2].Key {
					t.Errorf("verdict against a healthy endpoint: %s", describe([]Change{ch}))
				}
				if ch.Verdict.Epoch <= top && ch.Refused == "" {
					t.Errorf("epoch %d is not above those of before, %d", ch.Verdict.Epoch, top)
				}
				if ch.To == outlier.Ramp || ch.To == outlier.In && ch.From != outlier.Suspended {
					t.Errorf("readmitted: %s", describe([]Change{ch}))
				}
			}
		})
	}
}

func TestAnIdleEndpointIsPingedByThreeUntilTrafficSpeaks(t *testing.T) {
	f := newFleet(t, mesh{callers: 12, endpoints: 6, zones: []string{"a", "b", "c"}, rate: 0, seed: 4})
	for _, e := range f.targets[:5] {
		e.rate = 20
		for _, c := range f.callers {
			c.next(e)
		}
	}
	f.run(2 * time.Minute)
	for _, e := range f.targets[:5] {
		if n := f.pings[e.Key]; n != 0 {
			t.Errorf("%s has traffic and was pinged %d times", e.Key, n)
		}
	}
	idle := f.targets[5]
	if n := f.pings[idle.Key]; n < 4 || n > 5 {
		t.Errorf("the idle endpoint was pinged %d times in 2 minutes, want 4 or 5: three pingers in turn, one ping each 25 s", n)
	}
	zones := map[string]bool{}
	for _, c := range f.callers {
		if len(c.cells[idle.Key].leases) > 0 {
			zones[c.Zone] = true
		}
	}
	if len(zones) != 3 {
		t.Errorf("pingers are in zones %v, want three", zones)
	}
	idle.rate = 20
	for _, c := range f.callers {
		c.next(idle)
	}
	f.run(11 * time.Second)
	before := f.pings[idle.Key]
	f.run(time.Minute)
	if n := f.pings[idle.Key] - before; n != 0 {
		t.Errorf("%d pings although traffic speaks", n)
	}
}

func TestPingersTakeTurnsHoweverManyThereAre(t *testing.T) {
	for _, callers := range []int{1, 2, 3, 100} {
		f := newFleet(t, mesh{callers: callers, endpoints: 4, zones: twoZones, rate: 0, seed: 4})
		f.run(30 * time.Second)
		clear(f.pings)
		f.run(10 * time.Minute)
		for _, e := range f.targets {
			if n := f.pings[e.Key]; n < 20 || n > 29 {
				t.Errorf("%d callers: %s was pinged %d times in 10 minutes, want one ping each 25 s", callers, e.Key, n)
			}
		}
	}
}

func TestAnEndpointWithARequestNowAndThenIsNotPingedMoreOften(t *testing.T) {
	f := newFleet(t, mesh{callers: 6, endpoints: 4, zones: twoZones, rate: 0, seed: 4})
	f.run(30 * time.Second)
	clear(f.pings)
	for range 50 { // each breaks the silence, which is one again 10 s later
		for _, e := range f.targets {
			f.callers[0].attempt(f.callers[0].cells[e.Key])
		}
		f.callers[0].report(true)
		f.run(15 * time.Second)
	}
	for _, e := range f.targets {
		if n := f.pings[e.Key]; n == 0 || n > 37 {
			t.Errorf("%s was pinged %d times in 750 s, want some, and fewer than 0.05 per second", e.Key, n)
		}
	}
}

func TestWhoTakesOverFromAPingerTakesItsTurn(t *testing.T) {
	f := newFleet(t, mesh{callers: 6, endpoints: 4, zones: twoZones, rate: 0, seed: 4})
	f.run(30 * time.Second)
	clear(f.pings)
	e := f.table.endpoints[f.targets[1].Key]
	for range 4 {
		gone := f.caller(e.idle.leases[1].reporter.ID)
		f.table.Leave(gone.ID, f.now)
		for _, cell := range gone.cells {
			clear(cell.leases)
		}
		f.run(40 * time.Second)
		gone.join()
		f.run(110 * time.Second)
	}
	if n := f.pings[e.Key]; n < 20 || n > 29 {
		t.Errorf("pinged %d times in 10 minutes, want one ping each 25 s", n)
	}
}

func TestAnIdleEndpointThatDoesNotAnswerIsDownAtTheThirdMiss(t *testing.T) {
	f := newFleet(t, mesh{callers: 6, endpoints: 4, zones: twoZones, rate: 0, seed: 4})
	f.run(40 * time.Second)
	f.targets[1].fault = always(hangs)
	before := f.now
	if _, ok := f.ejected(1, time.Minute); !ok {
		t.Fatalf("not found: %v", f.events)
	}
	v := f.verdicts(outlier.Ejected)
	if v[0].Verdict.Rule != outlier.RuleIdle {
		t.Errorf("rule %s, want idle", v[0].Verdict.Rule)
	}
	if took := f.now - before; took > 32*time.Second {
		t.Errorf("down after %v, want a turn of at most 27.5 s and three misses after it", took)
	}
	f.targets[1].fault = always(works)
	if !f.until(f.now+time.Minute, func() bool { return len(f.verdicts(outlier.In)) > 0 }) {
		t.Errorf("it never came back: %s", describe(f.verdicts()))
	}
}

func TestAnIdleEndpointThatRefusesIsFoundByItsPings(t *testing.T) {
	f := newFleet(t, mesh{callers: 6, endpoints: 4, zones: twoZones, rate: 0, seed: 4})
	f.run(40 * time.Second)
	f.targets[1].fault = always(crashed)
	if _, ok := f.ejected(1, 28*time.Second); !ok {
		t.Fatalf("not found: %v", f.events)
	}
	if v := f.verdicts(outlier.Ejected); v[0].Verdict.Rule != outlier.RuleHard {
		t.Errorf("rule %s, want hard", v[0].Verdict.Rule)
	}
}

// Chance often lets one zone see most of the first failures, or the other zone's
// answers of before the fault outweigh the failures that it has seen.
func TestAZoneThatSeesTheFailuresFirstWaitsForTheOthers(t *testing.T) {
	for _, run := range []struct {
		callers int
		errors  float64
	}{{10, 0.5}, {5, 0.2}} {
		const runs = 100
		zoned := ""
		wrong := 0
		for seed := range uint64(runs) {
			f := newFleet(t, mesh{callers: run.callers, endpoints: 6, zones: twoZones, rate: 50, base: 0.01, seed: 100 + seed})
			f.run(12 * time.Second)
			f.targets[2].fault = f.sometimes(run.errors)
			f.ejected(2, 20*time.Second)
			if v := f.verdicts(outlier.Ejected); len(v) != 1 || v[0].Verdict.Scope != Fleet {
				wrong++
				zoned += describe(v)
			}
		}
		// In one run of some hundreds the others see next to nothing for a second.
		if wrong > runs/50 {
			t.Errorf("%+v: in %d of %d runs got %s\nwant a verdict for the fleet", run, wrong, runs, zoned)
		}
	}
}

func TestWhatEverybodySeesIsNoMatterOfOneZone(t *testing.T) {
	for _, rate := range []float64{20, 100, 300} {
		for _, share := range []float64{0.5, 0.2} {
			for seed := range uint64(4) {
				f := newFleet(t, mesh{callers: 5, endpoints: 6, zones: twoZones, rate: rate, base: 0.002, seed: seed})
				f.run(15 * time.Second)
				f.targets[1].fault = f.sometimes(share)
				f.ejected(1, 20*time.Second)
				if v := f.verdicts(outlier.Ejected); len(v) == 0 || v[0].Verdict.Scope != Fleet || v[0].Verdict.Key != f.targets[1].Key {
					t.Errorf("%v/s, %v errors: got %s\nwant a verdict for the fleet", rate, share, describe(v))
				}
			}
		}
	}
}

// A reporter that nobody could confirm has shut the way for itself, and for nobody
// else: it must not delay the verdict on a real crash.
func TestABrokenCallerDoesNotBlindTheFleetToACrash(t *testing.T) {
	for _, rate := range []float64{5, 50} {
		f := quickstart(t, rate)
		f.run(12 * time.Second)
		f.callers[1].broken = true
		f.run(6 * time.Second)
		f.targets[2].fault = always(crashed)
		begin := f.now
		if _, ok := f.ejected(2, 10*time.Second); !ok {
			t.Fatalf("rate %v: no verdict\n%v", rate, f.events)
		}
		if v := f.verdicts(outlier.Ejected); f.now-begin > 500*ms || len(v) != 1 || v[0].Verdict.Rule != outlier.RuleHard {
			t.Errorf("rate %v: after %v got %s\nwant one hard verdict within 500ms", rate, f.now-begin, describe(v))
		}
	}
}

// What a muted caller says of everybody makes no group look as if it were in trouble,
// in which only what fails nearly everything may leave.
func TestAMutedCallerDoesNotBlindTheFleetToErrors(t *testing.T) {
	f := quickstart(t, 50)
	f.run(20 * time.Second)
	for i, target := range f.targets {
		half := f.sometimes(0.5)
		target.fault = func(c *caller, now time.Duration) effect {
			if c == f.callers[1] || i == 2 && now > 30*time.Second {
				return half(c, now)
			}
			return works
		}
	}
	f.run(10 * time.Second)
	begin := f.now
	if _, ok := f.ejected(2, 10*time.Second); !ok || f.now-begin > time.Second {
		t.Errorf("half of the requests fail, and after %v got %s\nwant a verdict within 1s", f.now-begin, describe(f.verdicts()))
	}
}

// Sidecars that send nothing to a service can be asked for probes, and a probe that
// failed counts as an attempt. That makes them no users who could test the endpoint
// with real requests.
func TestWhoHasOnlyProbedIsNotAskedToTestAnEndpoint(t *testing.T) {
	for seed := range uint64(10) {
		f := newFleet(t, mesh{callers: 3, bystanders: 8, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, seed: seed})
		f.run(12 * time.Second)
		f.targets[2].fault = always(crashed)
		if _, ok := f.ejected(2, 10*time.Second); !ok {
			t.Fatalf("seed %d: no verdict", seed)
		}
		f.run(3 * time.Second)
		f.targets[2].fault = always(works)
		healed := f.now
		back := func() bool { return f.table.Status(f.now)[0].Endpoints[2].State == outlier.Ramp }
		if !f.until(healed+12*time.Second, back) {
			t.Errorf("seed %d: 12s after the fault: %s, want ramp", seed, f.table.Status(f.now)[0].Endpoints[2].State)
		}
	}
}

// The broken caller's zone is asked next, if it still complains then. When that zone is
// lost itself, there is nobody left in it who can answer, though some may have told that
// they fail, and the others must be heard.
func TestAZoneThatWasToBeAskedAndIsLostDoesNotSilenceTheOthers(t *testing.T) {
	for _, test := range []struct {
		bystanders    int           // as the sidecars beside the endpoints are
		broken, quiet time.Duration // for how long the caller is, and is not before the zone is lost
		leave         bool          // the streams of the bystanders end when they are gone
	}{
		{0, 6 * time.Second, 2 * time.Second, false},
		{6, 50 * ms, 4 * time.Second, true},
		{6, 6 * time.Second, 4 * time.Second, false},
		{6, 6 * time.Second, 4 * time.Second, true},
		{6, time.Second, 4 * time.Second, false},
		{6, time.Second, 4 * time.Second, true},
	} {
		for seed := range uint64(40) {
			f := newFleet(t, mesh{callers: 5, bystanders: test.bystanders, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, seed: seed, inbound: true})
			f.run(12 * time.Second)
			f.callers[3].broken = true // one of the two in the west
			f.run(test.broken)
			f.callers[3].broken = false
			f.run(test.quiet)
			begin := f.now
			for _, e := range f.targets {
				if e.Zone == "west" {
					e.fault = always(crashed)
				}
			}
			for _, c := range f.callers {
				if c.bystander && c.Zone == "west" {
					c.down = true
					if test.leave {
						f.at(f.now+5*ms, func() { f.table.Leave(c.ID, f.now) })
					}
				}
			}
			f.run(2 * time.Second)
			v := f.verdicts(outlier.Ejected)
			if len(v) != 3 {
				t.Errorf("%+v, seed %d: got %s\nwant the three of the west", test, seed, describe(v))
			}
			for _, ch := range v {
				if took := ch.At - begin; ch.Verdict.Rule != outlier.RuleHard || took > 250*ms {
					t.Errorf("%+v, seed %d: %s left by %s after %v, want hard within 250ms", test, seed, ch.Verdict.Key, ch.Verdict.Rule, took)
				}
			}
		}
	}
}

func TestResetsAloneEjectNobody(t *testing.T) {
	for _, rate := range []float64{50, 500} {
		f := newFleet(t, mesh{callers: 10, endpoints: 10, zones: twoZones, rate: rate, base: 0.001, seed: 7})
		f.run(12 * time.Second)
		reset := effect{class: outlier.Conn, probe: outlier.ProbeOK, level: outlier.LevelApp}
		until := f.now + 10*ms // what was in flight ends within a round trip
		f.targets[2].fault = func(*caller, time.Duration) effect {
			if f.now < until {
				return reset
			}
			return works
		}
		for _, c := range f.callers {
			c.attempt(c.cells[f.targets[2].Key])
		}
		f.run(5 * time.Second)
		if v := f.verdicts(); len(v) != 0 {
			t.Errorf("rate %v: got %s\nwant no verdict: new connections are accepted", rate, describe(v))
		}
		if len(f.orders) == 0 {
			t.Errorf("rate %v: nobody was asked to probe", rate)
		}
	}
}

// Of a TCP service behind a sidecar no probe says more than that its connection is held.
func TestAConnectionThatIsHeldContradictsARefusal(t *testing.T) {
	f := newFleet(t, mesh{callers: 8, endpoints: 6, zones: twoZones, rate: 0, inbound: true, seed: 7})
	f.reached = outlier.LevelConnect
	f.run(5 * time.Second)
	broken := f.callers[3]
	broken.broken = true
	broken.attempt(broken.cells[f.targets[2].Key])
	f.run(200 * ms)
	var kinds []EventKind
	for _, e := range f.events {
		kinds = append(kinds, e.Kind)
	}
	if !slices.Contains(kinds, EventSuspicion) || !slices.Contains(kinds, EventContradicted) {
		t.Errorf("got %v\nwant a suspicion that the probes contradict", kinds)
	}
}

// TestWhatWasHeldBackForLongMustBeShownAgain: of six that fail only five may be out.
// The sixth is well again, like them, when there is room for its verdict.
func TestWhatWasHeldBackForLongMustBeShownAgain(t *testing.T) {
	f := newFleet(t, mesh{callers: 10, endpoints: 10, rate: 50, seed: 3})
	f.run(20 * time.Second)
	for _, e := range f.targets[:6] {
		e.fault = always(errs)
		f.run(3 * time.Second)
	}
	f.run(20 * time.Second)
	if held := f.targets[5].view[Fleet].State; held != outlier.In {
		t.Fatalf("the sixth is %v, want in: there is no room", held)
	}
	for _, e := range f.targets {
		e.fault = always(works)
	}
	healed := f.now + 2*time.Second // a verdict on its way then is right
	f.run(3 * time.Minute)
	for _, ch := range f.changes {
		if ch.At > healed && ch.From == outlier.In && ch.To == outlier.Ejected && ch.Refused == "" {
			t.Errorf("%v after the end of the fault: %s", ch.At-healed, describe([]Change{ch}))
		}
	}
}

func TestThatAllFailIsToldOnceAMinute(t *testing.T) {
	f := newFleet(t, mesh{callers: 10, endpoints: 10, rate: 50, seed: 5})
	f.run(20 * time.Second)
	for _, e := range f.targets {
		e.fault = always(errs)
	}
	begin := f.now
	f.run(90 * time.Second)
	var told []time.Duration
	for _, e := range f.events {
		if e.Kind == EventGroup {
			told = append(told, e.At-begin)
		}
	}
	if len(told) != 2 || told[0] > 2*time.Second {
		t.Errorf("told after %v, want at once and a minute later", told)
	}
	if v := f.verdicts(outlier.Ejected); len(v) != 0 {
		t.Errorf("ejected: %s", describe(v))
	}
}
