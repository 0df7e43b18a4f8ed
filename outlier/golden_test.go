package outlier

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// meanToAlarm is the exact mean number of attempts until Page's test with
// integer scores alarms, when each fails with probability q. It is computed
// apart from the product: the stationary flow into the alarm of a chain that
// begins anew at 0 after each one is the inverse of the mean time between two.
func meanToAlarm(lf, lo, h int64, q float64) float64 {
	p, next := make([]float64, h), make([]float64, h)
	p[0] = 1
	was := 0.0
	for i := 1; ; i++ {
		clear(next)
		alarm := 0.0
		for s, mass := range p {
			if mass == 0 {
				continue
			}
			next[max(0, int64(s)+lo)] += mass * (1 - q)
			if up := int64(s) + lf; up < h {
				next[up] += mass * q
			} else {
				alarm += mass * q
			}
		}
		next[0] += alarm
		// Standing still every other time changes nothing but the period of a
		// chain that fails each time.
		for s := range p {
			p[s] = (p[s] + next[s]) / 2
		}
		if i%64 == 0 {
			if alarm > 0 && math.Abs(alarm-was) < 1e-9*alarm {
				return 1 / alarm
			}
			was = alarm
		}
	}
}

// trial is the exact probability that a probation ends in readmission.
func trial(s Steps, q float64) float64 {
	mass := map[int64]float64{ProbationStart: 1}
	readmitted := 0.0
	for range 3000 {
		next := make(map[int64]float64)
		for score, m := range mass {
			if up := score + s.Fail; up < ProbationOut {
				next[up] += m * q
			}
			if down := score + s.OK; down > 0 {
				next[down] += m * (1 - q)
			} else {
				readmitted += m * (1 - q)
			}
		}
		mass = next
	}
	return readmitted
}

// near says that got rounds to want's digits, or is off by one in the last.
func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.Abs(got-want) > tolerance*math.Abs(want) {
		t.Errorf("%s: got %.6g, want %.6g within %.2g", what, got, want, tolerance)
	}
}

func TestStepsAreTheLogLikelihoodRatiosInMilliNats(t *testing.T) {
	for _, tt := range []struct {
		odds Odds
		want Steps
	}{
		{Odds{0.025, 0.2}, Steps{2079, -198}},
		{Odds{0.01, 0.2}, Steps{2996, -213}},
		{Odds{0.015, 0.05}, Steps{1204, -36}},
		{Odds{0.1, 0.5}, Steps{1609, -588}},
		{Odds{0.01, 0.05}, Steps{1609, -41}},
	} {
		if got := tt.odds.Steps(); got != tt.want {
			t.Errorf("%+v: steps are %+v, want %+v", tt.odds, got, tt.want)
		}
	}
	if got := (Odds{0.025, 0.2}).Steps().LLR(10, 3); got != 3*2079-7*198 {
		t.Errorf("3 of 10 are worth %d, want %d", got, 3*2079-7*198)
	}
}

func TestMeanAttemptsToAlarm(t *testing.T) {
	for _, tt := range []struct {
		odds Odds
		h    int64
		q    float64
		want float64
	}{
		{Odds{0.025, 0.2}, 11000, 1, 6},
		{Odds{0.025, 0.2}, 11000, 0.5, 12.40},
		{Odds{0.025, 0.2}, 11000, 0.2, 42.59},
		{Odds{0.025, 0.2}, 11000, 0.1, 203.8},
		{Odds{0.025, 0.2}, 11000, 0.05, 7485},
		{Odds{0.025, 0.2}, 11000, 0.03, 2.687e5},
		{Odds{0.025, 0.2}, 11000, 0.02, 4.761e6},
		{Odds{0.025, 0.2}, 11000, 0.01, 5.528e8},
		{Odds{0.01, 0.2}, 13800, 1, 5},
		{Odds{0.01, 0.2}, 13800, 0.5, 10.51},
		{Odds{0.01, 0.2}, 13800, 0.2, 33.06},
		{Odds{0.01, 0.2}, 13800, 0.1, 108.7},
		{Odds{0.01, 0.2}, 13800, 0.05, 1171},
		{Odds{0.01, 0.2}, 13800, 0.03, 2.010e4},
		{Odds{0.01, 0.2}, 13800, 0.02, 2.403e5},
		{Odds{0.01, 0.2}, 13800, 0.01, 1.623e7},
		{Odds{0.015, 0.05}, 20000, 0.2, 96.25},
		{Odds{0.015, 0.05}, 20000, 0.1, 229.1},
		{Odds{0.015, 0.05}, 20000, 0.05, 749},
		{Odds{0.1, 0.5}, 14000, 1, 9},
		{Odds{0.1, 0.5}, 14000, 0.5, 27.27},
		{Odds{0.01, 0.05}, 16000, 0.05, 376.8},
	} {
		s := tt.odds.Steps()
		got := meanToAlarm(s.Fail, s.OK, tt.h, tt.q)
		near(t, fmt.Sprintf("%+v h %d at %v", tt.odds, tt.h, tt.q), got, tt.want, 0.0006)
	}
}

