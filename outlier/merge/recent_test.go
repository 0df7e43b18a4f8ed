package merge

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
)

func (f *fleet) status(i int) EndpointStatus { return f.table.Status(f.now)[0].Endpoints[i] }

func TestStatusShowsWhatFailsNowAndNotTheAverage(t *testing.T) {
	p := DefaultPolicy()
	p.Outlier.Mode = outlier.Shadow // so that it goes on failing
	f := newFleet(t, mesh{callers: 5, endpoints: 6, rate: 50, seed: 7, policy: &p})
	f.run(40 * time.Second)
	f.targets[2].fault = f.sometimes(0.5)
	f.run(10 * time.Second)
	bad, well := f.status(2).Recent, f.status(3).Recent
	if bad.N < 400 || bad.N > 600 || bad.Share() < 0.4 || bad.Share() > 0.6 {
		t.Errorf("half of 50/s fail for 10 s, and it shows %d of %d, want about 250 of 500", bad.K, bad.N)
	}
	if well.N < 400 || well.K != 0 {
		t.Errorf("a healthy one shows %d of %d, want 0 of about 500", well.K, well.N)
	}
}

func TestWhatIsAssumedIsNotCalledMeasured(t *testing.T) {
	f := newFleet(t, mesh{callers: 5, endpoints: 6, rate: 10, seed: 7})
	f.run(5 * time.Second)
	if s := f.table.Status(f.now)[0]; s.Measured || s.Endpoints[2].Measured || s.Pg != outlier.FirstErrorRate {
		t.Errorf("after 5 s the usual rate is %v, measured %v, want what is assumed at first", s.Pg, s.Measured)
	}
	f.run(60 * time.Second)
	if s := f.table.Status(f.now)[0]; !s.Measured || !s.Endpoints[2].Measured {
		t.Errorf("after 65 s at 10/s nothing is measured: %+v", s.Endpoints[2])
	}
}

func TestAnEndpointThatIsOutShowsNoUsualTraffic(t *testing.T) {
	f := newFleet(t, mesh{callers: 5, endpoints: 6, rate: 50, seed: 7})
	f.run(30 * time.Second)
	f.targets[2].fault = always(crashed)
	if _, ok := f.ejected(2, time.Second); !ok {
		t.Fatal("not ejected")
	}
	f.run(20 * time.Second)
	if got := f.status(2).Recent; got.N > 50 {
		t.Errorf("out for 20 s, and it shows %+v, want hardly an attempt", got)
	}
}

func TestWhoHasTakenAnEndpointOutAloneIsNamed(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 3, 6, "a", "b")
	k := Key{"api", "e1"}
	say := func(reporter string, state outlier.State, now time.Duration) {
		b.seq[reporter]++
		b.Apply(Report{Reporter: reporter, Seq: b.seq[reporter], At: now, Received: now, Cells: []Cell{{
			Key: k, Counts: outlier.Counts{N: 10}, LastOK: -1, LastOKStart: -1, LastHard: -1, LastHardStart: -1, State: state,
		}}}, now)
		b.Step(now)
	}
	say("r0", outlier.In, 2*time.Second)
	say("r1", outlier.Ejected, 3*time.Second)
	got, _ := b.Explain(k, 4*time.Second)
	want := []Avoider{{Reporter: "r1", Zone: "b", State: "ejected", Told: Span(time.Second)}}
	if diff := cmp.Diff(want, got.Avoiders); diff != "" {
		t.Errorf("avoiders (-want +got):\n%s", diff)
	}
	if n := b.Status(4 * time.Second)[0].Endpoints[1].Avoiders; n != 1 {
		t.Errorf("status counts %d, want 1", n)
	}
	shadow := DefaultPolicy()
	shadow.Outlier.Mode = outlier.Shadow
	e := b.endpoints[k]
	e.group.service.policy = shadow // in which it only says so
	if got, _ := b.Explain(k, 4*time.Second); len(got.Avoiders) != 0 {
		t.Errorf("in shadow mode it is avoided by %+v", got.Avoiders)
	}
	e.group.service.policy = DefaultPolicy()
	say("r1", outlier.Ramp, 5*time.Second)
	if got, _ := b.Explain(k, 6*time.Second); len(got.Avoiders) != 0 {
		t.Errorf("it is back, and avoided by %+v", got.Avoiders)
	}
}

