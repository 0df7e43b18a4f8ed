package merge

import (
	"slices"
	"testing"
	"time"
)

func TestThoseWhoSendMostLatelyAreNamedFirst(t *testing.T) {
	b := newBench(t, DefaultPolicy(), 6, 3)
	for reporter, n := range map[string]uint32{"r0": 5, "r1": 500, "r3": 50, "r4": 1000, "r5": 2000} {
		b.report(reporter, "e1", good(n), 2*time.Second)
	}
	b.Step(2 * time.Second)
	if got, want := b.Senders(Key{"api", "e1"}, 3*time.Second), []string{"r5", "r4", "r1", "r3", "r0"}; !slices.Equal(got, want) {
		t.Errorf("senders are %q, want %q", got, want)
	}
	// Those who went on: r4 has stopped, r5 is gone.
	for i, reporter := range []string{"r0", "r1", "r3"} {
		b.report(reporter, "e1", good(uint32(1+i)), 40*time.Second)
	}
	b.report("r4", "e1", good(0), 40*time.Second)
	b.Leave("r5", 40*time.Second)
	b.Step(40 * time.Second)
	if got, want := b.Senders(Key{"api", "e1"}, 41*time.Second), []string{"r1", "r3", "r0"}; !slices.Equal(got, want) {
		t.Errorf("senders are %q, want %q", got, want)
	}
	if got := b.Senders(Key{"api", "nobody"}, 41*time.Second); len(got) != 0 {
		t.Errorf("senders to an endpoint that there is not are %q", got)
	}
}
