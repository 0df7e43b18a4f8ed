package sim_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/sim"
)

// A crash closes the listener and resets every connection. With a sidecar in front of
// the application that sidecar lives on and must not hide it.
func TestACrashEmptiesTheEndpointWithinATenthOfASecond(t *testing.T) {
	table := sim.NewTable("Crash: whole fleet off the endpoint, from the first failed attempt on it",
		"requests/s into it", "callers", "inbound", "base errors", "runs", "fleet off, median", "p95", "failed attempts, median", "max", "repeatable requests failed")
	t.Run("", func(t *testing.T) {
		for _, c := range []struct {
			rate    float64
			callers int
			base    float64
			runs    int
			warm    time.Duration
			limit   int // of failed attempts
		}{
			{rate: 1, callers: 5, runs: 10, warm: 20 * time.Second, limit: 10},
			{rate: 50, callers: 5, runs: 10, warm: 6 * time.Second, limit: 10},
			{rate: 50, callers: 5, base: 0.01, runs: 10, warm: 6 * time.Second, limit: 10},
			{rate: 1000, callers: 4, runs: 3, warm: 2 * time.Second, limit: 30},
		} {
			for _, inbound := range []bool{false, true} {
				t.Run(fmt.Sprintf("%g requests per second, inbound %t, base %g", c.rate, inbound, c.base), func(t *testing.T) {
					var (
						mu       sync.Mutex
						off      []time.Duration
						attempts []float64
						failed   int
					)
					t.Run("", func(t *testing.T) {
						for seed := range runs(c.runs) {
							t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
								t.Parallel()
								synctest.Test(t, func(t *testing.T) {
									m := sim.Start(t, sim.Config{
										Callers: c.callers, Endpoints: 6, Zones: 2, Rate: c.rate, Inbound: inbound, BaseErrors: c.base, Seed: uint64(seed),
									})
									m.Wait(c.warm)
									from := m.Now()
									must(t, m.Endpoints[2].Set(fakeupstream.Crash()))
									m.Wait(wait(c.rate))
									r := m.Removal(2, from, m.Now())
									mu.Lock()
									off, attempts, failed = append(off, r.Off-r.First), append(attempts, float64(r.Attempts)), failed+r.Failed
									mu.Unlock()
									check(t, m, r)
								})
							})
						}
					})
					table.Row(c.rate, c.callers, inbound, fmt.Sprintf("%g %%", c.base*100), len(off), sim.Median(off), sim.Quantile(off, .95),
						sim.Median(attempts), sim.Quantile(attempts, 1), failed)
				})
			}
		}
	})
	table.Print(t)
}

func wait(rate float64) time.Duration {
	return time.Duration(900*float64(time.Millisecond)) + time.Duration(4/rate*float64(time.Second))
}
func runs(n int) int { return n }
func must(t *testing.T, err error) {
	if err != nil {
		t.Helper()
		t.Fatal(err)
	}
}
func check(t *testing.T, m *sim.Mesh, r sim.Removal) {
	bad := ""
	if r.First < 0 {
		t.Errorf("no attempt failed")
		return
	}
	if d := r.Off - r.First; d > 100*time.Millisecond || !r.All {
		bad += fmt.Sprintf(" off %v all %t", d, r.All)
	}
	if r.Failed > 0 {
		bad += " failed "
	}
	if bad != "" {
		t.Errorf("%s: %+v", bad, r)
		for _, v := range m.Verdicts(func(sim.Verdict) bool { return true }) {
			t.Logf("%v %+v\n", v.At-r.First, v)
		}
		for _, b := range m.Beliefs(func(b sim.Belief) bool { return b.At >= r.First }) {
			t.Logf("%v caller %d endpoint %d %v->%v %v %q fleet %t", b.At-r.First, b.Caller, b.Endpoint, b.From, b.To, b.Rule, b.Refused, b.Fleet)
		}
		for _, a := range m.Attempts(func(a sim.Attempt) bool { return a.At >= r.First-time.Millisecond && a.Class.Failure() }) {
			t.Logf("%v %+v", a.At-r.First, a)
		}
		for _, a := range m.Events() {
			if at := m.EventAt(a); at > r.First-time.Second {
				t.Logf("%v %s %s %s", at-r.First, a.Kind, a.Endpoint, a.Text)
			}
		}
	}
}
