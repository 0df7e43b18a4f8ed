package mesh_test

import (
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/sim/mesh"
)

// Errors that all endpoints share alike are nobody's fault.
func TestAHealthyMeshEjectsNobody(t *testing.T) {
	table := mesh.NewTable("Healthy soak", "base errors", "callers", "endpoints", "requests/s into each", "endpoint-hours", "ejections")
	for _, base := range []float64{0, 0.01, 0.03} {
		var s sample[int]
		over(t, 2, mesh.Config{Zones: 2, Rate: 20, BaseErrors: base}, func(t *testing.T, m *mesh.Mesh) {
			m.Wait(90 * time.Second)
			f, v := m.FalseOuts(0), m.Verdicts(all)
			if len(f)+len(v) > 0 {
				t.Errorf("%d changes of callers, %d verdicts; want none%s", len(f), len(v), m.Story(0))
			}
			s.add(len(f) + len(v))
		})
		ejections := 0
		for _, n := range s.runs {
			ejections += n
		}
		table.Row(percent(base), 5, 6, 20, float64(len(s.runs)*6)*90/3600, ejections)
	}
	table.Print(t)
}

func TestAFaultThatAllEndpointsShareEjectsNobody(t *testing.T) {
	over(t, 4, mesh.Config{Zones: 2, Rate: 50, BaseErrors: 0.01}, func(t *testing.T, m *mesh.Mesh) {
		m.Wait(6 * time.Second)
		from := m.Now()
		for _, e := range m.Endpoints {
			must(t, e.Set(fakeupstream.Errors(0.3)))
		}
		m.Wait(12 * time.Second)
		if v := m.Verdicts(all); len(v) > 0 {
			t.Errorf("%d verdicts, want none%s", len(v), m.Story(from))
		}
	})
}

// When nobody can serve, nobody is kept from trying.
func TestACrashOfAllNeverLeavesAnEmptySet(t *testing.T) {
	over(t, 2, mesh.Config{Zones: 2, Rate: 20}, func(t *testing.T, m *mesh.Mesh) {
		m.Wait(5 * time.Second)
		from := m.Now()
		for _, e := range m.Endpoints {
			must(t, e.Set(fakeupstream.Crash()))
		}
		for range 400 {
			m.Wait(10 * time.Millisecond)
			for i := range m.Callers {
				usable := 0
				for _, e := range m.Snapshot(i).Endpoints {
					if e.Share > 0 {
						usable++
					}
				}
				if usable == 0 {
					t.Fatalf("caller %d has nothing to choose from%s", i, m.Story(from))
				}
			}
		}
		end := m.Now()
		for _, e := range m.Endpoints {
			must(t, e.Heal())
		}
		m.Wait(20 * time.Second)
		if lost := m.Requests(func(r mesh.Request) bool { return r.At > end+time.Second && r.Lost() }); len(lost) > 0 {
			t.Errorf("%d requests lost later than 1 s after all were back%s", len(lost), m.Story(end))
		}
		for i := range m.Endpoints {
			if a := m.Admitted(i); a < 0.9 {
				t.Errorf("api-%d has %.2f of its share 20 s after all were back%s", i, a, m.Story(end))
			}
		}
	})
}
