package merge

import (
	"fmt"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

func TestAnswersFromBeforeTheTroubleDoNotSpeakForTheEndpoint(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 3, 10)
	e := b.endpoints[Key{"api", "e0"}]
	// r0 was well until 9.9 s, and has failed once since then.
	b.report("r0", "e0", good(50), 9900*ms)
	b.Step(9900 * ms)
	b.report("r0", "e0", server(1), 10*time.Second)
	b.Step(10 * time.Second)
	if !e.fast.open || e.fast.since != 9900*ms {
		t.Fatalf("row open: %v, since %v; want one since 9.9s", e.fast.open, e.fast.since)
	}
	// r1 is calm, and tells of ten seconds at once: of these 100 ms are the row's.
	b.report("r1", "e0", good(100), 10*time.Second)
	b.Step(10*time.Second + readAgain) // good news is not looked at twice in a moment
	read := e.fast.last
	if !e.fast.open || read.n-read.k != 1 || read.k != 1 {
		t.Errorf("row open: %v, with %d failures in %d attempts; want 1 in 2: of 100 answers evenly over 10 s one came in the last 100 ms", e.fast.open, read.k, read.n)
	}
	// r2 has failures among what it tells: they count, whenever they were.
	mixed := good(96)
	mixed.N, mixed.Server = 100, 4
	b.report("r2", "e0", mixed, 10*time.Second)
	b.Step(10*time.Second + readAgain + ms)
	if read := e.fast.last; read.k != 5 || read.n-read.k != 2 {
		t.Errorf("%d failures in %d attempts, want 5 in 7", read.k, read.n)
	}
}

func TestWhoHasCountedNothingHasNotSeenIt(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 5, 10)
	now := 2 * time.Second
	for i, counts := range []outlier.Counts{server(1), server(2), good(3), {}, {}} {
		b.report(fmt.Sprintf("r%d", i), "e0", counts, now)
	}
	b.Step(now)
	k := Key{"api", "e0"}
	if n := len(b.endpoints[k].fast.active); n != 5 {
		t.Fatalf("%d reporters in the row, want all 5", n)
	}
	x, _ := b.Explain(k, now)
	if x.Reporters != 3 || len(x.Top) != 3 || x.Counts.N != 6 || x.Counts.K != 3 {
		t.Errorf("%d reporters, of which %d are named, with %d of %d failed; want 3, 3, and 3 of 6", x.Reporters, len(x.Top), x.Counts.K, x.Counts.N)
	}
}

func TestOneAttemptInTenSecondsOfEachOfManyReportersIsNotLost(t *testing.T) {
	for _, test := range []struct{ told, want uint32 }{{1, 1}, {4, 1}, {10, 2}, {11, 3}} {
		w := &row{open: true, since: 8 * time.Second}
		base := w.base(&staged{points: []Point{{At: 10 * time.Second, N: test.told}}}, Point{})
		if got := test.told - base.N; got != test.want {
			t.Errorf("of %d attempts within ten seconds %d count as of the last two, want %d", test.told, got, test.want)
		}
	}
}
