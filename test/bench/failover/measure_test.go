package main

import (
	"math"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
)

// even is a run in which every caller goes round all endpoints at a steady pace from two
// seconds before the fault on, and left says whom it leaves when.
func even(t setting, left func(proxy, backend int, at time.Duration) bool) *trace {
	tr := &trace{}
	step := time.Duration(float64(time.Second) / t.fair())
	for p := range t.Proxies {
		for b := range t.Endpoints {
			for at := -2 * time.Second; at < t.Fault+t.After; at += step {
				if left(p, b, at) {
					continue
				}
				tr.arrivals = append(tr.arrivals, arrival{p, b, at})
				tr.requests = append(tr.requests, request{proxy: p, at: at, took: 5 * time.Millisecond})
			}
		}
	}
	return tr
}

var (
	quiet  = setting{Proxies: 4, Endpoints: 5, Rate: 400, Timeout: time.Second, Warm: 4 * time.Second, Fault: 10 * time.Second, After: 5 * time.Second}
	broken = scenario{bad: 1, blame: true, callers: everyone}
)

func TestAnEndpointThatIsLeftAtOnceByAll(t *testing.T) {
	f := measure(even(quiet, func(_, b int, at time.Duration) bool {
		return b == 0 && at >= time.Second && at < quiet.Fault+time.Second
	}), broken, quiet)
	for _, c := range []struct {
		name     string
		got      number
		from, to number
	}{
		{"T95", f.T95, .9, 1.1}, {"T first", f.TFirst, .9, 1.1}, {"share", f.Share, 0, 0}, {"flips", f.Flips, 0, 0},
		{"left alone", f.Alone, 0, 0}, {"recovery", f.Recovery, .7, 1.1}, {"overshoot", f.Overshoot, .95, 1.1}, {"excess", f.Excess, 0, 0},
	} {
		if c.got < c.from || c.got > c.to {
			t.Errorf("%s is %g, want %g to %g", c.name, float64(c.got), float64(c.from), float64(c.to))
		}
	}
}

func TestAnEndpointThatNobodyLeaves(t *testing.T) {
	f := measure(even(quiet, func(int, int, time.Duration) bool { return false }), broken, quiet)
	if !math.IsInf(float64(f.T95), 1) || !math.IsInf(float64(f.TFirst), 1) {
		t.Errorf("it was left after %g s, at first after %g s, want never", float64(f.T95), float64(f.TFirst))
	}
	if f.Share < .95 || f.Share > 1.05 {
		t.Errorf("its share is %g, want 1", float64(f.Share))
	}
}

func TestOneCallerThatLeavesIsTheFirst(t *testing.T) {
	f := measure(even(quiet, func(p, b int, at time.Duration) bool { return p == 2 && b == 0 && at >= 3*time.Second }), broken, quiet)
	if f.TFirst < 2.9 || f.TFirst > 3.1 {
		t.Errorf("the first left after %g s, want 3", float64(f.TFirst))
	}
	if !math.IsInf(float64(f.T95), 1) {
		t.Errorf("all left after %g s, want never", float64(f.T95))
	}
}

func TestReturnsDuringTheFaultAreFlips(t *testing.T) {
	f := measure(even(quiet, func(_, b int, at time.Duration) bool {
		return b == 0 && (at >= 2*time.Second && at < 4*time.Second || at >= 6*time.Second && at < 8*time.Second)
	}), broken, quiet)
	if f.Flips != 2 {
		t.Errorf("%g flips, want 2", float64(f.Flips))
	}
}

func TestWhoLeavesWhatIsWellIsCounted(t *testing.T) {
	f := measure(even(quiet, func(p, b int, at time.Duration) bool {
		return p == 1 && b == 3 && at >= 2*time.Second && at < 6*time.Second
	}), broken, quiet)
	if f.Alone != 1 {
		t.Errorf("%g endpoints were left alone, want 1", float64(f.Alone))
	}
	if want := number(4. / 15 / 20); math.Abs(float64(f.Capacity/want-1)) > .1 {
		t.Errorf("capacity lost is %g, want %g", float64(f.Capacity), float64(want))
	}
}

