package outlier

import (
	"testing"
	"time"
)

const second = time.Second

func TestACrashIsConfirmedByTwoProbesWithin150ms(t *testing.T) {
	for _, rate := range []float64{0.5, 5, 50, 500} {
		w := newWorld(t, 6, 1)
		w.load(rate*6, 60*second)
		w.run(20 * second)
		h := w.hosts["e02"]
		h.refuse = true
		w.run(50 * second)
		var first time.Duration
		for _, at := range h.picks {
			if at >= 20*second {
				first = at
				break
			}
		}
		c := w.want("e02", Ejected, 20*second)
		if took := c.At - first; took > 150*time.Millisecond {
			t.Errorf("at %v/s: ejected %v after the first failed attempt, want at most 150ms\n%s", rate, took, w.story())
		}
		if c.Rule != RuleHard && c.Rule != RuleFast {
			t.Errorf("at %v/s: rule is %v, want hard or fast", rate, c.Rule)
		}
		if w.failed != 0 {
			t.Errorf("at %v/s: %d requests failed, want 0: all could be repeated", rate, w.failed)
		}
		if n := w.count(Ejected); n != 1 {
			t.Errorf("at %v/s: %d ejections, want 1\n%s", rate, n, w.story())
		}
	}
}

func TestAHungEndpointIsSuspendedAndComesBackWithItsFirstAnswer(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(300, 120*second)
	w.run(30 * second)
	h := w.hosts["e03"]
	h.hang = true
	over := w.d.Overdue()
	w.run(33 * second)
	c := w.want("e03", Suspended, 30*second)
	var first time.Duration
	for _, at := range h.picks {
		if at >= 30*second {
			first = at
			break
		}
	}
	if took := c.At - first; took > over+200*time.Millisecond {
		t.Errorf("suspended %v after the first hung attempt, want at most D_over %v + 200ms", took, over)
	}
	before := len(h.picks)
	w.run(34 * second)
	if n := len(h.picks) - before; n < 1 || n > 2 {
		t.Errorf("%d attempts in a second of suspension, want the trickle of 1", n)
	}
	h.unhang()
	w.run(35 * second)
	if back := w.want("e03", In, 34*second); back.At > 34*second+10*time.Millisecond {
		t.Errorf("back at %v, want at once after the first answer at 34s\n%s", back.At, w.story())
	}
	if n := w.count(Ejected); n != 0 {
		t.Errorf("%d ejections, want 0: a suspension leaves no record", n)
	}
	// Answers that the hang held back for 4 s must not count as its latency.
	w.run(39 * second)
	if n := h.picksSince(35 * second); n < 100 {
		t.Errorf("%d attempts in the next 4 s, want at least half of the fair 200", n)
	}
}

func TestErrorsAreFoundAboutAsFastAsTheMathematicsSay(t *testing.T) {
	for _, tt := range []struct {
		errors float64
		most   float64 // attempts, median of the runs
	}{{1, 9}, {0.5, 20}, {0.2, 62}} {
		var attempts []int
		for seed := range uint64(11) {
			w := newWorld(t, 10, seed)
			for _, h := range w.hosts {
				h.errors = 0.01
			}
			w.load(500, 100*second)
			w.run(30 * second)
			w.hosts["e05"].errors = tt.errors
			w.run(60 * second)
			c := w.want("e05", Ejected, 30*second)
			n := 0
			for _, at := range w.hosts["e05"].picks {
				if at >= 30*second && at < c.At {
					n++
				}
			}
			attempts = append(attempts, n)
			for _, id := range w.order {
				if id == "e05" {
					continue
				}
				if _, ok := w.first(id, Ejected, 0); ok {
					t.Errorf("seed %d: %s was ejected, want only e05\n%s", seed, id, w.story())
				}
			}
		}
		got := median(attempts)
		t.Logf("%v errors: %v attempts, median %v", tt.errors, attempts, got)
		if float64(got) > tt.most {
			t.Errorf("at %v errors: median of %v attempts is %v, want at most %v", tt.errors, attempts, got, tt.most)
		}
	}
}

func TestNobodyIsSingledOutWhenAllSuffer(t *testing.T) {
	ejected, events := 0, 0
	for _, errors := range []float64{0.3, 1} {
		for _, rate := range []float64{5, 50, 500} {
			runs := 20
			if rate > 50 {
				runs = 3
			}
			for seed := range uint64(runs) {
				w := newWorld(t, 10, seed)
				for _, h := range w.hosts {
					h.errors = 0.01
				}
				w.load(rate*10, 100*second)
				w.run(15 * second)
				for _, h := range w.hosts {
					h.errors = errors
				}
				w.run(19 * second)
				ejected += w.count(Ejected)
				events++
			}
		}
	}
	// One observer alone, in the first moments, can be deceived: by design at
	// most once in 20 such events.
	if 20*ejected > events {
		t.Errorf("%d ejections in %d events, want at most 1 in 20", ejected, events)
	}
}

