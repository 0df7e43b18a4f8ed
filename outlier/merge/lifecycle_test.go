package merge

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
)

func (f *fleet) state(i int) outlier.State { return f.table.Status(f.now)[0].Endpoints[i].State }

func TestAnOperatorEjectsPinsAndReleases(t *testing.T) {
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	k := f.targets[2].Key
	if err := f.table.Override(k, Override{Kind: OverrideEject, Reason: "kernel upgrade", By: "ann", Until: f.now + 20*time.Second}, f.now); err != nil {
		t.Fatal(err)
	}
	f.stepAt = f.now
	f.run(15 * time.Second)
	if f.state(2) != outlier.Ejected {
		t.Errorf("after eject: %s; %s", f.state(2), describe(f.verdicts()))
	}
	x, _ := f.table.Explain(k, f.now)
	if x.Rule != "manual" || x.Override == nil || x.Override.By != "ann" || !strings.Contains(x.Next, "comes back") {
		t.Errorf("explanation: %+v", x)
	}
	f.run(40 * time.Second)
	if f.state(2) != outlier.In {
		t.Errorf("after its time: %s; %s", f.state(2), describe(f.verdicts()))
	}
	if n := f.table.Status(f.now)[0].Endpoints[2].N; n != 0 {
		t.Errorf("%d on its record, want none: an operator's order is no fault", n)
	}

	if err := f.table.Override(k, Override{Kind: OverridePin, Reason: "known noise"}, f.now); err != nil {
		t.Fatal(err)
	}
	f.changes = nil
	f.targets[2].fault = always(errs)
	f.run(10 * time.Second)
	if v := f.verdicts(outlier.Ejected); len(v) != 0 {
		t.Errorf("pinned, and yet: %s", describe(v))
	}
	if err := f.table.Release(k, f.now); err != nil {
		t.Fatal(err)
	}
	if _, ok := f.ejected(2, 20*time.Second); !ok {
		t.Error("not ejected after its release")
	}
}

func TestAnOperatorCannotEmptyASet(t *testing.T) {
	f := newFleet(t, mesh{callers: 3, endpoints: 2, rate: 10, seed: 1})
	f.run(time.Second)
	for i, want := range []error{nil, ErrLastEndpoint} {
		err := f.table.Override(f.targets[i].Key, Override{Kind: OverrideEject}, f.now)
		if !errors.Is(err, want) {
			t.Errorf("eject of endpoint %d: %v, want %v", i, err, want)
		}
		f.stepAt = f.now
		f.run(ms)
	}
	for err, got := range map[error]error{
		ErrUnknownEndpoint: f.table.Override(Key{"api", "nobody"}, Override{Kind: OverridePin}, f.now),
		ErrOverride:        f.table.Override(f.targets[1].Key, Override{Kind: "banish"}, f.now),
		ErrNoOverride:      f.table.Release(f.targets[1].Key, f.now),
	} {
		if !errors.Is(got, err) {
			t.Errorf("got %v, want %v", got, err)
		}
	}
}

func TestTwoOrdersAtOnceLeaveOneEndpoint(t *testing.T) {
	f := newFleet(t, mesh{callers: 3, endpoints: 2, rate: 10, seed: 1})
	f.run(time.Second)
	for _, e := range f.targets {
		if err := f.table.Override(e.Key, Override{Kind: OverrideEject}, f.now); err != nil {
			t.Fatal(err)
		}
	}
	f.stepAt = f.now
	f.run(time.Second) // check looks after every Step
	if v := f.verdicts(outlier.Ejected); len(v) != 1 {
		t.Errorf("got %s\nwant one ejected", describe(v))
	}
}

func TestARestartedInstanceGoesStraightToProbation(t *testing.T) {
	f := quickstart(t, 50)
	f.targets[2].Started = time.Millisecond
	f.setService()
	f.run(12 * time.Second)
	f.targets[2].fault = always(errs)
	if _, ok := f.ejected(2, 10*time.Second); !ok {
		t.Fatal("not ejected")
	}
	f.run(100 * ms)
	f.targets[2].fault = always(works)
	f.targets[2].Started = f.now
	f.setService()
	f.changes = nil
	f.stepAt = f.now
	f.run(10 * ms)
	v := f.verdicts()
	if len(v) != 1 || v[0].To != outlier.Probation || v[0].Verdict.N != 0 {
		t.Errorf("got %s\nwant probation at once, nothing on record", describe(v))
	}
}

