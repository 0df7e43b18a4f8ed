package main

import (
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
)

// serving is the endpoints of a run, until the test ends.
func serving(t *testing.T, p product, s scenario, set setting) *service {
	t.Helper()
	v, err := startService(t.Context(), p, s, set)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.close)
	return v
}

func TestAnAnswerSaysWhoseItIs(t *testing.T) {
	v := serving(t, product{}, scenario{bad: 1}, setting{Endpoints: 2})
	var c client
	t.Cleanup(c.close)
	address := v.endpoints[1].Address
	if from, why := c.get(address, path(0, false), time.Minute); backendOf(from) != 1 || why != "" {
		t.Errorf("got %q from %q, want an answer from the second endpoint", why, from)
	}
	if err := v.backends[1].Set(fakeupstream.Errors(1)); err != nil {
		t.Fatal(err)
	}
	if from, why := c.get(address, path(0, false), time.Minute); backendOf(from) != 1 || why != "500" {
		t.Errorf("got %q from %q, want a 500 from the second endpoint", why, from)
	}
	if err := v.backends[1].Set(fakeupstream.Crash()); err != nil {
		t.Fatal(err)
	}
	if from, why := c.get(address, path(0, false), time.Minute); backendOf(from) != nobody || why == "" {
		t.Errorf("got %q from %q, and nobody is there", why, from)
	}
}

func TestAConnectionThatWasIdleForLongIsNotUsed(t *testing.T) {
	v := serving(t, product{}, scenario{}, setting{Endpoints: 1})
	var c client
	t.Cleanup(c.close)
	address := v.endpoints[0].Address
	for i, want := range []int{1, 1, 2} {
		if i == 2 {
			c.idle[address][0].since = time.Now().Add(-keep)
		}
		if _, why := c.get(address, path(0, false), time.Minute); why != "" {
			t.Fatal(why)
		}
		if got := v.backends[0].Counts().Connections; got != want {
			t.Errorf("%d connections after request %d, want %d", got, i+1, want)
		}
	}
}
