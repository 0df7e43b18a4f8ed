package balancer_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/balancer"
)

// hashing are the policies that go by keys.
var hashing = []balancer.Policy{balancer.RingHash, balancer.Maglev}

// spread is a hash that is good enough for the names of tests.
func spread(i int) uint64 { return rand.New(rand.NewPCG(uint64(i), 99)).Uint64() }

// hashed gives each entry an identity.
func hashed(tb testing.TB, weights ...float64) []balancer.Entry {
	es := entries(tb, weights...)
	for i := range es {
		es[i].Hash = spread(i)
	}
	return es
}

// keyed is where n keys go, by the counters of their entry.
func keyed(s *balancer.Set, es []balancer.Entry, n int) []*outlier.Endpoint {
	out := make([]*outlier.Endpoint, n)
	for k := range out {
		if i := s.PickKeyed(spread(1000+k), uint64(k), time.Second, nil); i >= 0 {
			out[k] = es[i].Stats
		}
	}
	return out
}

func TestAKeyStaysWithItsEndpoint(t *testing.T) {
	for _, policy := range hashing {
		t.Run(policy.String(), func(t *testing.T) {
			es := hashed(t, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
			cfg := balancer.Config{Policy: policy}
			before := keyed(balancer.NewSet(es, cfg), es, 2000)
			turned := append(append([]balancer.Entry(nil), es[5:]...), es[:5]...)
			for k, e := range keyed(balancer.NewSet(turned, cfg), turned, 2000) {
				if e != before[k] {
					t.Fatalf("key %d goes elsewhere at a caller that lists the endpoints in another order", k)
				}
			}
		})
	}
}

func TestKeysSpreadByWeight(t *testing.T) {
	for _, policy := range hashing {
		for _, weights := range [][]float64{{1}, {1, 1, 1, 1, 1}, {1, 2, 3}, {10, 1}, {1, 0, 1}} {
			t.Run(fmt.Sprint(policy, weights), func(t *testing.T) {
				es := hashed(t, weights...)
				got, sum := make(map[*outlier.Endpoint]float64), 0.0
				for _, e := range keyed(balancer.NewSet(es, balancer.Config{Policy: policy}), es, 20_000) {
					got[e] += 1. / 20_000
				}
				for _, w := range weights {
					sum += w
				}
				// A ring of a few hundred points an entry is uneven by about a tenth.
				for i, w := range weights {
					if share := w / sum; math.Abs(got[es[i].Stats]-share) > 0.2*share+0.005 {
						t.Errorf("entry %d has %.3f of the keys, want about %.3f", i, got[es[i].Stats], share)
					}
				}
			})
		}
	}
}

// TestAnEndpointThatLeavesTakesOnlyItsOwnKeysAlong: few others move with Maglev,
// none on a ring. The same when it comes back at half its weight.
func TestAnEndpointThatLeavesTakesOnlyItsOwnKeysAlong(t *testing.T) {
	for policy, limit := range map[balancer.Policy]float64{balancer.RingHash: 0.002, balancer.Maglev: 0.05} {
		t.Run(policy.String(), func(t *testing.T) {
			const n = 5000
			es := hashed(t, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
			s := balancer.NewSet(es, balancer.Config{Policy: policy})
			before := keyed(s, es, n)
			for _, weight := range []float64{0, 0.5} {
				es := append([]balancer.Entry(nil), es...)
				es[3].Weight, es[3].Held = weight, true
				moved := 0
				for k, e := range keyed(s.With(es), es, n) {
					if e != before[k] && before[k] != es[3].Stats {
						moved++
					}
				}
				if share := float64(moved) / n; share > limit {
					t.Errorf("at weight %v %.3f of the keys of others moved, want at most %.3f", weight, share, limit)
				}
			}
		})
	}
}

func TestARetryOfAKeyGoesToAnotherEndpointAndAlwaysTheSame(t *testing.T) {
	for _, policy := range hashing {
		es := hashed(t, 1, 1, 1, 1)
		s := balancer.NewSet(es, balancer.Config{Policy: policy})
		for k := range 100 {
			var tried balancer.Tried
			var path []int
			for range es {
				i := s.PickKeyed(spread(k), 1, 0, &tried)
				if again := s.PickKeyed(spread(k), 2, 0, &tried); again != i {
					t.Fatalf("%v: key %d: retried at %d and, with other dice, at %d", policy, k, i, again)
				}
				path = append(path, i)
				tried.Add(es[i].Stats)
			}
			seen := map[int]bool{}
			for _, i := range path {
				seen[i] = true
			}
			if len(seen) != len(es) {
				t.Errorf("%v: key %d was tried at %v, want each endpoint once", policy, k, path)
			}
			if i := s.PickKeyed(spread(k), 1, 0, &tried); i != -1 {
				t.Errorf("%v: key %d: %d is picked when all were tried", policy, k, i)
			}
		}
	}
}

func TestABoundedLoadCarriesAPopularKeyOn(t *testing.T) {
	for _, policy := range hashing {
		es := hashed(t, 1, 1, 1, 1)
		s := balancer.NewSet(es, balancer.Config{Policy: policy, BoundedLoad: 1.25})
		for range 400 { // one key, all requests at once
			e := es[s.PickKeyed(42, 7, 0, nil)]
			e.Stats.Start(0, false)
		}
		for i, e := range es {
			if n := e.Stats.Inflight(); n > 126 {
				t.Errorf("%v: entry %d has %d of 400 requests in flight, want at most 1.25 times its part", policy, i, n)
			}
		}
	}
}

func TestAnEndpointOnTrialGetsItsShareOfKeysToo(t *testing.T) {
	for _, policy := range hashing {
		es := hashed(t, 0.1, 1, 1, 1)
		es[0].Gate = balancer.NewGate(0, true)
		s := balancer.NewSet(es, balancer.Config{Policy: policy})
		got := 0
		for k := range n {
			if s.PickKeyed(spread(k%500), uint64(k), time.Second, nil) == 0 {
				got++
			}
		}
		if share, want := float64(got)/n, 0.1/3.1; math.Abs(share-want) > 0.005 {
			t.Errorf("%v: the endpoint on trial got %.4f of the picks, want %.4f", policy, share, want)
		}
		es[0].Stats.Start(time.Second, false)
		if s.PickKeyed(1, 1, time.Second, nil) == 0 {
			t.Errorf("%v: a second attempt at once at an endpoint that takes one at a time", policy)
		}
	}
}

func TestWithoutAKeyAHashingPolicyPicksByWeight(t *testing.T) {
	for _, policy := range hashing {
		s := balancer.NewSet(hashed(t, 1, 3), balancer.Config{Policy: policy})
		wantShares(t, shares(s, time.Second), []float64{0.25, 0.75})
	}
}

func TestAnEmptyHashingSetHasNothingToPick(t *testing.T) {
	for _, policy := range hashing {
		s := balancer.NewSet(nil, balancer.Config{Policy: policy})
		if i := s.PickKeyed(1, 1, 0, nil); i != -1 {
			t.Errorf("%v: picked %d from nothing", policy, i)
		}
	}
}

func TestLeastRequestMindsNoLatency(t *testing.T) {
	es := entries(t, 1, 1)
	a := es[0].Stats.Start(0, true) // slow, and done
	es[0].Stats.Headers(&a, time.Second)
	es[0].Stats.End(&a, outlier.Outcome{Class: outlier.OK, Now: time.Second})
	s := balancer.NewSet(es, balancer.Config{Policy: balancer.LeastRequest})
	wantShares(t, shares(s, time.Second), []float64{0.5, 0.5})
	load(es[1], 1)
	wantShares(t, shares(s, time.Second), []float64{1, 0})
}

func BenchmarkPickKeyed(b *testing.B) {
	for _, cfg := range []balancer.Config{{Policy: balancer.RingHash}, {Policy: balancer.Maglev}, {Policy: balancer.Maglev, BoundedLoad: 1.25}} {
		weights := make([]float64, 100)
		for i := range weights {
			weights[i] = 1
		}
		s := balancer.NewSet(hashed(b, weights...), cfg)
		b.Run(fmt.Sprint(cfg.Policy, cfg.BoundedLoad), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				s.PickKeyed(uint64(i)*0x9e3779b97f4a7c15, uint64(i), 0, nil)
			}
		})
	}
}
