package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/test/recording"
	"github.com/overhear-mesh/overhear/xds/report"
)

func TestMain(m *testing.M) {
	time.Local = time.UTC // times of day are part of what is printed
	testscript.Main(m, map[string]func(){"controlplane": main})
}

// TestScripts runs the command as an operator does.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			env.Setenv("OVERHEAR_API_TOKEN", "") // whatever the developer has
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"address":  freeAddress,
			"damage":   damage,
			"expand":   expand,
			"ready":    waitReady,
			"record":   record,
			"shows":    waitShows,
			"truncate": truncate,
		},
	})
}

// freeAddress puts a loopback address that nobody listens on into a variable.
func freeAddress(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: address VARIABLE")
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], lis.Addr().String())
	ts.Check(lis.Close())
}

// expand replaces variables in a file.
func expand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: expand FILE")
	}
	text := os.Expand(ts.ReadFile(args[0]), ts.Getenv)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// record writes what four sidecars may have recorded of four endpoints.
func record(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: record")
	}
	bad := recording.Key(2)
	change := func(at time.Duration, epoch uint64, from, to outlier.State) report.HeldChange {
		return report.HeldChange{Key: bad, From: from, To: to, Rule: outlier.RuleFast, Fleet: true, Epoch: epoch, At: at}
	}
	_, err := recording.Fleet{
		Sidecars: 4, Endpoints: 4, Rate: 10,
		Start: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), Length: time.Minute,
		Fails: func(sidecar, endpoint int, at time.Duration) float64 {
			switch {
			case endpoint == 2 && at >= 20*time.Second && at < 30*time.Second:
				return 0.5
			case endpoint == 3 && sidecar == 3 && at >= 40*time.Second && at < 45*time.Second:
				return 0.9
			}
			return 0
		},
		Held: []report.HeldChange{
			change(20700*time.Millisecond, 1, outlier.In, outlier.Ejected), change(30*time.Second, 4, outlier.Ejected, outlier.Ramp),
			change(40*time.Second, 5, outlier.Ramp, outlier.In),
		},
	}.Write(ts.MkAbs("."))
	ts.Check(err)
}

// truncate takes the last byte off a file, as a crash in the middle of a write may.
func truncate(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: truncate FILE")
	}
	text := ts.ReadFile(args[0])
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text[:len(text)-1]), 0o600))
}

// damage changes a byte near the end of a file.
func damage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: damage FILE")
	}
	text := []byte(ts.ReadFile(args[0]))
	text[len(text)-10] ^= 0xff
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), text, 0o600))
}

// waitReady waits until a control plane answers its clients.
func waitReady(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ready ADDRESS")
	}
	wait(ts, "http://"+args[0]+"/ready", func(status int, _ string) bool { return status == http.StatusOK })
}

// waitShows waits until the status of a control plane contains a text, or with !
// until it does not.
func waitShows(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: [!] shows ADDRESS TEXT")
	}
	wait(ts, "http://"+args[0]+"/api/v1/status", func(status int, body string) bool {
		return status == http.StatusOK && strings.Contains(body, args[1]) != neg
	})
}

func wait(ts *testscript.TestScript, url string, done func(status int, body string) bool) {
	// Real processes go at the pace of a busy machine: this is only how long a
	// broken one may hold up the test.
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
		resp, err := http.Get(url)
		if err != nil {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err == nil && done(resp.StatusCode, string(body)) {
			return
		}
	}
	ts.Fatalf("%s did not say what was waited for", url)
}
