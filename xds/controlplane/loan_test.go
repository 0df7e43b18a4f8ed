package controlplane

import (
	"slices"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

func TestWhatTheTableLendsSomeEnvoysIsSpreadOverAll(t *testing.T) {
	k := merge.Key{Service: "api", Instance: "api-1"}
	all := loans{}
	lend := func(reporter string, epoch uint64, weight float64, trickle time.Duration, now time.Duration) {
		all.note(merge.Share{Reporter: reporter, Key: k, Epoch: epoch, Weight: weight, For: time.Second, Trickle: trickle}, now)
	}
	check := func(what string, envoys int, want float64) {
		t.Helper()
		if got := all[k].weight(envoys); got != want {
			t.Errorf("%s: each gives %v, want %v", what, got, want)
		}
	}
	lend("envoy-1", 3, 0.2, 0, 0)
	lend("envoy-2", 3, 0.2, 0, 100*time.Millisecond)
	check("two of four", 4, 0.1)
	lend("envoy-1", 3, 0, 0, 200*time.Millisecond)
	check("one has given it back", 4, 0.05)
	if got := all.next(); got != 1100*time.Millisecond {
		t.Errorf("a loan ends at %v, want 1.1s", got)
	}
	if got := all.lapse(1100 * time.Millisecond); !slices.Equal(got, []merge.Key{k}) {
		t.Errorf("lapsed %v, want the endpoint", got)
	}
	check("all have lapsed", 4, 0)
	lend("envoy-1", 4, 9, 0, 0)
	check("more than there is", 2, 1)
	lend("envoy-1", 5, 0.02, time.Second, 0)
	check("another epoch takes its place", 1, 0.02)
	check("spread thin", 1000, 0.001)
	if got := all.next(); got != time.Second+trickleGrace {
		t.Errorf("a turn of a trickle ends at %v, want a moment after the next began", got)
	}
}

func TestALoanHoldsForTheVerdictThatItWasGivenFor(t *testing.T) {
	k := merge.Key{Service: "api", Instance: "api-1"}
	for _, tc := range []struct {
		state outlier.State
		epoch uint64
		want  bool
	}{
		{outlier.Probation, 3, true},
		{outlier.Suspended, 3, true},
		{outlier.Probation, 2, false},
		{outlier.Ejected, 3, false},
	} {
		b := beliefs{}
		b.note(merge.Verdict{Key: k, State: tc.state, Epoch: 3}, 0)
		if got := b.lend(k, tc.epoch, 0.1); got != tc.want {
			t.Errorf("lent at epoch %d while it is %s at 3: news %t, want %t", tc.epoch, tc.state, got, tc.want)
		}
		if b.lend(k, tc.epoch, 0.1) {
			t.Errorf("%s: the same once more is news", tc.state)
		}
	}
}
