package main

import (
	"errors"
	"net"
	"os"
	"slices"
	"strings"
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
	if err := v.heal(nil); err != nil {
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
	if err := v.heal(nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want that an endpoint could not be restarted", err)
	}
}

// listed are the lines of the endpoints in what the control plane reads.
func listed(t *testing.T, m *site) (lines []string) {
	t.Helper()
	text, err := os.ReadFile(m.Config)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "instance: ") {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestTheControlPlaneIsToldOfVersionsAndOfWhoTakesAnAddressOver(t *testing.T) {
	v := serving(t, product{}, scenario{canary: true, bad: 3}, setting{Endpoints: 4})
	m := &site{Dir: t.TempDir(), Endpoints: v.endpoints}
	if err := m.write("controlplane.yaml"); err != nil {
		t.Fatal(err)
	}
	before := listed(t, m)
	for i, want := range []string{"version: v2", "version: v2", "version: v2", "version: v1"} {
		if !strings.Contains(before[i], want) {
			t.Errorf("endpoint %d: got %s, want %s", i, before[i], want)
		}
	}
	if err := (&fleet{mesh: m}).replace(0); err != nil {
		t.Fatal(err)
	}
	after := listed(t, m)
	if got, want := after[0], strings.ReplaceAll(before[0], "api-0", "api-0-new"); got != want || !slices.Equal(after[1:], before[1:]) {
		t.Errorf("got %s, want %s and the rest as before", got, want)
	}
	if err := (&fleet{}).replace(0); err != nil {
		t.Errorf("without a control plane: %v", err)
	}
}