func TestHealthyEndpointsStayIn(t *testing.T) {
	for _, errors := range []float64{0, 0.001, 0.01, 0.03, 0.05} {
		w := newWorld(t, 10, 7)
		for _, h := range w.hosts {
			h.errors = errors
		}
		w.load(1000, 120*second)
		w.run(120 * second)
		if n := w.count(Ejected) + w.count(Suspended); n != 0 {
			t.Errorf("base %v: %d ejections and suspensions in 1200 endpoint-seconds, want 0\n%s", errors, n, w.story())
		}
		if lhm := w.d.self.LHM(); lhm != 0 {
			t.Errorf("base %v: self-doubt is %d, want 0", errors, lhm)
		}
	}
}

func TestASingleEndpointIsNeverTakenOut(t *testing.T) {
	for _, break_ := range []func(*host){
		func(h *host) { h.refuse = true }, func(h *host) { h.hang = true }, func(h *host) { h.errors = 1 },
	} {
		w := newWorld(t, 1, 1)
		w.load(20, 60*second)
		w.run(10 * second)
		break_(w.hosts["e00"])
		w.after = func() {
			if a := w.d.View()[0]; a.Weight != 1 || a.State != In {
				t.Fatalf("at %v the only endpoint is admitted as %+v", w.now, a)
			}
		}
		w.run(40 * second)
		if n := w.count(Ejected) + w.count(Suspended); n != 0 {
			t.Errorf("the only endpoint was taken out\n%s", w.story())
		}
		told := false
		for _, c := range w.changes {
			told = told || c.Refused == refusedLast
		}
		if !told {
			t.Errorf("nothing was told of the refusal\n%s", w.story())
		}
	}
}

func TestOfTwoTheBadOneGoesOnlyIfTheOtherIsWell(t *testing.T) {
	w := newWorld(t, 2, 1)
	w.load(40, 60*second)
	w.run(10 * second)
	w.hosts["e00"].errors = 0.5
	w.run(20 * second)
	w.want("e00", Ejected, 10*second)

	ejected := 0 // by chance, where one shows its errors before the other does
	for seed := range uint64(20) {
		w = newWorld(t, 2, seed)
		w.load(40, 60*second)
		w.run(10 * second)
		w.hosts["e00"].errors = 0.5
		w.hosts["e01"].errors = 0.5
		w.run(30 * second)
		ejected += w.count(Ejected)
	}
	if ejected > 3 {
		t.Errorf("both at 50 %%: %d ejections in 20 runs, want 3 at most", ejected)
	}
}

// At one request in 10 s the other endpoint's last answer is older than the
// 5 s that the rule wants: the detector asks it.
func TestOfTwoTheOtherIsAskedWhenItHasBeenSilent(t *testing.T) {
	w := newWorld(t, 2, 3)
	w.load(0.1, 600*second)
	w.run(100 * second)
	w.hosts["e00"].refuse = true
	w.run(250 * second)
	c := w.want("e00", Ejected, 100*second)
	if c.Rule != RuleHard {
		t.Errorf("rule is %v, want hard", c.Rule)
	}
}

func TestOfThreeOneMayGoForItsErrorsAndTwoForBeingDown(t *testing.T) {
	w := newWorld(t, 3, 1)
	w.load(60, 100*second)
	w.run(20 * second)
	w.hosts["e00"].errors = 0.6
	w.hosts["e01"].errors = 0.6
	w.atMostOut(1)
	w.run(40 * second)
	if w.count(Ejected) == 0 {
		t.Errorf("two of three at 60 %%: nobody was ejected\n%s", w.story())
	}

	w = newWorld(t, 3, 1)
	w.load(60, 100*second)
	w.run(20 * second)
	w.hosts["e00"].refuse = true
	w.run(25 * second)
	w.want("e00", Ejected, 20*second)
	w.hosts["e01"].refuse = true
	w.run(30 * second)
	for _, c := range w.changes {
		if c.ID == "e01" && c.Refused == refusedCap {
			return // three times the load on the last one is more than it has borne
		}
	}
	t.Errorf("want the second crash refused by the cap, as it would treble the load\n%s", w.story())
}

