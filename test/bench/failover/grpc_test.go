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
			v, err := startService(t.Context(), p, scenario{bad: 1}, setting{Endpoints: 1})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(v.close)
			c, err := dialRPC(p, 2, []string{v.endpoints[0].Address})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(c.close)
			b := v.backends[0]
			if why := c.get(path(2, false), time.Minute); why != "" {
				t.Errorf("in health: %s", why)
			}
			if err := b.Set(fakeupstream.Errors(1)); err != nil {
				t.Fatal(err)
			}
			if why := c.get(path(2, false), time.Minute); why != "Unavailable" {
				t.Errorf("got %q, want what the trailers say", why)
			}
			if err := b.Set(fakeupstream.Hang()); err != nil {
				t.Fatal(err)
			}
			if why := c.get(path(2, false), 50*time.Millisecond); why != "DeadlineExceeded" {
				t.Errorf("got %q from one that never answers", why)
			}
			if arrived := b.Arrivals(time.Time{}); len(arrived) < 2 || arrived[0].Path != path(2, false) {
				t.Errorf("%d calls arrived, want 2 or more by the path of their caller", len(arrived))
			}
		})
	}
}
