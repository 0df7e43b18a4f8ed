package main

import (
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
)

func TestGRPCIsAnsweredAndItsErrorsAreInTheTrailers(t *testing.T) {
	for _, p := range products() {
		if p.library == "" {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			v := serving(t, p, scenario{bad: 1}, setting{Endpoints: 1})
			c, err := dialRPC(p, callerIP(2), []string{v.endpoints[0].Address})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.close)
			b := v.backends[0]
			if from, why := c.get(path(2, false), time.Minute); why != "" || backendOf(from) != 0 {
				t.Errorf("in health: %q from %q, want the only endpoint's answer", why, from)
			}
			if err := b.Set(fakeupstream.Errors(1)); err != nil {
				t.Fatal(err)
			}
			if from, why := c.get(path(2, false), time.Minute); why != "Unavailable" || backendOf(from) != 0 {
				t.Errorf("got %q from %q, want what the trailers say", why, from)
			}
			if err := b.Set(fakeupstream.Hang()); err != nil {
				t.Fatal(err)
			}
			if from, why := c.get(path(2, false), 50*time.Millisecond); why != "DeadlineExceeded" || backendOf(from) != nobody {
				t.Errorf("got %q from %q of one that never answers", why, from)
			}
			if arrived := b.Arrivals(time.Time{}); len(arrived) < 2 || arrived[0].Path != path(2, false) {
				t.Errorf("%d calls arrived, want 2 or more by the path of their caller", len(arrived))
			}
		})
	}
}

func TestUsersOfAProxyLearnOfErrorsInTrailers(t *testing.T) {
	for _, s := range scenarios() {
		if !s.rpc {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			set := s.in(setting{Proxies: 1, Endpoints: 1})
			v := serving(t, product{}, s, set)
			g := &generator{setting: set, entries: []string{v.endpoints[0].Address}} // nothing is changed on the way
			c, err := g.caller(0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.close)
			if from, why := c.get(path(0, false), time.Minute); why != "" || backendOf(from) != 0 {
				t.Errorf("in health: %q from %q, want the endpoint's answer", why, from)
			}
			if err := v.backends[0].Set(fakeupstream.Errors(1)); err != nil {
				t.Fatal(err)
			}
			if from, why := c.get(path(0, false), time.Minute); why != "Unavailable" || backendOf(from) != 0 {
				t.Errorf("got %q from %q, want what the trailers say", why, from)
			}
		})
	}
}