// Who hears nothing but refusals sends less, by a breaker or as users give up: that the few
// who are left in could carry so little is no reason to leave all but one of them.
func TestWhereAllRefuseHalfAreKept(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(60, 20500*time.Millisecond)
	w.run(20 * second)
	for _, h := range w.hosts {
		h.refuse = true
	}
	w.atMostOut(3)
	w.run(20500 * time.Millisecond)
	w.load(2, 60*second)
	w.run(60 * second)
	if w.count(Ejected) == 0 {
		t.Errorf("nobody was ejected\n%s", w.story())
	}
}

func TestRecoveryGoesByProbeProbationAndRamp(t *testing.T) {
	for _, app := range []bool{true, false} {
		w := newWorld(t, 6, 2)
		w.app = app
		w.load(300, 200*second)
		w.run(20 * second)
		h := w.hosts["e01"]
		h.refuse = true
		w.run(24 * second)
		h.refuse = false
		w.run(60 * second)
		at := 20 * second
		for _, state := range []State{Ejected, Probing, Probation, Ramp, In} {
			at = w.want("e01", state, at).At
		}
		// Four seconds of fault, a hold-off, a hard cause's short probation, a ramp of 10 s.
		if at > 24*second+25*second {
			t.Errorf("back in at %v, want within 25s of the fault's end at 24s\n%s", at, w.story())
		}
		if n := w.count(Ejected); n != 1 {
			t.Errorf("%d ejections, want 1\n%s", n, w.story())
		}
		if w.failed != 0 {
			t.Errorf("%d failed requests, want 0", w.failed)
		}
		if got := w.d.byID["e01"].record.ejections; got != 1 {
			t.Errorf("%d ejections on record, want 1", got)
		}
		w.run(at + 70*second)
		if got := w.d.byID["e01"].record.ejections; got != 0 {
			t.Errorf("after a healthy minute %d ejections are on record, want 0", got)
		}
	}
}

func TestAnEndpointThatStillFailsGoesOutAgainAfterFewAttempts(t *testing.T) {
	w := newWorld(t, 6, 2)
	w.load(300, 400*second)
	w.run(20 * second)
	h := w.hosts["e01"]
	h.errors = 0.8
	w.run(140 * second)
	ejections := w.count(Ejected)
	if ejections < 3 || ejections > 8 {
		t.Errorf("%d ejections in 2 min at 80 %%, want 3 to 8: the hold-off doubles\n%s", ejections, w.story())
	}
	if w.failed > 14+4*ejections {
		t.Errorf("%d failed requests for %d ejections, want about 2 for each after the first", w.failed, ejections)
	}
	h.errors = 0
	w.run(300 * second)
	w.want("e01", In, 140*second)
}

func TestAFlappingEndpointFlipsAtMostOncePerHold(t *testing.T) {
	w := newWorld(t, 6, 5)
	w.load(300, 800*second)
	w.run(20 * second)
	h := w.hosts["e01"]
	for at := 20 * second; at < 620*second; at += 10 * second {
		w.at(at, func() { h.refuse = true })
		w.at(at+5*second, func() { h.refuse = false })
	}
	w.run(620 * second)
	var last Change
	for _, c := range w.changes {
		if c.ID != "e01" || c.Refused != "" || c.To != Ejected {
			continue
		}
		if last.At != 0 && c.At-last.At < last.Explain.Hold {
			t.Errorf("ejected at %v and again at %v, within the hold-off of %v", last.At, c.At, last.Explain.Hold)
		}
		last = c
	}
	// It fades by one a minute, so that 10 minutes hold 20 at the most.
	if n := w.count(Ejected); n > 25 {
		t.Errorf("%d ejections in 10 min of 5s/5s flapping, want at most 25", n)
	}
	if last.Explain.Ejections < 3 {
		t.Errorf("the record stands at %d, want it to have grown to 3 or more\n%s", last.Explain.Ejections, w.story())
	}
}

func TestAZoneThatDiesLeavesAndAllThatDieStay(t *testing.T) {
	w := newWorld(t, 10, 1)
	w.load(500, 100*second)
	w.run(20 * second)
	for _, id := range []string{"e00", "e01", "e02", "e03"} {
		w.hosts[id].refuse = true
	}
	w.run(22 * second)
	if n := w.count(Ejected); n != 4 {
		t.Errorf("4 of 10 crashed, %d ejected\n%s", n, w.story())
	}

	w = newWorld(t, 10, 1)
	w.load(500, 100*second)
	w.run(20 * second)
	for _, h := range w.hosts {
		h.refuse = true
	}
	w.after = func() {
		usable := 0
		for _, a := range w.d.View() {
			if a.Weight > 0 {
				usable++
			}
		}
		if usable == 0 {
			t.Fatalf("at %v nothing can be picked", w.now)
		}
	}
	w.run(60 * second)
}

