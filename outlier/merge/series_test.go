package merge

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// plainSeries is what series computes: every count lies on a line of time.
type plainSeries []struct {
	from, to time.Duration
	n, k     float64
}

func bucketOf(at time.Duration) int64 { return int64(at / seriesWidth) }

func (s plainSeries) between(from, to int64) (n, k float64) {
	for _, x := range s {
		for b := bucketOf(x.from); b <= bucketOf(x.to); b++ {
			if b < from || b >= to {
				continue
			}
			begin := time.Duration(b) * seriesWidth
			share := float64(min(x.to, begin+seriesWidth)-max(x.from, begin)) / float64(x.to-x.from)
			n, k = n+share*x.n, k+share*x.k
		}
	}
	return n, k
}

func TestRunningTotalsSayWhatAddingUpSays(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		got := newSeries(seriesWidth, seriesLen)
		var want plainSeries
		now := time.Duration(rng.IntN(3)) * time.Second
		for range 200 {
			now += time.Duration(rng.ExpFloat64() * float64(time.Second))
			if rng.IntN(50) == 0 {
				now += time.Duration(rng.IntN(60)) * time.Second
			}
			from := max(0, now-time.Duration(rng.ExpFloat64()*3*float64(time.Second)))
			if from == now {
				continue
			}
			n := float64(rng.IntN(20))
			k := float64(rng.IntN(3))
			got.add(from, now, n, min(n, k))
			if n > 0 {
				want = append(want, struct {
					from, to time.Duration
					n, k     float64
				}{from, now, n, min(n, k)})
			}
			later := now + time.Duration(rng.IntN(2000))*ms
			got.advance(later)
			since := later - time.Duration(rng.IntN(30_000))*ms
			wantN, wantK := want.between(max(0, bucketOf(since)), bucketOf(later)+1)
			if g, w := got.since(since), (outlier.Tally{N: int64(wantN + 0.5), K: int64(wantK + 0.5)}); apart(g.N, w.N) > 1 || apart(g.K, w.K) > 1 {
				t.Fatalf("since %v at %v: got %v, want %v", since, later, g, w)
			}
			until := since + time.Duration(rng.IntN(10_000))*ms
			wantN, wantK = want.between(max(0, bucketOf(since)), min(bucketOf(until), bucketOf(later)+1))
			if n, k := got.between(since, until); max(n-wantN, wantN-n, k-wantK, wantK-k) > 1e-6 {
				t.Fatalf("between %v and %v at %v: got %g, %g, want %g, %g", since, until, later, n, k, wantN, wantK)
			}
			now = later
		}
	}
}

func apart(a, b int64) int64 { return max(a-b, b-a) }
