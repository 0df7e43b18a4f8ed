package controlplane_test

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/xds/controlplane"
)

// slowly lets the sidecars have answers for a while, of which most of one instance's are
// slow.
func slowly(all []*sidecar, instance string, d time.Duration) {
	for range d / (100 * time.Millisecond) {
		for _, s := range all {
			for _, one := range s.instances() {
				if one == instance {
					s.answers(one, 5, 4, 3)
				} else {
					s.answers(one, 5, 0, 0)
				}
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// heard are the weights of an instance that a sidecar was ordered to give it.
func (s *sidecar) heard(instance string) (weights []float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.weights {
		if w.Key.Instance == instance {
			weights = append(weights, w.Weight)
		}
	}
	return weights
}

func TestAnEndpointThatIsSlowLosesWeightAtSidecarsAndEnvoysAndGetsItBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		all := w.callers(6)
		watched := netip.MustParseAddrPort("10.1.0.3:8080")
		envoy := w.foreign("10.3.0.1", "envoy", "a", watched)
		grpc := w.foreign("10.3.0.2", "gRPC Go", "a", watched)
		slowly(all, "", 30*time.Second)
		slowly(all, "api-3", 10*time.Second)

		var lowest float64
		for _, s := range all {
			got := s.heard("api-3")
			if len(got) == 0 || got[0] >= 0.5 {
				t.Fatalf("%s was ordered weights %v for the slow endpoint, want a small part", s.id, got)
			}
			lowest = got[0]
			if others := s.heard("api-1"); len(others) > 0 {
				t.Errorf("%s was ordered weights %v for one that is well", s.id, others)
			}
			if e, _ := s.endpoint("api-3"); e.Weight != 1 || e.Verdict.State != outlier.In {
				t.Errorf("%s has it with weight %d and state %s in its endpoints, want neither changed", s.id, e.Weight, e.Verdict.State)
			}
		}
		told, err := strconv.Atoi(envoy.story()[len(envoy.story())-1])
		if err != nil || float64(told) < 100*lowest/1.5 || float64(told) > 100*lowest*1.5 {
			t.Errorf("an Envoy was told %v, want about %.0f", envoy.story(), 100*lowest)
		}
		if _, metrics := w.do("GET", "/metrics", "", nil); !strings.Contains(metrics, `overhear_slow_endpoints{service="api"} 1`) {
			t.Error("the metrics do not count the slow endpoint")
		}
		var why controlplane.Why
		w.get("/api/v1/why?endpoint=api-3", &why)
		if why.Explain.Weight == 0 || len(why.Explain.Findings) != 1 || why.Endpoint.Weight != why.Explain.Weight {
			t.Errorf("why says weight %v and %v, want the weight and its reason", why.Explain.Weight, why.Explain.Findings)
		}

		slowly(all, "", 90*time.Second)
		for _, s := range all {
			if got := s.heard("api-3"); got[len(got)-1] != 1 {
				t.Errorf("%s was at last ordered weight %v, want 1", s.id, got[len(got)-1])
			}
		}
		story := envoy.story()
		if last := story[len(story)-1]; story[0] != "100" || last != "100" {
			t.Errorf("an Envoy was told %v, want it to begin and end with the full weight", story)
		}
		if len(story) > 12 {
			t.Errorf("an Envoy was told %d weights, want a few: %v", len(story), story)
		}
		if got := grpc.story(); !slices.Equal(got, []string{"100"}) {
			t.Errorf("a gRPC client was told %v, want the full weight alone", got)
		}
	})
}

func TestAServiceMayKeepItsWeightsFromEnvoys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mesh()
		m.Services[0].EnvoyWeights = new(false)
		w := newWorldOf(t, m, nil)
		all := w.callers(6)
		envoy := w.foreign("10.3.0.1", "envoy", "a", netip.MustParseAddrPort("10.1.0.3:8080"))
		slowly(all, "", 30*time.Second)
		slowly(all, "api-3", 10*time.Second)
		if len(all[0].heard("api-3")) == 0 {
			t.Error("no sidecar was ordered a weight")
		}
		if got := envoy.story(); !slices.Equal(got, []string{"100"}) {
			t.Errorf("an Envoy was told %v, want the full weight alone", got)
		}
	})
}

func TestPercentilesOfAllReachEverySidecar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		all := w.callers(3)
		answer := func(bucket int, n uint32) {
			for _, s := range all {
				s.mu.Lock()
				if s.latency == nil {
					s.latency = map[int]uint32{}
				}
				s.latency[bucket] += n
				s.pokeLocked()
				s.mu.Unlock()
			}
			time.Sleep(15 * time.Second)
		}
		answer(100, 1) // what was before the first report is nobody's news
		answer(100, 500)
		want := outlier.Percentiles{P50: outlier.BucketUpper(100), P90: outlier.BucketUpper(100), P99: outlier.BucketUpper(100)}
		late := w.sidecar(9, "a")
		time.Sleep(5 * time.Second)
		for _, s := range append(all, late) {
			s.mu.Lock()
			got := s.settings
			s.mu.Unlock()
			if len(got) != 1 || got[0].Service != "api" {
				t.Fatalf("%s was told %+v, want the percentiles of api once", s.id, got)
			}
			// The wire has microseconds.
			if got[0].Latency.P99 != want.P99.Truncate(time.Microsecond) || got[0].Latency.P50 != got[0].Latency.P99 {
				t.Errorf("%s was told %+v, want %v", s.id, got[0].Latency, want)
			}
		}
	})
}
