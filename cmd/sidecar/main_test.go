package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEachCommandLineHasItsAnswerAndItsExitStatus(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good.yaml", "outbound: [{address: \"127.0.0.1:15001\", cluster: api}]\nclusters: [{name: api, endpoints: [{address: \"127.0.0.1:8081\"}]}]\n")
	bad := file("bad.yaml", "outbund: []\nclusters:\n  - {name: api, endpoints: [{address: nowhere}]}\n")
	const nobody = "127.0.0.1:1" // tcpmux, which no machine has
	for _, tc := range []struct {
		args     string
		status   int
		out, err string // what each begins with; empty: nothing
	}{
		{"-h", 0, "Overhear sidecar:", ""},
		{"run -help", 0, "Overhear sidecar:", ""},
		{"help", 0, "Overhear sidecar:", ""},
		{"version", 0, "overhear sidecar ", ""},
		{"validate -c " + good, 0, good + " is valid\n", ""},
		{"validate -c " + bad, 1, "", bad + `:1:1: outbund: unknown field: did you mean "outbound"?` + "\n" + bad + ":3:"},
		{"validate -c " + dir + "/none.yaml", 1, "", "sidecar: "},
		{"run -c " + bad, 1, "", bad + ":1:1: outbund"},
		{"status -address " + nobody, 1, "", "sidecar: nothing listens at " + nobody},
		{"status -o xml", 2, "", "sidecar status: -o xml: want table or json\n"},
		{"status -addrss x", 2, "", "sidecar status: there is no flag -addrss: did you mean -address?\n"},
		{"rnu", 2, "", `sidecar: there is no verb "rnu": did you mean "run"?` + "\n"},
		{"zebra", 2, "", `sidecar: there is no verb "zebra": want run, validate, status, version, help` + "\n"},
		{"validate -c", 2, "", "sidecar validate: flag needs an argument: -c\n"},
		{"version now", 2, "", `sidecar version: unexpected argument "now"` + "\n"},
	} {
		var out, errs bytes.Buffer
		status := run(strings.Fields(tc.args), &out, &errs)
		if status != tc.status {
			t.Errorf("sidecar %s: exit status %d, want %d", tc.args, status, tc.status)
		}
		for _, said := range []struct{ where, got, want string }{{"stdout", out.String(), tc.out}, {"stderr", errs.String(), tc.err}} {
			if !strings.HasPrefix(said.got, said.want) || said.want == "" && said.got != "" {
				t.Errorf("sidecar %s: %s is %q, want it to begin with %q", tc.args, said.where, said.got, said.want)
			}
		}
	}
}
