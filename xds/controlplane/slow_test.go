package controlplane

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier/merge"
)

func TestWeightsAreToldInCoarseSteps(t *testing.T) {
	for weight, want := range map[float64]float64{1: 1, 0.9: 1, 0.8: math.Sqrt2 / 2, 0.5: 0.5, 0.45: 0.5, 0.12: 0.125, 0.001: 1.0 / 16, 0: 1.0 / 16} {
		if got := rung(weight); math.Abs(got-want) > 1e-9 {
			t.Errorf("%v: told %v, want %v", weight, got, want)
		}
	}
}

func TestAServiceIsPublishedForItsWeightsEveryFewSecondsAtMost(t *testing.T) {
	k, other := merge.Key{Service: "api", Instance: "1"}, merge.Key{Service: "web", Instance: "1"}
	say := func(s *slow, k merge.Key, weight float64, now time.Duration) {
		s.note(merge.Weight{Key: k, Weight: weight, For: 30 * time.Second}, now)
	}
	s := newSlow()
	wants := func(now time.Duration, weight float64, services ...string) {
		t.Helper()
		if diff := cmp.Diff(services, s.due(now)); diff != "" {
			t.Errorf("at %v (-want +got):\n%s", now, diff)
		}
		if got := s.share(k); math.Abs(got-weight) > 1e-9 {
			t.Errorf("at %v the weight is %v, want %v", now, got, weight)
		}
	}
	wants(0, 1)
	say(&s, k, 0.5, time.Second) // news are told at once
	wants(time.Second, 0.5, "api")
	say(&s, k, 0.52, 2*time.Second) // no other rung
	wants(2*time.Second, 0.5)
	say(&s, k, 0.25, 2*time.Second)
	say(&s, other, 0.5, 2*time.Second)
	wants(2*time.Second, 0.25, "web")
	if next := s.next(); next != 6*time.Second {
		t.Errorf("next at %v, want 6s: five after the last", next)
	}
	say(&s, k, 0.12, 4*time.Second) // waits with the one before it
	wants(6*time.Second, 0.125, "api")
	say(&s, k, 1, 20*time.Second)
	wants(20*time.Second, 1, "api")
	// The other one is said no more: it lapses.
	if next := s.next(); next != 32*time.Second {
		t.Errorf("next at %v, want 32s, when a weight lapses", next)
	}
	wants(32*time.Second, 1, "web")
	if next := s.next(); next != never {
		t.Errorf("next at %v though nothing is slow", next)
	}
}

func TestAWeightGoesWithItsEndpoint(t *testing.T) {
	s := newSlow()
	k := merge.Key{Service: "api", Instance: "1"}
	s.note(merge.Weight{Key: k, Weight: 0.5, For: time.Minute}, time.Second)
	s.due(time.Second)
	s.note(merge.Weight{Key: k, Weight: 0.25, For: time.Minute}, 2*time.Second)
	s.forget(func(merge.Key) bool { return true }, func(string) bool { return false })
	if len(s.weights)+len(s.news)+len(s.told) > 0 {
		t.Errorf("kept of an endpoint that is no more: %+v", s)
	}
}
