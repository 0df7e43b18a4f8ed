package merge

import (
	"fmt"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Points of the past that cannot be are left out: what they are sent with still counts.
func TestAPastThatCannotBeIsNotHeard(t *testing.T) {
	const now = 10 * time.Second
	for name, history := range map[string][]Point{
		"none":                                nil,
		"of the future":                       {{At: now + time.Minute, N: 100, K: 0}},
		"of before the last report":           {{At: time.Second, N: 90, K: 5}},
		"with more attempts than there are":   {{At: now - 500*ms, N: 5000, K: 3}},
		"with more failures than there are":   {{At: now - 500*ms, N: 105, K: 50}},
		"with more failures than attempts":    {{At: now - 500*ms, N: 101, K: 4}},
		"that has counted less than was told": {{At: now - 500*ms, N: 40, K: 0}},
	} {
		b := newBench(t, DefaultPolicy(), 1, 6)
		before := cellOf(100, 0)
		b.Apply(Report{Reporter: "r0", Seq: 5, At: now - time.Second, Received: now - time.Second, Cells: []Cell{before}}, now-time.Second)
		b.Step(now - time.Second)
		c := cellOf(110, 4)
		c.History = history
		if got := b.Apply(Report{Reporter: "r0", Seq: 6, At: now, Received: now, Cells: []Cell{c}}, now); got.Accepted != 1 {
			t.Errorf("%s: %+v, want it accepted", name, got)
		}
		b.Step(now)
		if w := &b.endpoints[c.Key].fast.last; w.n > 10 || w.k != 4 {
			t.Errorf("%s: %d of %d failed, want 4 of at most 10", name, w.k, w.n)
		}
	}
}

// Whoever comes as another machine each second is still one voice: what it said under
// its last name goes with that.
func TestAReporterThatSwapsItsIdentityIsOneVoice(t *testing.T) {
	for name, swap := range map[string]func(i int) Reporter{
		"its machine": func(i int) Reporter {
			return Reporter{ID: "r0", Incarnation: uint64(i), Node: fmt.Sprintf("swap%d", i)}
		},
		"its machine and not its life": func(i int) Reporter { return Reporter{ID: "r0", Node: fmt.Sprintf("swap%d", i)} },
		"its zone": func(i int) Reporter {
			return Reporter{ID: "r0", Incarnation: uint64(i), Node: "n0", Zone: twoZones[i%2]}
		},
		"its id, on one machine": func(i int) Reporter { return Reporter{ID: fmt.Sprintf("swap%d", i), Node: "n0"} },
	} {
		b := newBench(t, DefaultPolicy(), 5, 6, twoZones...)
		now := 2 * time.Second
		for i := range 40 {
			now += time.Second
			r := swap(i + 1)
			if err := b.Join(r, []string{"api"}, now); err != nil {
				t.Fatal(err)
			}
			for range 10 {
				b.report(r.ID, "e0", server(20), now)
				for _, honest := range []string{"r1", "r2", "r3", "r4"} {
					for e := range 6 {
						b.Apply(b.well(honest, fmt.Sprintf("e%d", e), now), now)
					}
				}
				for _, c := range b.Step(now).Changes {
					if c.Refused == "" && c.To.Out() {
						t.Fatalf("who swaps %s: at %v %s is %s: %s", name, now, c.Verdict.Key, c.To, c.Verdict.Explain.Reason)
					}
				}
				now += 50 * ms
			}
		}
	}
}

// well is a report of one more attempt that has just gone well.
func (b *bench) well(reporter, instance string, now time.Duration) Report {
	key := [2]string{reporter, instance}
	c := b.n[key]
	c.N++
	b.n[key] = c
	b.seq[reporter]++
	return Report{Reporter: reporter, Seq: b.seq[reporter], At: now, Received: now, Cells: []Cell{{
		Key: Key{"api", instance}, Counts: outlier.Counts{N: c.N}, LastOK: now - ms, LastOKStart: now - 2*ms, LastHard: -1, LastHardStart: -1,
	}}}
}
