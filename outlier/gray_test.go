package outlier

import (
	"testing"
	"time"
)

// Faults that no port and no health path shows: each is seen in the outcomes of
// requests alone, and probes are good throughout.
func TestGrayFaultsAreEjected(t *testing.T) {
	flip := false
	for _, tt := range []struct {
		name string
		end  func(w *world, ep *Endpoint, a *Attempt) Outcome
	}{
		{"every other request fails", func(*world, *Endpoint, *Attempt) Outcome {
			if flip = !flip; flip {
				return Outcome{Class: Server}
			}
			return Outcome{Class: OK}
		}},
		{"200, then the body is cut", func(w *world, ep *Endpoint, a *Attempt) Outcome {
			ep.Headers(a, w.now)
			r := HTTPResult{Ending: EndBodyCut, Status: 200, HeadersSeen: true}
			return Outcome{Class: ClassifyHTTP(r), Level: r.Level()}
		}},
		{"200, then nothing", func(w *world, ep *Endpoint, a *Attempt) Outcome {
			ep.Headers(a, w.now)
			return Outcome{Class: ClassifyHTTP(HTTPResult{Ending: EndBodyIdle, Status: 200, HeadersSeen: true})}
		}},
		{"an error in headers alone", func(*world, *Endpoint, *Attempt) Outcome {
			return Outcome{Class: ClassifyHTTP(HTTPResult{Status: 200, HeadersSeen: true, GRPC: true, GRPCStatusSeen: true, GRPCStatus: 13})}
		}},
		{"an answer without trailers", func(*world, *Endpoint, *Attempt) Outcome {
			return Outcome{Class: ClassifyHTTP(HTTPResult{Status: 200, HeadersSeen: true, GRPC: true})}
		}},
		{"streams that are reset", func(*world, *Endpoint, *Attempt) Outcome {
			return Outcome{Class: ClassifyHTTP(HTTPResult{Ending: StreamReset(8), Status: 200, HeadersSeen: true})}
		}},
	} {
		w := newWorld(t, 6, 1)
		w.load(250, 30*second)
		w.run(20 * second)
		ep := w.d.Endpoint("e01")
		for i := range 40 {
			a := ep.Start(w.now, true)
			w.runFor(5 * time.Millisecond)
			o := tt.end(w, ep, &a)
			o.Now, o.Conn = w.now, uint32(i)
			if ep.End(&a, o) {
				w.wake(w.now + time.Millisecond)
			}
			w.runFor(15 * time.Millisecond)
			w.d.Probed("e01", LevelApp, ProbeOK, w.now, w.now)
			if w.d.byID["e01"].record.state == Ejected {
				break
			}
		}
		w.want("e01", Ejected, 20*second)
		if n := w.count(Ejected); n != 1 {
			t.Errorf("%s: %d ejections, want 1\n%s", tt.name, n, w.story())
		}
	}
}

// Clients that leave sooner than any timeout must not hide that nothing answers.
func TestAHangIsSeenThroughImpatientClients(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(300, 40*second)
	w.run(30 * second)
	over := w.d.Overdue()
	w.hosts["e03"].hang = true
	patience := over + 50*time.Millisecond
	w.patience = patience
	w.run(35 * second)
	c := w.want("e03", Suspended, 30*second)
	if took := c.At - 30*second; took > over+400*time.Millisecond {
		t.Errorf("suspended after %v, want within D_over %v and 400ms", took, over)
	}
	if n := w.d.Endpoint("e03").Counts(); n.Cens == 0 || n.K() != 0 {
		t.Errorf("counts are %+v, want clients that left and no failure", n)
	}
}

func TestClientsThatLeaveEjectNobody(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(300, 60*second)
	w.run(20 * second)
	ep := w.d.Endpoint("e01")
	for range 2000 {
		a := ep.Start(w.now, true)
		w.runFor(2 * time.Millisecond)
		r := HTTPResult{Ending: EndClientAbort, Age: 2 * time.Millisecond, Overdue: ep.Overdue(0)}
		if ep.End(&a, Outcome{Class: ClassifyHTTP(r), Now: w.now}) {
			w.wake(w.now + time.Millisecond)
		}
	}
	if n := w.count(Ejected) + w.count(Suspended); n != 0 {
		t.Errorf("%d ejections and suspensions, want 0\n%s", n, w.story())
	}
}

