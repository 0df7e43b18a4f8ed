package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/xds/controlplane"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestWhyReadsWell prints answers of the API and compares them with what a person
// has read and found good.
func TestWhyReadsWell(t *testing.T) {
	answers, err := filepath.Glob("testdata/golden/why-*.json")
	if err != nil || len(answers) == 0 {
		t.Fatalf("no answers to print: %v", err)
	}
	for _, path := range answers {
		t.Run(filepath.Base(path), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var why controlplane.Why
			d := json.NewDecoder(bytes.NewReader(data))
			d.DisallowUnknownFields()
			if err := d.Decode(&why); err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := printWhy(&got, why); err != nil {
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