// What the hot path's atomics do is that same test.
func TestTheCountersRunTheTestThatTheMathematicsDescribe(t *testing.T) {
	for _, tt := range []struct{ q, want float64 }{{1, 5}, {0.5, 10.51}, {0.2, 33.06}} {
		c := testConf()
		c.h, c.ceiling = 13800, 2*13800
		rng := rand.New(rand.NewPCG(1, 2))
		const runs = 4000
		total := 0
		for range runs {
			e := newEndpoint(1, c)
			for e.score.Load() < c.h {
				total++
				class := OK
				if rng.Float64() < tt.q {
					class = Server
				}
				a := e.Start(0, true)
				e.End(&a, Outcome{Class: class})
			}
		}
		near(t, fmt.Sprintf("at %v", tt.q), float64(total)/runs, tt.want, 0.04)
	}
}

func TestThresholdsGrowWithTheRate(t *testing.T) {
	month := 2_600_000 * time.Second
	for _, tt := range []struct {
		rate, floor, ceil float64
		want              int64
	}{
		{1, 10, 18, 10000}, {5, 10, 18, 11435}, {50, 10, 18, 13737}, {500, 10, 18, 16040},
		{1e9, 10, 18, 18000}, {0, 10, 18, 10000}, {1, 12, 20, 12000},
	} {
		if got := Threshold(tt.rate, month, tt.floor, tt.ceil); got != tt.want {
			t.Errorf("threshold at %v/s in [%v, %v] is %d, want %d", tt.rate, tt.floor, tt.ceil, got, tt.want)
		}
	}
}

func TestProbationIsWaldsTest(t *testing.T) {
	for _, tt := range []struct {
		odds         Odds
		clean        int64
		ramp, reject float64 // P(readmitted at 20 %), P(out again at 1 %)
	}{
		{Odds{0.01, 0.2}, 22, 0.0091, 0.0103},
		{Odds{0.025, 0.2}, 24, 0.0088, 0.0016},
	} {
		s := tt.odds.Steps()
		if got := ProbationStart + s.LLR(tt.clean, 0); got > 0 {
			t.Errorf("%+v: after %d clean successes the score is %d, want at most 0", tt.odds, tt.clean, got)
		}
		if got := ProbationStart + s.LLR(tt.clean-1, 0); got <= 0 {
			t.Errorf("%+v: after %d clean successes the score is %d, want above 0", tt.odds, tt.clean-1, got)
		}
		if got := ProbationStart + s.LLR(2, 2); got < ProbationOut {
			t.Errorf("%+v: two failures score %d, want at least %d", tt.odds, got, ProbationOut)
		}
		if got := ProbationStart + s.LLR(1, 1); got >= ProbationOut {
			t.Errorf("%+v: one failure scores %d, want less than %d", tt.odds, got, ProbationOut)
		}
		near(t, fmt.Sprintf("%+v: P(readmitted at 20 %%)", tt.odds), trial(s, 0.2), tt.ramp, 0.01)
		near(t, fmt.Sprintf("%+v: P(out at 1 %%)", tt.odds), 1-trial(s, 0.01), tt.reject, 0.03)
	}
}

func TestTheGuardWantsNineteenOf25WhenAllAreAt30Percent(t *testing.T) {
	g := Guard(Tally{N: 25, K: 19}, Surroundings{W: 0.3, Usual: 0.3}, false)
	near(t, "p0'", g.P0, 0.39, 1e-9)
	near(t, "p1'", g.P1, 0.75, 1e-9)
	if !g.Asked || !g.Pass {
		t.Errorf("19 of 25: %+v, want it asked and passed", g)
	}
	if g := Guard(Tally{N: 25, K: 18}, Surroundings{W: 0.3, Usual: 0.3}, false); g.Pass {
		t.Errorf("18 of 25 passes: %+v", g)
	}
	tail := 0.0
	for k := 19; k <= 25; k++ {
		c, _ := math.Lgamma(26)
		a, _ := math.Lgamma(float64(k + 1))
		b, _ := math.Lgamma(float64(26 - k))
		tail += math.Exp(c - a - b + float64(k)*math.Log(0.3) + float64(25-k)*math.Log(0.7))
	}
	near(t, "P(19 of 25 at 30 %)", tail, 2.8e-6, 0.03)
}