// The balancer's own memory of slow answers does most of it.
func TestATailThatIsSlowCostsItsShareAlone(t *testing.T) {
	for _, tt := range []struct {
		share  float64
		factor time.Duration
	}{{0.05, 10}, {0.02, 30}} {
		w := newWorld(t, 10, 1)
		w.load(2000, 120*second)
		w.run(40 * second)
		w.hosts["e04"].tail, w.hosts["e04"].tailFactor = tt.share, tt.factor
		w.run(50 * second)
		if n := w.hosts["e04"].picksSince(40 * second); n > 1400 {
			t.Errorf("%v of answers %dx as slow: %d attempts in 10 s, want well below the fair 2000\n%s", tt.share, tt.factor, n, w.story())
		}
		if n := w.count(Ejected) + w.count(Suspended); n != 0 {
			t.Errorf("%v of answers %dx as slow: %d ejections and suspensions, want 0\n%s", tt.share, tt.factor, n, w.story())
		}
	}
}

func TestOneThatIsALittleWorseStays(t *testing.T) {
	for seed := range uint64(3) {
		w := newWorld(t, 10, seed)
		for _, h := range w.hosts {
			h.errors = 0.001
		}
		w.hosts["e04"].errors = 0.01
		w.load(1000, 300*second)
		w.run(300 * second)
		if n := w.count(Ejected); n != 0 {
			t.Errorf("seed %d: one at 99 %% among 99.9 %%: %d ejections in 5 min, want 0\n%s", seed, n, w.story())
		}
	}
}

// A backend that has just started is slow for a while: that neither ejects it, nor
// moves what counts as normal.
func TestAColdBackendIsLeftAlone(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(300, 80*second)
	w.run(30 * second)
	before := w.d.groups[0].pg
	w.hosts["new"] = &host{id: "new", latency: 40 * time.Millisecond, errors: 0.03}
	w.order = append(w.order, "new")
	w.members = append(w.members, Member{ID: "new", New: true})
	w.d.SetMembers(w.members, w.now)
	w.run(34*second + 500*time.Millisecond)
	if pg := w.d.groups[0].pg; pg > before {
		t.Errorf("p_g rose from %v to %v by an endpoint younger than 5s", before, pg)
	}
	w.hosts["new"].latency, w.hosts["new"].errors = 2*time.Millisecond, 0
	w.run(80 * second)
	if n := w.count(Ejected) + w.count(Suspended); n != 0 {
		t.Errorf("%d ejections and suspensions, want 0\n%s", n, w.story())
	}
	if n := w.hosts["new"].picksSince(60 * second); n < 500 {
		t.Errorf("%d attempts in 20 s long after, want most of the fair 850", n)
	}
}

func TestAShortOutageNowAndThenIsHeldOffLonger(t *testing.T) {
	w := newWorld(t, 6, 5)
	w.load(300, 700*second)
	w.run(20 * second)
	h := w.hosts["e01"]
	for at := 20 * second; at < 620*second; at += 21 * second {
		w.at(at, func() { h.refuse = true })
		w.at(at+second, func() { h.refuse = false })
	}
	w.run(620 * second)
	var last Change
	most := 0
	for _, c := range w.changes {
		if c.ID != "e01" || c.Refused != "" || c.To != Ejected {
			continue
		}
		if last.At != 0 && c.At-last.At < last.Explain.Hold {
			t.Errorf("ejected at %v and again at %v, within the hold-off of %v", last.At, c.At, last.Explain.Hold)
		}
		last, most = c, max(most, c.Explain.Ejections)
	}
	if most < 3 {
		t.Errorf("the record never stood above %d\n%s", most, w.story())
	}
	if w.failed != 0 {
		t.Errorf("%d requests failed, want 0: all could be repeated", w.failed)
	}
}

func TestOfTwoThatBothRefuseOneIsAlwaysPicked(t *testing.T) {
	w := newWorld(t, 2, 1)
	w.load(100, 60*second)
	w.run(10 * second)
	w.hosts["e00"].refuse, w.hosts["e01"].refuse = true, true
	w.after = func() {
		usable := 0
		for _, a := range w.d.View() {
			if a.Weight > 0 {
				usable++
			}
		}
		if usable == 0 {
			t.Fatalf("at %v nothing can be picked\n%s", w.now, w.story())
		}
	}
	w.run(60 * second)
}

