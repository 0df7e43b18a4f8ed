package cadence_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report/cadence"
)

func TestTotalsGoWithASummaryAndWhileTheGroupIsSlow(t *testing.T) {
	var x cadence.Totals
	summary, other := cadence.Turn{Summary: true}, cadence.Turn{}
	sum := outlier.Summary{N: 10, K: 1, Overdue: 250 * time.Millisecond, Slower: 1}
	for _, step := range []struct {
		name string
		turn *cadence.Turn
		edit func()
		tell bool
		// latency is what is told of the histogram.
		latency []outlier.LatencyCount
	}{
		{"the first summary", &summary, func() { sum.Latency = []outlier.LatencyCount{{Bucket: 3, Count: 7}, {Bucket: 9, Count: 1}} }, true, []outlier.LatencyCount{{Bucket: 3, Count: 7}, {Bucket: 9, Count: 1}}},
		{"a summary without news", &summary, func() {}, false, nil},
		{"any other report", &other, func() { sum.N = 20 }, false, nil},
		{"a summary with news", &summary, func() { sum.Latency[1].Count = 4 }, true, []outlier.LatencyCount{{Bucket: 9, Count: 4}}},
		{"any other report while the group is slow", &other, func() { sum.Slower = 4 }, true, nil},
		{"and the next", &other, func() {}, true, nil},
		{"no more when it is over", &other, func() { sum.Slower = 1.5 }, false, nil},
	} {
		step.edit()
		got, tell := x.Weigh(step.turn, "api", &sum)
		if tell != step.tell {
			t.Errorf("%s: told %v, want %v", step.name, tell, step.tell)
		}
		want := merge.ClusterTotals{Service: "api", N: sum.N, K: sum.K, Overdue: sum.Overdue, Slower: sum.Slower, Latency: step.latency}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
		if step.turn.Tell {
			t.Errorf("%s: totals became a reason to report", step.name)
		}
	}
}

func TestMessagesAreBoundedAndAFewGoAtOnce(t *testing.T) {
	s := cadence.NewSchedule(cadence.DefaultConfig())
	now := time.Minute
	s.Begin("sidecar-1", now)
	var sent []time.Duration
	for end := now + 30*time.Second; now < end; now += time.Millisecond {
		s.Wake(now) // there is an answer to give at every moment
		if s.Due(now) {
			turn := s.Turn(now)
			turn.Answers = true
			s.End(&turn)
			sent = append(sent, now)
		}
	}
	if first := sent[20] - sent[0]; first > 25*time.Millisecond {
		t.Errorf("the first 20 messages took %v, want them at once", first)
	}
	if n := len(sent); n > 30*20 || n < 30*15 {
		t.Errorf("%d messages in 30 s, want at most 20 a second, and not many less", n)
	}
}

func TestALookWithoutAMessageTakesNoToken(t *testing.T) {
	s := cadence.NewSchedule(cadence.DefaultConfig())
	looks := 0
	for now := time.Minute; now < time.Minute+time.Second; now += time.Millisecond {
		s.Wake(now)
		if s.Due(now) {
			turn := s.Turn(now)
			turn.Tell = false
			s.End(&turn)
			looks++
		}
	}
	if looks < 900 {
		t.Errorf("%d looks in 1000 ms, want one each", looks)
	}
}
