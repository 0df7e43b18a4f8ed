package sim_test

import (
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/sim"
)

// One caller fails towards everybody: that says something about the caller.
func TestACallerWithABrokenNetworkIsBelievedByNobody(t *testing.T) {
	over(t, 3, sim.Config{Zones: 2, Rate: 20, BaseErrors: 0.01}, func(t *testing.T, m *sim.Mesh) {
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
		lost := m.Requests(func(r sim.Request) bool { return r.Lost() && r.Caller != 1 })
		late := m.Requests(func(r sim.Request) bool { return r.Lost() && r.At > from+16*time.Second })
		if len(lost)+len(late) > 0 {
			t.Errorf("lost: %d requests of other callers, %d of its own 6 s after its network was back%s", len(lost), len(late), m.Story(from))
		}
	})
}

// Several callers on one machine are one observer.
func TestAMachineWithThreeCallersThatIsCutOffIsOneObserver(t *testing.T) {
	cfg := sim.Config{Callers: 8, Zones: 2, Rate: 20, Node: func(i int) string {
		if i < 3 {
			return "shared"
		}
		return string(rune('a' + i))
	}}
	over(t, 3, cfg, func(t *testing.T, m *sim.Mesh) {
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

func TestAZoneThatIsDownLeavesAsAWhole(t *testing.T) {
	type run struct {
		last  time.Duration // verdict, after the first failed attempt on any of them
		fleet time.Duration // last caller off the last of them
		lost  int
	}
	var s sample[run]
	over(t, 10, sim.Config{Zones: 2, Rate: 50, Callers: 6}, func(t *testing.T, m *sim.Mesh) {
		m.Wait(5 * time.Second)
		from := m.Now()
		for _, e := range m.Endpoints {
			if e.Zone == "b" {
				must(t, e.Set(fakeupstream.Crash()))
			}
		}
		m.Wait(700 * time.Millisecond)
		failed := m.Attempts(func(a sim.Attempt) bool { return a.At+a.Took >= from && a.Class.Failure() })
		first := failed[0].At
		v := m.Verdicts(func(v sim.Verdict) bool { return v.At >= from && v.From == outlier.In.String() })
		if len(v) != 3 {
			t.Fatalf("%d verdicts, want one for each endpoint of the zone%s", len(v), m.Story(from))
		}
		r := run{last: v[len(v)-1].At - first}
		for _, e := range m.Endpoints {
			removal := m.Removal(e.Index, from, m.Now())
			if out := e.Zone == "b"; removal.All != out {
				t.Errorf("%s of zone %s is off everywhere: %t%s", e.Instance, e.Zone, removal.All, m.Story(from))
			}
			r.fleet, r.lost = max(r.fleet, removal.Off-first), removal.Lost
		}
		if r.fleet > 100*time.Millisecond || r.lost > 0 {
			t.Errorf("all off after %v, %d requests lost; want 100ms, 0%s", r.fleet, r.lost, m.Story(from))
		}
		s.add(r)
	})
	fleet := figures(&s, func(r run) time.Duration { return r.fleet })
	table := sim.NewTable("Zone down (3 of 6 endpoints): from the first failed attempt until the whole fleet is off all of them",
		"requests/s into each", "callers", "base errors", "runs", "off, median", "off, p95")
	table.Row(50, 6, percent(0), len(s.runs), sim.Median(fleet), sim.Quantile(fleet, .95))
	table.Print(t)
}

// What one zone cannot reach is out for that zone.
func TestAnEndpointThatOneZoneCannotReachIsOutForThatZoneOnly(t *testing.T) {
	over(t, 3, sim.Config{Callers: 8, Zones: 2, Rate: 50}, func(t *testing.T, m *sim.Mesh) {
		m.Wait(6 * time.Second)
		from := m.Now()
		m.Net.Reject("10.1.1.0/24", m.Endpoints[3].IP) // callers of zone a, an endpoint of zone b
		m.Wait(4 * time.Second)
		v := m.Verdicts(func(v sim.Verdict) bool { return v.Out() })
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
	over(t, 3, sim.Config{Zones: 2, Rate: 50}, func(t *testing.T, m *sim.Mesh) {
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