func TestAVerdictThatAFleetObeysIsOneAlarm(t *testing.T) {
	f := measure(even(quiet, func(p, b int, at time.Duration) bool {
		after := at - time.Duration(p)*100*time.Millisecond
		return b == 3 && after >= 2*time.Second && after < 6*time.Second || // all leave it, one after the other
			b == 3 && p == 2 && at >= 9*time.Second && at < 12*time.Second || // one leaves it again,
			b == 4 && p == 1 && at >= 3*time.Second && at < 6*time.Second // and another one
	}), scenario{callers: everyone}, quiet)
	if f.Alone != 6 || f.Alarms != 3 {
		t.Errorf("%g left, in %g alarms; want 6 in 3", float64(f.Alone), float64(f.Alarms))
	}
}

func TestABrokenLinkIsForItsCallerAloneToLeave(t *testing.T) {
	s := scenario{bad: 1, blame: true, callers: 1}
	f := measure(even(quiet, func(_, b int, at time.Duration) bool { return b == 0 && at >= time.Second }), s, quiet)
	if f.T95 < .9 || f.T95 > 1.1 {
		t.Errorf("T95 is %g, want 1", float64(f.T95))
	}
	if !math.IsNaN(float64(f.CPU)) {
		t.Errorf("no proxy used %g µs a request", float64(f.CPU))
	}
	if f.Alone != 3 {
		t.Errorf("%g left an endpoint that was well to them, want 3", float64(f.Alone))
	}
}

func TestAPartitionOfAZoneIsForItsCallersToLeave(t *testing.T) {
	for _, c := range []struct{ callers, ofZone int }{{1, 1}, {4, 1}, {5, 2}, {16, 6}} {
		s := scenario{bad: 3, blame: true, callers: oneZone}.among(c.callers)
		for p := range c.callers {
			for b := range 5 {
				if got, want := s.blames(p, b), p < c.ofZone && b < 3; got != want {
					t.Errorf("%d callers: caller %d ought to leave endpoint %d: %v", c.callers, p, b, got)
				}
			}
			if s.doomed(request{proxy: p}) {
				t.Errorf("%d callers: caller %d cannot be helped", c.callers, p)
			}
		}
	}
	if s := (scenario{callers: everyone}).among(5); s.callers != everyone {
		t.Errorf("everyone is the first %d", s.callers)
	}
}

func TestWhereAllAreGoneWhatCountsIsHowSoonTheyAreUsedAgain(t *testing.T) {
	s := scenario{bad: everyone, blame: true, callers: everyone, unseen: true, hopeless: true}
	tr := even(quiet, func(_, _ int, at time.Duration) bool { return at >= 0 && at < quiet.Fault+2*time.Second })
	for at := time.Duration(0); at < quiet.Fault+2*time.Second; at += 10 * time.Millisecond {
		tr.requests = append(tr.requests, request{at: at, backend: nobody, why: "503", doomed: at < quiet.Fault})
	}
	f := measure(tr, s, quiet)
	if f.Excess != 200 || f.Recovery < 1.7 || f.Recovery > 2.1 || f.Alone != 0 {
		t.Errorf("%g failed, back after %g s, %g left alone; want the 200 of the 2 s after it, and no harm", float64(f.Excess), float64(f.Recovery), float64(f.Alone))
	}
	for name, got := range map[string]number{"T95": f.T95, "T first": f.TFirst, "share": f.Share, "p99": f.P99, "worst return": f.Return} {
		if !math.IsNaN(float64(got)) {
			t.Errorf("%s is %g, and nothing could be done", name, float64(got))
		}
	}
}

func TestOfSeveralEndpointsTheLastIsBackAndTheFullestOvershoots(t *testing.T) {
	s := scenario{bad: 2, blame: true, callers: everyone}
	tr := even(quiet, func(_, b int, at time.Duration) bool {
		return b < 2 && at >= 0 && at < quiet.Fault || b == 1 && at >= 0 && at < quiet.Fault+3*time.Second
	})
	for at := quiet.Fault; at < quiet.Fault+2*time.Second; at += 5 * time.Millisecond { // has what the second one lacks, and more
		tr.arrivals = append(tr.arrivals, arrival{0, 0, at})
	}
	if f := measure(tr, s, quiet); f.Recovery < 2.7 || f.Recovery > 3.1 || f.Overshoot < 3.4 || f.Overshoot > 3.6 {
		t.Errorf("back after %g s, overshoot %g; want 3 s and 3.5", float64(f.Recovery), float64(f.Overshoot))
	}
}