// A stream that comes back maps the same start anew; only a later one is a restart.
func TestTheSidecarBesideAnEndpointTellsOfItsRestart(t *testing.T) {
	for _, again := range []struct {
		later time.Duration
		want  outlier.State
	}{{0, outlier.Ejected}, {-5 * time.Second, outlier.Ejected}, {800 * ms, outlier.Ejected}, {5 * time.Second, outlier.Probation}} {
		f := quickstart(t, 50)
		if err := f.table.Join(Reporter{ID: "beside", Incarnation: 1, Node: "server02"}, nil, f.now); err != nil {
			t.Fatal(err)
		}
		say := func(seq uint64, started time.Duration) {
			f.table.Apply(Report{Reporter: "beside", Incarnation: 1, Seq: seq, At: f.now, Received: f.now, Own: []OwnCell{
				{Key: f.targets[2].Key, LastOK: -1, Refused: -1, Started: started},
			}}, f.now)
			f.stepAt = f.now
		}
		f.run(12 * time.Second)
		say(1, 8*time.Second)
		f.targets[2].fault = always(errs)
		if _, ok := f.ejected(2, 10*time.Second); !ok {
			t.Fatal("not ejected")
		}
		f.run(100 * ms)
		say(2, 8*time.Second+again.later)
		f.run(10 * ms)
		if got := f.state(2); got != again.want {
			t.Errorf("a start %v later: %s, want %s", again.later, got, again.want)
		}
	}
}

func TestARestartDoesNotOverruleTheOperator(t *testing.T) {
	f := quickstart(t, 50)
	f.targets[2].Started = time.Millisecond
	f.setService()
	f.run(12 * time.Second)
	if err := f.table.Override(f.targets[2].Key, Override{Kind: OverrideEject, Reason: "kernel upgrade", By: "ann"}, f.now); err != nil {
		t.Fatal(err)
	}
	f.run(time.Second)
	f.targets[2].Started = f.now
	f.setService()
	f.run(time.Second)
	if got := f.state(2); got != outlier.Ejected {
		t.Errorf("restarted during maintenance, and %s, want ejected", got)
	}
}

func TestAnInstanceThatKeepsRestartingKeepsItsRecord(t *testing.T) {
	f := quickstart(t, 50)
	f.targets[2].Started = time.Millisecond
	f.setService()
	f.run(12 * time.Second)
	f.targets[2].fault = always(errs)
	for range restartMany {
		if _, ok := f.ejected(2, 30*time.Second); !ok {
			t.Fatal("not ejected")
		}
		f.targets[2].Started = f.now
		f.setService()
		f.stepAt = f.now
	}
	f.run(10 * ms)
	if n := f.table.Status(f.now)[0].Endpoints[2].N; n == 0 {
		t.Error("nothing on its record after many restarts")
	}
	if got := f.state(2); got != outlier.Ejected {
		t.Errorf("restarted for the third time, and %s at once, want that it waits", got)
	}
}

func TestANewInstanceStartsAtTheRampAndInheritsNothing(t *testing.T) {
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	f.targets[2].fault = always(errs)
	if _, ok := f.ejected(2, 10*time.Second); !ok {
		t.Fatal("not ejected")
	}
	specs := make([]Endpoint, 0, 6)
	for _, e := range f.targets {
		specs = append(specs, e.Endpoint)
	}
	specs[2].Key.Instance = "e02-reborn" // the same address, say, and another instance
	f.table.SetService("api", f.policy, specs, f.now)
	out := f.table.Step(f.now)
	if len(out.Changes) != 1 || out.Changes[0].To != outlier.Ramp || out.Changes[0].Verdict.RampFrom != 0.1 || out.Changes[0].Verdict.N != 0 {
		t.Errorf("got %s\nwant the new instance on the ramp", describe(out.Changes))
	}
	if _, known := f.table.Explain(f.targets[2].Key, f.now); known {
		t.Error("the instance that is gone is still known")
	}
	for _, e := range f.table.Status(f.now)[0].Endpoints {
		if e.Instance == "e02-reborn" && (e.N != 0 || e.T != 0) {
			t.Errorf("the new instance inherits %+v", e)
		}
	}
}

