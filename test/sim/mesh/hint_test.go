package mesh_test

import (
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/sim/mesh"
)

// Nobody sends anything when it happens: connections that lie idle tell.
func TestACrashIsLearnedWithoutAFailedAttempt(t *testing.T) {
	over(t, 3, mesh.Config{Callers: 8, Zones: 2, Rate: 50}, func(t *testing.T, m *mesh.Mesh) {
		m.Wait(5 * time.Second)
		m.Load(0)
		m.Wait(2 * time.Second)
		from := m.Now()
		must(t, m.Endpoints[2].Set(fakeupstream.Crash()))
		m.Wait(time.Second)
		r := m.Removal(2, from, m.Now())
		if !r.All || r.Off-from > 100*time.Millisecond {
			t.Errorf("all off: %t, after %v, want at most 100ms%s", r.All, r.Off-from, m.Story(from))
		}
		if r.Attempts > 0 {
			t.Errorf("%d failed attempts without any request%s", r.Attempts, m.Story(from))
		}
		if f := m.FalseOuts(0, 2); len(f) > 0 {
			t.Errorf("%d times a healthy endpoint went%s", len(f), m.Story(0))
		}
	})
}

// A process that lets its connections go and serves on is well, however often it does.
func TestARestartThatIsOverAtOnceEjectsNobody(t *testing.T) {
	over(t, 3, mesh.Config{Callers: 8, Zones: 2, Rate: 50}, func(t *testing.T, m *mesh.Mesh) {
		m.Wait(5 * time.Second)
		for _, e := range m.Endpoints {
			must(t, e.Restart())
			m.Wait(2 * time.Second)
		}
		if v, f := m.Verdicts(all), m.FalseOuts(0); len(v)+len(f) > 0 {
			t.Errorf("%d verdicts, %d changes of callers; want none%s", len(v), len(f), m.Story(0))
		}
	})
}