func TestTheGuardIsAskedOnlyWhenNeighboursSuffer(t *testing.T) {
	for _, tt := range []struct {
		name  string
		self  Tally
		w     float64
		slow  bool
		asked bool
		pass  bool
	}{
		{"quiet neighbours", Tally{50, 10}, 0, false, false, true},
		{"a fifth of its own rate", Tally{50, 10}, 0.04, false, true, false},
		{"half of them, amid 10 %", Tally{50, 25}, 0.1, false, true, true},
		{"less than a fifth", Tally{50, 10}, 0.03, false, false, true},
		{"the slow test does not mind a fifth", Tally{50, 10}, 0.04, true, false, true},
		{"the slow test minds 10 %", Tally{500, 100}, 0.1, true, true, false},
		{"beyond 0.8 nobody is singled out", Tally{1000, 1000}, 0.7, false, true, false},
	} {
		g := Guard(tt.self, Surroundings{W: tt.w}, tt.slow)
		if g.Asked != tt.asked || g.Pass != tt.pass {
			t.Errorf("%s: asked %v, pass %v (llr %d), want %v, %v", tt.name, g.Asked, g.Pass, g.LLR, tt.asked, tt.pass)
		}
	}
}

func TestAnIdleEndpointIsDownAtTheThirdNetMiss(t *testing.T) {
	b := BeliefRest
	for i, tt := range []struct {
		answered, down bool
	}{{false, false}, {false, false}, {true, false}, {false, false}, {false, true}, {false, true}, {true, false}} {
		b = Belief(b, tt.answered)
		if got := b >= BeliefDown; got != tt.down {
			t.Errorf("ping %d: belief %d, down %v, want %v", i+1, b, got, tt.down)
		}
	}
}

func TestOddsOfTheFastTest(t *testing.T) {
	lim := DefaultConfig().Bounds()
	for _, tt := range []struct {
		name   string
		b      Baseline
		p0, p1 float64
	}{
		{"a clean group", Baseline{Pg: 0, Endpoints: 10, Attempts: 1000}, 0.01, 0.2},
		{"base 1 %", Baseline{Pg: 0.01, Endpoints: 10, Attempts: 1000}, 0.025, 0.2},
		{"base 10 %", Baseline{Pg: 0.1, Endpoints: 10, Attempts: 1000}, 0.205, 0.505},
		{"a small group", Baseline{Pg: 0, Endpoints: 4, Attempts: 1000}, 0.02, 0.2},
		{"a young group", Baseline{Pg: 0, Endpoints: 10, Attempts: 599}, 0.04, 0.2},
		{"all suffer", Baseline{Pg: 0.01, W: 0.3, Endpoints: 10, Attempts: 1000}, 0.39, 0.69},
		{"as bad as it gets", Baseline{Pg: 0.9, W: 1, Endpoints: 10, Attempts: 1000}, 0.6, 0.9},
		{"w of 10 % is not more than 10 %", Baseline{Pg: 0.01, W: 0.1, Endpoints: 10, Attempts: 1000}, 0.025, 0.2},
	} {
		got := FastOdds(tt.b, lim)
		if math.Abs(got.P0-tt.p0) > 1e-12 || math.Abs(got.P1-tt.p1) > 1e-12 {
			t.Errorf("%s: %+v, want p0 %v, p1 %v", tt.name, got, tt.p0, tt.p1)
		}
	}
	if got := SlowOdds(0.01); math.Abs(got.P0-0.015) > 1e-12 || math.Abs(got.P1-0.05) > 1e-12 {
		t.Errorf("slow odds at 1 %%: %+v, want 0.015, 0.05", got)
	}
}

func TestClampsUpperBoundWins(t *testing.T) {
	if got := Clamp(3, 5, 2); got != 2 {
		t.Errorf("Clamp(3, 5, 2) = %v, want 2", got)
	}
}

// The median without one member, against sorting anew.
func TestTheMedianWithoutOneIsThatOfTheOthers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 5000 {
		group := make([]Tally, rng.IntN(12))
		for i := range group {
			n := rng.Int64N(12)
			group[i] = Tally{N: n, K: rng.Int64N(n + 1)}
		}
		for self := range group {
			var rest []float64
			for i, o := range group {
				if i != self && o.N >= 3 {
					rest = append(rest, float64(o.K)/float64(o.N))
				}
			}
			want := 0.0
			if n := len(rest); n > 0 {
				for i := range rest {
					for j := range rest {
						if rest[i] < rest[j] {
							rest[i], rest[j] = rest[j], rest[i]
						}
					}
				}
				want = (rest[(n-1)/2] + rest[n/2]) / 2
			}
			if got := NewRatios(group).Without(group[self]); got != want {
				t.Fatalf("median of the others of %d in %v is %v, want %v", self, group, got, want)
			}
		}
	}
}

func TestTheBaselineForgetsTheWorst(t *testing.T) {
	got, ok := TrimmedMean([]float64{0.5, 0.01, 0.03, 0.02, 0.9, 0.01, 0.02, 0.02, 0.01, 0.02})
	if want := (3*0.01 + 4*0.02) / 7; !ok || math.Abs(got-want) > 1e-12 {
		t.Errorf("mean of the lowest 7 of 10 is %v, %v, want %v", got, ok, want)
	}
	if got, ok := TrimmedMean([]float64{0.4}); !ok || got != 0.4 {
		t.Errorf("of one: %v, %v, want 0.4", got, ok)
	}
	if _, ok := TrimmedMean(nil); ok {
		t.Error("of none there is a mean, want none")
	}
}
