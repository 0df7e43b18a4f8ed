package outlier

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func (w *world) admitted(id string) Admission {
	for _, a := range w.d.View() {
		if a.ID == id {
			return a
		}
	}
	w.t.Fatalf("%s is not in the view", id)
	return Admission{}
}

func TestACentralVerdictKeepsAnEndpointOut(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(300, 100*second)
	w.run(10 * second)
	w.d.Fleet("e01", Verdict{State: Ejected, Epoch: 3, Rule: RuleFast}, w.now)
	if a := w.admitted("e01"); a.Weight != 0 || a.State != Ejected {
		t.Errorf("admitted as %+v, want ejected with weight 0", a)
	}
	w.run(30 * second)
	if n := w.hosts["e01"].picksSince(10 * second); n != 0 {
		t.Errorf("%d attempts since the verdict, want 0: no timer restores traffic", n)
	}
	w.d.Fleet("e01", Verdict{State: In, Epoch: 2}, w.now)
	if a := w.admitted("e01"); a.Weight != 0 {
		t.Errorf("an older epoch readmitted it: %+v", a)
	}
	w.d.Fleet("e01", Verdict{State: Ramp, Epoch: 4, RampFrom: 0.1, RampAge: 5 * second}, w.now)
	if a := w.admitted("e01"); a.State != Ramp || a.Weight < 0.54 || a.Weight > 0.56 {
		t.Errorf("half-way up the ramp it is %+v, want weight 0.55", a)
	}
	w.run(36 * second)
	if a := w.admitted("e01"); a.State != In || a.Weight != 1 {
		t.Errorf("after the ramp it is %+v, want in", a)
	}
}

// So a sidecar finds the world that starts while something is out.
func TestAMemberMayComeWithAVerdict(t *testing.T) {
	d := New(DefaultConfig(), nil)
	d.SetMembers([]Member{
		{ID: "a", Fleet: Verdict{State: Ejected, Epoch: 3, Rule: RuleHard}},
		{ID: "b", Fleet: Verdict{State: Probing, Epoch: 4, Rule: RuleHard}},
		{ID: "c"}, {ID: "d"}, {ID: "e"},
	}, time.Second)
	for _, a := range d.View() {
		if out := a.ID < "c"; (a.Weight == 0) != out {
			t.Errorf("admitted as %+v, want weight 0: %v", a, out)
		}
	}
}

func TestBeliefsCombineTowardsAvoiding(t *testing.T) {
	for _, local := range []State{In, Suspended, Ejected, Probing, Probation, Ramp} {
		for _, fleet := range []State{In, Suspended, Ejected, Probing, Probation, Ramp} {
			w := newWorld(t, 6, 1)
			m := w.d.byID["e02"]
			m.record.state, m.record.share, m.record.rampFrom, m.record.rampAt = local, fairShare, rampStart, w.now
			m.fleet.verdict, m.fleet.at = Verdict{State: fleet, Epoch: 1, Rule: RuleFast, RampFrom: 0.2}, w.now
			a := w.d.admit(m, w.now)
			l, f := w.d.localShare(m, w.now), w.d.fleetShare(m, w.now)
			want := 1.0
			if local != In {
				want = min(want, l.Weight)
			}
			if fleet != In {
				want = min(want, f.Weight)
			}
			if a.Weight != want {
				t.Errorf("local %v, fleet %v: weight %v, want %v", local, fleet, a.Weight, want)
			}
			if a.State != local && a.State != fleet {
				t.Errorf("local %v, fleet %v: state %v", local, fleet, a.State)
			}
		}
	}
}

func TestAVerdictAbsorbsASoftLocalEjection(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(300, 100*second)
	w.run(10 * second)
	w.hosts["e01"].errors = 1
	w.run(11 * second)
	w.want("e01", Ejected, 10*second)
	w.hosts["e01"].errors = 0
	w.d.Fleet("e01", Verdict{State: Ejected, Epoch: 3, Rule: RuleFast}, w.now)
	w.run(20 * second)
	w.d.Fleet("e01", Verdict{State: Ramp, Epoch: 4}, w.now)
	w.run(31 * second)
	if a := w.admitted("e01"); a.State != In || a.Weight != 1 {
		t.Errorf("after the fleet's ramp it is %+v, want in: nothing local stands in the way\n%s", a, w.story())
	}
}

