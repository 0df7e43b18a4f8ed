package mesh_test

import (
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/sim/mesh"
)

// One caller fails towards everybody: that says something about the caller.
func TestACallerWithABrokenNetworkIsBelievedByNobody(t *testing.T) {
	over(t, 3, mesh.Config{Zones: 2, Rate: 20, BaseErrors: 0.01}, func(t *testing.T, m *mesh.Mesh) {
		m.Wait(6 * time.Second)
		from := m.Now()
		for _, e := range m.Endpoints {
			m.Net.Reject(m.Callers[1].IP, e.IP)
		}
		m.Wait(10 * time.Second)
		muted := false
		for _, r := range m.Reporters().Reporters {
			muted = muted || r.ID == "caller-1" && r.Muted
		}
		if !muted {
			t.Errorf("the broken caller is not muted%s", m.Story(from))
		}
		for _, e := range m.Endpoints {
			m.Net.Heal(m.Callers[1].IP, e.IP)
		}
		m.Wait(25 * time.Second)
		if v := m.Verdicts(all); len(v) > 0 {
			t.Errorf("%d verdicts, want none%s", len(v), m.Story(from))
		}
		for _, b := range m.FalseOuts(0) {
			if b.Caller != 1 {
				t.Errorf("caller %d took out api-%d%s", b.Caller, b.Endpoint, m.Story(from))
			}
		}
		lost := m.Requests(func(r mesh.Request) bool { return r.Lost() && r.Caller != 1 })
		late := m.Requests(func(r mesh.Request) bool { return r.Lost() && r.At > from+16*time.Second })
		if len(lost)+len(late) > 0 {
			t.Errorf("lost: %d requests of other callers, %d of its own 6 s after its network was back%s", len(lost), len(late), m.Story(from))
		}
	})
}

// Several callers on one machine are one observer.
func TestAMachineWithThreeCallersThatIsCutOffIsOneObserver(t *testing.T) {
	cfg := mesh.Config{Callers: 8, Zones: 2, Rate: 20, Node: func(i int) string {
		if i < 3 {
			return "shared"
		}
		return string(rune('a' + i))
	}}
	over(t, 3, cfg, func(t *testing.T, m *mesh.Mesh) {
		m.Wait(6 * time.Second)
		from := m.Now()
		for _, c := range m.Callers[:3] {
			for _, e := range m.Endpoints {
				m.Net.Reject(c.IP, e.IP)
			}
		}
		m.Wait(10 * time.Second)
		if v := m.Verdicts(all); len(v) > 0 {
			t.Errorf("%d verdicts, want none%s", len(v), m.Story(from))
		}
	})
}

