package outlier

import (
	"testing"
	"time"
)

// pingIdle does what a sidecar without a control plane does: one ping a second
// at most, whoever is due first.
func (w *world) pingIdle(until time.Duration) (pings map[string]int) {
	pings = make(map[string]int)
	var next func()
	next = func() {
		if w.now >= until {
			return
		}
		w.at(w.now+250*time.Millisecond, next)
		for _, m := range w.d.Idle(w.now) {
			if m.Due > w.now {
				continue
			}
			pings[m.ID]++
			h := w.hosts[m.ID]
			res := ProbeOK
			switch {
			case h.refuse:
				res = Refused
			case h.hang:
				res = TimedOut
			}
			id := m.ID
			w.at(w.now+time.Millisecond, func() {
				w.d.Pinged(id, res == ProbeOK, res, w.now)
				w.wake(w.now + time.Millisecond)
			})
			return
		}
	}
	w.at(w.now, next)
	return pings
}

func TestNobodyPingsWhileTrafficSpeaks(t *testing.T) {
	w := newWorld(t, 4, 1)
	w.load(40, 100*second)
	pings := w.pingIdle(100 * second)
	w.run(100 * second)
	if len(pings) != 0 {
		t.Errorf("pings %v, want none", pings)
	}
}

func TestIdleEndpointsArePingedEachTenSeconds(t *testing.T) {
	w := newWorld(t, 4, 1)
	pings := w.pingIdle(201 * second)
	w.run(201 * second)
	for _, id := range w.order {
		if n := pings[id]; n < 15 || n > 24 {
			t.Errorf("%s: %d pings in 200 s, want about 20", id, n)
		}
	}
	if n := w.count(Ejected); n != 0 {
		t.Errorf("%d ejections, want 0", n)
	}
}

func TestThreeMissedPingsTakeAnIdleEndpointOutAndTwoGoodOnesBringItBack(t *testing.T) {
	w := newWorld(t, 4, 1)
	w.pingIdle(300 * second)
	w.run(30 * second)
	h := w.hosts["e02"]
	h.hang = true
	w.run(60 * second)
	c := w.want("e02", Ejected, 30*second)
	if c.Rule != RuleIdle {
		t.Errorf("rule is %v, want idle", c.Rule)
	}
	if c.Explain.Belief < BeliefDown {
		t.Errorf("the explanation says belief %d, want at least %d", c.Explain.Belief, BeliefDown)
	}
	if a := w.admitted("e02"); a.Weight != 0 {
		t.Errorf("admitted as %+v, want out", a)
	}
	h.hang = false
	w.run(200 * second)
	if a := w.admitted("e02"); a.State != In {
		t.Errorf("long after it answers again it is %+v, want in\n%s", a, w.story())
	}
}

func TestARefusedPingIsAHardFailure(t *testing.T) {
	w := newWorld(t, 4, 1)
	w.pingIdle(300 * second)
	w.run(30 * second)
	w.hosts["e02"].refuse = true
	w.run(45 * second)
	if c := w.want("e02", Ejected, 30*second); c.Rule != RuleHard {
		t.Errorf("rule is %v, want hard: two probes confirm a refused ping\n%s", c.Rule, w.story())
	}
}

func TestPingsEjectNothingThatAnswersRequests(t *testing.T) {
	w := newWorld(t, 4, 1)
	w.load(4, 100*second)
	w.run(20 * second)
	for range 10 {
		w.d.Pinged("e01", false, TimedOut, w.now)
		w.runFor(100 * time.Millisecond)
	}
	if n := w.count(Ejected); n != 0 {
		t.Errorf("ejected by pings alone, though it answers\n%s", w.story())
	}
}