func TestAHardLocalEjectionOutlivesTheVerdictUntilAProbeIsGood(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(300, 100*second)
	w.run(10 * second)
	h := w.hosts["e01"]
	h.refuse = true // the way from here is broken; the fleet sees another fault
	w.run(11 * second)
	w.want("e01", Ejected, 10*second)
	w.d.Fleet("e01", Verdict{State: Ejected, Epoch: 3, Rule: RuleFast}, w.now)
	w.run(20 * second)
	w.d.Fleet("e01", Verdict{}, w.now)
	w.run(25 * second)
	if a := w.admitted("e01"); a.Weight != 0 {
		t.Fatalf("nothing central can force traffic onto what cannot be reached: %+v\n%s", a, w.story())
	}
	h.refuse = false
	w.run(31 * second)
	if a := w.admitted("e01"); a.State != In {
		t.Errorf("after a good probe it is %+v, want in\n%s", a, w.story())
	}
}

func TestAShareOnProbationOfWhatWasWellFromHereNeedsNoProbe(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(300, 100*second)
	w.run(10 * second)
	w.d.Fleet("e01", Verdict{State: Probation, Epoch: 7, Rule: RuleFast}, w.now)
	w.d.Share("e01", 7, 0.1, w.now+5*second)
	r := w.d.Step(w.now)
	if a := w.admitted("e01"); a.Weight != 0.1 || len(r.Probes) > 0 {
		t.Errorf("admission %+v, probes %v; want weight 0.1 at once and no probe", a, r.Probes)
	}
}

func TestAShareOnProbationBeginsAfterOneGoodProbeWhereItFailedAndLapses(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(300, 100*second)
	w.run(10 * second)
	w.hosts["e01"].refuse = true
	w.run(10*second + 50*time.Millisecond) // a failure or two: no ejection of our own yet
	w.hosts["e01"].refuse = false
	w.d.Fleet("e01", Verdict{State: Probation, Epoch: 7, Rule: RuleFast}, w.now)
	w.d.Share("e01", 6, 0.1, w.now+5*second)
	w.run(11 * second)
	if a := w.admitted("e01"); a.Weight != 0 {
		t.Errorf("a share of another epoch counts: %+v", a)
	}
	w.d.Share("e01", 7, 0.1, w.now+5*second)
	if a := w.admitted("e01"); a.Weight != 0 {
		t.Errorf("the share counts before its probe: %+v", a)
	}
	w.run(12 * second)
	if a := w.admitted("e01"); a.Weight != 0.1 || a.State != Probation {
		t.Errorf("after the probe it is %+v, want probation with weight 0.1", a)
	}
	w.run(17 * second)
	if a := w.admitted("e01"); a.Weight != 0 {
		t.Errorf("the share has not lapsed: %+v", a)
	}

	w.d.Fleet("e01", Verdict{Epoch: 8}, w.now)
	w.hosts["e01"].refuse = true
	w.run(17*second + 50*time.Millisecond)
	w.d.Fleet("e01", Verdict{State: Probation, Epoch: 9, Rule: RuleFast}, w.now)
	w.d.Share("e01", 9, 0.1, w.now+5*second)
	w.run(19 * second)
	if a := w.admitted("e01"); a.Weight != 0 {
		t.Errorf("the share counts although its probe failed: %+v", a)
	}
}

// Our own good probe is all that a hard ejection of our own waits for: the share
// must not be held back by it.
func TestAShareOnProbationCountsAfterAHardEjectionOfOurOwn(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(300, 100*second)
	w.run(10 * second)
	h := w.hosts["e01"]
	h.refuse = true
	w.run(11 * second)
	w.want("e01", Ejected, 10*second)
	w.d.Fleet("e01", Verdict{State: Ejected, Epoch: 3, Rule: RuleFast}, w.now)
	w.run(14 * second)
	h.refuse = false
	w.d.Fleet("e01", Verdict{State: Probation, Epoch: 5, Rule: RuleFast}, w.now)
	w.d.Share("e01", 5, 0.1, w.now+5*second)
	w.run(15 * second)
	if a := w.admitted("e01"); a.State != Probation || a.Weight != 0.1 {
		t.Errorf("after our probe it is %+v, want probation with weight 0.1\n%s", a, w.story())
	}
}

