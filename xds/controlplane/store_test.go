package controlplane

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestAMemoryIsReadAsItWasWritten(t *testing.T) {
	s := newStore(t.TempDir(), quiet())
	want := memory{
		Version: memoryVersion, Written: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Reporters: []string{"a", "b"},
		Verdicts: []merge.Verdict{{
			Key: merge.Key{Service: "api", Instance: "api-1"}, Scope: "a", State: outlier.Ramp, Epoch: 7, Rule: outlier.RuleFast,
			N: 2, RampFrom: 0.1, Age: time.Minute,
			Override: &merge.Override{Kind: merge.OverridePin, Reason: "r", By: "me", Left: time.Hour},
			Explain:  merge.Explanation{Service: "api", Reason: "why", Window: merge.Span(time.Second)},
		}},
	}
	if err := s.write(want); err != nil {
		t.Fatal(err)
	}
	got, known, err := s.load()
	if err != nil || !known {
		t.Fatalf("load: known %v, %v", known, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("memory differs (-want +got):\n%s", diff)
	}
	want.Young = true
	if err := s.write(want); err != nil {
		t.Fatal(err)
	}
	if got, known, err := s.load(); known || err != nil || len(got.Verdicts) != 1 {
		t.Errorf("of a short life: %d verdicts, known %v, %v; want them, but not to be certain of the reporters", len(got.Verdicts), known, err)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("state directory: got %v, %v; want one file and nothing half-written", entries, err)
	}
}

func TestWhatIsRememberedWithoutAFile(t *testing.T) {
	if _, known, err := newStore(t.TempDir(), quiet()).load(); !known || err != nil {
		t.Errorf("an empty directory: known %v, %v; want to know for certain that nobody was before", known, err)
	}
	if _, known, err := newStore("", quiet()).load(); known || err != nil {
		t.Errorf("no directory: known %v, %v; want not to know", known, err)
	}
	for name, content := range map[string]string{"not JSON": "{", "another version": `{"version":2}`, "an unknown state": `{"version":1,"verdicts":[{"state":"asleep"}]}`} {
		s := newStore(t.TempDir(), quiet())
		if err := os.WriteFile(filepath.Join(s.dir, memoryFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, known, err := s.load(); known || err == nil {
			t.Errorf("%s: known %v, %v; want an error", name, known, err)
		}
	}
}

func TestTheNewestMemoryIsWrittenEvenAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t.TempDir(), quiet())
		ctx, cancel := context.WithCancel(t.Context())
		for _, id := range []string{"first", "second", "third"} {
			s.keep(memory{Reporters: []string{id}}) // nobody writes yet: the newest wins
		}
		cancel()
		if err := s.run(ctx); err != nil {
			t.Fatal(err)
		}
		if got, _, err := s.load(); err != nil || len(got.Reporters) != 1 || got.Reporters[0] != "third" {
			t.Errorf("kept: got %v, %v; want third", got.Reporters, err)
		}
	})
}

func TestAFailureToWriteIsCountedAndSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		s := newStore(filepath.Join(t.TempDir(), "gone"), slog.New(slog.NewTextHandler(&log, nil)))
		go func() { _ = s.run(t.Context()) }() // returns nil at the end of the test
		s.keep(memory{})
		synctest.Wait()
		if got := s.failed.Load(); got != 1 || !strings.Contains(log.String(), "verdicts are not kept over a restart") {
			t.Errorf("failures: got %d with the log %q, want 1 that is logged", got, log.String())
		}
	})
}
