package outlier

import (
	"testing"
	"time"
)

func TestARouteThatFailsEverywhereEjectsNobody(t *testing.T) {
	for _, rate := range []float64{50, 500, 3000} {
		for _, share := range []float64{1, 0.7, 0.3} {
			for seed := range uint64(3) {
				w := newWorld(t, 10, seed)
				w.routes = 20
				w.load(rate, 120*second)
				w.run(30 * second)
				w.bad = map[uint16]float64{7: share}
				w.run(60 * second)
				if n := w.count(Ejected) + w.count(Suspended); n != 0 {
					t.Errorf("at %v/s, %v of route 7 failing: %d ejections and suspensions, want 0\n%s", rate, share, n, w.story())
				}
				if told := len(w.routeNews) > 0; rate > 50 && share > 0.5 && (!told || !w.routeNews[0].Poison || w.routeNews[0].Route != 7) {
					t.Errorf("at %v/s, %v of route 7 failing: told %+v, want that it is poison", rate, share, w.routeNews)
				}
				if got := w.d.routes.poison; got&^(1<<7) != 0 || rate > 50 && share > 0.5 && got == 0 {
					t.Errorf("at %v/s, %v of route 7 failing: poison is %#x, want %#x", rate, share, got, 1<<7)
				}
			}
		}
	}
}

// A key of a failing route is served by one endpoint after the other. The first may
// go for it; then it is plain whose fault it is.
func TestAPinnedPoisonRouteCostsOneShortEjectionAtMost(t *testing.T) {
	for seed := range uint64(5) {
		w := newWorld(t, 10, seed)
		w.routes, w.pinned = 20, map[uint16]int{7: 3}
		w.load(1000, 200*second)
		w.run(30 * second)
		w.bad = map[uint16]float64{7: 1}
		w.run(120 * second)
		if n := w.count(Ejected); n > 1 {
			t.Errorf("seed %d: %d ejections, want at most 1\n%s", seed, n, w.story())
		}
		for _, c := range w.changes {
			if c.To != Ejected || c.Refused != "" {
				continue
			}
			back := w.want(c.ID, In, c.At)
			if back.From == Ramp || back.At-c.At > 12*second || back.Explain.Reason == "" {
				t.Errorf("seed %d: back from %v after %v (%q), want a pardon within 12s", seed, back.From, back.At-c.At, back.Explain.Reason)
			}
			if n := w.d.byID[c.ID].record.ejections; n != 0 {
				t.Errorf("seed %d: %d ejections on record, want none", seed, n)
			}
		}
	}
}

func TestABadEndpointIsNotExcusedByItsRoutes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		routes int
		bad    []string
	}{
		{"one route, one bad", 1, []string{"e01"}},
		{"one route, half bad", 1, []string{"e01", "e02", "e03", "e04"}},
		{"many routes, one bad", 20, []string{"e01"}},
		{"many routes, half bad", 20, []string{"e01", "e02", "e03", "e04"}},
	} {
		w := newWorld(t, 10, 1)
		w.routes = tt.routes
		w.load(1000, 100*second)
		w.run(30 * second)
		for _, id := range tt.bad {
			w.hosts[id].errors = 1
		}
		w.run(60 * second)
		for _, id := range tt.bad {
			if c, out := w.first(id, Ejected, 30*second); !out || c.At > 32*second {
				t.Errorf("%s: %s was not ejected within 2s\n%s", tt.name, id, w.story())
			}
		}
		if w.d.routes.poison != 0 {
			t.Errorf("%s: routes %#x are called poison", tt.name, w.d.routes.poison)
		}
	}
}

// A bad endpoint is found while a poison route fails everywhere.
func TestPoisonHidesNoBadEndpoint(t *testing.T) {
	w := newWorld(t, 10, 1)
	w.routes = 20
	w.load(1000, 100*second)
	w.run(30 * second)
	w.bad = map[uint16]float64{7: 1}
	w.run(45 * second)
	w.hosts["e04"].errors = 0.5
	w.run(60 * second)
	c := w.want("e04", Ejected, 45*second)
	if took := c.At - 45*second; took > 3*second {
		t.Errorf("found after %v, want within 3s", took)
	}
}