func TestSlownessCostsWeightAndNothingElse(t *testing.T) {
	w := newWorld(t, 10, 1)
	w.load(500, 300*second)
	w.run(40 * second)
	h := w.hosts["e04"]
	h.latency *= 10
	w.run(41 * second)
	w.run(42 * second)
	if n := h.picksSince(41 * second); n > 10 {
		t.Errorf("%d attempts in the second after, want at most 10, a fifth of the fair share\n%s", n, w.story())
	}
	h.latency /= 10
	w.run(200 * second)
	if n := h.picksSince(190 * second); n < 250 {
		t.Errorf("%d attempts in 10 s long after, want at least half of the fair 500\n%s", n, w.story())
	}
	if a := w.d.View()[4]; a.Weight != 1 {
		t.Errorf("weight long after is %v, want 1\n%s", a.Weight, w.story())
	}
	if n := w.count(Ejected) + w.count(Suspended); n != 0 {
		t.Errorf("%d ejections and suspensions, want 0\n%s", n, w.story())
	}
}

func TestShortPausesLeadToNoEjection(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(300, 400*second)
	w.run(30 * second)
	h := w.hosts["e02"]
	for i, pause := range []time.Duration{200 * time.Millisecond, 800 * time.Millisecond, 1500 * time.Millisecond, 800 * time.Millisecond} {
		at := 40*second + time.Duration(i)*30*second
		w.at(at, func() { h.hang = true })
		w.at(at+pause, h.unhang)
	}
	w.run(200 * second)
	if n := w.count(Ejected); n != 0 {
		t.Errorf("%d ejections, want 0\n%s", n, w.story())
	}
	// Having seen a pause of 1.5 s, the last one of 0.8 s does not even suspend.
	if c, ok := w.first("e02", Suspended, 130*second); ok {
		t.Errorf("suspended again at %v by a pause that is known", c.At)
	}
	if last := w.d.View()[2]; last.State != In {
		t.Errorf("at the end it is %v, want in", last.State)
	}
}

func TestARunOfResetsUnderOneConnectionEjectsNobody(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(60, 60*second)
	w.run(30 * second)
	ep := w.d.Endpoint("e01")
	for range 50 { // an engine that reports each stream of one lost connection
		a := ep.Start(w.now, true)
		if ep.End(&a, Outcome{Class: Server, Now: w.now, Conn: 9}) {
			w.wake(w.now + time.Millisecond)
		}
	}
	w.run(30*second + 50*time.Millisecond)
	if n := w.count(Ejected); n != 0 {
		t.Errorf("ejected on the failures of one connection in one moment\n%s", w.story())
	}
}

func TestAnOverloadNeverEjects(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(60, 60*second)
	w.run(10 * second)
	ep := w.d.Endpoint("e01")
	for range 1000 {
		a := ep.Start(w.now, true)
		ep.End(&a, Outcome{Class: Overload, Now: w.now})
		w.runFor(10 * time.Millisecond)
	}
	if n := w.count(Ejected) + w.count(Suspended); n != 0 {
		t.Errorf("taken out for being overloaded\n%s", w.story())
	}
}

func TestAListenerThatIsGoneIsNoCrashWhileConnectionsAnswer(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.hosts["e01"].deaf = true
	ep := w.d.Endpoint("e01")
	for i := range 20 * 50 {
		class := OK
		if i%50 == 0 { // now and then somebody needs a new connection
			class = Conn
		}
		a := ep.Start(w.now, true)
		if ep.End(&a, Outcome{Class: class, Now: w.now}) {
			w.wake(w.now + time.Millisecond)
		}
		w.runFor(20 * time.Millisecond)
	}
	if n := w.count(Ejected); n != 0 {
		t.Errorf("%d ejections, want 0\n%s", n, w.story())
	}
	// Two a second were possible; after three contradictions it is one in 10 s.
	if w.probes > 14 {
		t.Errorf("%d probes in 20 s, want at most 14: contradictions shut the hard path", w.probes)
	}
}

func TestOneResetIsContradictedByAProbe(t *testing.T) {
	w := newWorld(t, 4, 1)
	ep := w.d.Endpoint("e01")
	a := ep.Start(w.now, true)
	if !ep.End(&a, Outcome{Class: Conn, Now: w.now, Level: LevelApp}) {
		t.Error("a hard failure did not wake Step")
	}
	w.wake(w.now + time.Millisecond)
	w.runFor(5 * second)
	if w.probes != 1 {
		t.Errorf("%d probes, want 1: the first was good", w.probes)
	}
	if n := w.count(Ejected); n != 0 {
		t.Errorf("%d ejections, want 0", n)
	}
}

