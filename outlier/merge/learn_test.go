package merge

import (
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// What takes an endpoint out, and the probes that it gets then, say nothing of how it
// does when all is well. Nothing else fails here, so that no rate has a reason to rise.
func TestACrashIsNoPartOfTheUsualErrorRate(t *testing.T) {
	f := newFleet(t, mesh{callers: 4, bystanders: 4, endpoints: 4, rate: 10, seed: 7})
	f.run(3 * time.Minute)
	for round := range 12 {
		i, down := round%4, []time.Duration{3 * time.Minute, 20 * time.Second, time.Second}[round%3]
		e := f.table.endpoints[f.targets[i].Key]
		usual, pg := e.errors, e.group.baseline.Pg
		risen := func() bool { return e.errors > usual+1e-4 || e.group.baseline.Pg > pg+1e-4 }
		f.targets[i].fault = always(crashed)
		if _, ok := f.ejected(i, 10*time.Second); !ok {
			t.Fatalf("endpoint %d is not ejected", i)
		}
		if f.until(f.now+down, risen) {
			t.Errorf("endpoint %d is %s, and its error rate rises from %v to %v, that of all from %v to %v", i, f.state(i), usual, e.errors, pg, e.group.baseline.Pg)
		}
		f.targets[i].fault = always(works)
		if !f.until(f.now+2*time.Minute, func() bool { return !f.state(i).Out() }) {
			t.Fatalf("endpoint %d is %s", i, f.state(i))
		}
		if f.until(f.now+time.Minute, risen) {
			t.Errorf("endpoint %d is back, and its error rate rises from %v to %v, that of all from %v to %v", i, usual, e.errors, pg, e.group.baseline.Pg)
		}
	}
}

func TestWhatAnEndpointSuffersAfterItsReturnIsLearned(t *testing.T) {
	f := newFleet(t, mesh{callers: 5, endpoints: 6, rate: 20, base: 0.001, seed: 7})
	f.run(time.Minute)
	f.targets[2].fault = always(crashed)
	if _, ok := f.ejected(2, 10*time.Second); !ok {
		t.Fatal("not ejected")
	}
	f.targets[2].fault = always(works)
	if !f.until(f.now+2*time.Minute, func() bool { return f.state(2) == outlier.In }) {
		t.Fatalf("it is %s", f.state(2))
	}
	f.targets[2].base = 0.03 // less than what is found within a minute
	f.run(time.Minute)
	if s := f.state(2); s != outlier.In {
		t.Fatalf("it is %s", s)
	}
	if got := f.status(2).ErrorRate; got < 0.01 || got > 0.06 {
		t.Errorf("a minute at 3 %% and its error rate is %v", got)
	}
}
