package outlier

import (
	"testing"
	"time"
)

// breakAll is what a burst of resets looks like from one sidecar: attempts on as
// many connections that die with no answer in one moment.
func (w *world) breakAll(id string, n int, o Outcome) {
	ep := w.d.Endpoint(id)
	attempts := make([]Attempt, n)
	for i := range attempts {
		attempts[i] = ep.Start(w.now, true)
	}
	for i := range attempts {
		o.Now, o.Conn, o.Level = w.now+time.Duration(i)*100*time.Microsecond, uint32(i+1), LevelApp
		if o.Class == Server {
			ep.Headers(&attempts[i], w.now)
		}
		if ep.End(&attempts[i], o) {
			w.wake(w.now + time.Millisecond)
		}
	}
}

func TestABurstOfResetsIsOneFailure(t *testing.T) {
	for _, class := range []Class{Conn, Server} {
		w := newWorld(t, 4, 1)
		w.load(2000, 40*second)
		w.run(20 * second)
		ep := w.d.Endpoint("e01")
		before := ep.Counts()
		for _, at := range []time.Duration{20 * second, 25 * second, 26 * second} {
			w.run(at)
			w.breakAll("e01", 60, Outcome{Class: class})
		}
		w.run(40 * second)
		if got := ep.Counts().Sub(before).K(); got != 3 {
			t.Errorf("%v: %d failures counted of three bursts, want 3", class, got)
		}
		if n := w.count(Ejected) + w.count(Suspended); n != 0 {
			t.Errorf("%v: ejected or suspended for resets that no probe confirms\n%s", class, w.story())
		}
	}
}

// Probes of a port, and of a health path, can be good while every request is cut.
func TestAnEndpointThatResetsEveryRequestGoesAlthoughItsProbesAreGood(t *testing.T) {
	for _, share := range []float64{1, 0.5} {
		w := newWorld(t, 6, 1)
		w.load(60, 60*second)
		w.run(20 * second)
		w.hosts["e01"].resets = share
		w.run(40 * second)
		c := w.want("e01", Ejected, 20*second)
		if took := c.At - 20*second; took > 10*second {
			t.Errorf("at %v: ejected after %v, want within 10s\n%s", share, took, w.story())
		}
	}
}

func TestWhatIsOneMoment(t *testing.T) {
	const ms = time.Millisecond
	type step struct {
		at    time.Duration
		class Class
		level Level
	}
	for _, tt := range []struct {
		name  string
		steps []step
		want  Counts
	}{
		{"resets within 100 ms", []step{{0, Conn, LevelApp}, {ms, Conn, LevelApp}, {99 * ms, Conn, LevelApp}}, Counts{N: 1, Conn: 1}},
		{"a reset later", []step{{0, Conn, LevelApp}, {99 * ms, Conn, LevelApp}, {100 * ms, Conn, LevelApp}}, Counts{N: 2, Conn: 2}},
		{"it goes on for a second: one for each 100 ms", []step{{0, Conn, LevelApp}, {60 * ms, Conn, LevelApp}, {120 * ms, Conn, LevelApp}, {180 * ms, Conn, LevelApp}, {240 * ms, Conn, LevelApp}}, Counts{N: 3, Conn: 3}},
		{"an answer in between", []step{{0, Conn, LevelApp}, {2 * ms, OK, LevelNone}, {4 * ms, Conn, LevelApp}}, Counts{N: 3, Conn: 2}},
		{"an answer before", []step{{0, OK, LevelNone}, {0, Conn, LevelApp}, {ms, Conn, LevelApp}}, Counts{N: 2, Conn: 1}},
		{"bodies that were cut with it", []step{{0, Conn, LevelApp}, {ms, Server, LevelApp}}, Counts{N: 1, Conn: 1}},
		{"errors are answers of their own", []step{{0, Conn, LevelApp}, {ms, Server, LevelNone}, {2 * ms, Server, LevelNone}}, Counts{N: 3, Conn: 1, Server: 2}},
		{"refusals, too", []step{{0, Conn, LevelConnect}, {ms, Conn, LevelConnect}}, Counts{N: 2, Conn: 2}},
		{"clocks of two threads", []step{{5 * ms, Conn, LevelApp}, {4 * ms, Conn, LevelApp}}, Counts{N: 1, Conn: 1}},
	} {
		e := newEndpoint(1, testConf())
		const base = time.Hour
		for _, s := range tt.steps {
			a := e.Start(base, true)
			e.End(&a, Outcome{Class: s.class, Level: s.level, Now: base + s.at})
		}
		if got := e.Counts(); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
		if got := e.Inflight(); got != 0 {
			t.Errorf("%s: %d in flight, want 0", tt.name, got)
		}
	}
}

// A probe has a connection of its own: that it is reset, too, is more news.
func TestAProbeThatIsResetAfterABurstCounts(t *testing.T) {
	w := newWorld(t, 4, 1)
	w.breakAll("e01", 20, Outcome{Class: Conn})
	w.d.Probed("e01", LevelApp, Reset, w.now+20*time.Millisecond, w.now+21*time.Millisecond)
	if got := w.d.Endpoint("e01").Counts().Conn; got != 2 {
		t.Errorf("%d failures, want the burst's and the probe's", got)
	}
}