func TestADrainingEndpointIsNotJudged(t *testing.T) {
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	f.targets[2].Draining = true
	f.setService()
	f.targets[2].fault = always(crashed)
	f.run(10 * time.Second)
	if v := f.verdicts(); len(v) != 0 {
		t.Errorf("got %s\nwant no verdict", describe(v))
	}
	if f.state(2) != outlier.Draining {
		t.Errorf("status says %s, want draining", f.state(2))
	}
}

func TestTheSidecarBesideAnEndpointMaySayThatItDrains(t *testing.T) {
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	own := Reporter{ID: "beside", Incarnation: 1, Node: "server02"}
	if err := f.table.Join(own, nil, f.now); err != nil {
		t.Fatal(err)
	}
	say := func(seq uint64, c OwnCell) {
		c.Key = f.targets[2].Key
		if got := f.table.Apply(Report{Reporter: "beside", Incarnation: 1, Seq: seq, At: f.now, Received: f.now, Own: []OwnCell{c}}, f.now); got.Accepted != 1 || !got.Urgent {
			t.Errorf("own report: %+v", got)
		}
		f.stepAt = f.now
	}
	say(1, OwnCell{Draining: true, LastOK: -1, Refused: -1})
	f.targets[2].fault = always(crashed)
	f.run(5 * time.Second)
	if v := f.verdicts(); len(v) != 1 || v[0].To != outlier.Draining {
		t.Errorf("got %s\nwant it draining and not ejected", describe(v))
	}
	f.targets[2].fault = always(works)
	say(2, OwnCell{LastOK: -1, Refused: -1})
	f.run(time.Second)
	if f.state(2) != outlier.In {
		t.Errorf("it stays, but is %s", f.state(2))
	}
}

func TestPingsThatTheSidecarBesideTheEndpointCountsAreNoTraffic(t *testing.T) {
	f := newFleet(t, mesh{callers: 6, endpoints: 4, zones: twoZones, rate: 0, seed: 4, inbound: true})
	idle := f.targets[2].Key
	if err := f.table.Join(Reporter{ID: "beside", Incarnation: 1, Node: "server02"}, nil, f.now); err != nil {
		t.Fatal(err)
	}
	requests, seq := 0, uint64(0)
	after := func(d time.Duration) {
		f.run(d)
		seq++
		f.table.Apply(Report{Reporter: "beside", Incarnation: 1, Seq: seq, At: f.now, Received: f.now, Own: []OwnCell{{
			Key: idle, N: uint32(f.pings[idle] + requests), LastOK: f.now - ms, Refused: -1,
		}}}, f.now)
	}
	for range 12 {
		after(10 * time.Second)
	}
	if n := f.pings[idle]; n < 4 || n > 5 {
		t.Errorf("pinged %d times in 2 minutes, want 4 or 5: one ping each 25 s", n)
	}
	for n := range 13 {
		requests += 20 // of somebody who does not report
		after(5 * time.Second)
		if n == 0 {
			f.pings[idle], requests = 0, requests+f.pings[idle]
		}
	}
	if n := f.pings[idle]; n != 0 {
		t.Errorf("pinged %d times although its own sidecar tells of requests", n)
	}
}

