package balancer_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/balancer"
)

// endpoints makes the counters of n endpoints, as a detector hands them out.
func endpoints(tb testing.TB, n int) []*outlier.Endpoint {
	tb.Helper()
	_, all := detector(tb, n)
	return all
}

func detector(tb testing.TB, n int) (*outlier.Detector, []*outlier.Endpoint) {
	tb.Helper()
	d := outlier.New(outlier.DefaultConfig(), rand.New(rand.NewPCG(1, 1)))
	members := make([]outlier.Member, n)
	for i := range members {
		members[i] = outlier.Member{ID: fmt.Sprintf("e%03d", i), Weight: 1}
	}
	d.SetMembers(members, 0)
	all := make([]*outlier.Endpoint, n)
	for i, m := range members {
		if all[i] = d.Endpoint(m.ID); all[i] == nil {
			tb.Fatalf("no counters for %s", m.ID)
		}
	}
	return d, all
}

// entries gives each endpoint a weight.
func entries(tb testing.TB, weights ...float64) []balancer.Entry {
	out := make([]balancer.Entry, len(weights))
	for i, e := range endpoints(tb, len(weights)) {
		out[i] = balancer.Entry{Stats: e, Weight: weights[i]}
	}
	return out
}

// load leaves n attempts in flight.
func load(e balancer.Entry, n int) {
	for range n {
		e.Stats.Start(0, false)
	}
}

// n is how many picks it takes to measure a share.
const n = 50_000

// shares picks n times and returns what part each entry got.
func shares(s *balancer.Set, now time.Duration) []float64 {
	rng := rand.New(rand.NewPCG(7, 7))
	out := make([]float64, s.Len())
	for range n {
		if i := s.Pick(rng.Uint64(), now, nil); i >= 0 {
			out[i] += 1 / float64(n)
		}
	}
	return out
}

// wantShares checks parts of n picks against what is wanted, within 5 standard
// deviations of a binomial.
func wantShares(t *testing.T, got, want []float64) {
	t.Helper()
	for i := range want {
		if limit := 5 * math.Sqrt(max(want[i]*(1-want[i]), 1e-12)/float64(n)); math.Abs(got[i]-want[i]) > limit {
			t.Errorf("entry %d got %.4f of the picks, want %.4f ± %.4f", i, got[i], want[i], limit)
		}
	}
}

func TestEndpointsOfEqualCostArePickedByWeight(t *testing.T) {
	for _, policy := range []balancer.Policy{balancer.P2C, balancer.RoundRobin, balancer.Random} {
		for _, weights := range [][]float64{{1}, {1, 1}, {1, 1, 1}, {1, 2, 3}, {1, 0, 1}, {100, 1}, {5, 1, 1, 1, 1, 1, 1, 1}, {0.001, 1000}} {
			t.Run(fmt.Sprint(policy, weights), func(t *testing.T) {
				sum := 0.0
				for _, w := range weights {
					sum += w
				}
				want := make([]float64, len(weights))
				for i, w := range weights {
					want[i] = w / sum
				}
				s := balancer.NewSet(entries(t, weights...), balancer.Config{Policy: policy})
				wantShares(t, shares(s, time.Second), want)
			})
		}
	}
}

func TestAHeldEndpointGetsItsPartWhateverItsCost(t *testing.T) {
	for _, tt := range []struct {
		name         string
		share        float64
		held, others int // in flight
	}{
		{"idle among idle", 0.1, 0, 0},
		{"idle among busy", 0.1, 0, 20},
		{"busy among idle", 0.1, 20, 0},
		{"half way up", 0.5, 0, 3},
		{"nearly there", 0.9, 9, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			es := entries(t, tt.share, 1, 1, 1, 1)
			es[0].Held = true
			load(es[0], tt.held)
			for _, e := range es[1:] {
				load(e, tt.others)
			}
			sum := 4 + tt.share
			rest := 1 / sum
			wantShares(t, shares(balancer.NewSet(es, balancer.DefaultConfig()), time.Second), []float64{tt.share / sum, rest, rest, rest, rest})
		})
	}
}

