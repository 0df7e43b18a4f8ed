package main

import (
	"errors"
	"net"
	"testing"
	"time"
)

func TestARollingRestartTakesOneEndpointAtATime(t *testing.T) {
	for _, c := range []struct {
		fault, down time.Duration
		drains      bool
	}{
		{40 * time.Second, time.Second, false}, {40 * time.Second, time.Second, true},
		{12 * time.Second, 300 * time.Millisecond, false}, {10 * time.Minute, time.Second, true},
	} {
		set := setting{Endpoints: 20, Fault: c.fault}
		closed := map[int]time.Duration{} // since when
		drained, restarted := map[int]bool{}, 0
		last := time.Duration(0)
		for _, r := range (scenario{rolling: true, drains: c.drains}).restarts(set) {
			if r.after < last {
				t.Errorf("%+v: the step at %v comes after that at %v", c, r.after, last)
			}
			last = r.after
			switch {
			case r.fault.Crashed || r.fault.Deaf:
				if len(closed) > 0 || r.fault.Crashed == c.drains || drained[r.backend] != c.drains {
					t.Errorf("%+v: endpoint %d goes by %+v while %v are down", c, r.backend, r.fault, closed)
				}
				closed[r.backend] = r.after
			case r.fault.Drains:
				drained[r.backend] = true
			default:
				if got := r.after - closed[r.backend]; got != c.down {
					t.Errorf("%+v: endpoint %d is down for %v", c, r.backend, got)
				}
				delete(closed, r.backend)
				restarted++
			}
		}
		if restarted != set.Endpoints || len(closed) > 0 || last > c.fault || last < c.fault*9/10 {
			t.Errorf("%+v: %d are restarted by %v, and %v are down", c, restarted, last, closed)
		}
	}
}

func TestARollingRestartEndsWithTheFault(t *testing.T) {
	s := scenario{rolling: true, drains: true, callers: everyone}
	v := serving(t, product{}, s, setting{Endpoints: 2, Fault: 10 * time.Hour})
	if err := v.harm(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := v.heal(); err != nil {
		t.Fatal(err)
	}
	for i, b := range v.backends {
		if f := b.Fault(); f.Drains {
			t.Errorf("endpoint %d still drains", i)
		}
	}
	v.backends[0].Close()
	if err := v.harm(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := v.heal(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want that an endpoint could not be restarted", err)
	}
}
