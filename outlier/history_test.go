package outlier

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestHistoryBeginsWithTheFirstAttempt(t *testing.T) {
	d := New(DefaultConfig(), rand.New(rand.NewPCG(1, 1)))
	d.SetMembers([]Member{{ID: "called", Weight: 1}, {ID: "not called", Weight: 1}}, 0)
	now := time.Duration(0)
	until := func(end time.Duration) {
		for ; now < end; now += 250 * time.Millisecond {
			d.Step(now)
		}
	}
	until(40 * time.Second)
	called, other := d.byID["called"], d.byID["not called"]
	if called.history != nil || other.history != nil {
		t.Error("there is a history of endpoints that nobody has called")
	}
	for _, class := range []Class{OK, Server, OK} {
		a := called.ep.Start(now, true)
		called.ep.End(&a, Outcome{Class: class, Now: now})
	}
	until(45 * time.Second)
	if called.history == nil || other.history != nil {
		t.Errorf("a history of the one that was called: %t, of the other: %t; want one of the first alone", called.history != nil, other.history != nil)
	}
	before, _ := d.snapshotAt(30 * time.Second) // from when there was none
	if got, want := d.since(called, before), (Tally{N: 3, K: 1}); got != want {
		t.Errorf("since before its first attempt: got %+v, want %+v", got, want)
	}
	after, _ := d.snapshotAt(43 * time.Second)
	if got := d.since(called, after); got != (Tally{}) {
		t.Errorf("since after it: got %+v, want nothing", got)
	}
	if got := d.since(other, before); got != (Tally{}) {
		t.Errorf("of the other: got %+v, want nothing", got)
	}
	if d.shared.routes[1].Load() != nil || d.shared.routes[0].Load() == nil {
		t.Error("want counters of the route that was taken, and of no other")
	}
}
