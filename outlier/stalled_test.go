package outlier

import (
	"testing"
	"time"
)

func TestWhatHasStalledIsToldByOldAttemptsWithoutAnswers(t *testing.T) {
	const since, now = 10 * time.Second, 10*time.Second + 400*time.Millisecond
	begin := func(at time.Duration) func(*Endpoint) {
		return func(e *Endpoint) { e.Start(at, true) }
	}
	answered := func(at time.Duration) func(*Endpoint) {
		return func(e *Endpoint) {
			a := e.Start(at-time.Millisecond, true)
			e.Headers(&a, at)
			e.End(&a, Outcome{Class: OK, Now: at})
		}
	}
	for _, test := range []struct {
		name   string
		events []func(*Endpoint)
		want   bool
	}{
		{"nothing asked", nil, false},
		{"an attempt as old", []func(*Endpoint){begin(since)}, true},
		{"an older one", []func(*Endpoint){begin(since - time.Second)}, true},
		{"a younger one", []func(*Endpoint){begin(since + 200*time.Millisecond)}, false},
		{"answers came before only", []func(*Endpoint){answered(since - time.Second), begin(since)}, true},
		{"another was answered since", []func(*Endpoint){begin(since), answered(since + 300*time.Millisecond)}, false},
		{"one that left the ring", []func(*Endpoint){func(e *Endpoint) { e.ring.old.Store(1) }}, true},
		{"a stream, which owes nothing", []func(*Endpoint){func(e *Endpoint) { e.Start(since, false) }}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := newEndpoint(1, testConf())
			for _, event := range test.events {
				event(e)
			}
			if got := e.Stalled(since, now); got != test.want {
				t.Errorf("stalled: got %v, want %v", got, test.want)
			}
		})
	}
}

// A clock that jumps must neither hang nor panic the request that asks.
func TestStalledBearsAnyClock(t *testing.T) {
	e := newEndpoint(1, testConf())
	for _, at := range []time.Duration{-time.Hour, -1, 0, 1, time.Hour, 1<<63 - 1, -1 << 63} {
		for _, since := range []time.Duration{-1 << 63, -1, 0, time.Second, 1<<63 - 1} {
			if e.Stalled(since, at) {
				t.Errorf("stalled since %v at %v, without an attempt", since, at)
			}
		}
	}
}

// Where answers are rare by nature, a longer silence is asked for: three of their gaps,
// but two seconds at most.
func TestARareRhythmAsksForTwoSecondsOfSilenceAtMost(t *testing.T) {
	for _, tt := range []struct{ gap, want time.Duration }{
		{200 * time.Millisecond, 600 * time.Millisecond},
		{3 * time.Second, 2 * time.Second},
	} {
		w := newWorld(t, 4, 1)
		attempt := func(id string, at, takes time.Duration) {
			w.at(at, func() {
				ep := w.d.Endpoint(id)
				a := ep.Start(w.now, true)
				if takes > 0 {
					w.at(w.now+takes, func() {
						ep.Headers(&a, w.now)
						ep.End(&a, Outcome{Class: OK, Now: w.now})
					})
				}
			})
		}
		for at := 2 * time.Second; at < 65*time.Second; at += tt.gap {
			if at <= 59*time.Second {
				attempt("e01", at, 2*time.Millisecond)
			}
			attempt("e02", at, 2*time.Millisecond)
			attempt("e03", at, 2*time.Millisecond)
		}
		w.run(59*time.Second + 10*time.Millisecond)
		silent := w.d.byID["e01"].answerEnd()
		attempt("e01", w.now, 0)
		attempt("e01", w.now, 0)
		w.run(65 * time.Second)
		c := w.want("e01", Suspended, 59*time.Second)
		if got := c.At - silent; got < tt.want*9/10 || got > tt.want*11/10 {
			t.Errorf("an answer each %v: suspended after %v of silence, want about %v", tt.gap, got, tt.want)
		}
	}
}