// Traffic finds the endpoints of a zone that is down one by one. A suspicion asks about
// the neighbours, and the verdict waits for their answers.
func TestAZoneThatIsDownLeavesInOnePush(t *testing.T) {
	type run struct {
		off    time.Duration // the slowest of the zone, after the first failed attempt on it
		fleet  time.Duration // all of them, after the first failed attempt on any
		pushes float64
	}
	table := mesh.NewTable("Zone down (3 of 6 endpoints): until the whole fleet is off",
		"requests/s into each", "callers", "sidecar before it", "runs", "one endpoint, from the first failed attempt on it, p95", "all, from the first on any, median", "p95",
		"pushes, median", "most")
	for _, inbound := range []bool{false, true} {
		var s sample[run]
		over(t, 10, mesh.Config{Zones: 2, Rate: 50, Callers: 6, Inbound: inbound}, func(t *testing.T, m *mesh.Mesh) {
			m.Wait(5 * time.Second)
			from := m.Now()
			for _, e := range m.Endpoints {
				if e.Zone == "b" {
					must(t, e.Set(fakeupstream.Crash()))
				}
			}
			m.Wait(700 * time.Millisecond)
			var r run
			first, last := m.Now(), time.Duration(0)
			for _, e := range m.Endpoints {
				removal := m.Removal(e.Index, from, m.Now())
				out := e.Zone == "b"
				if removal.All != out || removal.Lost > 0 {
					t.Errorf("%s of zone %s: off everywhere %t, %d requests lost%s", e.Instance, e.Zone, removal.All, removal.Lost, m.Story(from))
				}
				if out {
					r.off = max(r.off, removal.Took())
					first, last = min(first, removal.Off-removal.Took()), max(last, removal.Off)
				}
			}
			r.fleet = last - first
			pushes := map[time.Duration]bool{}
			verdicts := m.Verdicts(func(v mesh.Verdict) bool { return v.Out() && v.From == outlier.In.String() })
			for _, v := range verdicts {
				pushes[v.At] = true
			}
			r.pushes = float64(len(pushes))
			s.add(r)
			if len(verdicts) != 3 || len(pushes) != 1 || r.fleet > 100*time.Millisecond {
				t.Errorf("%d verdicts in %d pushes, all off after %v; want 3 in one, within 100ms%s", len(verdicts), len(pushes), r.fleet, m.Story(from))
			}
		})
		fleet := figures(&s, func(r run) time.Duration { return r.fleet })
		pushes := figures(&s, func(r run) float64 { return r.pushes })
		table.Row(50, 6, yes(inbound), len(s.runs), mesh.Quantile(figures(&s, func(r run) time.Duration { return r.off }), .95),
			mesh.Median(fleet), mesh.Quantile(fleet, .95), mesh.Median(pushes), mesh.Quantile(pushes, 1))
	}
	table.Print(t)
}

// What one zone cannot reach is out for that zone.
func TestAnEndpointThatOneZoneCannotReachIsOutForThatZoneOnly(t *testing.T) {
	over(t, 3, mesh.Config{Callers: 8, Zones: 2, Rate: 50}, func(t *testing.T, m *mesh.Mesh) {
		m.Wait(6 * time.Second)
		from := m.Now()
		m.Net.Reject("10.1.1.0/24", m.Endpoints[3].IP) // callers of zone a, an endpoint of zone b
		m.Wait(4 * time.Second)
		v := m.Verdicts(func(v mesh.Verdict) bool { return v.Out() })
		if len(v) == 0 {
			t.Errorf("no verdict%s", m.Story(from))
		}
		for _, v := range v {
			if v.Scope != "zone a" || v.Endpoint != 3 {
				t.Errorf("api-%d went for %s, want api-3 for zone a%s", v.Endpoint, v.Scope, m.Story(from))
			}
		}
		for _, b := range m.FalseOuts(0) {
			if m.Callers[b.Caller].Zone != "a" || b.Endpoint != 3 {
				t.Errorf("caller %d of zone %s took api-%d out%s", b.Caller, m.Callers[b.Caller].Zone, b.Endpoint, m.Story(from))
			}
		}
	})
}

// A link that is cut in one direction, between one caller and one endpoint, is for
// that caller to see.
func TestALinkThatIsCutIsSeenByItsCallerAlone(t *testing.T) {
	over(t, 3, mesh.Config{Zones: 2, Rate: 50}, func(t *testing.T, m *mesh.Mesh) {
		m.Wait(6 * time.Second)
		from := m.Now()
		m.Net.Cut(m.Endpoints[2].IP, m.Callers[1].IP)
		m.Wait(8 * time.Second)
		if v := m.Verdicts(all); len(v) > 0 {
			t.Errorf("%d verdicts, want none%s", len(v), m.Story(from))
		}
		own := 0
		for _, b := range m.FalseOuts(0) {
			if b.Caller != 1 || b.Endpoint != 2 {
				t.Errorf("caller %d took out api-%d%s", b.Caller, b.Endpoint, m.Story(from))
			}
			own++
		}
		if own == 0 {
			t.Errorf("the caller behind the cut link did not leave the endpoint%s", m.Story(from))
		}
	})
}
