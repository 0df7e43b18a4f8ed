package cluster

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

func TestALogSaysWhyInASentenceToPeopleAndAsDataToPrograms(t *testing.T) {
	change := outlier.Change{
		ID: "api-1", From: outlier.In, To: outlier.Ejected, Rule: outlier.RuleFast, At: time.Minute,
		Explain: outlier.Explanation{
			Rule: outlier.RuleFast, Counts: outlier.Counts{N: 40, Server: 9}, Window: time.Second, Score: 14_250, Threshold: 13_700,
			Next: "probe after the hold-off", NextAt: time.Minute + 1100*time.Millisecond,
		},
	}
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("endpoint ejected", slog.Any("why", why{change}))
	const want = `why="9 of 40 attempts failed within 1s (server error 9): score 14.2, a verdict takes 13.7; next: probe after the hold-off, in 1.1s"`
	if got := out.String(); !strings.Contains(got, want) {
		t.Errorf("to people: %s want %s", got, want)
	}
	out.Reset()
	slog.New(slog.NewJSONHandler(&out, nil)).Info("endpoint ejected", slog.Any("why", why{change}))
	var got struct {
		Why outlier.Explanation `json:"why"`
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Why.Score != 14_250 || got.Why.Counts != change.Explain.Counts {
		t.Errorf("to programs: %s, %v", out.Bytes(), err)
	}
}