func TestARefusingApplicationIsReportedByItsOwnSidecarAndConfirmedByOthers(t *testing.T) {
	f := newFleet(t, mesh{callers: 5, endpoints: 6, zones: twoZones, rate: 0.01, base: 0, seed: 7, inbound: true})
	f.run(time.Second)
	if err := f.table.Join(Reporter{ID: "beside", Incarnation: 1, Node: "server02"}, nil, f.now); err != nil {
		t.Fatal(err)
	}
	f.targets[2].fault = always(crashed)
	f.table.Apply(Report{Reporter: "beside", Incarnation: 1, Seq: 1, At: f.now, Received: f.now,
		Own: []OwnCell{{Key: f.targets[2].Key, LastOK: -1, Refused: f.now}}}, f.now)
	f.stepAt = f.now
	took, ok := f.ejected(2, time.Second)
	if !ok || took > 20*ms {
		t.Errorf("ejected: %v after %v; %v", ok, took, f.events)
	}
}

func TestShadowModeDecidesAndDoesNothing(t *testing.T) {
	p := DefaultPolicy()
	p.Outlier.Mode = outlier.Shadow
	for name, fault := range map[string]effect{"crash": crashed, "errors": errs, "hang": hangs} {
		f := newFleet(t, mesh{callers: 5, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, seed: 7, policy: &p})
		f.run(12 * time.Second)
		f.targets[2].fault = always(fault)
		f.run(5 * time.Second)
		if v := f.verdicts(); len(v) != 0 {
			t.Errorf("%s: got %s\nwant nothing done", name, describe(v))
		}
		if !slices.ContainsFunc(f.changes, func(c Change) bool { return c.Refused == "shadow" && c.Verdict.Key == f.targets[2].Key }) {
			t.Errorf("%s: nothing was decided: %s", name, describe(f.changes))
		}
	}
}

func TestOfTwoEndpointsOneGoesOnlyIfTheOtherIsSeenWell(t *testing.T) {
	f := newFleet(t, mesh{callers: 5, endpoints: 2, rate: 50, base: 0.001, seed: 7})
	f.run(12 * time.Second)
	f.targets[0].fault = always(errs)
	if _, ok := f.ejected(0, 20*time.Second); !ok {
		t.Errorf("the other is well, and yet: %s", describe(f.changes))
	}
	f = newFleet(t, mesh{callers: 5, endpoints: 2, rate: 50, base: 0.001, seed: 7})
	f.run(12 * time.Second)
	f.targets[0].fault = f.sometimes(0.5)
	f.targets[1].fault = f.sometimes(0.4)
	f.run(20 * time.Second)
	if v := f.verdicts(outlier.Ejected); len(v) != 0 {
		t.Errorf("both fail: %s", describe(v))
	}
	f = newFleet(t, mesh{callers: 5, endpoints: 1, rate: 50, base: 0.001, seed: 7})
	f.run(12 * time.Second)
	f.targets[0].fault = always(errs)
	f.run(5 * time.Second)
	if v := f.verdicts(); len(v) != 0 {
		t.Errorf("the only one: %s", describe(v))
	}
	if !slices.ContainsFunc(f.changes, func(c Change) bool { return c.Refused == "cap" }) {
		t.Errorf("nothing says why it stays: %s", describe(f.changes))
	}
}

func TestWhatIsHeldByTwoFaultDomainsIsBelievedAfterALostFile(t *testing.T) {
	f := quickstart(t, 50)
	f.run(time.Second)
	held := []Verdict{{Key: f.targets[2].Key, State: outlier.Ejected, Epoch: 77, Rule: outlier.RuleFast, N: 2}}
	f.table.Held("caller000", held, f.now)
	f.stepAt = f.now
	f.run(10 * ms)
	if f.state(2) != outlier.In {
		t.Errorf("one reporter alone: %s, want in", f.state(2))
	}
	f.table.Held("caller000", held, f.now)
	f.table.Held("caller003", held, f.now)
	f.table.Held("caller004", []Verdict{{Key: f.targets[3].Key, Epoch: 1 << 60}}, f.now) // absurd: ignored
	f.stepAt = f.now
	f.run(10 * ms)
	if f.state(2) != outlier.Ejected {
		t.Errorf("two reporters: %s, want ejected", f.state(2))
	}
	f.targets[2].fault = always(works)
	f.run(3 * time.Second)
	for _, ch := range f.verdicts() {
		if ch.Verdict.Epoch <= 77 || ch.Verdict.Epoch > 200 {
			t.Errorf("epoch %d, want one a little above 77", ch.Verdict.Epoch)
		}
	}
}