func TestAnAddressIsReusedAfterThreeSeconds(t *testing.T) {
	got := scenario{reused: true}.in(quiet)
	if got.Fault != 3*time.Second || got.Fault+got.After != quiet.Fault+quiet.After {
		t.Errorf("gone for %v and watched for %v", got.Fault, got.After)
	}
}

func TestWhereNobodyIsToLeaveThereIsNoTimeOfLeaving(t *testing.T) {
	f := measure(even(quiet, func(int, int, time.Duration) bool { return false }), scenario{callers: everyone}, quiet)
	for name, got := range map[string]number{"T95": f.T95, "T first": f.TFirst, "recovery": f.Recovery} {
		if text := format("%.2f", got); text != "–" {
			t.Errorf("%s is %s, want none", name, text)
		}
	}
}

func TestFailuresBeyondTheBaseRateAreTheExcess(t *testing.T) {
	set, s := quiet, broken
	set.Base = .1
	tr := &trace{}
	for i := range 1000 {
		r := request{at: time.Duration(i) * 10 * time.Millisecond}
		if i%5 == 0 {
			r.why = "500"
		}
		tr.requests = append(tr.requests, r)
	}
	s.unseen = true
	f := measure(tr, s, set)
	if f.Excess != 100 {
		t.Errorf("excess is %g, want the 200 that failed less 100", float64(f.Excess))
	}
}

func TestErrorsOfTheBaseRateAreNoTrafficOfACrashedEndpoint(t *testing.T) {
	set, s := quiet, broken
	set.Base, s.unseen = .1, true
	tr := &trace{}
	for i := range 1500 {
		r := request{proxy: i % set.Proxies, at: time.Duration(i) * 10 * time.Millisecond, backend: 1 + i%4}
		if i%10 == 0 {
			r.why = "500"
		}
		tr.requests = append(tr.requests, r)
	}
	for i := range 5 { // each caller, until it has learned
		tr.requests = append(tr.requests, request{proxy: i % set.Proxies, at: time.Duration(i) * 100 * time.Millisecond, backend: nobody, why: "503"})
	}
	f := measure(tr, s, set)
	if f.T95 > 1 || f.TFirst > 1 || f.Flips != 0 {
		t.Errorf("left after %g s, first after %g s, %g flips; want half a second and none", float64(f.T95), float64(f.TFirst), float64(f.Flips))
	}
	if f.Later > 2 { // the stragglers within 5 %
		t.Errorf("%g failed at returns, and nobody returned", float64(f.Later))
	}
}

func TestWhatIsUnderWayWhenTheFaultComesIsPartOfTheHarm(t *testing.T) {
	tr := &trace{requests: []request{
		{at: -500 * time.Millisecond, took: 400 * time.Millisecond, why: "502"}, // before it
		{at: -500 * time.Millisecond, took: 501 * time.Millisecond, why: "502"},
		{at: -time.Second, took: 2 * time.Second},
		{at: time.Millisecond, took: time.Millisecond, why: "502"},
	}}
	if f := measure(tr, scenario{callers: everyone}, quiet); f.Excess != 2 || f.Requests != 3 {
		t.Errorf("%g of %g failed, want 2 of 3", float64(f.Excess), float64(f.Requests))
	}
}

func TestLatenciesAreComparedWithThoseBeforeASilence(t *testing.T) {
	tr := &trace{}
	for _, at := range []time.Duration{-10 * time.Second, -9 * time.Second, time.Second, 2 * time.Second} {
		took := 5 * time.Millisecond
		if at > 0 {
			took = 7 * time.Millisecond
		}
		tr.requests = append(tr.requests, request{at: at, took: took})
	}
	if f := measure(tr, scenario{silence: 8 * time.Second, callers: everyone}, quiet); f.P99 != 2 {
		t.Errorf("p99 is %g ms longer, want 2", float64(f.P99))
	}
}