func TestASuspensionOfTheFleetTricklesOnlyThroughShares(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(300, 100*second)
	w.run(10 * second)
	w.d.Fleet("e01", Verdict{State: Suspended, Epoch: 7, Rule: RuleStalled}, w.now)
	w.run(15 * second)
	if n := w.hosts["e01"].picksSince(10 * second); n != 0 {
		t.Errorf("%d attempts without a share, want 0", n)
	}
	w.d.Share("e01", 7, 1./3, w.now+30*second)
	w.run(30 * second)
	if n := w.hosts["e01"].picksSince(15 * second); n < 4 || n > 6 {
		t.Errorf("%d attempts in 15 s with a third of one per second, want 5", n)
	}
}

func TestTheFirstAnswerDuringASuspensionOfTheFleetIsUrgent(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(300, 100*second)
	w.run(10 * second)
	w.d.Fleet("e01", Verdict{State: Suspended, Epoch: 7, Rule: RuleStalled}, w.now)
	relief := func() bool {
		all := w.d.Evidence(w.now)
		return all[slices.IndexFunc(all, func(e Evidence) bool { return e.ID == "e01" })].Relief
	}
	w.run(10*second + 300*time.Millisecond)
	if relief() {
		t.Error("an answer of before the suspension is called a relief")
	}
	ep := w.d.Endpoint("e01")
	a := ep.Start(w.now, true)
	if !ep.End(&a, Outcome{Class: OK, Now: w.now + time.Millisecond}) {
		t.Error("an answer during the suspension does not wake Step")
	}
	if r := w.d.Step(w.now + 2*time.Millisecond); r.Urgency != UrgencyHard || !relief() {
		t.Errorf("urgency %v, relief %v; want it told at once", r.Urgency, relief())
	}
	if r := w.d.Step(w.now + 10*time.Millisecond); r.Urgency != UrgencyNone {
		t.Errorf("urgency %v for the same answer again", r.Urgency)
	}
}

func TestWithoutAControlPlaneWhatItLeftOutComesBackByItself(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(300, 300*second)
	w.run(10 * second)
	w.d.Fleet("e01", Verdict{State: Suspended, Epoch: 1, Rule: RuleStalled}, w.now)
	w.d.Fleet("e02", Verdict{State: Ejected, Epoch: 2, Rule: RuleFast}, w.now)
	w.d.Fleet("e03", Verdict{State: Ejected, Epoch: 3, Rule: RuleHard}, w.now)
	w.hosts["e03"].refuse = true
	w.d.CentralGone(w.now)
	w.run(11 * second)
	if a := w.admitted("e01"); a.State != Suspended {
		t.Errorf("after 1 s: %+v, want suspended", a)
	}
	w.run(13 * second)
	if a := w.admitted("e01"); a.State != In {
		t.Errorf("after 3 s: %+v, want the suspension to have lapsed", a)
	}
	w.run(69 * second)
	if n := w.hosts["e02"].picksSince(10 * second); n != 0 {
		t.Errorf("%d attempts on what the fleet ejected, within 60 s, want 0", n)
	}
	w.run(120 * second)
	if a := w.admitted("e02"); a.State != In {
		t.Errorf("e02 is %+v, want it back by our own recovery\n%s", a, w.story())
	}
	if a := w.admitted("e03"); a.Weight != 0 {
		t.Errorf("e03 is %+v, but it is still down", a)
	}
	w.d.CentralBack(w.now)
	w.d.Fleet("e02", Verdict{State: Ejected, Epoch: 2, Rule: RuleFast}, w.now)
	if a := w.admitted("e02"); a.Weight != 0 {
		t.Errorf("the control plane is back and says e02 is out, but it is %+v", a)
	}
}

// What is suspended is pinged each second, and all of these hang: that is known, and no
// evidence for an ejection. One that is refused is news.
func TestPingsOfWhatIsSuspendedCountForNothing(t *testing.T) {
	w := newWorld(t, 4, 1)
	w.run(second)
	count := func(result ProbeResult) uint32 {
		before := w.d.Endpoint("e01").Counts().N
		w.d.Probed("e01", LevelApp, result, w.now, w.now)
		return w.d.Endpoint("e01").Counts().N - before
	}
	for i, tt := range []struct {
		state State
		want  [3]uint32
	}{{In, [3]uint32{1, 1, 1}}, {Suspended, [3]uint32{0, 0, 1}}} {
		w.d.Fleet("e01", Verdict{State: tt.state, Epoch: uint64(i + 1), Rule: RuleStalled}, w.now)
		if got := [3]uint32{count(TimedOut), count(Unhealthy), count(Refused)}; got != tt.want {
			t.Errorf("%v: a time-out, a bad and a refused ping count as %v attempts, want %v", tt.state, got, tt.want)
		}
	}
}

