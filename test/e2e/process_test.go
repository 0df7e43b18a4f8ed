//go:build unix

package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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

	"github.com/overhear-mesh/overhear/test/fakeupstream"
)

// binaries builds both commands, once for all tests.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "overhear-e2e-")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-o", dir, "github.com/overhear-mesh/overhear/cmd/sidecar", "github.com/overhear-mesh/overhear/cmd/controlplane").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("go build: %w\n%s", err, out)
	}
	built = dir
	return dir, err
})

var built string // what TestMain removes

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// process is one of our binaries that runs.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	log   lockedBuffer // what it has written to standard error
	out   lockedBuffer // and to standard output
	ended chan struct{}
	err   error // how, after that
}

// lockedBuffer may be read while a process writes to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// launch starts a binary, which is killed at the end of the test if need be.
func launch(t *testing.T, name string, args ...string) *process {
	t.Helper()
	dir, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(filepath.Join(dir, name), args...), ended: make(chan struct{})}
	p.cmd.Stderr, p.cmd.Stdout = &p.log, &p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s %s:\n%s", name, strings.Join(args, " "), &p.log)
		}
	})
	return p
}

// sidecar starts a sidecar of a file, which gets an admin port, and waits until it
// listens there.
func sidecar(t *testing.T, file string) *process {
	t.Helper()
	p := launch(t, "sidecar", "run", "-c", write(t, "sidecar.yaml", "admin: {address: \"127.0.0.1:0\", token: a-secret-of-tests}\n"+file))
	p.address("admin")
	return p
}

// write puts a file into a directory of its own.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// file is the process's configuration file.
func (p *process) file() string { return p.cmd.Args[len(p.cmd.Args)-1] }

// rewrite changes the configuration file, and tells the process.
func (p *process) rewrite(edit func(string) string) {
	p.t.Helper()
	text, err := os.ReadFile(p.file())
	if err == nil {
		err = os.WriteFile(p.file(), []byte(edit(string(text))), 0o600)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.signal(syscall.SIGHUP)
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// kill ends the process as a crash would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// exit waits for the end of the process and returns its exit code.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("%s has not ended after %v", p.cmd.Path, patience)
	}
	if failed, ok := errors.AsType[*exec.ExitError](p.err); ok {
		return failed.ExitCode()
	}
	return 0
}

// logged waits until a line of the log matches, and returns the groups.
func (p *process) logged(pattern string) []string {
	p.t.Helper()
	var found []string
	re := regexp.MustCompile(pattern)
	eventually(p.t, "a line in the log that matches "+pattern, func() bool {
		found = re.FindStringSubmatch(p.log.String())
		select {
		case <-p.ended:
			p.t.Fatalf("%s has ended: %v", p.cmd.Path, p.err)
		default:
		}
		return found != nil
	})
	return found
}

// address is where a listener of a sidecar listens.
func (p *process) address(listener string) string {
	p.t.Helper()
	return p.logged(`msg=listening listener=` + listener + ` address=(\S+)`)[1]
}

// ready waits until a sidecar can serve.
func (p *process) ready() *process {
	p.t.Helper()
	eventually(p.t, "a sidecar that is ready", func() bool { return get(p.address("admin"), "/ready").status == http.StatusOK })
	return p
}

// admin is a page of a sidecar's admin port.
func (p *process) admin(path string) string {
	p.t.Helper()
	a := get(p.address("admin"), path)
	if a.err != nil || a.status != http.StatusOK {
		p.t.Fatalf("%s: got %v, want an answer", path, a)
	}
	return a.body
}

// answer is what came of a request.
type answer struct {
	status int
	body   string
	header http.Header
	err    error
}

func (a answer) String() string {
	if a.err != nil {
		return a.err.Error()
	}
	return fmt.Sprintf("%d %s", a.status, a.body)
}

// connections are kept by nobody: a request must not find one that is being closed.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}

func get(address, path string) answer { return do(http.MethodGet, address, path, nil) }

func do(method, address, path string, header http.Header) answer {
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+address+path, nil)
	if err != nil {
		return answer{err: err}
	}
	for name, values := range header {
		req.Header[name] = values
	}
	res, err := client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, string(body), res.Header, err}
}

// later makes a request in the background.
func later(address string) <-chan answer {
	done := make(chan answer, 1)
	go func() { done <- get(address, "/") }()
	return done
}

// application is one server in this process.
func application(t *testing.T, cfg fakeupstream.Config) *fakeupstream.Backend {
	t.Helper()
	b, err := fakeupstream.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func refused(address string) bool {
	c, err := net.Dial("tcp", address)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// contain checks that each part is in text.
func contain(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s: want %q in:\n%s", what, part, text)
		}
	}
}
