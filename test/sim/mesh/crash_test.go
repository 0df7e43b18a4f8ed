package mesh_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/sim/mesh"
)

// A crash closes the listener and resets every connection. A sidecar in front of the
// application lives on, and must not hide it.
func TestACrashEmptiesTheEndpointWithinATenthOfASecond(t *testing.T) {
	table := mesh.NewTable("Crash: from the first failed attempt until the whole fleet is off the endpoint",
		"requests/s into it", "callers", "sidecar before it", "base errors", "runs", "off, median", "off, p95",
		"failed attempts, median", "most", "requests lost", "lost that must not be repeated")
	for _, c := range []struct {
		rate               float64
		callers, endpoints int
		base               float64
		warm, after        time.Duration
		most               int // failed attempts
	}{
		{rate: 1, callers: 5, endpoints: 6, warm: 12 * time.Second, after: 15 * time.Second, most: 10},
		{rate: 50, callers: 5, endpoints: 6, warm: 5 * time.Second, after: 600 * time.Millisecond, most: 10},
		{rate: 50, callers: 5, endpoints: 6, base: 0.01, warm: 5 * time.Second, after: 600 * time.Millisecond, most: 10},
		{rate: 1000, callers: 4, endpoints: 4, warm: 1500 * time.Millisecond, after: 200 * time.Millisecond, most: 30},
	} {
		for _, inbound := range []bool{false, true} {
			var s sample[mesh.Removal]
			name := fmt.Sprintf("%g a second, sidecar before it %s, base errors %g", c.rate, yes(inbound), c.base)
			t.Run(name, func(t *testing.T) {
				cfg := mesh.Config{
					Callers: c.callers, Endpoints: c.endpoints, Zones: 2, Rate: c.rate, Inbound: inbound, BaseErrors: c.base, Posts: 0.1,
				}
				over(t, 10, cfg, func(t *testing.T, m *mesh.Mesh) {
					m.Wait(c.warm)
					from := m.Now()
					must(t, m.Endpoints[2].Set(fakeupstream.Crash()))
					m.Wait(c.after)
					r := m.Removal(2, from, m.Now())
					s.add(r)
					switch took := r.Took(); {
					case !r.All:
						t.Errorf("not all are off%s", m.Story(from))
					case took > 100*time.Millisecond:
						t.Errorf("off after %v, want at most 100ms%s", took, m.Story(from))
					case r.Attempts > c.most:
						t.Errorf("%d failed attempts, want at most %d%s", r.Attempts, c.most, m.Story(from))
					}
					if r.Lost > 0 {
						t.Errorf("%d repeatable requests lost%s", r.Lost, m.Story(from))
					}
					if f := m.FalseOuts(0, 2); len(f) > 0 {
						t.Errorf("%d times a healthy endpoint went%s", len(f), m.Story(0))
					}
				})
			})
			if len(s.runs) == 0 {
				continue // another part of the table was asked for
			}
			off := figures(&s, func(r mesh.Removal) time.Duration { return r.Took() })
			attempts := figures(&s, func(r mesh.Removal) float64 { return float64(r.Attempts) })
			lost, once := 0, 0
			for _, r := range s.runs {
				lost, once = lost+r.Lost, once+r.LostOnce
			}
			table.Row(c.rate, c.callers, yes(inbound), percent(c.base), len(s.runs), mesh.Median(off), mesh.Quantile(off, .95),
				mesh.Median(attempts), mesh.Quantile(attempts, 1), lost, once)
		}
	}
	table.Print(t)
}

// Old connections that answer are the difference between a lost listener and a crash.
func TestAListenerThatIsGoneIsNoCrashWhileOldConnectionsAnswer(t *testing.T) {
	over(t, 3, mesh.Config{Rate: 50, Zones: 2}, func(t *testing.T, m *mesh.Mesh) {
		m.Wait(5 * time.Second)
		from := m.Now()
		must(t, m.Endpoints[2].Set(fakeupstream.Deaf()))
		m.Wait(10 * time.Second)
		if v := m.Verdicts(func(v mesh.Verdict) bool { return v.At >= from }); len(v) > 0 {
			t.Errorf("%d verdicts, want none%s", len(v), m.Story(from))
		}
		if r := m.Removal(2, from, m.Now()); r.Lost > 0 {
			t.Errorf("%d requests lost%s", r.Lost, m.Story(from))
		}
		if share := m.Share(2, m.Now()-3*time.Second, m.Now()); share < 0.3 {
			t.Errorf("it gets %.2f of its fair share, want more: it works%s", share, m.Story(from))
		}
	})
}

// Nobody helps a sidecar that is alone: two probes of its own confirm.
func TestASidecarAloneLeavesACrashedEndpoint(t *testing.T) {
	table := mesh.NewTable("Crash seen by one sidecar without a control plane, 50 requests/s into the endpoint",
		"sidecar before it", "base errors", "runs", "off, median", "off, p95", "requests lost")
	for _, inbound := range []bool{false, true} {
		var s sample[mesh.Removal]
		over(t, 10, mesh.Config{Callers: 1, Rate: 50, Alone: true, Inbound: inbound, BaseErrors: 0.01}, func(t *testing.T, m *mesh.Mesh) {
			m.Wait(3 * time.Second)
			from := m.Now()
			must(t, m.Endpoints[2].Set(fakeupstream.Crash()))
			m.Wait(600 * time.Millisecond)
			r := m.Removal(2, from, m.Now())
			s.add(r)
			if took := r.Took(); !r.All || took > 150*time.Millisecond {
				t.Errorf("off after %v (%t), want at most 150ms%s", took, r.All, m.Story(from))
			}
			if r.Lost > 0 {
				t.Errorf("%d requests lost%s", r.Lost, m.Story(from))
			}
		})
		off := figures(&s, func(r mesh.Removal) time.Duration { return r.Took() })
		lost := 0
		for _, r := range s.runs {
			lost += r.Lost
		}
		table.Row(yes(inbound), percent(0.01), len(s.runs), mesh.Median(off), mesh.Quantile(off, .95), lost)
	}
	table.Print(t)
}
