package mesh_test

import (
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/sim/mesh"
)

// The control plane is killed in the middle of one fault, another begins while it is
// away, and it comes back.
func TestTheDeathAndReturnOfTheControlPlaneLoseNothing(t *testing.T) {
	type run struct{ local, whole, after time.Duration }
	var s sample[run]
	over(t, 10, mesh.Config{Zones: 2, Rate: 20, BaseErrors: 0.01}, func(t *testing.T, m *mesh.Mesh) {
		m.Wait(6 * time.Second)
		from := m.Now()
		must(t, m.Endpoints[2].Set(fakeupstream.Crash()))
		m.Wait(400 * time.Millisecond)
		m.KillControl()
		m.Wait(time.Second)
		second := m.Now()
		must(t, m.Endpoints[3].Set(fakeupstream.Crash()))
		m.Wait(2 * time.Second)
		alone := m.Removal(3, second, m.Now())
		if !alone.All {
			t.Errorf("without a control plane, callers stayed on a crashed endpoint%s", m.Story(from))
		}

		returned := m.Now()
		m.StartControl()
		whole := time.Duration(-1)
		for range 100 {
			if m.Whole() {
				whole = m.Now() - returned
				break
			}
			m.Wait(20 * time.Millisecond)
		}
		if whole < 0 || whole > 2*time.Second {
			t.Errorf("evidence is whole after %v, want at most 2s%s", whole, m.Story(from))
		}
		m.Wait(4 * time.Second)
		for _, b := range m.Beliefs(func(b mesh.Belief) bool { return b.At >= returned-time.Second && b.Refused == "" }) {
			if b.Endpoint < 2 || b.Endpoint > 3 {
				t.Errorf("caller %d: api-%d %v -> %v, though it is well%s", b.Caller, b.Endpoint, b.From, b.To, m.Story(from))
			}
		}
		for i := range m.Callers {
			for _, e := range m.Snapshot(i).Endpoints {
				if dead := e.ID == "api-2" || e.ID == "api-3"; dead && e.Share > 0 {
					t.Errorf("caller %d gives %s, which is down, a share of %g%s", i, e.ID, e.Share, m.Story(from))
				}
			}
		}
		if n := len(m.Attempts(func(a mesh.Attempt) bool { return a.At > returned && (a.Endpoint == 2 || a.Endpoint == 3) })); n > 0 {
			t.Errorf("%d attempts on endpoints that are down after the return: they were readmitted%s", n, m.Story(from))
		}

		must(t, m.Endpoints[2].Heal())
		must(t, m.Endpoints[3].Heal())
		m.Wait(25 * time.Second)
		third := m.Now()
		must(t, m.Endpoints[5].Set(fakeupstream.Crash()))
		m.Wait(900 * time.Millisecond)
		after := m.Removal(5, third, m.Now())
		if took := after.Took(); !after.All || took > 100*time.Millisecond {
			t.Errorf("a crash after the return: off after %v, want at most 100ms%s", took, m.Story(third))
		}
		if lost := m.Requests(func(r mesh.Request) bool { return r.Lost() }); len(lost) > 0 {
			t.Errorf("%d requests lost%s", len(lost), m.Story(from))
		}
		s.add(run{alone.Took(), whole, after.Took()})
	})
	table := mesh.NewTable("Control plane killed during a fault and restarted after 3 s",
		"callers", "base errors", "runs", "crash while it is away: off, median", "p95", "evidence whole after its return, median", "p95 ", "crash after it: off, p95")
	local := figures(&s, func(r run) time.Duration { return r.local })
	whole := figures(&s, func(r run) time.Duration { return r.whole })
	after := figures(&s, func(r run) time.Duration { return r.after })
	table.Row(5, percent(0.01), len(s.runs), mesh.Median(local), mesh.Quantile(local, .95), mesh.Median(whole), mesh.Quantile(whole, .95), mesh.Quantile(after, .95))
	table.Print(t)
}

// A long absence, in which soft evidence alone speaks.
func TestALongAbsenceOfTheControlPlaneLeavesDetectionToEachSidecar(t *testing.T) {
	over(t, 3, mesh.Config{Zones: 2, Rate: 20, BaseErrors: 0.01}, func(t *testing.T, m *mesh.Mesh) {
		m.Wait(6 * time.Second)
		m.KillControl()
		from := m.Now()
		must(t, m.Endpoints[2].Set(fakeupstream.Errors(0.5)))
		m.Wait(75 * time.Second)
		r := m.Removal(2, from, m.Now())
		if !r.All {
			t.Errorf("not all callers found 50 %% errors by themselves%s", m.Story(from))
		}
		m.StartControl()
		m.Wait(2 * time.Second)
		if !m.Whole() {
			t.Errorf("2 s after its return the control plane does not hear all%s", m.Story(from))
		}
		m.Wait(10 * time.Second)
		if f := m.FalseOuts(0, 2); len(f) > 0 {
			t.Errorf("%d times a healthy endpoint went%s", len(f), m.Story(0))
		}
		if share := m.Share(2, m.Now()-10*time.Second, m.Now()); share > 0.3 {
			t.Errorf("the faulty endpoint gets %.2f of its fair share%s", share, m.Story(from))
		}
	})
}

// A sidecar that starts while the control plane is away serves from what its last life
// was told.
func TestASidecarStartedWithoutItsControlPlaneServesFromWhatItSaved(t *testing.T) {
	over(t, 2, mesh.Config{Zones: 2, Rate: 20, Saved: true}, func(t *testing.T, m *mesh.Mesh) {
		m.Wait(3 * time.Second)
		m.KillControl()
		m.StopCaller(0)
		from := m.Now()
		c := m.AddCaller(0)
		m.AwaitReady(c)
		if took := m.Now() - from; took > time.Second {
			t.Errorf("ready after %v, want at once", took)
		}
		m.LoadOf(0, 24)
		m.Wait(2 * time.Second)
		from = m.Now()
		must(t, m.Endpoints[1].Set(fakeupstream.Crash()))
		m.Wait(3 * time.Second)
		if r := m.Removal(1, from, m.Now()); !r.All || r.Lost > 0 {
			t.Errorf("a crash: all off %t, %d requests lost%s", r.All, r.Lost, m.Story(from))
		}
		m.StartControl()
		m.Wait(3 * time.Second)
		if !m.Whole() {
			t.Errorf("the control plane is back and does not hear all%s", m.Story(from))
		}
	})
}

// One that has nothing saved serves from its file, and the file is what it keeps to.
func TestASidecarWithoutAnythingSavedServesFromItsFile(t *testing.T) {
	over(t, 2, mesh.Config{Callers: 1, Rate: 50, NoControl: true, File: true}, func(t *testing.T, m *mesh.Mesh) {
		m.Wait(3 * time.Second)
		from := m.Now()
		must(t, m.Endpoints[2].Set(fakeupstream.Crash()))
		m.Wait(600 * time.Millisecond)
		r := m.Removal(2, from, m.Now())
		if took := r.Took(); !r.All || took > 150*time.Millisecond || r.Lost > 0 {
			t.Errorf("off after %v (%t), %d requests lost; want 150ms, 0%s", took, r.All, r.Lost, m.Story(from))
		}
		if s := m.Snapshot(0).Endpoints[2].State; s != outlier.Ejected {
			t.Errorf("state %v, want ejected", s)
		}
	})
}