func TestAnUpdateKeepsIdentityAndRemovalForgetsAll(t *testing.T) {
	w := newWorld(t, 4, 1)
	w.load(100, 100*second)
	w.run(10 * second)
	w.hosts["e01"].errors = 1
	w.run(12 * second)
	w.want("e01", Ejected, 10*second)
	before := w.d.Endpoint("e01")
	w.d.SetMembers(w.members, w.now)
	if w.d.Endpoint("e01") != before {
		t.Error("the same identity became another object")
	}
	if a := w.admitted("e01"); a.Weight == 1 {
		t.Errorf("the record did not survive an update: %+v", a)
	}
	total := w.d.Summary(w.now).N
	w.d.SetMembers(append([]Member{}, w.members[0], w.members[2], w.members[3]), w.now)
	if got := len(w.d.bySlot); got != 3 || len(w.d.byID) != 3 {
		t.Errorf("%d slots and %d ids are left of 3 members", got, len(w.d.byID))
	}
	if got := w.d.Summary(w.now).N; got != total {
		t.Errorf("the cluster's attempts went from %d to %d", total, got)
	}
	w.d.SetMembers(w.members, w.now)
	if a := w.admitted("e01"); a.Weight != 1 || w.d.Endpoint("e01") == before {
		t.Errorf("it came back with its old record: %+v", a)
	}
}

func TestADrainingEndpointGetsNothingAndIsNotJudged(t *testing.T) {
	w := newWorld(t, 4, 1)
	w.load(100, 100*second)
	w.run(10 * second)
	w.members[1].Draining = true
	w.d.SetMembers(w.members, w.now)
	w.hosts["e01"].refuse = true
	ep := w.d.Endpoint("e01")
	for range 20 {
		a := ep.Start(w.now, true)
		ep.End(&a, Outcome{Class: Conn, Now: w.now})
		w.runFor(100 * time.Millisecond)
	}
	if a := w.admitted("e01"); a.State != Draining || a.Weight != 0 {
		t.Errorf("admitted as %+v, want draining", a)
	}
	if n := w.count(Ejected); n != 0 || w.probes != 0 {
		t.Errorf("%d ejections and %d probes, want none\n%s", n, w.probes, w.story())
	}
	for i := range w.members {
		w.members[i].Draining = true
	}
	w.d.SetMembers(w.members, w.now)
	if a := w.admitted("e00"); a.Weight == 0 {
		t.Error("all drain, and nothing can be picked")
	}
}

func TestANewInstanceEntersByTheRamp(t *testing.T) {
	w := newWorld(t, 4, 1)
	w.members = append(w.members, Member{ID: "e99", New: true})
	w.order = append(w.order, "e99")
	w.hosts["e99"] = &host{id: "e99", latency: time.Millisecond}
	w.d.SetMembers(w.members, w.now)
	if a := w.admitted("e99"); a.State != Ramp || a.Weight != rampStart {
		t.Errorf("a new instance is %+v, want ramp from 0.1", a)
	}
	w.d.SetMembers(w.members, w.now+5*second)
	w.run(w.now + 11*second)
	if a := w.admitted("e99"); a.State != In {
		t.Errorf("after the ramp it is %+v, want in", a)
	}
}

func TestShadowDecidesButDoesNotAct(t *testing.T) {
	w := newWorld(t, 6, 1, func(c *Config) { c.Mode = Shadow })
	w.load(300, 100*second)
	w.run(10 * second)
	w.hosts["e01"].errors = 1
	w.run(12 * second)
	if c := w.want("e01", Ejected, 10*second); !c.Shadow {
		t.Errorf("the change does not say that it is a shadow's: %+v", c)
	}
	if a := w.admitted("e01"); a.Weight != 1 || a.State != In {
		t.Errorf("admitted as %+v, want in", a)
	}
}

func TestInShadowModeTheFleetsVerdictCountsOnlyWhereAnOperatorGaveIt(t *testing.T) {
	w := newWorld(t, 6, 1, func(c *Config) { c.Mode = Shadow })
	w.load(300, 100*second)
	w.run(5 * second)
	for rule, want := range map[Rule]State{RuleFast: In, RuleHard: In, RuleManual: Ejected} {
		w.d.Fleet("e02", Verdict{State: Ejected, Rule: rule, Epoch: uint64(w.now)}, w.now)
		w.run(w.now + second)
		if a := w.admitted("e02"); a.State != want || a.Weight != map[State]float64{In: 1}[want] {
			t.Errorf("ejected by the fleet, %s: admitted as %+v, want %s", rule, a, want)
		}
	}
}

