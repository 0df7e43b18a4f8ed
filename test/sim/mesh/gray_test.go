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

// The limits are what is wanted of medians. Fifteen runs bound a median badly: with them
// what is surely slower than 1.2 times the limit fails; with -long, of 75 runs, what is
// surely slower than the limit. Such runs measured .63, 2.10, .415 (again: .444) and
// 1.18 s. Of the third .4 s is wanted, and not met: its limit is what holds.
func TestErrorsAreFoundInAboutTheTimeThatTheirRateAllows(t *testing.T) {
	type run struct {
		off      time.Duration
		attempts float64
		rate     float64
	}
	table := mesh.NewTable("Errors: from the beginning of the fault until the whole fleet is off the endpoint",
		"requests/s into it", "errors", "callers", "base errors", "runs", "off, median", "off, p95", "limit of the median", "failed attempts, median", "requests/s into it till then")
	// Until the usual error rate is measured, after 25 s, each failure counts for less.
	warm := 12 * time.Second
	if *long {
		warm = 30 * time.Second
	}
	for _, c := range []struct {
		errors  float64
		rate    float64
		callers int
		limit   time.Duration
	}{
		{0.5, 50, 10, 650 * time.Millisecond}, {0.2, 50, 10, 2200 * time.Millisecond},
		{0.5, 100, 20, 400 * time.Millisecond}, {0.2, 100, 20, 1300 * time.Millisecond},
	} {
		if c.callers > 10 && !*long {
			continue // four times the work
		}
		var s sample[run]
		t.Run(fmt.Sprintf("%g of %g", c.errors, c.rate), func(t *testing.T) {
			over(t, 15, mesh.Config{Callers: c.callers, Zones: 2, Rate: c.rate, BaseErrors: 0.01}, func(t *testing.T, m *mesh.Mesh) {
				m.Wait(warm)
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
		bound := c.limit * 12 / 10
		if *long {
			bound = c.limit
		}
		if slower(off, bound) {
			t.Errorf("%g errors of %g/s, %d callers: median %v, want at most %v", c.errors, c.rate, c.callers, mesh.Median(off), bound)
		}
		table.Row(c.rate, percent(c.errors), c.callers, percent(0.01), len(s.runs), mesh.Median(off), mesh.Quantile(off, .95), c.limit,
			mesh.Median(figures(&s, func(r run) float64 { return r.attempts })), mesh.Median(figures(&s, func(r run) float64 { return r.rate })))
	}
	table.Print(t)
}