// TestASlowPartIsTheLesserOfTwo: of what is left to an endpoint for its latency, and
// of what its cost would leave it. The others take 5 ms; 100 µs are added to each.
func TestASlowPartIsTheLesserOfTwo(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name     string
		policy   balancer.Policy
		slow     time.Duration
		base     float64 // weight; the others': 2
		inFlight int
		share    float64
		want     float64 // of its base weight
	}{
		{"little left, but slower still", balancer.P2C, 60 * ms, 2, 0, 0.25, 0.1},
		{"in flight counts", balancer.P2C, 60 * ms, 2, 1, 0.25, 2 / (1 + 2*60.1/5.1)},
		{"for its base weight", balancer.P2C, 60 * ms, 1, 1, 0.25, 2 / (1 + 3*60.1/5.1)},
		{"next to nothing left", balancer.P2C, 60 * ms, 2, 0, 0.04, 0.04},
		{"a tail: as fast as the others at the moment", balancer.P2C, 6 * ms, 2, 0, 0.25, 0.25},
		{"a policy that does not ask", balancer.RoundRobin, 60 * ms, 2, 0, 0.25, 0.25},
		{"nor does the least busy", balancer.LeastRequest, 60 * ms, 2, 0, 0.25, 0.25},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const now = time.Minute
			es := entries(t, tt.share*tt.base, 2, 2, 2, 2)
			es[0].Slow = tt.share
			for i := range es {
				latency := 5 * ms
				if i == 0 {
					latency = tt.slow
				}
				a := es[i].Stats.Start(now-latency, false)
				es[i].Stats.Headers(&a, now)
				es[i].Stats.End(&a, outlier.Outcome{Class: outlier.OK, Now: now})
			}
			load(es[0], tt.inFlight)
			part := tt.want * tt.base / (8 + tt.share*tt.base)
			rest := (1 - part) / 4
			wantShares(t, shares(balancer.NewSet(es, balancer.Config{Policy: tt.policy}), now), []float64{part, rest, rest, rest, rest})
		})
	}
}

func TestOfTwoChoicesTheLessBusyIsTaken(t *testing.T) {
	es := entries(t, 1, 1, 1, 1)
	load(es[3], 10)
	wantShares(t, shares(balancer.NewSet(es, balancer.DefaultConfig()), time.Second), []float64{1. / 3, 1. / 3, 1. / 3, 0})
}

// TestASlowEndpointGetsLessButIsNotStarved: little load, so that latency alone
// tells the two apart. 100 µs are added to each.
func TestASlowEndpointGetsLessButIsNotStarved(t *testing.T) {
	for _, tt := range []struct {
		fast, slow time.Duration
		want       float64
	}{
		{time.Millisecond, 1050 * time.Microsecond, 0.5},
		{time.Millisecond, 2 * time.Millisecond, 0.5},
		{10 * time.Microsecond, 90 * time.Microsecond, 0.5},
		{900 * time.Microsecond, 2900 * time.Microsecond, 1. / 10},
		{900 * time.Microsecond, 9900 * time.Microsecond, 0.05},
	} {
		es := entries(t, 1, 1)
		now := time.Minute
		for i, latency := range []time.Duration{tt.fast, tt.slow} {
			a := es[i].Stats.Start(now-latency, false)
			es[i].Stats.Headers(&a, now)
			es[i].Stats.End(&a, outlier.Outcome{Class: outlier.OK, Now: now})
		}
		t.Run(fmt.Sprint(tt.fast, " ", tt.slow), func(t *testing.T) {
			wantShares(t, shares(balancer.NewSet(es, balancer.DefaultConfig()), now), []float64{1 - tt.want, tt.want})
		})
	}
}

