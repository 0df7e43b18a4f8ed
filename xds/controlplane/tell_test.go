package controlplane

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

func TestALogSaysWhyInASentenceToPeopleAndAsDataToPrograms(t *testing.T) {
	for _, tc := range []struct {
		name    string
		explain merge.Explanation
		want    string
	}{
		{
			"a verdict", merge.Explanation{
				Reason: "9 of 18 attempts failed within 105ms, told by 6 reporters: T 15.1 is over 14.4", T: 15.1, Next: "probes", ETA: merge.Span(973 * time.Millisecond),
				Guards: []merge.Guard{{Name: "cap", Pass: true, Detail: "0 of 6 endpoints are out"}},
			},
			`why="9 of 18 attempts failed within 105ms, told by 6 reporters: T 15.1 is over 14.4; next: probes, in 973ms"`,
		},
		{
			"one that was held back", merge.Explanation{
				Reason: "9 of 18 attempts failed", T: 15.1, Next: "judged again, if the evidence still says so", ETA: merge.Span(time.Second),
				Guards: []merge.Guard{{Name: "group", Pass: true}, {Name: "cap", Detail: "fleet: 4 of 6 endpoints would be out, 3 may be"}},
			},
			`why="fleet: 4 of 6 endpoints would be out, 3 may be; against it speaks: 9 of 18 attempts failed; next: judged again, if the evidence still says so, in 1s"`,
		},
	} {
		v := merge.Verdict{Key: merge.Key{Service: "api", Instance: "api-1"}, State: outlier.Ejected, Rule: outlier.RuleFast, Explain: tc.explain}
		var out bytes.Buffer
		slog.New(slog.NewTextHandler(&out, nil)).Info("verdict", slog.Any("why", why{v}))
		if got := out.String(); !strings.Contains(got, tc.want) {
			t.Errorf("%s, to people: %s want %s", tc.name, got, tc.want)
		}
		out.Reset()
		slog.New(slog.NewJSONHandler(&out, nil)).Info("verdict", slog.Any("why", why{v}))
		var got struct {
			Why merge.Explanation `json:"why"`
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Why.T != 15.1 || len(got.Why.Guards) != len(tc.explain.Guards) {
			t.Errorf("%s, to programs: %s, %v", tc.name, out.Bytes(), err)
		}
	}
}

func TestWhatChangesHowEndpointsAreUsedIsLoggedAboveDebug(t *testing.T) {
	for kind, want := range map[merge.EventKind]slog.Level{
		merge.EventMuted: slog.LevelWarn, merge.EventGroup: slog.LevelWarn, merge.EventPace: slog.LevelInfo,
		merge.EventSuspicion: slog.LevelDebug, merge.EventContradicted: slog.LevelDebug, merge.EventPaceHeld: slog.LevelDebug,
	} {
		if got := levelOf(kind); got != want {
			t.Errorf("%s is logged at %v, want %v", kind, got, want)
		}
	}
}

func TestOneThingIsNoThings(t *testing.T) {
	for n, want := range map[int]string{0: "0 services", 1: "1 service", 2: "2 services"} {
		if got := count(n, "service"); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
