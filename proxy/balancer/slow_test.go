package balancer_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/balancer"
)

// TestSlowAnswersStarveNobody has an endpoint of twenty answer slowly, now and then or
// each time, and wants no long silence: one of twenty turns passes for an ejection. Of
// those of ten, one in three million should last for 25.
func TestSlowAnswersStarveNobody(t *testing.T) {
	const usual, turn, turns = 5 * time.Millisecond, 100 * time.Millisecond, 25
	for _, tt := range []struct {
		name        string
		slow        time.Duration
		always      bool
		least, most float64 // of a fair share
	}{
		{"one answer of a hundred", 5 * usual, false, .5, .8},
		{"each answer", 10 * usual, true, .12, .18},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, all := detector(t, 20)
			es := make([]balancer.Entry, len(all))
			for i, e := range all {
				es[i] = balancer.Entry{Stats: e, Weight: 1}
			}
			set, rng := balancer.NewSet(es, balancer.DefaultConfig()), rand.New(rand.NewPCG(2, 2))
			var (
				from, until = 30 * time.Second, 30 * time.Minute
				next        time.Duration // Step
				last        = from
				got         int
				longest     time.Duration
			)
			for now := time.Duration(0); now < until; now += turn / 20 {
				if now >= next {
					next = d.Step(now).Next
				}
				i := set.Pick(rng.Uint64(), now, nil)
				latency := usual - 2*time.Millisecond // one at a time
				if i == 0 && now > from {
					if longest, last = max(longest, now-last), now; tt.always || rng.IntN(100) == 0 {
						latency = tt.slow
					}
					got++
				}
				// Ended ahead of its time: what is in flight is another test's concern.
				a := es[i].Stats.Start(now, true)
				es[i].Stats.Headers(&a, now+latency)
				es[i].Stats.End(&a, outlier.Outcome{Class: outlier.OK, Now: now + latency})
			}
			if longest >= turns*turn {
				t.Errorf("nothing for %v, want less than %d turns", longest, turns)
			}
			if share := float64(got) * float64(turn) / float64(until-from); share < tt.least || share > tt.most {
				t.Errorf("it gets %.2f of its share, want %v to %v", share, tt.least, tt.most)
			}
		})
	}
}
