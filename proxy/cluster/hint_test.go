package cluster_test

import (
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/cluster"
)

// watching is inMesh for a sidecar that watches its idle connections. There is one to
// the first server when body begins.
func watching(t *testing.T, n int, body func(m *mesh)) {
	t.Helper()
	inMeshOf(t, n, cluster.Deps{}, nil, func(m *mesh) {
		if class := m.attempt(m.endpoint(0), m.clock.Now()); class != outlier.OK {
			t.Fatalf("the first request ended %v", class)
		}
		time.Sleep(time.Second)
		body(m)
	})
}

func (m *mesh) hinted() (hints uint64, probes map[outlier.ProbeResult]uint64) {
	s := m.cluster.Stats()
	return s.Hints, s.HintProbes
}

func TestACrashIsLearnedFromAnIdleConnection(t *testing.T) {
	watching(t, 3, func(m *mesh) {
		failed := m.status(0).Counts.K()
		m.servers[0].crash()
		m.await("a refused probe counts", 5*time.Millisecond, func() bool { return m.status(0).Counts.K() > failed })
		if got := m.picks(1000)[m.servers[0].id]; got > 20 {
			t.Errorf("picked %d times in 1000 after the probe, want next to never", got)
		}
		m.awaitState(outlier.Ejected, 150*time.Millisecond)
		if hints, probes := m.hinted(); hints != 1 || probes[outlier.Refused] != 1 {
			t.Errorf("%d hints, probes %v; want one, refused", hints, probes)
		}
		if want := "it closed idle connections and a new one failed"; !strings.Contains(m.log.String(), want) {
			t.Errorf("the log does not say that %s:\n%s", want, m.log)
		}
	})
}

// The kernel closes what a dying process has open one by one, the listener often last:
// until then its backlog takes connections.
func TestACrashThatClosesTheListenerLastIsLearnedAsWell(t *testing.T) {
	for _, gap := range []time.Duration{2 * time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond} {
		t.Run(gap.String(), func(t *testing.T) {
			watching(t, 3, func(m *mesh) {
				m.servers[0].shed(1)
				time.Sleep(gap)
				if m.servers[0].accepted.Load() < 2 {
					t.Fatal("the listener was closed before the probe came")
				}
				m.servers[0].crash()
				m.awaitState(outlier.Ejected, 300*time.Millisecond)
				if hints, probes := m.hinted(); hints != 1 || probes[outlier.Refused] != 1 || probes[outlier.ProbeOK] != 0 {
					t.Errorf("%d hints, probes %v; want one, refused", hints, probes)
				}
			})
		})
	}
}

// Nor is the age of what it closed taken for its idle time-out, or its successor at the
// address could not give that hint.
func TestACrashTeachesNoIdleTimeOut(t *testing.T) {
	watching(t, 3, func(m *mesh) {
		e := m.endpoint(0)
		for deaths := range uint64(3) {
			m.servers[0].shed(1000)
			time.Sleep(5 * time.Millisecond)
			m.servers[0].crash()
			time.Sleep(15 * time.Millisecond)
			if _, probes := m.hinted(); probes[outlier.Refused] != deaths+1 {
				t.Fatalf("probes %v after %d deaths, want each refused", probes, deaths+1)
			}
			m.servers[0].start() // before a second probe
			time.Sleep(2 * time.Second)
			if class := m.attempt(e, m.clock.Now()); class != outlier.OK {
				t.Fatalf("a request to the successor ended %v", class)
			}
			time.Sleep(time.Second)
		}
	})
}

func TestAServerThatIsWellIsNotSuspectedForClosingAnIdleConnection(t *testing.T) {
	watching(t, 3, func(m *mesh) {
		before, accepted := m.status(0).Counts, m.servers[0].accepted.Load()
		m.servers[0].shed(1)
		time.Sleep(time.Second)
		if n := m.servers[0].accepted.Load() - accepted; n != 4 {
			t.Errorf("%d connections to find out, want 4", n)
		}
		if hints, probes := m.hinted(); hints != 1 || probes[outlier.ProbeOK] != 1 {
			t.Errorf("%d hints, probes %v; want one, answered", hints, probes)
		}
		if s := m.status(0); s.State != outlier.In || s.Counts != before {
			t.Errorf("%v with %+v, want in with %+v", s.State, s.Counts, before)
		}
	})
}

func TestAnEndpointThatDrainsIsNotProbedForClosingConnections(t *testing.T) {
	watching(t, 3, func(m *mesh) {
		specs := m.specs()
		specs[0].Draining = true
		m.update(specs)
		m.servers[0].crash()
		time.Sleep(time.Second)
		if hints, probes := m.hinted(); hints != 1 || len(probes) != 0 {
			t.Errorf("%d hints, probes %v; want one, and none", hints, probes)
		}
	})
}

// Behind one of its idle connections only the listener is gone.
func TestAListenerThatIsGoneIsNoCrashToAHint(t *testing.T) {
	watching(t, 3, func(m *mesh) {
		e := m.endpoint(0)
		c, _, err := e.Get(t.Context(), m.clock.Now())
		if err != nil {
			t.Fatal(err)
		}
		if class := m.attempt(e, m.clock.Now()); class != outlier.OK { // over a second one
			t.Fatalf("the request ended %v", class)
		}
		e.Put(c, m.clock.Now())
		m.servers[0].deafen()
		m.servers[0].shed(1)
		time.Sleep(time.Second)
		if _, probes := m.hinted(); probes[outlier.ProbeOK] != 1 {
			t.Errorf("probes %v, want one that is contradicted by what stands", probes)
		}
		if s := m.status(0); s.State != outlier.In {
			t.Errorf("it is %v, want in", s.State)
		}
	})
}
