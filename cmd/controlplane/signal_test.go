//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/xds/controlplane"
)

// TestSignals is no script, because scripts cannot send SIGHUP.
func TestSignals(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	api := lis.Addr().String()
	lis.Close()
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	good := fmt.Sprintf("control_plane: {xds: '127.0.0.1:0', http: %q, return_wait: 0s}\nservices: []\n", api)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(good)
	cmd := exec.Command("controlplane", "run", "-c", path)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill() }() // if it still lives
	failures := func(want uint64) {
		t.Helper()
		var st controlplane.Status
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(20 * time.Millisecond) {
			resp, err := http.Get("http://" + api + "/api/v1/status")
			if err != nil {
				continue
			}
			err = json.NewDecoder(resp.Body).Decode(&st)
			resp.Body.Close()
			if err == nil && st.Registry.Failures == want {
				return
			}
		}
		t.Fatalf("failed reloads: got %d, want %d; the log:\n%s", st.Registry.Failures, want, &log)
	}
	failures(0)
	write("services: nonsense\n")
	failures(1)
	// The same file is refused again only because somebody asks.
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	failures(2)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: got %v, want exit status 0; the log:\n%s", err, &log)
	}
}