func TestWhatIsSetAsideIsNeitherAttemptNorFailure(t *testing.T) {
	c := Counts{N: 100, Server: 30, Timeout: 10, Route: 25}
	if got, want := c.Tally(), (Tally{N: 75, K: 15}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	// The failures lie before the window, and were taken back within it.
	if got, want := (Counts{N: 10, Server: 2, Route: 20}).Tally(), (Tally{N: 8}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	// Once a route is known, its failures never enter the counts.
	conf := testConf()
	conf.poison = 1 << 7
	e := newEndpoint(1, conf)
	for _, class := range []Class{Server, Timeout, Conn, OK} {
		a := e.Start(0, true)
		e.End(&a, Outcome{Class: class, Route: 7})
	}
	if got, want := e.Counts(), (Counts{N: 2, Conn: 1}); got != want {
		t.Errorf("%+v, want %+v: a connection does not know its route", got, want)
	}
	if got := conf.shared.routes[7].Load().aside.Load(); got != 2 {
		t.Errorf("%d set aside, want 2", got)
	}
	if e.Inflight() != 0 {
		t.Errorf("%d in flight, want 0", e.Inflight())
	}
}

func TestAFailureOnARouteThatStandsOutIsWorthLess(t *testing.T) {
	w := newWorld(t, 10, 1)
	w.routes = 20
	w.load(2000, 100*second)
	w.run(30 * second)
	w.bad = map[uint16]float64{7: 0.3}
	w.run(45 * second)
	c := w.d.Endpoint("e00").conf.Load()
	if c.routeFails == nil {
		t.Fatal("nothing stands out")
	}
	for i, worth := range c.routeFails {
		if i == 7 && 2*worth > c.steps.Fail || i != 7 && worth != c.steps.Fail {
			t.Errorf("a failure on route %d is worth %d, on others %d", i, worth, c.steps.Fail)
		}
	}
	w.bad = nil
	w.run(60 * second)
	if c := w.d.Endpoint("e00").conf.Load(); c.routeFails != nil || c.poison != 0 {
		t.Error("a route that is well again still stands out")
	}
}

func TestHashedErrorsOfOneRouteEjectNobodyThatServesOthers(t *testing.T) {
	errorsOn := func(w *world, routes ...uint16) {
		ep := w.d.Endpoint("e01")
		for i := range 400 {
			route := uint16(i % 4)
			o := Outcome{Class: OK, Now: w.now, Conn: uint32(i), Route: route}
			for _, bad := range routes {
				if bad == route {
					o.Class = Server
				}
			}
			a := ep.Start(w.now, true)
			if ep.End(&a, o) {
				w.wake(w.now + time.Millisecond)
			}
			w.runFor(5 * time.Millisecond)
		}
	}
	for _, tt := range []struct {
		name   string
		hashed bool
		keys   int
		bad    []uint16
		out    bool
	}{
		{"not hashed", false, 0, []uint16{2}, true},
		{"hashed, one route", true, 0, []uint16{2}, false},
		{"hashed, few keys, one route", true, 3, []uint16{2}, false},
		{"hashed, many keys, one route", true, 50, []uint16{2}, true},
		{"hashed, two routes", true, 3, []uint16{2, 3}, true},
		{"hashed, all routes", true, 3, []uint16{0, 1, 2, 3}, true},
	} {
		w := newWorld(t, 6, 1)
		w.d.SetHashed(tt.hashed, tt.keys)
		w.run(2 * second)
		errorsOn(w) // all is well
		errorsOn(w, tt.bad...)
		if _, out := w.first("e01", Ejected, 0); out != tt.out {
			t.Errorf("%s: ejected %t, want %t\n%s", tt.name, out, tt.out, w.story())
		}
	}
}

// Those who add up what many saw do not see routes.
func TestWhatHashedErrorsOfOneRouteSayIsNotReportedBeforeAnotherFails(t *testing.T) {
	w := newWorld(t, 6, 1)
	w.d.SetHashed(true, 0)
	w.run(2 * second)
	ep := w.d.Endpoint("e01")
	send := func(n int, bad ...uint16) {
		for i := range n {
			o := Outcome{Class: OK, Now: w.now, Conn: uint32(i), Route: uint16(i % 4)}
			for _, route := range bad {
				if route == o.Route {
					o.Class = Server
				}
			}
			a := ep.Start(w.now, true)
			ep.End(&a, o)
			w.runFor(5 * time.Millisecond)
			w.wake(w.now)
			w.runFor(0)
		}
	}
	told := func() Tally { return w.evidence("e01").Counts.Tally() }
	send(100)
	send(40, 2)
	if got, want := told(), (Tally{N: 130}); got != want {
		t.Errorf("while route 2 fails %+v is told, want %+v", got, want)
	}
	send(200) // the excursion ends
	if got, want := told(), (Tally{N: 330}); got != want {
		t.Errorf("after it %+v is told, want %+v", got, want)
	}
	send(8, 2)
	send(4, 3)
	if got, want := told(), (Tally{N: 339}); got != want {
		t.Errorf("an error now and then on another route: %+v is told, want %+v", got, want)
	}
	send(4, 3)
	if got, want := told(), (Tally{N: 346, K: 4}); got != want {
		t.Errorf("when route 3 fails as well %+v is told, want %+v", got, want)
	}
	if p, ok := w.d.History("e01", w.now); !ok || p.K > 4 {
		t.Errorf("history is %+v, %t", p, ok)
	}
}

// A route that is poison, then well, then poison again excuses its failures once.
func TestARouteExcusesItsFailuresOnce(t *testing.T) {
	c := &charges{
		score: 12000, threshold: 10000, step: 1000, failures: 12,
		routes: []RouteCount{{Route: 7, Failures: 2}, {Route: 8, Failures: 10}},
	}
	for range 3 {
		if c.fallWithout(7) {
			t.Fatalf("2 of 12 failures were the route's, and without them the score is %d of %d", c.score, c.threshold)
		}
	}
	if !c.fallWithout(8) {
		t.Error("without both routes nothing is left, and it stands")
	}
}

// What a poison route did before counts neither for nor against what came later.
func TestWhatIsTakenBackExcusesNothingThatCameLater(t *testing.T) {
	for _, trial := range []bool{false, true} {
		w := newWorld(t, 10, 1)
		w.run(20 * second)
		m := w.d.byID["e01"]
		send := func(n int, class Class, route uint16) {
			for range n {
				a := m.ep.Start(w.now, true)
				m.ep.End(&a, Outcome{Class: class, Now: w.now, Conn: uint32(w.now), Route: route})
				w.runFor(5 * time.Millisecond)
				w.wake(w.now)
				w.runFor(0)
			}
		}
		for range 3 {
			send(3, Server, 7)
			send(100, OK, 0)
			w.run((w.now/second + 1) * second)
		}
		if m.exc.open || m.record.state != In {
			t.Fatalf("%v\n%s", m.exc, w.story())
		}
		want, later := Tally{N: 3, K: 3}, 3
		if trial {
			m.becomes(Probation, RuleFast, w.now)
			m.record.trial, m.record.trialAt = m.ep.Counts(), w.now
			send(10, OK, 0)
			want, later = Tally{N: 1, K: 1}, 1 // as many as it survives
		}
		from := w.d.snapped - 1
		send(1, Server, 7)
		send(later, Server, 1)
		w.d.poisoned(7, w.d.routes.get(7), w.now)
		if got := m.now.Sub(m.exc.base).Tally(); got != want {
			t.Errorf("the excursion has %+v, want %+v", got, want)
		}
		if got := w.d.since(m, from).K; got != want.K {
			t.Errorf("in the last second %d failed, want %d", got, want.K)
		}
		if got := m.now.Sub(m.record.trial).Tally().K; trial && got != want.K {
			t.Errorf("in the trial %d failed, want %d", got, want.K)
		}
	}
}

// What was set aside when a route was poison before is not set aside again.
func TestARouteThatIsPoisonAgainTakesNothingBackTwice(t *testing.T) {
	w := newWorld(t, 10, 1)
	w.run(20 * second)
	m, x := w.d.byID["e01"], w.d.routes.get(7)
	send := func() {
		a := m.ep.Start(w.now, true)
		m.ep.End(&a, Outcome{Class: Server, Now: w.now, Route: 7})
		w.runFor(second)
	}
	send()
	w.d.poisoned(7, x, w.now)
	w.runFor(second)
	x.well = w.now
	w.runFor(second)
	send()
	w.d.poisoned(7, x, w.now)
	if m.aside != 2 {
		t.Errorf("%d of 2 failures set aside", m.aside)
	}
}

func TestWithFewKeysNeighboursAreNoMeasure(t *testing.T) {
	w := newWorld(t, 10, 1)
	for _, tt := range []struct {
		hashed bool
		keys   int
		want   bool
	}{{false, 0, true}, {true, 0, true}, {true, 9, false}, {true, 10, true}} {
		w.d.SetHashed(tt.hashed, tt.keys)
		for _, m := range w.d.members {
			m.now = Counts{N: 100, Server: 50}
		}
		clear(w.d.sorted)
		if got := w.d.others(w.d.members[0], Tally{100, 50}, wholeLife) > 0; got != tt.want {
			t.Errorf("hashed %t, %d keys: neighbours count %t, want %t", tt.hashed, tt.keys, got, tt.want)
		}
	}
}

func TestSecondsForget(t *testing.T) {
	var s seconds
	for i := range 25 {
		s.add(time.Duration(i)*second, 1)
		s.add(time.Duration(i)*second+999*time.Millisecond, 1)
	}
	for _, tt := range []struct {
		now   time.Duration
		count int64
		want  int64
	}{{24 * second, 1, 2}, {24 * second, 2, 4}, {24 * second, 10, 20}, {25 * second, 1, 0}, {25 * second, 10, 18}, {33 * second, 10, 2}, {time.Hour, 10, 0}} {
		x := s
		if got := x.last(tt.now, tt.count); got != tt.want {
			t.Errorf("at %v the last %d s hold %d, want %d", tt.now, tt.count, got, tt.want)
		}
	}
}

// Reports take 800 ms where all else takes 2: they are no stall, and a stall among
// them is found all the same.
func TestARouteThatIsSlowByNatureHasItsOwnDOver(t *testing.T) {
	w := newWorld(t, 4, 1)
	w.slow = map[uint16]time.Duration{3: 300 * time.Millisecond}
	w.routes = 200 // of which one is slow: it moves no percentile of the group
	w.load(4000, 300*second)
	w.run(100 * second)
	ep := w.d.Endpoint("e02")
	if got := ep.Overdue(0); got > 300*time.Millisecond {
		t.Errorf("D_over is %v, want about 250ms", got)
	}
	if got := ep.Overdue(3); got < 900*time.Millisecond {
		t.Errorf("D_over of the slow route is %v, want about four times its p99", got)
	}
	if got := w.evidence("e02").Overdue; got != 0 {
		t.Errorf("%d overdue, want 0", got)
	}
	// An endpoint that serves nothing else, and hangs.
	w.only = map[string]uint16{"e02": 3}
	w.run(110 * second)
	w.hosts["e02"].hang = true
	w.run(115 * second)
	c := w.want("e02", Suspended, 110*second)
	if took := c.At - 110*second; took > 3*second {
		t.Errorf("a hang on the slow route was found after %v, want within 3s", took)
	}
}
