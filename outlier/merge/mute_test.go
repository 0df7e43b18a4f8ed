package merge

import (
	"slices"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// broken tells of hard failures at an instant, told then.
func (b *bench) broken(reporter, instance string, n uint32, at time.Duration) {
	b.tb.Helper()
	c := b.n[[2]string{reporter, instance}]
	c.N, c.Conn = c.N+n, c.Conn+n
	b.n[[2]string{reporter, instance}] = c
	b.seq[reporter]++
	b.Apply(Report{
		Reporter: reporter, Seq: b.seq[reporter], At: at, Received: at,
		Cells: []Cell{{Key: Key{"api", instance}, Counts: c, LastOK: -1, LastOKStart: -1, LastHard: at, LastHardStart: at, Witness: outlier.LevelApp}},
	}, at)
}

// Connections that break in one moment are one event. What a muted reporter says of
// another moment makes no second one of it, whether it was muted before or after.
func TestAMutedReporterMakesNoTwoEventsOfOne(t *testing.T) {
	for _, tt := range []struct {
		name          string
		before, after bool // when r3 is muted, as to its word
		want          bool
	}{
		{"r3 is believed", false, false, false},
		{"r3 was muted", true, false, true},
		{"r3 is muted then", false, true, true},
	} {
		b := newBench(t, DefaultPolicy(), 4, 10)
		e, r3 := b.endpoints[Key{"api", "e0"}], b.reporters["r3"]
		if tt.before {
			b.mute(r3.domain, "a test", 2*time.Second)
		}
		for _, id := range []string{"r0", "r1", "r2"} {
			b.broken(id, "e0", 4, 2*time.Second)
		}
		b.Step(2 * time.Second)
		now := 2*time.Second + 3*oneMoment
		b.broken("r3", "e0", 4, now)
		b.Step(now)
		if tt.after {
			b.mute(r3.domain, "a test", now)
		}
		now += 10 * ms
		b.broken("r2", "e0", 1, 2*time.Second+20*ms)
		b.Step(now)
		if got := b.once(e, &e.fast, fastRow); !e.fast.open || got != tt.want {
			t.Errorf("%s: one event: %v (open %v), want %v", tt.name, got, e.fast.open, tt.want)
		}
	}
}

// Nor are its attempts counted: of two endpoints, one may leave only if the other fails
// less than half as often.
func TestWhatAMutedReporterCountedIsInNoReading(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 4, 10)
	e, now := b.endpoints[Key{"api", "e0"}], 2*time.Second
	for _, id := range []string{"r0", "r1", "r2"} {
		b.report(id, "e0", outlier.Counts{N: 10, Server: 5}, now)
	}
	b.report("r3", "e0", server(30), now)
	b.Step(now)
	for _, want := range []reading{{n: 60, k: 45, reporters: 4}, {n: 30, k: 15, reporters: 3}} {
		got := b.read(e, &e.fast, localSteps, only{}, now)
		if got.n != want.n || got.k != want.k || got.reporters != want.reporters {
			t.Errorf("%d of %d attempts failed by %d reporters, want %d of %d by %d", got.k, got.n, got.reporters, want.k, want.n, want.reporters)
		}
		b.mute(b.reporters["r3"].domain, "a test", now)
	}
}

// What a broken observer says opens rows that the answers of others close again: he is
// found out while they are open, and not when a second happens to end then.
func TestABrokenObserverIsMutedWithinASecond(t *testing.T) {
	for seed := range uint64(60) {
		f := newFleet(t, mesh{callers: 5, endpoints: 6, zones: twoZones, rate: 50, base: 0.01, seed: seed})
		f.run(12*time.Second + time.Duration(seed)*17*ms)
		f.callers[1].broken = true
		from := f.now
		muted := func() bool {
			return slices.ContainsFunc(f.events, func(e Event) bool { return e.Kind == EventMuted })
		}
		if !f.until(from+time.Second, muted) {
			t.Errorf("seed %d: not muted a second after its network broke", seed)
		}
	}
}