// TestAnEndpointThatHangsIsLeft: others remember a slow answer or two and look no
// better by what they cost, but they answer.
func TestAnEndpointThatHangsIsLeft(t *testing.T) {
	es := entries(t, 1, 1, 1, 1)
	now := time.Minute
	for i, latency := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond} {
		a := es[i].Stats.Start(now-latency, true)
		es[i].Stats.Headers(&a, now)
		es[i].Stats.End(&a, outlier.Outcome{Class: outlier.OK, Now: now})
	}
	es[0].Stats.Start(now, true)
	set := balancer.NewSet(es, balancer.DefaultConfig())
	if got := shares(set, now+time.Millisecond)[0]; got < 0.4 {
		t.Errorf("after 1 ms it gets %.3f of the picks, want nearly half, as it is the fastest", got)
	}
	if got := shares(set, now+200*time.Millisecond)[0]; got > 0.005 {
		t.Errorf("after 200 ms it gets %.3f of the picks, want next to none", got)
	}
}

// TestStreamsStarveNobody: they are under way and tell nothing.
func TestStreamsStarveNobody(t *testing.T) {
	es := entries(t, 1, 1)
	now := time.Minute
	for i, latency := range []time.Duration{900 * time.Microsecond, 9900 * time.Microsecond} {
		es[i].Stats.Start(now-time.Second, false)
		a := es[i].Stats.Start(now-latency, true)
		es[i].Stats.Headers(&a, now)
		es[i].Stats.End(&a, outlier.Outcome{Class: outlier.OK, Now: now})
	}
	wantShares(t, shares(balancer.NewSet(es, balancer.DefaultConfig()), now), []float64{0.95, 0.05})
}

// TestUnequalWeightsHoldUnderLoad runs a closed loop in which every request takes
// the same time, so that requests in flight follow the picks.
func TestUnequalWeightsHoldUnderLoad(t *testing.T) {
	const inFlight, n = 64, 100_000
	es := entries(t, 4, 2, 1, 1)
	s := balancer.NewSet(es, balancer.DefaultConfig())
	rng := rand.New(rand.NewPCG(3, 3))
	type attempt struct {
		entry int
		outlier.Attempt
	}
	var queue []attempt
	counts := make([]float64, len(es))
	for k := range n {
		now := time.Second + time.Duration(k)*time.Millisecond
		if len(queue) == inFlight {
			a := queue[0]
			queue = queue[1:]
			es[a.entry].Stats.End(&a.Attempt, outlier.Outcome{Class: outlier.OK, Now: now})
		}
		i := s.Pick(rng.Uint64(), now, nil)
		counts[i]++
		queue = append(queue, attempt{i, es[i].Stats.Start(now, false)})
	}
	for i, want := range []float64{0.5, 0.25, 0.125, 0.125} {
		if got := counts[i] / n; math.Abs(got-want) > 0.03 {
			t.Errorf("entry %d of weight %v got %.3f, want %.3f ± 0.03", i, es[i].Weight, got, want)
		}
	}
}

func TestRoundRobinGoesInTurnAcrossSets(t *testing.T) {
	es := entries(t, 1, 1, 1)
	s := balancer.NewSet(es, balancer.Config{Policy: balancer.RoundRobin})
	var got []string
	for k := range 9 {
		if k == 4 {
			s = s.With(es)
		}
		got = append(got, fmt.Sprint(s.Pick(0, 0, nil)))
	}
	if order := strings.Join(got, ""); order != "120120120" {
		t.Errorf("order %s, want 120120120", order)
	}
}

func TestATrickleIsOneAttemptPerPeriod(t *testing.T) {
	es := entries(t, 1, 1, 0.02)
	es[2].Gate = balancer.NewGate(time.Second, false)
	s := balancer.NewSet(es, balancer.DefaultConfig())
	rng := rand.New(rand.NewPCG(1, 2))
	var times []time.Duration
	for now := time.Duration(0); now < time.Minute; now += time.Millisecond {
		if s.Pick(rng.Uint64(), now, nil) == 2 {
			times = append(times, now)
		}
		if now%(100*time.Millisecond) == 0 {
			es[2].Gate = es[2].Gate.With(time.Second, false)
			s = s.With(es) // a new set does not open the gate
		}
	}
	for k := 1; k < len(times); k++ {
		if gap := times[k] - times[k-1]; gap < time.Second || gap > time.Second+50*time.Millisecond {
			t.Errorf("gap %v between two trickled attempts, want one second and little more", gap)
		}
	}
	if len(times) < 58 {
		t.Errorf("%d attempts in a minute, want about 60", len(times))
	}
}

