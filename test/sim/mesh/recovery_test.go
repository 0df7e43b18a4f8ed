package mesh_test

import (
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/sim/mesh"
)

func TestAnEndpointThatIsWellAgainComesBackGently(t *testing.T) {
	type run struct {
		took time.Duration
		peak float64
		lost int
	}
	table := mesh.NewTable("Recovery: from the end of a fault of 4 s until 90 % of the fair share",
		"fault", "sidecar before it", "callers", "base errors", "runs", "median", "p95", "largest share in 2 s", "requests lost")
	for _, c := range []struct {
		name    string
		fault   fakeupstream.Fault
		inbound bool
	}{
		{"crash", fakeupstream.Crash(), false},
		{"crash", fakeupstream.Crash(), true},
		{"hang", fakeupstream.Hang(), false},
		{"50 % errors", fakeupstream.Errors(0.5), false},
	} {
		var s sample[run]
		t.Run(c.name+", sidecar before it "+yes(c.inbound), func(t *testing.T) {
			over(t, 7, mesh.Config{Zones: 2, Rate: 30, BaseErrors: 0.001, Inbound: c.inbound}, func(t *testing.T, m *mesh.Mesh) {
				m.Wait(6 * time.Second)
				from := m.Now()
				must(t, m.Endpoints[2].Set(c.fault))
				m.Wait(4 * time.Second)
				end := m.Now()
				if m.Admitted(2) > 0.1 {
					t.Errorf("4 s into the fault it is in use%s", m.Story(from))
				}
				must(t, m.Endpoints[2].Heal())
				for m.Admitted(2) < 0.9 && m.Now()-end < time.Minute {
					m.Wait(50 * time.Millisecond)
				}
				r := run{took: m.Now() - end}
				m.Wait(6 * time.Second)
				for at := end; at+2*time.Second <= m.Now(); at += time.Second {
					r.peak = max(r.peak, m.Share(2, at, at+2*time.Second))
				}
				r.lost = len(m.Requests(func(q mesh.Request) bool { return q.At >= end && q.Lost() }))
				s.add(r)
				// A test request that fails by chance sends it back, at the double hold-off.
				if r.took >= time.Minute {
					t.Errorf("no 90 %% of its share after %v%s", r.took, m.Story(end))
				}
				if r.peak > 1.5 {
					t.Errorf("%.2f of its fair share for two seconds, want at most 1.5%s", r.peak, m.Story(end))
				}
				if r.lost > 1 {
					t.Errorf("its recovery lost %d requests, want at most 1%s", r.lost, m.Story(end))
				}
				if now := m.Share(2, m.Now()-5*time.Second, m.Now()); now < 0.6 {
					t.Errorf("it gets %.2f of its fair share in the end%s", now, m.Story(end))
				}
				if f := m.FalseOuts(0, 2); len(f) > 0 {
					t.Errorf("%d times a healthy endpoint went%s", len(f), m.Story(0))
				}
			})
		})
		if len(s.runs) == 0 {
			continue // another part of the table was asked for
		}
		took := figures(&s, func(r run) time.Duration { return r.took })
		if slower(took, 25*time.Second) {
			t.Errorf("%s: median %v, want at most 25s", c.name, mesh.Median(took))
		}
		lost := 0
		for _, r := range s.runs {
			lost += r.lost
		}
		table.Row(c.name, yes(c.inbound), 5, percent(0.001), len(s.runs), mesh.Median(took), mesh.Quantile(took, .95),
			mesh.Quantile(figures(&s, func(r run) float64 { return r.peak }), 1), lost)
	}
	table.Print(t)
}

// Who comes and goes is trusted later each time.
func TestAnEndpointThatFlapsIsTrustedLessEachTime(t *testing.T) {
	over(t, 2, mesh.Config{Zones: 2, Rate: 10}, func(t *testing.T, m *mesh.Mesh) {
		m.Wait(6 * time.Second)
		from := m.Now()
		must(t, m.Endpoints[2].Set(fakeupstream.Flap(fakeupstream.Crash(), 5*time.Second, 5*time.Second)))
		m.Wait(3 * time.Minute)
		outs := m.Verdicts(func(v mesh.Verdict) bool { return v.To == outlier.Ejected.String() })
		in := m.Verdicts(func(v mesh.Verdict) bool { return v.To == outlier.In.String() || v.To == outlier.Ramp.String() })
		if n := m.Why(2).Endpoint.N; n < 4 {
			t.Errorf("%d ejections on its record, want at least 4%s", n, m.Story(from))
		}
		if len(outs) > 9 || len(in) > 9 {
			t.Errorf("out %d times, back %d times in 18 cycles: the hold-off does not grow%s", len(outs), len(in), m.Story(from))
		}
		// The hold-off after an ejection, at its shortest: 0.8 x min(60, 2^(n-1)) s.
		for i := 1; i < len(outs); i++ {
			if gap, least := outs[i].At-outs[i-1].At, min(48*time.Second, 800*time.Millisecond<<(i-1)); gap < least {
				t.Errorf("ejections %d and %d are %v apart, want at least %v%s", i, i+1, gap, least, m.Story(from))
			}
		}
		if lost := m.Requests(func(r mesh.Request) bool { return r.Lost() }); len(lost) > 0 {
			t.Errorf("%d requests lost%s", len(lost), m.Story(from))
		}
	})
}
