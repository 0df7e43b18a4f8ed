package mesh_test

import (
	"slices"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/sim/mesh"
	"github.com/overhear-mesh/overhear/xds/registry"
)

// By p2c, the default, an endpoint gets what two draws give it; by round_robin of the mesh
// file each gets the same. A reload changes that under load, there and back.
func TestTheMeshFileSaysHowSidecarsBalance(t *testing.T) {
	over(t, 2, mesh.Config{Callers: 1, Rate: 50}, func(t *testing.T, m *mesh.Mesh) {
		// uneven is by how much the endpoints' attempts of ten seconds differ.
		uneven := func() int {
			m.Wait(time.Second)
			from, counts := m.Now(), make([]int, len(m.Endpoints))
			m.Wait(10 * time.Second)
			for _, a := range m.Attempts(func(a mesh.Attempt) bool { return a.At >= from }) {
				counts[a.Endpoint]++
			}
			return slices.Max(counts) - slices.Min(counts)
		}
		reload := func(b registry.Balancer) {
			next := *m.Registry.Current()
			next.Services = slices.Clone(next.Services)
			next.Services[0].Balancer = b
			m.Registry.Set(&next)
		}
		// At either end of the ten seconds a request may be under way.
		const even = 2
		for _, step := range []struct {
			policy registry.BalancerPolicy
			even   bool
		}{{"", false}, {registry.RoundRobin, true}, {registry.P2C, false}} {
			reload(registry.Balancer{Policy: step.policy})
			if got := uneven(); (got <= even) != step.even {
				t.Errorf("policy %q: endpoints differ by %d of 500 attempts, want at most %d: %t%s", step.policy, got, even, step.even, m.Story(0))
			}
		}
		if failed := m.Requests(mesh.Request.Failed); len(failed) > 0 {
			t.Errorf("%d requests failed, want none%s", len(failed), m.Story(0))
		}
	})
}