func TestVerdictsAndExplanationsSurviveJSON(t *testing.T) {
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	f.targets[2].fault = always(crashed)
	if _, ok := f.ejected(2, 10*time.Second); !ok {
		t.Fatal("not ejected")
	}
	if err := f.table.Override(f.targets[4].Key, Override{Kind: OverridePin, Reason: "r", Until: f.now + time.Minute}, f.now); err != nil {
		t.Fatal(err)
	}
	f.run(10 * ms)
	want := f.table.Verdicts()
	if len(want) != 2 || want[0].State != outlier.Ejected || want[1].Override == nil || want[1].Override.Left > time.Minute {
		t.Fatalf("verdicts: %+v", want)
	}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got []Verdict
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("over JSON (-before +after):\n%s", diff)
	}

	// Over a restart the override keeps its rest of time, on another clock.
	again := NewTable(DefaultConfig(), 1)
	again.Restore(got, 5*time.Second)
	specs := make([]Endpoint, 0, 6)
	for _, e := range f.targets {
		specs = append(specs, e.Endpoint)
	}
	again.SetService("api", f.policy, specs, 5*time.Second)
	again.Step(5 * time.Second)
	if o := again.endpoints[f.targets[4].Key].override; o == nil || o.Until < 60*time.Second || o.Until > 65*time.Second {
		t.Errorf("override after the restart: %+v", o)
	}
}

func TestTheReasonOfAHardVerdictNamesWitnessesProbesAndGuards(t *testing.T) {
	f := quickstart(t, 50)
	f.run(12 * time.Second)
	f.targets[2].fault = always(crashed)
	if _, ok := f.ejected(2, 10*time.Second); !ok {
		t.Fatal("not ejected")
	}
	x, ok := f.table.Explain(f.targets[2].Key, f.now)
	if !ok {
		t.Fatal("unknown")
	}
	if x.Rule != "hard" || x.State != "ejected" || len(x.Witnesses) < 3 || len(x.Probes) == 0 || len(x.Guards) == 0 || x.Next != nextProbes || x.ETA <= 0 || x.N != 1 {
		t.Errorf("explanation lacks something: %+v", x)
	}
	domains := map[string]bool{}
	for _, w := range x.Witnesses {
		domains[w.Domain] = true
	}
	if len(domains) < 3 {
		t.Errorf("witnesses of %d fault domains, want 3", len(domains))
	}
}

func TestTheReasonOfASoftVerdictShowsTheStatistic(t *testing.T) {
	f := quickstart(t, 50)
	f.run(30 * time.Second)
	f.targets[2].fault = f.sometimes(0.5)
	if _, ok := f.ejected(2, 20*time.Second); !ok {
		t.Fatal("not ejected")
	}
	x, _ := f.table.Explain(f.targets[2].Key, f.now)
	if x.Rule != "fast" || x.T < x.Threshold || x.Threshold < 12 || x.LargestC <= 0 || len(x.Top) == 0 || x.P0 == 0 || x.P1 <= x.P0 ||
		x.Counts.K == 0 || x.Counts.N < x.Counts.K || x.Counts.Server == 0 || x.Window <= 0 {
		t.Errorf("explanation lacks something: %+v", x)
	}
	if !slices.ContainsFunc(x.Guards, func(g Guard) bool { return g.Name == "group" && g.Pass }) {
		t.Errorf("guards: %+v", x.Guards)
	}
}

