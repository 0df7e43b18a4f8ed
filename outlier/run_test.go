package outlier

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// Each letter is one attempt: o OK, s a 500, g a 503, c a refused connect, t a
// timeout, q a 429, a an aborted client.
func runOutcome(letter rune, now time.Duration) Outcome {
	o := Outcome{Now: now, Conn: uint32(now)}
	switch letter {
	case 'o':
		o.Class = OK
	case 's':
		o.Class = Server
	case 'g':
		o.Class, o.Gateway = Server, true
	case 'c':
		o.Class = Conn
	case 't':
		o.Class = Timeout
	case 'q':
		o.Class = Overload
	case 'a':
		o.Class = Ignore
	}
	return o
}

func TestWhatMakesARun(t *testing.T) {
	for _, tt := range []struct {
		attempts string
		want     runs
	}{
		{"", runs{}},
		{"sss", runs{any: 3}},
		{"ggg", runs{any: 3, gateway: 3}},
		{"ctc", runs{any: 3, gateway: 3, local: 3}},
		{"sgct", runs{any: 4, gateway: 3, local: 2}},
		{"ctgs", runs{any: 4}},
		{"cctg", runs{any: 4, gateway: 4}},
		{"ssso", runs{}},
		{"ssos", runs{any: 1}},
		{"sqsas", runs{any: 3}},
	} {
		c := testConf()
		c.runs = runs{any: 100, gateway: 100, local: 100}
		e := newEndpoint(1, c)
		for i, letter := range tt.attempts {
			a := e.Start(0, true)
			e.End(&a, runOutcome(letter, time.Duration(i)*time.Millisecond))
		}
		if got := runsOf(e.runs.Load()); got != tt.want {
			t.Errorf("%q: %+v, want %+v", tt.attempts, got, tt.want)
		}
	}
}

func TestWithoutTheRuleNoRunIsKept(t *testing.T) {
	e := newEndpoint(1, testConf())
	for range 10 {
		a := e.Start(0, true)
		e.End(&a, Outcome{Class: Server})
	}
	if got := e.runs.Load(); got != 0 {
		t.Errorf("runs are %#x, want none", got)
	}
}

func TestTheLastOfARunWakesStep(t *testing.T) {
	c := testConf()
	c.runs = runs{gateway: 3}
	e := newEndpoint(1, c)
	got := ""
	for _, letter := range "gggggoggg" {
		a := e.Start(0, true)
		if e.End(&a, runOutcome(letter, 0)) {
			got += "!"
		} else {
			got += string(letter)
		}
	}
	// Up to the fourth, which crosses 10 nats, each raises the score; of the later ones
	// the seventh alone would be the run's. The mark stays until Step has seen it.
	if want := "!!!!goggg"; got != want {
		t.Errorf("woke %q, want %q", got, want)
	}
	e.told(c.runs)
	if word := e.runs.Load(); word>>runsReached == 0 {
		t.Error("a run that goes on is forgotten")
	}
	a := e.Start(0, true)
	e.End(&a, Outcome{Class: OK})
	if word := e.runs.Load(); word>>runsReached == 0 {
		t.Error("an OK hides a run that Step has not seen")
	}
	e.told(c.runs)
	if word := e.runs.Load(); word != 0 {
		t.Errorf("a run that is over and told leaves %#x, want 0", word)
	}
}

func TestARunIsNeverTooLongToCount(t *testing.T) {
	r := runs{any: math.MaxUint16, gateway: math.MaxUint16, local: math.MaxUint16}
	if got := r.after(Outcome{Class: Conn}); got != r {
		t.Errorf("one more is %+v, want %+v", got, r)
	}
}

// letters makes attempts on one endpoint, 10 ms apart.
func (w *world) letters(id, attempts string) {
	ep := w.d.Endpoint(id)
	for _, letter := range attempts {
		a := ep.Start(w.now, true)
		if ep.End(&a, runOutcome(letter, w.now)) {
			w.wake(w.now + time.Millisecond)
		}
		w.runFor(10 * time.Millisecond)
	}
}

func TestARunEjects(t *testing.T) {
	for _, tt := range []struct {
		name     string
		edit     func(*Config)
		attempts string
		want     string // the kind of run, "" for none
	}{
		{"five of any kind", func(c *Config) { c.RunAny = 5 }, "oosgsgs", "any"},
		{"three and an OK", func(c *Config) { c.RunAny = 4 }, "sssosss", ""},
		{"one is enough, if so", func(c *Config) { c.RunAny = 1 }, "os", "any"},
		{"three of a gateway", func(c *Config) { c.RunGateway = 3 }, "oggg", "gateway"},
		{"a 500 between them", func(c *Config) { c.RunGateway = 3 }, "oggsgg", ""},
		{"no answer at all", func(c *Config) { c.RunLocal = 3 }, "ottt", "local"},
		{"errors are answers", func(c *Config) { c.RunLocal = 3 }, "osgs", ""},
		{"none asked for", func(*Config) {}, "ossss", ""},
		{"none enforced", func(c *Config) { c.RunAny, c.RunAnyEnforced = 3, 0 }, "osss", ""},
		{"the one that is enforced", func(c *Config) { c.RunAny, c.RunAnyEnforced, c.RunGateway = 2, 0, 3 }, "oggg", "gateway"},
	} {
		w := newWorld(t, 5, 1, func(c *Config) { c.HLocalMin, c.HLocalMax = 18, 18 }, tt.edit) // the test takes six
		w.run(2 * second)
		w.letters("e01", tt.attempts)
		c, out := w.first("e01", Ejected, 0)
		switch {
		case out && tt.want == "":
			t.Errorf("%s: %q ejects\n%s", tt.name, tt.attempts, w.story())
		case !out && tt.want != "":
			t.Errorf("%s: %q does not eject\n%s", tt.name, tt.attempts, w.story())
		case out && (c.Rule != RuleRun || c.Explain.Run == nil || c.Explain.Run.Kind != tt.want):
			t.Errorf("%s: ejected by %v, %+v, want a run of %s", tt.name, c.Rule, c.Explain.Run, tt.want)
		}
	}
}

