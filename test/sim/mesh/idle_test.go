package mesh_test

import (
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/sim/mesh"
)

// Without traffic there is nothing to overhear: three sidecars ping in turn, on the
// control plane's behalf, and stop as soon as traffic speaks.
func TestAnIdleEndpointIsPingedByThreeSidecarsAndABusyOneByNobody(t *testing.T) {
	for _, inbound := range []bool{false, true} {
		over(t, 2, mesh.Config{Callers: 8, Endpoints: 4, Zones: 2, Inbound: inbound}, func(t *testing.T, m *mesh.Mesh) {
			// What a backend has seen of pings: a connection without a byte, or, through a
			// sidecar that stands before it, a request.
			pings := func(i int) int { c := m.Endpoints[i].Counts(); return c.Silent + c.Pings }
			count := func() (seen []int) {
				for i := range m.Endpoints {
					seen = append(seen, pings(i))
				}
				return seen
			}
			m.Wait(20 * time.Second)
			before, from := count(), m.Now()
			m.Wait(100 * time.Second)
			for i, n := range count() {
				if got := n - before[i]; got < 3 || got > 5 { // one each 25 s, give or take
					t.Errorf("%d pings reached api-%d in 100 s of silence, want about 4", got, i)
				}
				pingers := map[string]bool{}
				for _, p := range m.Pings(func(p mesh.Ping) bool { return p.Endpoint == i && p.At >= from }) {
					pingers[p.By] = true
					if !p.Leased || p.Result != outlier.ProbeOK {
						t.Errorf("%s pinged api-%d: leased %t, %v", p.By, i, p.Leased, p.Result)
					}
				}
				if len(pingers) != 3 {
					t.Errorf("api-%d was pinged by %d sidecars, want 3", i, len(pingers))
				}
			}

			m.Load(1)
			m.Wait(15 * time.Second)
			before = count()
			m.Wait(60 * time.Second)
			for i, n := range count() {
				// At 1 request/s a silence of 8 s is possible, once in an hour.
				if got := n - before[i]; got > 1 {
					t.Errorf("%d pings reached api-%d in 60 s of traffic, want 0", got, i)
				}
			}
			if v := m.Verdicts(all); len(v) > 0 {
				t.Errorf("%d verdicts, want none%s", len(v), m.Story(0))
			}
		})
	}
}

// An idle endpoint that swallows every packet is given up after three pings by two
// pingers; one that refuses is asked about at once.
func TestADeadIdleEndpointIsFoundByItsPingers(t *testing.T) {
	type run struct {
		took time.Duration
		rule string
	}
	table := mesh.NewTable("An endpoint without traffic dies: until the whole fleet is off it",
		"how", "callers", "runs", "rule", "off, median", "off, p95")
	for _, c := range []struct {
		how, rule string
		kill      func(m *mesh.Mesh) error
	}{
		{"swallows packets", "idle", func(m *mesh.Mesh) error { m.Net.Blackhole("*", m.Endpoints[1].IP); return nil }},
		{"crash", "hard", func(m *mesh.Mesh) error { return m.Endpoints[1].Set(fakeupstream.Crash()) }},
	} {
		var s sample[run]
		over(t, 10, mesh.Config{Callers: 8, Endpoints: 4, Zones: 2}, func(t *testing.T, m *mesh.Mesh) {
			m.Wait(30 * time.Second)
			from := m.Now()
			must(t, c.kill(m))
			m.Wait(40 * time.Second)
			v := m.Verdicts(func(v mesh.Verdict) bool { return v.Out() && v.From == outlier.In.String() })
			if len(v) != 1 || v[0].Endpoint != 1 || v[0].Scope != "fleet" || v[0].Rule != c.rule {
				t.Fatalf("%d verdicts, want one for the fleet, of rule %s%s", len(v), c.rule, m.Story(from))
			}
			r := m.Removal(1, from, m.Now())
			if !r.All {
				t.Errorf("not all are off it%s", m.Story(from))
			}
			s.add(run{r.Off - from, v[0].Rule})
		})
		took := figures(&s, func(r run) time.Duration { return r.took })
		table.Row(c.how, 8, len(s.runs), c.rule, mesh.Median(took), mesh.Quantile(took, .95))
	}
	table.Print(t)
}