func TestProbesAreBoundedPerReporterAndForTheFleet(t *testing.T) {
	f := newFleet(t, mesh{callers: 4, endpoints: 100, rate: 5, base: 0, seed: 3})
	f.run(12 * time.Second)
	for _, e := range f.targets {
		e.fault = always(effect{outlier.Conn, outlier.ProbeOK, outlier.LevelConnect}) // probes never confirm
	}
	from := len(f.orders)
	f.run(10 * time.Second)
	per := map[string]int{}
	for _, o := range f.orders[from:] {
		per[o.Reporter]++
	}
	for id, n := range per {
		if n > 10*10+10 {
			t.Errorf("%s was asked for %d probes in 10 s, want at most 110", id, n)
		}
	}
	if n := len(f.orders) - from; n > 30*10+30 {
		t.Errorf("%d probes in 10 s, want at most 330", n)
	}
	if len(f.orders) == from {
		t.Error("nobody was asked")
	}
}

func TestOneSidecarAloneDoesNotFailAProbation(t *testing.T) {
	f := newFleet(t, mesh{callers: 8, endpoints: 6, zones: twoZones, rate: 50, base: 0, seed: 9})
	f.run(12 * time.Second)
	f.targets[2].fault = always(errs)
	if _, ok := f.ejected(2, 10*time.Second); !ok {
		t.Fatal("not ejected")
	}
	f.targets[2].fault = always(works)
	if !f.until(f.now+20*time.Second, func() bool { return f.state(2) == outlier.Probation }) {
		t.Fatal("no probation")
	}
	var chosen string
	for _, c := range f.callers {
		if cell := c.cells[f.targets[2].Key]; cell.share > 0 && (chosen == "" || c.ID < chosen) {
			chosen = c.ID
		}
	}
	failed := 0
	f.targets[2].fault = func(c *caller, _ time.Duration) effect {
		if c.ID == chosen {
			if f.state(2) == outlier.Probation {
				failed++
			}
			return errs
		}
		return works
	}
	f.changes = nil
	f.run(30 * time.Second)
	if v := f.verdicts(outlier.Ejected); len(v) != 0 {
		t.Errorf("got %s\nwant it back: only %s fails", describe(v), chosen)
	}
	if failed != 1 {
		t.Errorf("%s saw %d test requests fail, want 1: others are asked then", chosen, failed)
	}
}

func TestAnApplicationPingIsUsedOnlyAfterAHealthyEndpointAnsweredIt(t *testing.T) {
	for _, answers := range []bool{true, false} {
		p := DefaultPolicy()
		p.Ping = PingHTTP
		f := newFleet(t, mesh{callers: 6, endpoints: 4, zones: twoZones, rate: 0, seed: 4, policy: &p})
		for _, e := range f.targets[:3] {
			e.rate = 20
			for _, c := range f.callers {
				c.next(e)
			}
			if !answers {
				e.fault = always(effect{class: outlier.OK, probe: outlier.Unhealthy})
			}
		}
		f.run(time.Minute)
		kinds := map[PingKind]bool{}
		for _, c := range f.callers {
			for _, l := range c.cells[f.targets[3].Key].leases {
				kinds[l.Kind] = true
			}
		}
		invalid := slices.ContainsFunc(f.events, func(e Event) bool { return e.Kind == EventPingPath })
		if answers && (!kinds[PingHTTP] || kinds[PingTCP] || invalid) {
			t.Errorf("the ping works: leases of %v, called invalid %v", kinds, invalid)
		}
		if !answers && (kinds[PingHTTP] || !kinds[PingTCP] || !invalid) {
			t.Errorf("the ping does not work: leases of %v, called invalid %v", kinds, invalid)
		}
	}
}

// A ping that healthy endpoints do not answer may be deployed later: it is tried anew
// each five minutes, no more often.
func TestAnApplicationPingThatNobodyAnswersIsTriedAgainAfterFiveMinutes(t *testing.T) {
	p := DefaultPolicy()
	p.Ping = PingHTTP
	f := newFleet(t, mesh{callers: 3, endpoints: 3, rate: 5, seed: 4, policy: &p})
	for _, e := range f.targets {
		e.fault = always(effect{class: outlier.OK, probe: outlier.Unhealthy})
	}
	f.run(11 * time.Minute)
	var called []time.Duration
	for _, e := range f.events {
		if e.Kind == EventPingPath {
			called = append(called, e.At)
		}
	}
	if len(called) != 3 {
		t.Fatalf("called invalid at %v, want three times in 11 minutes", called)
	}
	for i := range called[1:] {
		if gap := called[i+1] - called[i]; gap < 5*time.Minute || gap > 5*time.Minute+5*time.Second {
			t.Errorf("called invalid again after %v, want 5 minutes and two tries", gap)
		}
	}
	for _, e := range f.targets {
		e.fault = always(works)
	}
	f.run(5 * time.Minute)
	if !f.table.services["api"].ping.valid {
		t.Error("it is answered now, and not used")
	}
}