func TestPrioritiesAreJudgedApart(t *testing.T) {
	w := newWorld(t, 6, 1)
	for i := range w.members {
		w.members[i].Priority = uint32(i % 2)
	}
	w.d.SetMembers(w.members, w.now)
	if n := len(w.d.groups); n != 2 {
		t.Fatalf("%d groups, want 2", n)
	}
	// Three each: a soft verdict may take one of each.
	for _, id := range []string{"e00", "e01", "e02", "e03"} {
		m := w.d.byID[id]
		var r Result
		if w.d.allow(m, RuleFast, w.now, &r) == "" {
			m.record.state = Ejected
		}
	}
	for id, want := range map[string]State{"e00": Ejected, "e01": Ejected, "e02": In, "e03": In} {
		if got := w.d.byID[id].record.state; got != want {
			t.Errorf("%s is %v, want %v", id, got, want)
		}
	}
}

func TestPanicTakesBackTheLeastBad(t *testing.T) {
	w := newWorld(t, 10, 1)
	states := []struct {
		state    State
		cause    Rule
		severity int64
	}{
		{Ejected, RuleHard, 0}, {Ejected, RuleFast, 30}, {Ejected, RuleFast, 20}, {Suspended, RuleStalled, 99},
		{Ejected, RuleIdle, 0}, {Probing, RuleFast, 10}, {Ejected, RuleHard, 0}, {Ejected, RuleHard, 0},
		{In, RuleNone, 0}, {In, RuleNone, 0},
	}
	picked := func() (ids []string) {
		w.d.stale = true
		for _, a := range w.d.View() {
			if a.Panic {
				ids = append(ids, a.ID)
				if a.Weight != 1 || a.Trickle != 0 {
					t.Errorf("%s is used as %+v, want full weight", a.ID, a)
				}
			}
		}
		return ids
	}
	for i, s := range states {
		m := w.d.members[i]
		m.record.state, m.record.cause, m.record.severity = s.state, s.cause, s.severity
	}
	// Two are well, five are wanted: the suspended one, then the lowest scores.
	if got, want := fmt.Sprint(picked()), "[e02 e03 e05]"; got != want {
		t.Errorf("in panic %s are used, want %s", got, want)
	}
	for _, m := range w.d.members[8:] {
		m.record.state, m.record.cause = Ejected, RuleHard
	}
	// None is well, and four are not down: never what is down.
	if got, want := fmt.Sprint(picked()), "[e01 e02 e03 e05]"; got != want {
		t.Errorf("in panic %s are used, want %s", got, want)
	}
	for _, m := range w.d.members {
		m.record.state, m.record.cause = Ejected, RuleHard
	}
	// All are down: there is nothing else.
	if got := len(picked()); got != 5 {
		t.Errorf("all are down and %d are used, want half", got)
	}
	// What the whole fleet has left comes last: the others may be down for us alone.
	for i, m := range w.d.members {
		if i != 2 && i != 5 && i != 9 {
			m.fleet.verdict = Verdict{State: Ejected, Rule: RuleHard, Epoch: 1}
		}
	}
	w.d.members[5].record.state = Probation
	w.d.members[7].fleet.verdict.State = Probation
	w.d.members[8].fleet.verdict.State = Probing
	if got, want := fmt.Sprint(picked()), "[e02 e05 e07 e08 e09]"; got != want {
		t.Errorf("in panic %s are used, want %s", got, want)
	}
}

// The fleet and a sidecar each leave half of what refuses, and not the same half.
func TestWhereAllRefuseTheFleetsHalfIsEnough(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(60, 60*second)
	w.run(20 * second)
	for _, h := range w.hosts {
		h.refuse = true
	}
	w.run(21 * second)
	epoch := uint64(0)
	for _, m := range w.d.members {
		if m.record.state == In {
			epoch++
			w.d.Fleet(m.ID, Verdict{State: Ejected, Rule: RuleHard, Epoch: epoch}, w.now)
		}
	}
	if epoch != 3 {
		t.Fatalf("%d are in, want 3\n%s", epoch, w.story())
	}
	w.run(22 * second)
	for _, h := range w.hosts {
		h.refuse = false
	}
	w.run(23 * second)
	if in := 6 - w.out(); in != 3 {
		t.Errorf("%d of 6 are in when all are back, want the 3 that the fleet has not left\n%s", in, w.story())
	}
}
