package vigil_test

import (
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/proxy/vigil"
)

func TestAConnectionThatIsClosedIsAHintOnceASecond(t *testing.T) {
	var c vigil.Closes
	hints := 0
	for now := time.Duration(0); now < 3*time.Second; now += 10 * time.Millisecond {
		if c.Hint(2*time.Second, now) {
			hints++
			c.Settle(false, now)
		}
	}
	if hints != 3 {
		t.Errorf("%d hints in 3 s of closes, want 3", hints)
	}
}

func TestAnIdleTimeOutOfTheServerIsAskedAboutOnce(t *testing.T) {
	for _, timeout := range []time.Duration{time.Second, 5 * time.Second, 20 * time.Second} {
		var c vigil.Closes
		hints, late := 0, time.Duration(0)
		for now := time.Duration(0); now < time.Hour; now += timeout {
			late = (late + 37*time.Millisecond) % (timeout / 10) // servers look at the time now and then
			if c.Hint(timeout+late, now) {
				hints++
				c.Settle(true, now+time.Millisecond)
			}
			c.Kept(timeout / 2)
		}
		if hints != 1 {
			t.Errorf("idle time-out of %v: %d hints in an hour, want 1", timeout, hints)
		}
	}
}

func TestACrashIsAHintAlsoWhereTheServerHasAnIdleTimeOut(t *testing.T) {
	var c vigil.Closes
	c.Hint(5*time.Second, 0)
	c.Settle(true, 0)
	if !c.Hint(time.Second, time.Minute) {
		t.Error("a connection that had been idle for 1 s of 5 was closed, and that is no hint")
	}
}

func TestAServerThatClosesAtAnyAgeIsAskedLessAndLessOften(t *testing.T) {
	var c vigil.Closes
	var last time.Duration
	var gaps []time.Duration
	for now := time.Second; now < time.Hour; now += 100 * time.Millisecond {
		if c.Hint(now%(3*time.Second), now) {
			gaps = append(gaps, now-last)
			last = now
			c.Settle(true, now)
		}
		c.Kept(3 * time.Second) // others live on
	}
	for i := 1; i < len(gaps)-1; i++ {
		if gaps[i+1] < gaps[i] && gaps[i] < 5*time.Minute {
			t.Errorf("asked after %v, and again after %v", gaps[i], gaps[i+1])
		}
	}
	if len(gaps) < 5 || len(gaps) > 25 {
		t.Errorf("asked %d times in an hour, want a few times, then each 5 minutes", len(gaps))
	}
}

func TestAReloadDoesNotMakeADeadServersClosesExpected(t *testing.T) {
	var c vigil.Closes
	c.Hint(10*time.Millisecond, 0) // it closed all of its connections and went on
	c.Settle(true, 0)
	if c.Hint(time.Second, time.Minute) {
		t.Error("what may be an idle time-out of 10 ms is a hint")
	}
	c.Kept(4 * time.Second)
	if !c.Hint(time.Second, 2*time.Minute) {
		t.Error("connections serve after 4 s: one that is closed after 1 s is no hint")
	}
}
