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
// the same verdicts, nearly all of them at the same instant. A row that good news ended in
// between begins elsewhere in one of the two, now and then.
func TestLookingOnlyWhereThereIsNewsDecidesTheSame(t *testing.T) {
	const reporters, endpoints, length = 8, 10, 40 * time.Second
	verdicts, same, near := 0, 0, 0
	for seed := range uint64(60) {
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
			case le != ee:
				t.Errorf("seed %d, %s: out %v (%v) with news only, %v (%v) with everything", seed, key, le, l.At, ee, g.At)
			case le:
				verdicts++
				if l.At == g.At && l.Verdict.Rule == g.Verdict.Rule {
					same++
				}
				if late := l.At - g.At; max(late, -late) <= 2*tick && l.Verdict.Scope == g.Verdict.Scope {
					near++
				}
			}
		}
	}
	if verdicts < 100 || 100*same < 93*verdicts || 100*near < 96*verdicts {
		t.Errorf("%d verdicts, %d of them at the same instant, %d near it and for the same callers; want 100, 93 %% and 96 %%", verdicts, same, near)
	}
	t.Logf("%d verdicts, %d at the same instant, %d near it", verdicts, same, near)
}

func (e *endpoint) rows(each func(*row)) {
	each(&e.fast)
	each(&e.slow)
	for _, z := range e.zones {
		each(&z.row)
	}
}