func TestWithFewObserversTheRestIsEnough(t *testing.T) {
	// Two callers: the other one's probe must fail twice. One caller: no verdict.
	f := newFleet(t, mesh{callers: 2, endpoints: 4, rate: 50, base: 0, seed: 4})
	f.run(12 * time.Second)
	first := time.Duration(0)
	f.targets[1].fault = func(c *caller, now time.Duration) effect {
		if c.ID != "caller000" { // the other has no traffic of its own that fails
			return effect{class: outlier.OK, probe: outlier.Refused}
		}
		if first == 0 {
			first = now
		}
		return effect{outlier.Conn, outlier.Refused, outlier.LevelApp}
	}
	f.targets[1].rate = 0.2
	f.run(10 * time.Second)
	probes := 0
	for _, o := range f.orders {
		if o.Key == f.targets[1].Key && o.Reason == reasonSuspicion && o.Reporter == "caller001" {
			probes++
		}
	}
	if v := f.verdicts(outlier.Ejected); len(v) != 1 || probes < 2 || v[0].At-first < 50*ms {
		t.Errorf("two callers: %d probes, %s", probes, describe(f.verdicts()))
	}

	f = newFleet(t, mesh{callers: 1, endpoints: 4, rate: 50, base: 0, seed: 4})
	f.run(12 * time.Second)
	f.targets[1].fault = always(crashed)
	f.run(10 * time.Second)
	if v := f.verdicts(); len(v) != 0 || len(f.orders) != 0 {
		t.Errorf("one caller: %d probes, %s\nwant none: its own rule must do", len(f.orders), describe(v))
	}
}

func TestDefaultsAreValidAndEveryBadFieldIsNamed(t *testing.T) {
	if err := errors.Join(DefaultConfig().Validate(), DefaultPolicy().Validate()); err != nil {
		t.Errorf("defaults: %v", err)
	}
	var c Config
	var p Policy
	err := errors.Join(c.Validate(), p.Validate())
	for _, field := range []string{
		"reporter_stale", "reporter_heard", "mute", "attempt_ceiling", "probe_rate", "fleet_probe_min",
		"h_fleet_min", "h_slow", "poll_wait", "idle_every", "idle_pingers", "ping_timeout", "ping", "outlier.mode", "outlier.hold_base",
	} {
		if err == nil || !strings.Contains("\n"+err.Error(), "\n"+field+": ") {
			t.Errorf("nothing says that %s is wrong", field)
		}
	}
}

// Envoys that take their endpoints from us and report nothing have nobody who could test
// one: an operator who releases it is obeyed.
func TestWhatIsReleasedComesBackThoughNobodyReports(t *testing.T) {
	for _, test := range []struct {
		reporting bool
		want      outlier.State
	}{{false, outlier.Ramp}, {true, outlier.Probing}} {
		b := newBench(t, DefaultPolicy(), 2, 4)
		k, now := Key{"api", "e0"}, 20*time.Second
		if !test.reporting {
			b.Leave("r0", now)
			b.Leave("r1", now)
		}
		if err := b.Override(k, Override{Kind: OverrideEject}, now); err != nil {
			t.Fatal(err)
		}
		b.Step(now)
		now += time.Second
		if err := b.Release(k, now); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			b.Step(now)
			now += 10 * ms
		}
		if got := b.endpoints[k].fleet.state; got != test.want {
			t.Errorf("reporting %v: released, and %s after 100ms, want %s", test.reporting, got, test.want)
		}
	}
}
