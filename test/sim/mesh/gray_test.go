package mesh_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/sim/mesh"
)

// A hang accepts and never answers. What is overdue is no failure yet, and suspends.
func TestAHangIsSuspendedEverywhereSoonAfterAnAnswerIsOverdue(t *testing.T) {
	type run struct{ beyond, overdue time.Duration }
	table := mesh.NewTable("Hang: from the first hung attempt until suspended everywhere, beyond the age at which an answer is overdue",
		"requests/s into it", "callers", "sidecar before it", "base errors", "runs", "overdue at", "beyond, median", "beyond, p95")
	for _, inbound := range []bool{false, true} {
		var s sample[run]
		cfg := mesh.Config{Callers: 5, Zones: 2, Rate: 50, Inbound: inbound, BaseErrors: 0.01}
		over(t, 11, cfg, func(t *testing.T, m *mesh.Mesh) {
			m.Wait(5 * time.Second)
			from, overdue := m.Now(), m.Snapshot(0).Overdue
			must(t, m.Endpoints[2].Set(fakeupstream.Hang()))
			m.Wait(1500 * time.Millisecond)
			to := m.Now()
			must(t, m.Endpoints[2].Heal())
			m.Wait(200 * time.Millisecond) // what hung is answered, and so is in the ledger
			first := m.FirstSlow(2, from, overdue)
			r := m.Removal(2, from, to)
			s.add(run{r.Off - first - overdue, overdue})
			if !r.All || r.Lost > 0 {
				t.Errorf("suspended everywhere: %t; %d requests lost%s", r.All, r.Lost, m.Story(from))
			}
			if f := m.FalseOuts(0, 2); len(f) > 0 {
				t.Errorf("%d times a healthy endpoint went%s", len(f), m.Story(0))
			}
		})
		beyond := figures(&s, func(r run) time.Duration { return r.beyond })
		overdue := figures(&s, func(r run) time.Duration { return r.overdue })
		median, p95 := mesh.Median(beyond), mesh.Quantile(beyond, .95)
		if median > 200*time.Millisecond || p95 > 400*time.Millisecond {
			t.Errorf("sidecar before it %s: beyond overdue: median %v, p95 %v; want at most 200ms, 400ms", yes(inbound), median, p95)
		}
		table.Row(50, 5, yes(inbound), percent(0.01), len(s.runs), mesh.Median(overdue), median, p95)
	}
	table.Print(t)
}

// The aims are the medians of the model of the merged test with ten reporters at 50
// attempts per second, where the share of the endpoint is fixed; here the real picker
// chooses, and sees what fails.
func TestErrorsAreFoundInAboutTheTimeThatTheirRateAllows(t *testing.T) {
	type run struct {
		off      time.Duration
		attempts float64
		rate     float64
	}
	table := mesh.NewTable("Errors: from the beginning of the fault until the whole fleet is off the endpoint",
		"requests/s into it", "errors", "callers", "base errors", "runs", "off, median", "off, p95", "1.3 x aim", "failed attempts, median", "requests/s into it till then")
	for _, c := range []struct {
		errors float64
		aim    time.Duration
	}{{0.5, 610 * time.Millisecond}, {0.2, 2100 * time.Millisecond}} {
		var s sample[run]
		t.Run(fmt.Sprintf("%g", c.errors), func(t *testing.T) {
			over(t, 15, mesh.Config{Callers: 10, Zones: 2, Rate: 50, BaseErrors: 0.01}, func(t *testing.T, m *mesh.Mesh) {
				m.Wait(12 * time.Second)
				from := m.Now()
				must(t, m.Endpoints[2].Set(fakeupstream.Errors(c.errors)))
				r := mesh.Removal{}
				for range 150 {
					m.Wait(100 * time.Millisecond)
					if r = m.Removal(2, from, m.Now()); r.All {
						break
					}
				}
				if !r.All {
					t.Errorf("not off after 15 s%s", m.Story(from))
				}
				if f := m.FalseOuts(0, 2); len(f) > 0 {
					t.Errorf("%d times a healthy endpoint went%s", len(f), m.Story(0))
				}
				into := len(m.Attempts(func(a mesh.Attempt) bool { return a.Endpoint == 2 && a.At >= from && a.At < r.Off }))
				s.add(run{r.Off - from, float64(r.Attempts), float64(into) / (r.Off - from).Seconds()})
			})
		})
		if len(s.runs) == 0 {
			continue // another part of the table was asked for
		}
		off := figures(&s, func(r run) time.Duration { return r.off })
		limit := c.aim * 13 / 10
		if slower(off, limit) {
			t.Errorf("%g errors: median %v, want at most %v", c.errors, mesh.Median(off), limit)
		}
		table.Row(50, percent(c.errors), 10, percent(0.01), len(s.runs), mesh.Median(off), mesh.Quantile(off, .95), limit,
			mesh.Median(figures(&s, func(r run) float64 { return r.attempts })), mesh.Median(figures(&s, func(r run) float64 { return r.rate })))
	}
	table.Print(t)
}
