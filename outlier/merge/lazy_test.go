package merge

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// A Step looks at what has news, and asks again only now and then what costs much to
// know. A table that looks at everything, each 100 ms and at every report, must come to
// the same verdicts, nearly all of them at the same instant.
func TestLookingOnlyWhereThereIsNewsDecidesTheSame(t *testing.T) {
	const reporters, endpoints, length = 8, 10, 40 * time.Second
	verdicts, same := 0, 0
	for seed := range uint64(20) {
		first := func(eager bool) map[Key]Change {
			b := newBench(t, DefaultPolicy(), reporters, endpoints, "a", "b")
			rng := rand.New(rand.NewPCG(seed, 7))
			found := map[Key]Change{}
			step := func(now time.Duration) time.Duration {
				if eager {
					for _, e := range b.endpoints {
						b.touch(e)
						e.rows(func(w *row) { w.failed, w.othersAt = true, never })
					}
				}
				out := b.Step(now)
				for _, c := range out.Changes {
					if _, known := found[c.Verdict.Key]; !known && c.Refused == "" && c.To == outlier.Ejected {
						found[c.Verdict.Key] = c
					}
				}
				if eager {
					return min(out.Next, now+tick)
				}
				return out.Next
			}
			next := time.Duration(0)
			for now := time.Duration(0); now < length; now += 50 * ms {
				for next <= now {
					next = max(step(next), next+ms)
				}
				urgent := false
				for r := range reporters {
					if rng.IntN(5) > 0 {
						continue
					}
					for i := range endpoints {
						p := 0.02
						if now > 12*time.Second && i == 3 {
							p = 0.4
						}
						if now > 20*time.Second && i == 6 {
							p = 0.15
						}
						var more outlier.Counts
						for range rng.IntN(4) {
							more.N++
							if rng.Float64() < p {
								more.Server++
							}
						}
						urgent = b.report(fmt.Sprint("r", r), fmt.Sprint("e", i), more, now).Urgent || urgent
					}
				}
				if urgent {
					next = min(next, now+ms)
				}
			}
			return found
		}
		lazy, eager := first(false), first(true)
		for i := range endpoints {
			key := Key{"api", fmt.Sprint("e", i)}
			l, le := lazy[key]
			g, ee := eager[key]
			switch {
			case le != ee || le && l.Verdict.Scope != g.Verdict.Scope:
				t.Errorf("seed %d, %s: %v %v %v with news only, %v %v %v with everything", seed, key, le, l.Verdict.Rule, l.At, ee, g.Verdict.Rule, g.At)
			case le:
				verdicts++
				if l.At == g.At && l.Verdict.Rule == g.Verdict.Rule {
					same++
				}
				if late := l.At - g.At; max(late, -late) > 2*tick {
					t.Errorf("seed %d, %s: out at %v, and at %v with everything", seed, key, l.At, g.At)
				}
			}
		}
	}
	if verdicts < 30 || 10*same < 9*verdicts {
		t.Errorf("%d verdicts, %d of them at the same instant; want 30, and nine of ten", verdicts, same)
	}
}

func (e *endpoint) rows(each func(*row)) {
	each(&e.fast)
	each(&e.slow)
	for _, z := range e.zones {
		each(&z.row)
	}
}
