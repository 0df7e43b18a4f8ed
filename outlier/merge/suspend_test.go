package merge

import (
	"slices"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// suspends are those of an endpoint.
func (f *fleet) suspends(i int) (n int) {
	for _, ch := range f.verdicts(outlier.Suspended) {
		if ch.Verdict.Key == f.targets[i].Key {
			n++
		}
	}
	return n
}

// suspend has the table suspend an endpoint, without evidence.
func (f *fleet) suspend(i int, at time.Duration) (*endpoint, *record) {
	e := f.table.endpoints[f.targets[i].Key]
	f.table.set(e, &e.fleet, outlier.Suspended, outlier.RuleStalled, "a test", at)
	return e, &e.fleet
}

// pause lets an endpoint stand still.
func (f *fleet) pause(i int, length time.Duration) {
	end := f.now + length
	f.targets[i].fault = func(*caller, time.Duration) effect {
		if f.now < end {
			return hangs
		}
		return works
	}
}

// What one process of a service does its like will do: a pause that ended is a reason
// to wait, for the whole fleet, and a hang is still found.
func TestTheFleetWaitsForAPauseThatItHasSeenEnd(t *testing.T) {
	for _, pause := range []time.Duration{500 * ms, 800 * ms, 1100 * ms} {
		f := newFleet(t, mesh{callers: 10, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, seed: 5})
		f.run(12 * time.Second)
		f.pause(0, pause)
		f.run(10 * time.Second)
		if f.suspends(0) != 1 {
			t.Errorf("a first pause of %v: got %s\nwant one suspend", pause, describe(f.verdicts()))
		}
		for i := range 5 {
			f.pause(i, pause)
			f.run(20 * time.Second)
		}
		if n := len(f.verdicts(outlier.Suspended)); n != 1 {
			t.Errorf("pauses of %v: got %s\nwant no more suspends than the first", pause, describe(f.verdicts()))
		}
		f.targets[5].fault = always(hangs)
		if !f.until(f.now+patienceMost+500*ms, func() bool { return f.suspends(5) == 1 }) {
			t.Errorf("after pauses of %v a hang is not suspended in time", pause)
		}
		f.targets[5].fault = always(works)
		f.run(11 * time.Minute)
		begin := f.now
		f.targets[5].fault = always(hangs)
		if !f.until(begin+5*time.Second, func() bool { return f.suspends(5) == 2 }) || f.now-begin > 2*overdueAge+300*ms {
			t.Errorf("ten minutes after pauses of %v a hang is suspended after %v", pause, f.now-begin)
		}
	}
}

func TestAnOutageTeachesNoPatience(t *testing.T) {
	var p pauses
	p.note(time.Minute, 0)
	if got := p.patience(0); got != 0 {
		t.Errorf("patience %v after a stall of a minute, want none", got)
	}
	p.note(time.Second, time.Minute)
	p.note(400*ms, 2*time.Minute)
	for at, want := range map[time.Duration]time.Duration{
		2 * time.Minute: 1500 * ms, 10 * time.Minute: 1500 * ms, 11 * time.Minute: 600 * ms, 12 * time.Minute: 0,
	} {
		if got := p.patience(at); got != want {
			t.Errorf("patience %v at %v, want %v", got, at, want)
		}
	}
}

// Users who leave early keep hangs short: the suspend must stand from one attempt of
// the trickle to the next, and these must be few.
func TestASuspendStandsWhileTheTrickleHangs(t *testing.T) {
	for _, rate := range []float64{5, 50} {
		for _, callers := range []int{1, 2, 10, 100} {
			f := newFleet(t, mesh{callers: max(callers, 3), endpoints: 6, zones: twoZones, rate: rate, base: 0.001, seed: 5})
			f.run(30 * time.Second)
			f.patience = 400 * ms
			f.targets[2].fault = always(hangs)
			if !f.until(f.now+5*time.Second, func() bool { return f.suspends(2) > 0 }) {
				t.Fatalf("rate %v, %d callers: not suspended", rate, callers)
			}
			f.run(60 * time.Second)
			if v := f.verdicts(); len(v) != 1 {
				t.Errorf("rate %v, %d callers: got %s\nwant one suspend that stands", rate, callers, describe(v))
			}
			f.targets[2].fault = always(works)
			begin := f.now
			if !f.until(begin+10*time.Second, func() bool { return f.state(2) == outlier.In }) || f.now-begin > trickleGapMost+500*ms {
				t.Errorf("rate %v, %d callers: in %v after the end of the hang", rate, callers, f.now-begin)
			}
		}
	}
}

// What goes on hanging is tried less and less often, where those who try have the requests
// for it; where each has few, turns must overlap to show anything.
func TestTheTrickleThins(t *testing.T) {
	thin := []int{1, 3, 7, 11}
	half := []int{1, 3, 5, 7, 9, 11}
	each := []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	for _, tt := range []struct {
		rate    float64 // requests/s to the endpoint, of all callers
		callers int
		want    []int // turns, seconds after the suspend
	}{
		{0.5, 3, each}, {0.5, 100, each},
		{5, 3, thin}, {5, 10, half}, {5, 100, each},
		{50, 3, thin}, {50, 10, thin}, {50, 100, half},
	} {
		f := newFleet(t, mesh{callers: tt.callers, endpoints: 6, zones: twoZones, rate: tt.rate, base: 0, seed: 5})
		f.run(time.Minute)
		e, rec := f.suspend(2, f.now)
		rec.trial = &trial{next: f.now + trickleGap}
		begun, sidecars := f.now, map[string]bool{}
		var turns []int
		for range 125 { // after 15 s nobody is asked any more, because nobody reports
			f.now += tick
			f.table.trickle(e, rec, f.now)
			for _, s := range f.table.out.Shares {
				if s.For != s.Trickle {
					t.Errorf("rate %v, %d callers: a share for %v with a gap of %v, want one attempt", tt.rate, tt.callers, s.For, s.Trickle)
				}
				turns = append(turns, int((f.now - begun).Round(time.Second).Seconds()))
				sidecars[s.Reporter] = true
			}
			f.table.out.Shares = nil
		}
		if !slices.Equal(turns, tt.want) {
			t.Errorf("rate %v, %d callers: turns at %v s, want %v", tt.rate, tt.callers, turns, tt.want)
		}
		if tt.rate == 50 && len(sidecars) != trickleSidecars {
			t.Errorf("rate %v, %d callers: %d sidecars trickle, want %d", tt.rate, tt.callers, len(sidecars), trickleSidecars)
		}
	}
}

// A turn is nobody's who has gone, or is not believed.
func TestWhoCannotTryHasNoTurn(t *testing.T) {
	f := newFleet(t, mesh{callers: 9, endpoints: 6, zones: twoZones, rate: 50, base: 0, seed: 5})
	f.run(time.Minute)
	e, rec := f.suspend(2, f.now)
	f.table.tryAgain(e, rec, f.now)
	if len(rec.trial.chosen) != trickleSidecars {
		t.Fatalf("%d chosen, want %d", len(rec.trial.chosen), trickleSidecars)
	}
	gone := slices.Clone(rec.trial.chosen)
	for _, r := range gone[:2] {
		r.domain.mutedUntil = f.now + time.Minute
	}
	try := func() string {
		t.Helper()
		f.now = rec.trial.next
		f.table.tryAgain(e, rec, f.now)
		shares := f.table.out.Shares
		f.table.out.Shares = nil
		if len(shares) != 1 {
			t.Fatalf("%d turns at %v, want one", len(shares), f.now)
		}
		return shares[0].Reporter
	}
	if got := try(); got != gone[2].ID {
		t.Errorf("%s has the first turn, want %s: the others are muted", got, gone[2].ID)
	}
	gone[2].live = false
	if got := try(); slices.ContainsFunc(gone, func(r *reporter) bool { return r.ID == got }) {
		t.Errorf("%s has the next turn, want somebody else: it cannot try", got)
	}
}

// The tricklers are forgotten with each ping; one that is answered when the next is due
// still has somebody try.
func TestAnAnsweredPingHasSomebodyTry(t *testing.T) {
	p := DefaultPolicy()
	p.Ping = PingHTTP
	f := newFleet(t, mesh{callers: 10, endpoints: 6, zones: twoZones, rate: 50, base: 0, policy: &p, seed: 5})
	f.run(30 * time.Second)
	e, rec := f.suspend(2, f.now)
	for i, result := range []outlier.ProbeResult{outlier.ProbeOK, outlier.TimedOut, outlier.ProbeOK} {
		f.now += trickleGap
		f.table.tryAgain(e, rec, f.now) // sends the ping
		o := rec.orders[0]
		o.done, o.result = true, result
		f.table.out.Shares = nil
		f.now += trickleGap
		f.table.tryAgain(e, rec, f.now)
		if tried := len(f.table.out.Shares) > 0; tried != (result == outlier.ProbeOK) {
			t.Errorf("ping %d ended %v: requests try it: %t", i, result, tried)
		}
	}
}

// Where the ping of the application works, three requests of users in a minute are spent on
// a process that answers neither; one that answers its pings alone is tried by requests.
func TestPingsFindOutBeforeRequestsDo(t *testing.T) {
	p := DefaultPolicy()
	p.Ping = PingHTTP
	for _, tt := range []struct {
		name        string
		fault       effect
		least, most int // requests in a minute
	}{
		{"it answers nothing", hangs, 2, 3},
		{"it answers pings", effect{class: outlier.Timeout, probe: outlier.ProbeOK}, 14, 18},
		{"it says that it is ill", effect{class: outlier.Timeout, probe: outlier.Unhealthy}, 14, 18},
	} {
		f := newFleet(t, mesh{callers: 10, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, policy: &p, seed: 5})
		f.run(30 * time.Second)
		f.patience = 400 * ms // else their time-outs make it an ejection
		f.targets[2].fault = always(tt.fault)
		if !f.until(f.now+5*time.Second, func() bool { return f.state(2) == outlier.Suspended }) {
			t.Fatalf("%s: not suspended", tt.name)
		}
		f.run(500 * ms) // until all have heard of it
		tries, asked := 0, len(f.orders)
		f.tried = func(to *target) {
			if to == f.targets[2] {
				tries++
			}
		}
		f.run(time.Minute)
		if tries < tt.least || tries > tt.most {
			t.Errorf("%s: %d requests tried it in a minute, want %d to %d", tt.name, tries, tt.least, tt.most)
		}
		if pings := len(f.orders) - asked; pings < 40 || pings > 61 {
			t.Errorf("%s: %d pings in a minute, want one a second", tt.name, pings)
		}
		if v := f.verdicts(); len(v) != 1 {
			t.Errorf("%s: got %s\nwant one suspend that stands", tt.name, describe(v))
		}
		f.targets[2].fault = always(works)
		begin := f.now
		if !f.until(begin+10*time.Second, func() bool { return f.state(2) == outlier.In }) || f.now-begin > trickleGapMost+500*ms {
			t.Errorf("%s: in %v after the end of the hang", tt.name, f.now-begin)
		}
	}
}

// Whoever can ping may be cut off from an endpoint, and so may what answers pings within
// it: requests that are answered end the suspend all the same.
func TestPingsAloneKeepNobodyOut(t *testing.T) {
	p := DefaultPolicy()
	p.Ping = PingHTTP
	for name, after := range map[string]effect{
		"pings hang":    {class: outlier.OK, probe: outlier.TimedOut},
		"pings say ill": {class: outlier.OK, probe: outlier.Unhealthy},
	} {
		f := newFleet(t, mesh{callers: 10, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, policy: &p, seed: 5})
		f.run(30 * time.Second)
		f.patience = 400 * ms
		f.targets[2].fault = always(hangs)
		if !f.until(f.now+5*time.Second, func() bool { return f.state(2) == outlier.Suspended }) {
			t.Fatalf("%s: not suspended", name)
		}
		f.run(3 * time.Second)
		f.targets[2].fault = always(after)
		begin := f.now
		if !f.until(begin+20*time.Second, func() bool { return f.state(2) == outlier.In }) {
			t.Errorf("%s: %v after %v in which requests would have been answered", name, f.state(2), f.now-begin)
		}
	}
}

// The fleet's probes are used up: nobody can ping, so requests try.
func TestRequestsTryWhereNobodyCanPing(t *testing.T) {
	p := DefaultPolicy()
	p.Ping = PingHTTP
	f := newFleet(t, mesh{callers: 10, endpoints: 6, zones: twoZones, rate: 50, base: 0.001, policy: &p, seed: 5})
	f.run(30 * time.Second)
	e, rec := f.suspend(2, f.now-trickleGap)
	if f.table.tryAgain(e, rec, f.now); len(rec.orders) != 1 || len(f.table.out.Shares) != 0 {
		t.Errorf("%d pings and %d shares, want a ping first", len(rec.orders), len(f.table.out.Shares))
	}
	f.table.cancel(rec.orders)
	rec.orders, rec.trial = nil, nil
	f.table.probes.take(1e9)
	if f.table.tryAgain(e, rec, f.now); len(rec.orders) != 0 || len(f.table.out.Shares) != 1 {
		t.Errorf("%d pings and %d shares, want a share", len(rec.orders), len(f.table.out.Shares))
	}
}
