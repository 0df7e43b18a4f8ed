package merge

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// bench is a table with one service and reporters that are made by hand.
type bench struct {
	*Table
	tb  testing.TB
	seq map[string]uint64
	n   map[[2]string]outlier.Counts
}

func newBench(tb testing.TB, policy Policy, reporters, endpoints int, zones ...string) *bench {
	tb.Helper()
	b := &bench{Table: NewTable(DefaultConfig(), 1), tb: tb, seq: map[string]uint64{}, n: map[[2]string]outlier.Counts{}}
	var specs []Endpoint
	for i := range endpoints {
		specs = append(specs, Endpoint{Key: Key{"api", fmt.Sprintf("e%d", i)}, Weight: 1})
	}
	b.SetService("api", policy, specs, 0)
	for i := range reporters {
		r := Reporter{ID: fmt.Sprintf("r%d", i), Node: fmt.Sprintf("n%d", i)}
		if len(zones) > 0 {
			r.Zone = zones[i%len(zones)]
		}
		if err := b.Join(r, []string{"api"}, 0); err != nil {
			tb.Fatal(err)
		}
		b.report(r.ID, "e0", outlier.Counts{}, 0) // it is here and knows of nothing
	}
	b.Step(0)
	return b
}

// report adds attempts to what a reporter has counted, and tells.
func (b *bench) report(reporter, instance string, more outlier.Counts, now time.Duration) Applied {
	b.tb.Helper()
	c := b.n[[2]string{reporter, instance}]
	c.N += more.N
	c.Conn += more.Conn
	c.Timeout += more.Timeout
	c.Server += more.Server
	b.n[[2]string{reporter, instance}] = c
	b.seq[reporter]++
	return b.Apply(Report{
		Reporter: reporter, Seq: b.seq[reporter], At: now, Received: now,
		Cells: []Cell{{Key: Key{"api", instance}, Counts: c, LastOK: -1, LastOKStart: -1, LastHard: -1, LastHardStart: -1}},
	}, now)
}

func server(n uint32) outlier.Counts { return outlier.Counts{N: n, Server: n} }
func good(n uint32) outlier.Counts   { return outlier.Counts{N: n} }

func TestOneFailureEachOfThreeReportersAddsUpAndOneReportersFailuresNever(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 3, 10)
	lf := outlier.FastOdds(outlier.Baseline{Pg: 0.01, Endpoints: 10}, DefaultPolicy().Outlier.Bounds()).Steps().Fail
	row := &b.endpoints[Key{"api", "e0"}].fast
	now := 2 * time.Second
	for i, want := range []int64{0, lf, 2 * lf} {
		b.report(fmt.Sprintf("r%d", i), "e0", server(1), now)
		b.Step(now)
		if row.last.t != want || !row.open {
			t.Errorf("after %d reports T = %d, want %d", i+1, row.last.t, want)
		}
		now += 10 * ms
	}

	b = newBench(t, DefaultPolicy(), 3, 10)
	b.report("r0", "e1", server(1000), 2*time.Second)
	b.Step(2 * time.Second)
	row = &b.endpoints[Key{"api", "e1"}].fast
	if row.last.t != 0 || !row.open {
		t.Errorf("1000 failures of one reporter: T = %d, want 0", row.last.t)
	}
}

func TestReportersOfOneNodeAreOneVoice(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 3, 10)
	for _, id := range []string{"r0", "r1"} {
		if err := b.Join(Reporter{ID: id, Node: "same"}, []string{"api"}, 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"r0", "r1"} {
		b.report(id, "e0", server(0), time.Second)
	}
	b.Step(time.Second)
	for _, id := range []string{"r0", "r1"} {
		b.report(id, "e0", server(100), 3*time.Second)
	}
	b.Step(3 * time.Second)
	if row := &b.endpoints[Key{"api", "e0"}].fast; row.last.t != 0 || row.last.domains != 1 {
		t.Errorf("two reporters of one node: T = %d over %d domains, want 0 over 1", row.last.t, row.last.domains)
	}
}

func TestFWithMoreLiarsNeedsMoreLiars(t *testing.T) {
	for f := range 4 {
		p := DefaultPolicy()
		p.LeaveOut = f
		b := newBench(t, p, 5, 10)
		for i := range 4 {
			b.report(fmt.Sprintf("r%d", i), "e0", server(uint32(10*(i+1))), 2*time.Second)
		}
		b.Step(2 * time.Second)
		row := &b.endpoints[Key{"api", "e0"}].fast
		lf := row.last.odds.Steps().Fail
		want := []int64{100, 60, 30, 10}[f] * lf
		if row.last.t != want {
			t.Errorf("f = %d: T = %d, want %d", f, row.last.t, want)
		}
	}
}

func TestSuccessesOfOthersClearAnExcursion(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 3, 10)
	b.report("r0", "e0", server(3), 2*time.Second)
	b.Step(2 * time.Second)
	row := &b.endpoints[Key{"api", "e0"}].fast
	if !row.open {
		t.Fatal("no excursion")
	}
	b.report("r1", "e0", good(100), 3*time.Second)
	b.Step(3 * time.Second)
	if row.open {
		t.Errorf("still open at T = %d, sum %d", row.last.t, row.last.sum)
	}
}

