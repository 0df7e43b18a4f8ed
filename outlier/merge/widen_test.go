package merge

import (
	"slices"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// widened plays a fault that one zone sees at once, and the other from its verdict on:
// what chance does to a fault that is everywhere. It gives the median time from then
// until the whole fleet is off.
func widened(t *testing.T, zones []string, share float64) time.Duration {
	t.Helper()
	var took []time.Duration
	for seed := range uint64(31) {
		f := newFleet(t, mesh{callers: 5 * len(zones), endpoints: 6, zones: zones, rate: 50, base: 0.01, seed: 300 + seed})
		f.run(12 * time.Second)
		all, bad := false, f.sometimes(share)
		f.targets[2].fault = func(c *caller, now time.Duration) effect {
			if c.Zone == zones[0] || all {
				return bad(c, now)
			}
			return works
		}
		if _, ok := f.ejected(2, 20*time.Second); !ok {
			t.Fatalf("seed %d: no verdict for the zone", seed)
		}
		if v := f.verdicts(outlier.Ejected); v[0].Verdict.Scope != Scope(zones[0]) {
			continue // chance had the others agree
		}
		all = true
		from := f.now
		if !f.until(from+30*time.Second, func() bool { return f.targets[2].view[Fleet].State.Out() }) {
			t.Errorf("seed %d: the fleet has no verdict after 30 s: %s", seed, describe(f.verdicts()))
			continue
		}
		took = append(took, f.now-from)
	}
	if len(took) < 25 {
		t.Fatalf("in %d runs of 31 the zone left first, too few to tell", len(took))
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// Without zones the fleet would have had its verdict with the zone's. What that zone
// has shown must speak to the others, who have only half of the callers left to see it.
func TestAZoneThatHasLeftMakesTheFleetNoSlower(t *testing.T) {
	for _, test := range []struct {
		share float64
		limit time.Duration
	}{{0.5, time.Second}, {0.2, 3 * time.Second}} {
		if took := widened(t, twoZones, test.share); took > test.limit {
			t.Errorf("%v errors: the fleet follows after %v (median), want at most %v", test.share, took, test.limit)
		} else {
			t.Logf("%v errors: the fleet follows after %v (median)", test.share, took)
		}
	}
}

// A fault of the path stays with the zone, although the others fail now and then.
func TestAZoneThatHasLeftDoesNotTakeOthersAlongByTheirUsualErrors(t *testing.T) {
	for _, base := range []float64{0.01, 0.03} {
		left := 0
		for seed := range uint64(40) {
			f := newFleet(t, mesh{callers: 10, endpoints: 6, zones: twoZones, rate: 50, base: base, seed: 500 + seed})
			f.run(12 * time.Second)
			f.targets[2].fault = onlyIn("west", errs)
			f.run(40 * time.Second)
			v := f.verdicts(outlier.Ejected)
			if len(v) == 0 {
				t.Fatalf("base %v, seed %d: no verdict", base, seed)
			}
			if v[0].Verdict.Scope == Fleet {
				continue // the others leaned the same way just then, by chance
			}
			left++
			for _, ch := range v {
				if ch.Verdict.Scope != "west" {
					t.Errorf("base %v, seed %d: got %s\nwant verdicts for the zone west alone", base, seed, describe(v))
				}
			}
		}
		if left < 10 {
			t.Errorf("base %v: in %d runs of 40 the zone left first, too few to tell", base, left)
		}
	}
}

// A policy may be content with less evidence than what a zone has shown leaves to give.
func TestAZoneThatHasLeftAsksTheOthersForNoMoreEvidence(t *testing.T) {
	for _, test := range []struct{ h, want float64 }{{7, 7}, {12, 8}, {20, 10}} {
		p := DefaultPolicy()
		p.HFleetMin, p.HFleetMax = test.h, test.h
		f := newFleet(t, mesh{callers: 10, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, seed: 5, policy: &p})
		f.run(12 * time.Second)
		f.targets[2].fault = onlyIn("west", errs)
		if _, ok := f.ejected(2, 20*time.Second); !ok || f.verdicts(outlier.Ejected)[0].Verdict.Scope != "west" {
			t.Fatalf("h %v: got %s\nwant a verdict for the zone west", test.h, describe(f.verdicts()))
		}
		e := f.table.endpoints[f.targets[2].Key]
		if got := float64(f.table.test(e, &e.fast, fastRow, nil, f.now).h) / float64(nat); got != test.want {
			t.Errorf("of %v nats: the others still give %v, want %v", test.h, got, test.want)
		}
	}
}