func TestATrickleIsNoMoreThanAFairPartOfLittleDemand(t *testing.T) {
	es := entries(t, 1, 1, 1, 1)
	es[0].Gate = balancer.NewGate(time.Second, false)
	s := balancer.NewSet(es, balancer.DefaultConfig())
	rng := rand.New(rand.NewPCG(1, 2))
	got := make([]float64, len(es))
	for k := range n { // one request a minute: the trickle is always due
		got[s.Pick(rng.Uint64(), time.Duration(k)*time.Minute, nil)] += 1.0 / n
	}
	wantShares(t, got, []float64{0.25, 0.25, 0.25, 0.25})
}

func TestAnEndpointOnProbationHasOneAttemptAtATime(t *testing.T) {
	es := entries(t, 1, 1, 0.5)
	es[2].Gate = balancer.NewGate(0, true)
	s := balancer.NewSet(es, balancer.DefaultConfig())
	rng := rand.New(rand.NewPCG(1, 2))
	now := time.Second
	until := func() bool {
		for range 1000 {
			if s.Pick(rng.Uint64(), now, nil) == 2 {
				return true
			}
		}
		return false
	}
	if !until() {
		t.Fatal("an endpoint on probation was never picked")
	}
	a := es[2].Stats.Start(now, false)
	if now += 10 * time.Millisecond; until() {
		t.Error("picked while an attempt was in flight")
	}
	es[2].Stats.End(&a, outlier.Outcome{Class: outlier.OK, Now: now})
	if !until() {
		t.Error("not picked after the attempt had ended")
	}
	es[2].Stats.Start(now, false)
	if now += 2 * time.Second; !until() {
		t.Error("an attempt of hours keeps the endpoint from being tried at all")
	}
}

func TestARetryGoesElsewhereWhileThereIsAnElsewhere(t *testing.T) {
	es := entries(t, 1, 1, 0.1, 0.5, 0)
	es[2].Held = true
	es[3].Gate = balancer.NewGate(0, true)
	s := balancer.NewSet(es, balancer.DefaultConfig())
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var tried balancer.Tried
		var order []int
		for range 4 {
			i := s.Pick(rng.Uint64(), time.Second, &tried)
			if i < 0 || i == 4 || tried.Has(es[i].Stats) {
				t.Fatalf("picks %v, then %d: want each usable endpoint once", order, i)
			}
			order = append(order, i)
			tried.Add(es[i].Stats)
		}
		if order[3] != 3 && order[0] != 3 {
			t.Fatalf("picks %v: a retry went to the endpoint on probation before the others", order)
		}
		if i := s.Pick(rng.Uint64(), time.Second, &tried); i < 0 || i == 4 {
			t.Fatalf("with all tried, picked %d, want any of the usable", i)
		}
	}
}

func TestTheLastFewTriedAreRemembered(t *testing.T) {
	all := endpoints(t, 12)
	var tried balancer.Tried
	for _, e := range all {
		tried.Add(e)
	}
	if tried.Len() != 12 || tried.Has(all[0]) || !tried.Has(all[11]) {
		t.Errorf("Len %d, has first %v, has last %v; want 12, false, true", tried.Len(), tried.Has(all[0]), tried.Has(all[11]))
	}
	tried.Reset()
	if tried.Len() != 0 || tried.Has(all[11]) {
		t.Error("Reset forgets nothing")
	}
}