func TestWhatIsDownMayExceedTheCapWhileTheRestCanBearIt(t *testing.T) {
	for _, tt := range []struct {
		rate float64 // while 7 of 10 crash; 300 before
		want int
	}{
		{90, 7},  // 30 for each of the three that remain, as much as they have borne
		{600, 5}, // 200 for each: only the cap's five go
	} {
		w := newWorld(t, 10, 1)
		w.load(300, 15*second)
		w.run(15 * second)
		w.load(tt.rate, 60*second)
		w.run(26 * second)
		for _, id := range w.order[:7] {
			w.hosts[id].refuse = true
		}
		w.run(30 * second)
		out := 0
		for _, m := range w.d.members {
			if m.record.state == Ejected || m.record.state == Probing {
				out++
			}
		}
		if out != tt.want {
			t.Errorf("at %v/s %d of 10 are out, want %d\n%s", tt.rate, out, tt.want, w.story())
		}
	}
}

func TestATrialThatHangsIsOverBeforeItsTimeout(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.app, w.timeout = false, time.Minute
	w.load(300, 100*second)
	w.run(20 * second)
	h := w.hosts["e02"]
	h.errors = 1
	w.run(20*second + 500*time.Millisecond)
	out := w.want("e02", Ejected, 20*second)
	h.errors, h.hang = 0, true // while nobody asks: nothing that hung before is in the trial's way
	w.run(30 * second)
	trial := w.want("e02", Probation, out.At)
	again := w.want("e02", Ejected, trial.At)
	if took := again.At - trial.At; took > 2*second {
		t.Errorf("a hung trial lasted %v, want at most 2s", took)
	}
	if n := h.picksSince(trial.At); n > 12 {
		t.Errorf("%d attempts hang from trials, want a handful", n)
	}
}

// Requests that hung before an ejection run into their timeouts when the
// endpoint, well again, is on probation.
func TestOldTimeoutsDoNotFailATrial(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.load(30, 100*second)
	w.run(20 * second)
	ep := w.d.Endpoint("e02")
	var old [4]Attempt
	for i := range old {
		old[i] = ep.Start(w.now, false)
	}
	h := w.hosts["e02"]
	h.errors = 1
	w.run(40 * second)
	out := w.want("e02", Ejected, 20*second)
	h.errors = 0
	for w.now < 100*second && w.d.byID["e02"].record.state != Probation {
		w.runFor(10 * time.Millisecond)
	}
	for i := range old {
		ep.End(&old[i], Outcome{Class: Timeout, Now: w.now, Conn: uint32(i)})
	}
	w.runFor(80 * second)
	if c, again := w.first("e02", Ejected, out.At+1); again {
		t.Errorf("ejected again at %v by timeouts of before\n%s", c.At, w.story())
	}
	if a := w.d.View()[2]; a.State != In && a.State != Ramp {
		t.Errorf("long after it is %v, want in or on the ramp\n%s", a.State, w.story())
	}
}

func TestRequestsLeftBehindByAStallSayNothingOfNow(t *testing.T) {
	w := newWorld(t, 4, 1)
	w.d.SetLatency(Percentiles{P50: time.Millisecond, P90: 10 * time.Millisecond, P99: 50 * time.Millisecond})
	w.run(10 * second) // D_over is 250 ms
	ep := w.d.Endpoint("e01")
	for range 3 {
		ep.Start(w.now, true) // never to be answered
	}
	w.runFor(200 * time.Millisecond)
	a := ep.Start(w.now, true)
	ep.End(&a, Outcome{Class: OK, Now: w.now})
	w.runFor(250 * time.Millisecond)
	if got := w.evidence("e01").Overdue; got != 3 {
		t.Errorf("%d overdue, want 3: they began about when it answered", got)
	}
	w.runFor(350 * time.Millisecond) // the stall is over
	a = ep.Start(w.now, true)
	ep.End(&a, Outcome{Class: OK, Now: w.now})
	w.runFor(400 * time.Millisecond)
	if got := w.evidence("e01").Overdue; got != 0 {
		t.Errorf("%d overdue, want 0: it has answered what began long after", got)
	}
	if m := w.d.byID["e01"]; m.record.state != In {
		t.Errorf("it is %v, want in\n%s", m.record.state, w.story())
	}
}

func median(x []int) int {
	s := append([]int(nil), x...)
	for i := range s {
		for j := i + 1; j < len(s); j++ {
			if s[j] < s[i] {
				s[i], s[j] = s[j], s[i]
			}
		}
	}
	return s[len(s)/2]
}
