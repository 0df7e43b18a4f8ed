package mesh_test

import (
	"flag"
	"fmt"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/test/sim/mesh"
)

var long = flag.Bool("long", false, "run each scenario five times as often, for steadier figures")

// sample is what a scenario measured over its runs.
type sample[T any] struct {
	mu   sync.Mutex
	runs []T
}

func (s *sample[T]) add(v T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs = append(s.runs, v)
}

// figures is one figure of each run.
func figures[T, V any](s *sample[T], of func(T) V) []V {
	all := make([]V, len(s.runs))
	for i, r := range s.runs {
		all[i] = of(r)
	}
	return all
}

// over runs a scenario n times, each with a mesh, a seed and a bubble of its own, as
// many at a time as there are processors, and returns when all have ended. Under the
// race detector, which looks at interleavings and is ten times slower, n is small.
func over(t *testing.T, n int, cfg mesh.Config, scenario func(t *testing.T, m *mesh.Mesh)) {
	t.Helper()
	switch {
	case raced:
		n = min(n, 2)
	case *long:
		n *= 5
	}
	t.Run("seeds", func(t *testing.T) {
		for seed := range n {
			t.Run(fmt.Sprint(seed+1), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					mine := cfg
					mine.Seed = uint64(seed) + 1
					scenario(t, mesh.Start(t, mine))
				})
			})
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// slower says whether so many of the runs took longer than limit that their median,
// were they repeated for ever, is above it, at an error of 1 %. The median of a few
// runs alone is off by as much as a tenth. Of fewer than seven it says nothing.
func slower(took []time.Duration, limit time.Duration) bool {
	above := 0.0
	for _, d := range took {
		if d > limit {
			above++
		}
	}
	n := float64(len(took))
	return above > n/2+2.33*math.Sqrt(n)/2 // the binomial distribution of one half, as a normal one
}

func percent(share float64) string { return fmt.Sprintf("%g %%", 100*share) }

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// all accepts everything.
func all[T any](T) bool { return true }