// median of the times to a verdict of the fleet, without suspicions: the failures
// are answers with errors.
func TestMedianTimesToAVerdictAreThoseOfTheModel(t *testing.T) {
	tests := []struct {
		rate      float64
		reporters int
		want      [3]float64 // seconds at 100, 50, 20 % errors
	}{
		{5, 10, [3]float64{1.9, 4.1, 15}},
		{50, 10, [3]float64{.29, .61, 2.1}},
		{100, 20, [3]float64{.18, .36, 1.2}},
		// 500/s and 100 reporters would be seven million attempts: they are measured by the
		// simulator, whose scenarios errors-*-at-500 say what is met and what is not.
	}
	const runs = 21
	for _, test := range tests {
		for i, share := range []float64{1, 0.5, 0.2} {
			var took []float64
			for run := range runs {
				f := newFleet(t, mesh{callers: test.reporters, endpoints: 5, rate: test.rate, base: 0.01, seed: uint64(1000*run + i)})
				f.run(45*time.Second + time.Duration(f.rng.Int64N(int64(time.Second))))
				f.targets[2].fault = f.sometimes(share)
				d, ok := f.ejected(2, 3*time.Minute)
				if !ok {
					t.Errorf("rate %v, %d reporters, %v errors: no verdict", test.rate, test.reporters, share)
				}
				took = append(took, d.Seconds())
			}
			slices.Sort(took)
			got := took[len(took)/2]
			t.Logf("rate %3.0f/s, %3d reporters, %3.0f %% errors: median %6.3f s, model %5.2f s, largest of %d %6.2f s", test.rate, test.reporters, 100*share, got, test.want[i], runs, took[len(took)-1])
			// The model has reporters who tell of a second failure a second later; ours do
			// so at once, which the uncertainty of so few runs does not use up.
			if got > 1.2*test.want[i]+0.01 {
				t.Errorf("rate %v, %d reporters, %v errors: median %.3f s, the model says %.2f s", test.rate, test.reporters, share, got, test.want[i])
			}
		}
	}
}

var long = flag.Bool("long", false, "20 million attempts, a quarter of an hour, for what must never happen")

func TestOneReporterThatFailsEverythingGivesNoVerdict(t *testing.T) {
	attempts := 30_000
	if *long {
		attempts = 20_000_000
	}
	for _, test := range []struct {
		rate      float64
		reporters int
	}{{5, 10}, {50, 3}, {50, 10}, {50, 100}, {500, 100}} {
		f := newFleet(t, mesh{callers: test.reporters, endpoints: 5, rate: test.rate, base: 0.01, seed: 17})
		liar := f.callers[0]
		for _, e := range f.targets[:2] { // two, so that it is not muted
			e.fault = func(c *caller, _ time.Duration) effect {
				if c == liar {
					return errs
				}
				return works
			}
		}
		f.until(10_000*time.Hour, func() bool { return f.attempts >= attempts })
		t.Logf("rate %v/s, %d reporters: %d attempts", test.rate, test.reporters, f.attempts)
		if v := f.verdicts(); len(v) != 0 {
			t.Errorf("rate %v, %d reporters: got %s\nwant no verdict", test.rate, test.reporters, describe(v))
		}
	}
}

// With many silent reporters and a base of 3 % the failures are told at once and
// the successes up to ten seconds later. The poll asks for them.
func TestLateSuccessesGiveNoFalseVerdictBecauseReportersArePolled(t *testing.T) {
	run := func(deaf bool, attempts int) (alarms, polls int) {
		p := DefaultPolicy()
		p.HFleetMin, p.HFleetMax = 8, 8
		p.Outlier.P0Max = 0.025
		f := newFleet(t, mesh{callers: 500, endpoints: 5, rate: 50, base: 0.03, seed: 23, policy: &p})
		f.deaf = deaf
		f.until(time.Hour*24, func() bool { return f.attempts >= attempts })
		for _, ch := range f.changes {
			if ch.To == outlier.Ejected && ch.Verdict.Rule == outlier.RuleFast && ch.Refused == "" {
				alarms++
			}
		}
		return alarms, f.polls
	}
	attempts := 200_000
	if *long {
		attempts = 3_000_000
	}
	// One that believes everybody and sees all at once, and the same without the
	// reporter who says the worst, who here says two failures at most.
	odds := outlier.Odds{P0: 0.025, P1: 0.2}
	pooled := pooledAlarms(attempts, 0.03, odds, 8*outlier.Nat)
	leftOut := pooledAlarms(attempts, 0.03, odds, 8*outlier.Nat+odds.Steps().Fail)
	with, polls := run(false, attempts)
	deaf, _ := run(true, attempts)
	t.Logf("%d attempts: %d alarms with polls (%d of them), %d without answers; a CUSUM of all attempts in their order %d, without the worst %d",
		attempts, with, polls, deaf, pooled, leftOut)
	if most, least := 1+attempts/750_000, 2*attempts/200_000; with > most || deaf < least {
		t.Errorf("%d alarms with polls, want at most %d; %d without, want at least %d", with, most, deaf, least)
	}
}

// pooledAlarms counts how often a CUSUM that sees each attempt when it ends, and believes
// everybody, takes a base error rate of p for a fault.
func pooledAlarms(attempts int, p float64, odds outlier.Odds, h int64) (alarms int) {
	rng := rand.New(rand.NewPCG(7, 7))
	steps, sum := odds.Steps(), int64(0)
	for range attempts {
		k := int64(0)
		if rng.Float64() < p {
			k = 1
		}
		if sum = max(0, sum+steps.LLR(1, k)); sum >= h {
			alarms, sum = alarms+1, 0
		}
	}
	return alarms
}

func TestHashesSpreadEvenly(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var buckets [16]int
	for i := range 16000 {
		buckets[hash64(rng.Uint64()&1, "a", fmt.Sprint(i))>>60]++
	}
	for i, n := range buckets {
		if n < 850 || n > 1150 {
			t.Errorf("bucket %d has %d of 16000", i, n)
		}
	}
}
