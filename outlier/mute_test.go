package outlier

import (
	"testing"
	"time"
)

// A muted sidecar is more likely to be broken than the many that it alone sees fail.
func TestWhatAMutedSidecarSeesFailKeepsItsTraffic(t *testing.T) {
	self := NewSelf()
	w := newWorld(t, 8, 1)
	w.d.ShareSelf(self)
	w.load(400, 100*second)
	w.run(10 * second)
	w.hosts["e01"].errors = 1
	w.run(11 * second)
	w.want("e01", Ejected, 10*second)

	self.Mute(30 * second)
	w.hosts["e02"].errors = 0.7
	w.run(29 * second)
	for _, id := range []string{"e01", "e02"} {
		if a := w.admitted(id); a.State != In || a.Weight != 1 {
			t.Errorf("muted, and %s is %+v, want in\n%s", id, a, w.story())
		}
	}
	w.run(32 * second)
	for _, id := range []string{"e01", "e02"} {
		if a := w.admitted(id); !a.State.Out() {
			t.Errorf("no longer muted, and %s is %+v, want it out\n%s", id, a, w.story())
		}
	}
}

// Whether the way from here is there others cannot judge.
func TestAMutedSidecarLeavesAloneWhatItCannotReach(t *testing.T) {
	self := NewSelf()
	w := newWorld(t, 8, 1)
	w.d.ShareSelf(self)
	w.load(400, 100*second)
	w.run(10 * second)
	self.Mute(60 * second)
	w.hosts["e01"].refuse = true
	w.hosts["e02"].hang = true
	w.run(12 * second)
	w.want("e01", Ejected, 10*second)
	w.want("e02", Suspended, 10*second)
	if a := w.admitted("e01"); a.Weight != 0 {
		t.Errorf("it cannot be reached, and is %+v", a)
	}
}

func TestAMuteIsOverAtOnceWhenItIsTakenBack(t *testing.T) {
	self := NewSelf()
	for _, c := range []struct {
		until, now time.Duration
		want       bool
	}{{0, 0, false}, {time.Minute, time.Second, true}, {time.Minute, time.Minute, false}, {0, time.Second, false}} {
		self.Mute(c.until)
		if got := self.Muted(c.now); got != c.want {
			t.Errorf("muted until %v: at %v %v, want %v", c.until, c.now, got, c.want)
		}
	}
}
