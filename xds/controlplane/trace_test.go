package controlplane

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

var traced1 = merge.Key{Service: "api", Instance: "api-1"}

// score is a sample of an excursion that began at a second.
func score(k merge.Key, since, at time.Duration, t float64) merge.Sample {
	return merge.Sample{Key: k, Rule: outlier.RuleFast, Since: since, At: at, T: t, Sum: t + 1, Largest: 1, Threshold: 12}
}

func ejected(k merge.Key, at time.Duration) merge.Change {
	return merge.Change{To: outlier.Ejected, At: at, Verdict: merge.Verdict{Key: k, State: outlier.Ejected, Rule: outlier.RuleFast}}
}

func wall(at time.Duration) time.Time { return time.Unix(0, 0).UTC().Add(at) }

func TestATraceCoversItsExcursionFromTheBeginning(t *testing.T) {
	for _, length := range []time.Duration{100 * time.Millisecond, 5 * time.Second, 10 * time.Minute} {
		all := traces{}
		begin := time.Hour
		for i := range 1000 {
			at := begin + length*time.Duration(i)/999
			all.note([]merge.Sample{score(traced1, begin, at, float64(i))})
		}
		got := all.of(traced1, wall)
		if len(got) != 1 {
			t.Fatalf("%v: got %d traces, want 1", length, len(got))
		}
		points := got[0].Points
		if n := len(points); n > tracePoints || length >= time.Second && n < tracePoints/2 {
			t.Errorf("%v: got %d points, want %d to %d", length, n, tracePoints/2, tracePoints)
		}
		if first, last := points[0], points[len(points)-1]; first.At != wall(begin) || last.At != wall(begin+length) || last.T != 999 {
			t.Errorf("%v: from %v to %v (T %v), want from beginning to end", length, first.At, last.At, last.T)
		}
		for i := 1; i < len(points); i++ {
			if gap := points[i].At.Sub(points[i-1].At); gap <= 0 || gap > max(length/10, 2*traceGap) {
				t.Errorf("%v: points %d and %d are %v apart", length, i-1, i, gap)
			}
		}
	}
}

func TestTheTraceOfAVerdictStaysUntilTheEndpointIsWell(t *testing.T) {
	all, b := traces{}, beliefs{}
	all.note([]merge.Sample{score(traced1, time.Hour, time.Hour+time.Second, 13)})
	all.note([]merge.Sample{{Key: traced1, Rule: outlier.RuleSlow, Since: time.Hour, At: time.Hour + time.Second, T: 3, Threshold: 20}})
	change := ejected(traced1, time.Hour+time.Second)
	all.verdict(change)
	b.note(change.Verdict, change.At)

	now := change.At + 10*time.Minute
	all.forget(b, now)
	// It comes back, and something is against it again.
	all.note([]merge.Sample{score(traced1, now, now, 5)})
	got := all.of(traced1, wall)
	want := []Trace{
		{Since: wall(time.Hour), Verdict: wall(change.At), Points: []TracePoint{{At: wall(change.At), T: 13, Sum: 14, Largest: 1, Threshold: 12}}},
		{Since: wall(now), Points: []TracePoint{{At: wall(now), T: 5, Sum: 6, Largest: 1, Threshold: 12}}},
	}
	for i := range want {
		want[i].Rule = outlier.RuleFast
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("traces (-want +got):\n%s", diff)
	}

	b.note(merge.Verdict{Key: traced1, State: outlier.In}, now)
	all.forget(b, now+traceKeep)
	if len(all.of(traced1, wall)) == 0 {
		t.Error("forgotten at once, want a minute later")
	}
	all.forget(b, now+traceKeep+time.Second)
	if len(all) != 0 {
		t.Errorf("%d endpoints are traced, want none that is well", len(all))
	}
}

func TestANewExcursionBeginsANewTrace(t *testing.T) {
	all := traces{}
	all.note([]merge.Sample{score(traced1, time.Hour, time.Hour, 9)})
	all.note([]merge.Sample{score(traced1, 2*time.Hour, 2*time.Hour, 4)})
	if got := all.of(traced1, wall); len(got) != 1 || len(got[0].Points) != 1 || got[0].Points[0].T != 4 {
		t.Errorf("got %+v, want the new one alone", got)
	}
	hard := ejected(traced1, 2*time.Hour)
	hard.Verdict.Rule = outlier.RuleHard
	all.verdict(hard)
	if got := all.of(traced1, wall); !got[0].Verdict.IsZero() {
		t.Errorf("got %+v, want no verdict: probes gave it, not the score", got)
	}
}

func TestAZoneThatSaysWhatTheFleetSaysIsNotDrawnAgain(t *testing.T) {
	all := traces{}
	fleet := score(traced1, time.Hour, time.Hour+time.Second, 5)
	same, other := fleet, score(traced1, time.Hour, time.Hour+time.Second, 4)
	same.Scope, same.Threshold = "a", 11
	other.Scope = "b"
	all.note([]merge.Sample{fleet, same, other})
	var scopes []merge.Scope
	for _, one := range all.of(traced1, wall) {
		scopes = append(scopes, one.Scope)
	}
	if diff := cmp.Diff([]merge.Scope{merge.Fleet, "b"}, scopes); diff != "" {
		t.Errorf("traces of these scopes (-want +got):\n%s", diff)
	}
}

func TestTracesAreBounded(t *testing.T) {
	all := traces{}
	out := merge.Key{Service: "api", Instance: "out"}
	all.note([]merge.Sample{score(out, 1, 1, 13)})
	all.verdict(ejected(out, 1))
	for i := range 2 * traceEndpoints {
		all.note([]merge.Sample{score(merge.Key{Service: "api", Instance: fmt.Sprint(i)}, 2, time.Duration(i+2), 5)})
	}
	if len(all) != traceEndpoints {
		t.Errorf("%d endpoints are traced, want %d", len(all), traceEndpoints)
	}
	if all[out] == nil {
		t.Error("the one that is out was dropped")
	}
	if all[merge.Key{Service: "api", Instance: fmt.Sprint(2*traceEndpoints - 1)}] == nil {
		t.Error("the newest was dropped, want the oldest to go")
	}
	for zone := range 3 * traceRows {
		s := score(out, 1, 1, 5)
		s.Scope = merge.Scope(fmt.Sprint(zone))
		all.note([]merge.Sample{s})
	}
	if n := len(all[out].rows); n != traceRows {
		t.Errorf("one endpoint has %d traces, want at most %d", n, traceRows)
	}
}
