package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestAnswersReadWell prints answers of the API and compares them with what a
// person has read and found good.
func TestAnswersReadWell(t *testing.T) {
	golden(t, "why", printWhy)
	golden(t, "status", printStatus)
	golden(t, "reporters", printReporters)
	golden(t, "clients", printClients)
}

func golden[T any](t *testing.T, kind string, print func(io.Writer, T) error) {
	t.Helper()
	answers, err := filepath.Glob("testdata/golden/" + kind + "-*.json")
	if err != nil || len(answers) == 0 {
		t.Fatalf("no answers to print for %s: %v", kind, err)
	}
	for _, path := range answers {
		t.Run(filepath.Base(path), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var answer T
			d := json.NewDecoder(bytes.NewReader(data))
			d.DisallowUnknownFields()
			if err := d.Decode(&answer); err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := print(&got, answer); err != nil {
				t.Fatal(err)
			}
			golden := strings.TrimSuffix(path, ".json") + ".golden"
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("%s differs (-want +got):\n%s", golden, diff)
			}
		})
	}
}