func TestOnItsWayBackAnEndpointStillSaysWhyItWent(t *testing.T) {
	f := newFleet(t, mesh{callers: 5, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, seed: 7})
	f.run(12 * time.Second)
	f.targets[2].fault = always(errs)
	if _, ok := f.ejected(2, 10*time.Second); !ok {
		t.Fatal("not ejected")
	}
	k := f.targets[2].Key
	began := f.now
	first, _ := f.table.Explain(k, f.now)
	if first.Cause != first.Reason || first.Cause == "" {
		t.Errorf("just ejected for %q, and the cause is %q", first.Reason, first.Cause)
	}
	f.run(20 * time.Second) // it is probed, tested, and sent back
	x, _ := f.table.Explain(k, f.now)
	if x.Cause != first.Cause || x.Reason == first.Reason || time.Duration(x.Away) < f.now-began || x.Away <= x.Since {
		t.Errorf("after 20 s: reason %q, cause %q, away %v and %s for %v, want the first cause", x.Reason, x.Cause, x.Away, x.State, x.Since)
	}
	if got := f.status(2).Away; got != x.Away {
		t.Errorf("status says it is away for %v, want %v", got, x.Away)
	}
	// A restart of the owner forgets neither.
	saved := f.table.Verdicts()
	again := NewTable(DefaultConfig(), 1)
	again.Restore(saved, f.now)
	again.SetService("api", f.policy, []Endpoint{f.targets[2].Endpoint}, f.now)
	if y, _ := again.Explain(k, f.now); y.Cause != first.Cause || time.Duration(y.Away-x.Away).Abs() > time.Second {
		t.Errorf("after a restart: cause %q, away %v, want %q and %v", y.Cause, y.Away, first.Cause, x.Away)
	}
	f.targets[2].fault = always(works)
	if !f.until(f.now+time.Minute, func() bool { return f.state(2) == outlier.In }) {
		t.Fatalf("it is %s", f.state(2))
	}
	if z, _ := f.table.Explain(k, f.now); z.Cause != "" || z.Away != 0 {
		t.Errorf("it is in, and away for %v because %q", z.Away, z.Cause)
	}
}

// The answers that made a verdict are as old as they were then; those that lead back
// grow older.
func TestAProbeSaysHowOldItsAnswerIs(t *testing.T) {
	f := newFleet(t, mesh{callers: 5, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, seed: 7})
	f.run(12 * time.Second)
	f.targets[2].fault = always(refuses)
	if _, ok := f.ejected(2, 10*time.Second); !ok {
		t.Fatal("not ejected")
	}
	k := f.targets[2].Key
	ages := func(now time.Duration, result outlier.ProbeResult) (all []time.Duration) {
		x, _ := f.table.Explain(k, now)
		for _, p := range x.Probes {
			if p.Result == result.String() {
				all = append(all, time.Duration(p.Age))
			}
		}
		return all
	}
	then, later := ages(f.now, outlier.Refused), ages(f.now+3*time.Second, outlier.Refused)
	if len(then) == 0 || !slices.Equal(then, later) || slices.Max(then) > time.Second {
		t.Errorf("the verdict rests on probes of %v ago, and 3 s later of %v: want the same, and less than a second", then, later)
	}
	f.targets[2].fault = always(works)
	if !f.until(f.now+time.Minute, func() bool { return f.state(2) == outlier.Probation }) {
		t.Fatalf("it is %s", f.state(2))
	}
	then, later = ages(f.now, outlier.ProbeOK), ages(f.now+3*time.Second, outlier.ProbeOK)
	for i := range then {
		then[i] += 3 * time.Second
	}
	if len(then) == 0 || !slices.Equal(then, later) {
		t.Errorf("3 s later the good probes are %v old, want %v", later, then)
	}
}

func TestProbesOfWhatIsOutAreNoTraffic(t *testing.T) {
	f := newFleet(t, mesh{callers: 5, bystanders: 3, endpoints: 6, rate: 50, seed: 7})
	f.run(30 * time.Second)
	f.targets[2].fault = always(crashed)
	if _, ok := f.ejected(2, time.Second); !ok {
		t.Fatal("not ejected")
	}
	if got := f.status(2).Recent; got.N < 100 || got.K == 0 {
		t.Errorf("just ejected, and it shows %+v, want the seconds before", got)
	}
	f.run(5 * time.Minute)
	if got := f.status(2); got.Recent.N != 0 || got.Rate > 0.01 {
		t.Errorf("out for 5 min and only probed, and it shows %.3f/s and %+v, want none", got.Rate, got.Recent)
	}
	f.targets[2].fault = always(works)
	if !f.until(f.now+2*time.Minute, func() bool { return f.state(2) == outlier.In }) {
		t.Fatalf("it is %s", f.state(2))
	}
	f.run(2 * time.Minute)
	if got := f.status(2); got.Recent.N < 200 || got.Rate < 20 || got.Rate > 45 {
		t.Errorf("back for 2 min at about 30/s, and it shows %.3f/s and %+v", got.Rate, got.Recent)
	}
}
