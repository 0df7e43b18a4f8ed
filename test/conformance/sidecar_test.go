package conformance

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/proxy"
	"github.com/overhear-mesh/overhear/proxy/config"
)

// require is the environment variable that turns a skipped test into a failed one.
const require = "OVERHEAR_REQUIRE_CONFORMANCE"

// missing ends a test that lacks a tool.
func missing(t *testing.T, tool string, err error) {
	t.Helper()
	if os.Getenv(require) == "1" {
		t.Fatalf("no %s, and %s=1: %v", tool, require, err)
	}
	t.Skipf("no %s: %v", tool, err)
}

// built returns the directory with the programs of Go packages, which are made once
// for each version of them.
func built(t *testing.T, name string, build func(dir string) *exec.Cmd) string {
	t.Helper()
	root, err := os.UserCacheDir()
	if err != nil {
		missing(t, name, err)
	}
	dir := filepath.Join(root, "overhear-"+name)
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return dir
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		missing(t, name, err)
	}
	cmd := build(dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("%s", out)
		missing(t, name, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "complete"), nil, 0o644); err != nil {
		missing(t, name, err)
	}
	return dir
}

// sidecar runs one of this configuration until the test ends.
func sidecar(t *testing.T, file string) *proxy.Sidecar {
	t.Helper()
	s, stop := startSidecar(t, file)
	t.Cleanup(stop)
	return s
}

// startSidecar runs one until stop.
func startSidecar(t *testing.T, file string) (s *proxy.Sidecar, stop func()) {
	t.Helper()
	return startSidecarWith(t, proxy.Options{}, file)
}

func startSidecarWith(t *testing.T, options proxy.Options, file string) (s *proxy.Sidecar, stop func()) {
	t.Helper()
	cfg, err := config.Decode("sidecar.yaml", []byte("admin: {address: \"off\"}\n"+file), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	s, err = proxy.New(cfg, options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for s.Ready() != "" {
		select {
		case err := <-ended:
			ended <- err
			cancel()
			t.Fatalf("sidecar ended: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	return s, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("sidecar: %v", err)
		}
	}
}

// port is that of a sidecar's listener.
func port(t *testing.T, s *proxy.Sidecar, name string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(s.Addr(name).String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// kilobyte answers with so much, once it has read the request.
func kilobyte(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	_, _ = w.Write(make([]byte, 1024))
}

// modern is a backend that speaks HTTP/2, older one that does not.
func modern(t *testing.T) string { return backend(t, only2()) }

func older(t *testing.T) string { return backend(t, nil) }

func backend(t *testing.T, protocols *http.Protocols) string {
	t.Helper()
	return backendOf(t, protocols, kilobyte)
}

// backendOf is a backend that does as handler says.
func backendOf(t *testing.T, protocols *http.Protocols, handler http.HandlerFunc) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: handler, Protocols: protocols, ErrorLog: log.New(io.Discard, "", 0)}
	t.Cleanup(func() { _ = srv.Close() })
	go func() { _ = srv.Serve(ln) }()
	return ln.Addr().String()
}

// only2 is HTTP/2 without being asked.
func only2() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}