func TestOurOwnProbesAreBounded(t *testing.T) {
	w := newWorld(t, 60, 1)
	w.load(6000, 30*second)
	w.run(20 * second)
	for _, h := range w.hosts {
		h.refuse = true
	}
	before := w.probes
	w.run(21 * second)
	if n := w.probes - before; n > 20 {
		t.Errorf("%d probes in a second, want 10 and a burst of 10", n)
	}
}

func TestAHoldOffDoublesToItsMost(t *testing.T) {
	d := newWorld(t, 1, 1).d
	for n, want := range []time.Duration{1: second, 2: 2 * second, 3: 4 * second, 6: 32 * second, 7: 60 * second, 40: 60 * second} {
		if want == 0 {
			continue
		}
		for range 200 {
			if got := d.holdOff(n); got < want*8/10 || got > want*12/10 {
				t.Fatalf("%d ejections on record: %v, want %v ±20 %%", n, got, want)
			}
		}
	}
}

// It was ejected because nothing answered: an answer, of a request that was under
// way, is news enough to look again.
func TestAnAnswerEndsTheHoldOffOfAHardEjection(t *testing.T) {
	for _, rule := range []Rule{RuleHard, RuleFast} {
		w := newWorld(t, 6, 1, func(c *Config) { c.HoldBase = 20 * second })
		w.run(2 * second)
		m, ep := w.d.byID["e01"], w.d.Endpoint("e01")
		a := ep.Start(w.now, true)
		var r Result
		w.d.eject(m, rule, w.d.explain(m, rule, w.now), w.now, &r)
		w.runFor(second)
		ep.End(&a, Outcome{Class: OK, Now: w.now})
		w.runFor(second)
		if out := m.record.state == Ejected; out == (rule == RuleHard) {
			t.Errorf("%v: a second after an answer it is %v", rule, m.record.state)
		}
	}
}

// While probes fail they come at doubling intervals, and more often where a probe
// tells more.
func TestProbesThatFailComeLessAndLessOften(t *testing.T) {
	for _, tt := range []struct {
		cause Rule
		least time.Duration
		most  time.Duration
	}{{RuleHard, second, 5 * second}, {RuleFast, second, 60 * second}} {
		w := newWorld(t, 6, 1)
		w.run(2 * second)
		m := w.d.byID["e01"]
		var r Result
		w.d.eject(m, tt.cause, w.d.explain(m, tt.cause, w.now), w.now, &r)
		w.hosts["e01"].refuse = true
		var at []time.Duration
		n := w.probes
		w.after = func() {
			if w.probes > n {
				n = w.probes
				at = append(at, w.now)
			}
		}
		w.run(400 * second)
		if len(at) < 5 {
			t.Fatalf("%v: %d probes in 400 s", tt.cause, len(at))
		}
		last := at[len(at)-1] - at[len(at)-2]
		if last < tt.most-second || last > tt.most+second {
			t.Errorf("%v: the last two probes are %v apart, want %v", tt.cause, last, tt.most)
		}
		for i := 2; i < len(at); i++ {
			if gap, before := at[i]-at[i-1], at[i-1]-at[i-2]; gap < before-200*time.Millisecond {
				t.Errorf("%v: probes %v apart, then %v", tt.cause, before, gap)
			}
		}
		if m.record.ejections != 1 {
			t.Errorf("%v: %d ejections on record, want 1: failed probes are none", tt.cause, m.record.ejections)
		}
	}
}

func TestAnUndecidedProbationGetsMore(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.run(2 * second)
	m := w.d.byID["e01"]
	var r Result
	w.d.eject(m, RuleFast, w.d.explain(m, RuleFast, w.now), w.now, &r)
	w.want2("e01", Probation, 0, 20*second)
	share := m.record.share
	w.runFor(61 * second) // nobody asks for anything
	if got := m.record.share; got != 2*share {
		t.Errorf("after a minute without attempts its share is %v, want %v", got, 2*share)
	}
	w.runFor(600 * second)
	if got := m.record.share; got != 1 {
		t.Errorf("long after its share is %v, want 1 at most", got)
	}
}