func TestNothingToChooseFrom(t *testing.T) {
	for name, es := range map[string][]balancer.Entry{
		"no entries": nil,
		"no weights": entries(t, 0, -1, math.NaN(), math.Inf(1)),
	} {
		if i := balancer.NewSet(es, balancer.DefaultConfig()).Pick(42, 0, nil); i != -1 {
			t.Errorf("%s: picked %d, want -1", name, i)
		}
	}
}

func TestWithOnlyShutGatesARequestStillGoesSomewhere(t *testing.T) {
	es := entries(t, 0.02, 0.1)
	es[0].Gate = balancer.NewGate(time.Second, false)
	es[1].Gate = balancer.NewGate(time.Second, true)
	s := balancer.NewSet(es, balancer.DefaultConfig())
	for k := range uint64(100) {
		if i := s.Pick(k, time.Second, nil); i < 0 {
			t.Fatalf("pick %d found nothing", k)
		}
	}
}

func TestPickNeverTakesAnEndpointWithoutWeight(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	for range 300 {
		weights := make([]float64, 1+rng.IntN(20))
		usable := 0
		for i := range weights {
			if rng.IntN(3) > 0 {
				weights[i] = rng.Float64() * float64(1+rng.IntN(100))
				usable++
			}
		}
		es := entries(t, weights...)
		for i := range es {
			switch rng.IntN(6) {
			case 0:
				es[i].Held = true
			case 1:
				es[i].Gate = balancer.NewGate(0, true)
			}
			load(es[i], rng.IntN(4))
		}
		s := balancer.NewSet(es, balancer.Config{Policy: balancer.Policy(rng.IntN(3))})
		for range 200 {
			var tried balancer.Tried
			for range rng.IntN(4) {
				tried.Add(es[rng.IntN(len(es))].Stats)
			}
			i := s.Pick(rng.Uint64(), time.Second, &tried)
			switch {
			case usable == 0 && i != -1:
				t.Fatalf("picked %d of none usable", i)
			case usable > 0 && (i < 0 || weights[i] == 0):
				t.Fatalf("picked %d of weights %v", i, weights)
			}
		}
	}
}

func TestAPickAllocatesNothing(t *testing.T) {
	es := entries(t, 1, 1, 1, 0.5)
	es[3].Gate = balancer.NewGate(time.Second, false)
	s := balancer.NewSet(es, balancer.DefaultConfig())
	var tried balancer.Tried
	tried.Add(es[0].Stats)
	rng := rand.New(rand.NewPCG(1, 1))
	for name, tr := range map[string]*balancer.Tried{"first": nil, "retry": &tried} {
		if n := testing.AllocsPerRun(1000, func() { s.Pick(rng.Uint64(), time.Second, tr) }); n != 0 {
			t.Errorf("%s attempt: %v allocations, want 0", name, n)
		}
	}
}

func TestPoliciesAreReadAsTheyAreWritten(t *testing.T) {
	for _, p := range []balancer.Policy{balancer.P2C, balancer.RoundRobin, balancer.Random} {
		text, _ := p.MarshalText()
		var got balancer.Policy
		if err := got.UnmarshalText(text); err != nil || got != p {
			t.Errorf("%v read back as %v, %v", p, got, err)
		}
	}
	var p balancer.Policy
	if err := p.UnmarshalText([]byte("least_conn")); err == nil {
		t.Error("least_conn was taken for a policy")
	}
	if err := (balancer.Config{Policy: 9}).Validate(); err == nil {
		t.Error("policy 9 is valid")
	}
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{2, 10, 1000} {
		weights := make([]float64, n)
		for i := range weights {
			weights[i] = 1
		}
		s := balancer.NewSet(entries(b, weights...), balancer.DefaultConfig())
		b.Run(fmt.Sprintf("endpoints=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Pick(rand.Uint64(), time.Second, nil)
			}
		})
	}
}

func BenchmarkNewSet(b *testing.B) {
	weights := make([]float64, 1000)
	for i := range weights {
		weights[i] = float64(1 + i%3)
	}
	es := entries(b, weights...)
	for b.Loop() {
		balancer.NewSet(es, balancer.DefaultConfig())
	}
}