func TestCPUIsThatOfAllRequestsWhileItWasCounted(t *testing.T) {
	tr := &trace{cpu: time.Second, requests: []request{
		{at: -2 * time.Second}, // before the fault
		{at: -time.Millisecond, took: time.Second},
		{at: 0},
		{at: time.Second, doomed: true}, // nobody is judged by it, and it costs
		{at: 2 * time.Second, why: "500"},
		{at: quiet.Fault + quiet.After - 1},
		{at: quiet.Fault + quiet.After},
	}}
	if f := measure(tr, broken, quiet); f.CPU != 250000 {
		t.Errorf("%g µs a request, want a second of four", float64(f.CPU))
	}
}

func TestTheWorstReturnIsTheMostThatFailInTenSeconds(t *testing.T) {
	set := quiet
	set.Fault = 40 * time.Second
	tr := &trace{}
	fail := func(n int, from time.Duration) {
		for i := range n {
			tr.requests = append(tr.requests, request{at: from + time.Duration(i)*time.Millisecond, why: "reset"})
		}
	}
	fail(200, 0) // until it is left
	fail(3, 8*time.Second)
	fail(4, 17*time.Second)
	fail(5, 36*time.Second)
	s := broken
	s.unseen = true
	f := measure(tr, s, set)
	// Of the first two hundred, the last two are within the 5 % of one that was left.
	if f.Later != 14 || f.Return != 7 {
		t.Errorf("%g failed after it was left, %g at the worst return, want 14 and 7", float64(f.Later), float64(f.Return))
	}
	s.blame = false
	if f := measure(tr, s, set); !math.IsNaN(float64(f.Return)) {
		t.Errorf("%g failed at a return, and nobody was to leave", float64(f.Return))
	}
}

func TestTheSmokeRunsWhatItJudgesAlone(t *testing.T) {
	o, err := parse([]string{"-smoke"})
	if err != nil {
		t.Fatal(err)
	}
	// Three products crash; two hang, two fail half of the requests, two a fifth.
	var length time.Duration
	jobs := o.jobs()
	for _, j := range jobs {
		length += j.setting.healthy() + j.setting.Fault + j.setting.After
	}
	if len(jobs) != 9 || length > 80*time.Second {
		t.Errorf("%d runs of %v all in all, want 9, and 80 s at most", len(jobs), length)
	}
}

func TestAFaultComesAtAnyPointOfASweep(t *testing.T) {
	set := setting{Warm: 25 * time.Second, Phase: 10 * time.Second}
	var seconds [10]int
	for range 1000 {
		after := set.healthy() - set.Warm
		if after < 0 || after >= set.Phase {
			t.Fatalf("it comes %v after the warm-up, want 0 to 10 s", after)
		}
		seconds[int(after.Seconds())]++
	}
	for s, n := range seconds {
		if n < 40 { // 100, give or take 10
			t.Errorf("%d of 1000 faults come in second %d, want a tenth", n, s)
		}
	}
	set.Phase = 0
	if got := set.healthy(); got != set.Warm {
		t.Errorf("the fault comes after %v, want %v", got, set.Warm)
	}
}

func TestThePathTellsTheProxy(t *testing.T) {
	for _, poisoned := range []bool{false, true} {
		if got, ok := proxyOf(path(11, poisoned)); !ok || got != 11 {
			t.Errorf("%s is from proxy %d, %v, want 11", path(11, poisoned), got, ok)
		}
	}
	if _, ok := proxyOf("/healthz"); ok {
		t.Error("a check is from a proxy")
	}
}

func TestEveryConfigurationCanBeWritten(t *testing.T) {
	for _, p := range products() {
		if p.config == "" {
			continue
		}
		for _, other := range []bool{false, true} {
			s := site{Dir: t.TempDir(), Retries: other, HTTP2: other, RPC: other, Detects: true, TimeoutMS: 1000, TimeoutSeconds: 1, TryMS: 333, TrySeconds: .333, Endpoints: []endpoint{{"api-0", "127.0.0.1:1", "127.0.0.1", "1", "z1", "v1"}}}
			if p.tune != nil {
				p.tune(&s)
			}
			if err := s.write(p.config); err != nil {
				t.Errorf("%s: %v", p.name, err)
			}
		}
	}
}

