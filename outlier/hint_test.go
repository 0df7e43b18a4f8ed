package outlier

import (
	"testing"
	"time"
)

// A failed probe that a hint gave reason for is one attempt. What it opens is confirmed
// by the probes that follow, at their times.
func TestAHintThatIsRefusedOpensASuspicionAndConfirmsNone(t *testing.T) {
	for name, opened := range map[string]bool{"first news": false, "after a failed attempt": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 4, 1)
			w.load(100, time.Second)
			w.run(time.Second)
			w.hosts["e01"].refuse = true
			ep := w.d.Endpoint("e01")
			if opened {
				a := ep.Start(w.now, true)
				ep.End(&a, Outcome{Class: Conn, Now: w.now})
				w.doStep()
			}
			began := w.now
			w.d.Hinted("e01", LevelConnect, Refused, w.now, w.now)
			w.doStep()
			if !w.d.Suspects("e01") {
				t.Fatal("it is not suspected")
			}
			if n := ep.Counts().Conn; (n == 2) != opened || n == 0 {
				t.Errorf("%d failed attempts, want the probe, and what came before it", n)
			}
			w.runFor(time.Second)
			c := w.want("e01", Ejected, began)
			if c.Explain.Hinted == opened {
				t.Errorf("explained by a hint: %t, want %t", c.Explain.Hinted, !opened)
			}
			if after := c.At - began; after < 90*time.Millisecond || after > 150*time.Millisecond {
				t.Errorf("ejected after %v, want the second probe's 100 to 120 ms", after)
			}
		})
	}
}

func TestAHintThatIsAnsweredCostsNothing(t *testing.T) {
	w := newWorld(t, 4, 1)
	w.load(100, time.Second)
	w.run(time.Second)
	ep := w.d.Endpoint("e01")
	before := ep.Counts()
	w.d.Hinted("e01", LevelConnect, ProbeOK, w.now, w.now)
	w.d.Hinted("gone", LevelConnect, Refused, w.now, w.now)
	w.doStep()
	if got := ep.Counts(); got != before || w.d.Suspects("e01") {
		t.Errorf("counts %+v, were %+v; suspected: %v", got, before, w.d.Suspects("e01"))
	}
}