func TestARunThatIsNotEnforcedIsTold(t *testing.T) {
	w := newWorld(t, 5, 1, func(c *Config) { c.RunAny, c.RunAnyEnforced = 3, 0 })
	w.run(2 * second)
	w.letters("e01", "osssossso")
	told := 0
	for _, c := range w.changes {
		if c.Refused != refusedShare {
			continue
		}
		told++
		if c.Rule != RuleRun || c.Explain.Run == nil || c.Explain.Run.Failures != 3 {
			t.Errorf("told as %v, %+v, want a run of 3", c.Rule, c.Explain.Run)
		}
	}
	if told != 1 {
		t.Errorf("told %d times, want once in 10 s\n%s", told, w.story())
	}
	w.runFor(second)
	if got := w.d.Endpoint("e01").runs.Load(); got != 0 {
		t.Errorf("runs that are over leave %#x, want 0", got)
	}
}

// Of many troubles the share that ejects is the one that was asked for, and each
// trouble is decided once.
func TestTheEnforcedShareIsDrawnByTrouble(t *testing.T) {
	for _, share := range []float64{0, 0.3, 1} {
		hits, n := 0, 20000
		for i := range n {
			m := &member{Member: Member{ID: string(rune('a' + i%26))}, excursions: uint64(i / 26)}
			if m.lot() != m.lot() {
				t.Fatal("one trouble is decided in two ways")
			}
			if m.lot() < share {
				hits++
			}
		}
		if got := float64(hits) / float64(n); math.Abs(got-share) > 0.02 {
			t.Errorf("%.3f of the troubles eject, want %v", got, share)
		}
	}
}

// The extra rule has the same brakes as the tests.
func TestRunsDoNotEmptyAGroup(t *testing.T) {
	w := newWorld(t, 10, 1, func(c *Config) { c.RunAny = 3 })
	w.load(500, 100*second)
	w.run(20 * second)
	for _, h := range w.hosts {
		h.errors = 0.5
	}
	w.run(40 * second)
	if n := w.count(Ejected); n > 1 {
		t.Errorf("%d ejections while all are at 50 %%, want at most 1\n%s", n, w.story())
	}
	w = newWorld(t, 10, 1, func(c *Config) { c.RunAny, c.MaxOut = 3, 0.1 })
	w.load(500, 100*second)
	w.run(20 * second)
	w.hosts["e00"].errors, w.hosts["e01"].errors = 1, 1
	w.run(40 * second)
	if n := len(w.outNow()); n != 1 {
		t.Errorf("%d are out, max_out allows 1\n%s", n, w.story())
	}
}

func (w *world) outNow() (ids []string) {
	for _, m := range w.d.members {
		if m.out() {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

func TestAHoldOffMayHaveMoreJitter(t *testing.T) {
	w := newWorld(t, 1, 1, func(c *Config) { c.HoldJitter = 10 * time.Second })
	lo, hi := time.Hour, time.Duration(0)
	for range 1000 {
		hold := w.d.holdOff(1)
		lo, hi = min(lo, hold), max(hi, hold)
	}
	if lo < 800*time.Millisecond || lo > 1500*time.Millisecond || hi > 11200*time.Millisecond || hi < 10*time.Second {
		t.Errorf("hold-offs lie in %v to %v, want 1s ±20 %% and up to 10s more", lo, hi)
	}
}

// The mean number of attempts until r of them failed in a row is (q^-r - 1)/(1 - q).
// The chain is what the real counter does, its mean is solved exactly.
func TestMeanAttemptsUntilARunIsAsLongAsAsked(t *testing.T) {
	c := testConf()
	c.runs = runs{any: 5}
	for _, tt := range []struct{ q, want float64 }{{0.5, 62}, {0.2, 3905}, {0.01, 1.0101e10}} {
		// mean(length) = constant + slope * mean(0), from the longest run down.
		constant, slope := 0.0, 0.0
		for length := 4; length >= 0; length-- {
			failed, reached := runAfter(c, length, 's')
			if failed != length+1 || reached != (length == 4) {
				t.Fatalf("a failure after %d: a run of %d, as long as asked %t", length, failed, reached)
			}
			if ended, _ := runAfter(c, length, 'o'); ended != 0 {
				t.Fatalf("an OK after %d: a run of %d, want none", length, ended)
			}
			constant, slope = 1+tt.q*constant, tt.q*slope+1-tt.q
		}
		near(t, fmt.Sprintf("attempts at %v", tt.q), constant/(1-slope), tt.want, 0.0001)
	}
}

// runAfter is the run of an endpoint that failed so often, after one more attempt.
func runAfter(c *conf, failures int, letter rune) (length int, reached bool) {
	e := newEndpoint(1, c)
	for i, l := range strings.Repeat("s", failures) + string(letter) {
		a := e.Start(0, true)
		e.End(&a, runOutcome(l, time.Duration(i+1)*time.Millisecond))
	}
	word := e.runs.Load()
	return int(runsOf(word).any), word>>runsReached != 0
}