func TestWhatIsAskedForIsChecked(t *testing.T) {
	for _, args := range [][]string{{"-proxies", "0"}, {"-proxies", "300"}, {"-base", "95%"}, {"-retries", "perhaps"}, {"-scenario", "crush"}, {"-product", "envoi"}, {"-rounds", "0"}, {"-endpoints", "1"},
		{"-base", "NaN"}, {"-rate", "NaN"}, {"-rate", "Inf"}, {"-late", "0"}, {"-soak", "-1m"}, {"-proxies", "4,4"}, {"-scenario", "crash;crash"},
		{"-product", "envoy", "tuned", "-rounds", "1"},                                                // no quotes
		{"-smoke", "-scenario", "crash"}, {"-known", "-rate", "100"}, {"-soak", "1m", "-fault", "9s"}, // the one decides what the other is
	} {
		if _, err := parse(args); err == nil {
			t.Errorf("%v passes", args)
		}
	}
	o, err := parse([]string{"-proxies", "1,4", "-retries", "both", "-base", "1%", "-scenario", "crash;hang", "-product", "envoy,none"})
	if err != nil {
		t.Fatal(err)
	}
	// Nobody retries for callers without a proxy.
	if got, want := len(o.jobs()), 3*2*2*(2+1); got != want || o.Base != .01 {
		t.Errorf("%d jobs at base %g, want %d at 0.01", got, o.Base, want)
	}
}

func TestAnOverloadAsksForMoreThanThereIs(t *testing.T) {
	set := setting{Rate: 1000, Endpoints: 10, Timeout: time.Second, Latency: 5 * time.Millisecond}
	f := scenario{overload: 1.25}.faultAt(set)
	// 80 requests a second of the 100 that come, and as many as half a second takes may wait.
	took := time.Duration(f.Slow * float64(set.Latency)).Seconds()
	if rate := float64(f.Capacity) / took; rate < 79.9 || rate > 80.1 || f.Queue != 40 {
		t.Errorf("%g requests a second and %d in line, want 80 and 40", rate, f.Queue)
	}
}

func TestAsManyStreamsAreUnderWayAsAScenarioAsksFor(t *testing.T) {
	for _, set := range []setting{
		{Proxies: 4, Endpoints: 10, Rate: 1000, Timeout: time.Second, Latency: 5 * time.Millisecond},
		{Proxies: 16, Endpoints: 20, Rate: 200, Timeout: time.Second, Base: .01},
	} {
		got := scenario{streams: 50}.in(set)
		if under := got.fair() * got.Hold.Seconds(); math.Abs(under-50) > .01 || !got.HTTP2 {
			t.Errorf("%g streams are under way, HTTP/2 %v; want 50", under, got.HTTP2)
		}
		if got.Endpoints > 10 || got.Timeout < 2*got.Hold {
			t.Errorf("%d endpoints, timeout %v, and an answer takes %v", got.Endpoints, got.Timeout, got.Hold)
		}
		f := got.usual(fakeupstream.Reset())
		latency := max(set.Latency, time.Millisecond) // as a backend takes it
		if took := f.Slow * latency.Seconds(); math.Abs(took-got.Hold.Seconds()) > .001 || f.Path == "" || f.ErrorRate != set.Base || !f.Reset {
			t.Errorf("got %+v, want a reset, and that requests of users take %v", f, got.Hold)
		}
		if same := (scenario{}).in(set); same != set {
			t.Errorf("another scenario takes place in %+v, want %+v", same, set)
		}
	}
}

func TestGRPCHasNoPartWhereBodiesAreCut(t *testing.T) {
	o, err := parse([]string{"-rounds", "1", "-scenario", "body stalls;hang", "-product", "grpc,none"})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range o.jobs() {
		if j.product.name == "grpc" && j.scenario.name == "body stalls" {
			t.Error("it has")
		}
	}
	if n := len(o.jobs()); n != 3 {
		t.Errorf("%d runs, want 3", n)
	}
}
