package main

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overhear-mesh/overhear/test/envoy"
)

//go:embed products/*
var configurations embed.FS

// product is a proxy that can be measured.
type product struct {
	name    string
	config  string                            // file in products/, a template over settings
	find    func(dir string) (string, error)  // path of the program
	args    func(config string) []string      // its arguments
	version func(path string) (string, error) // what it says of itself
	only1   bool                              // HTTP/1.1 only, and
	only2   bool                              // HTTP/2 only
}

// does reports whether the product can be given the work.
func (p product) does(w work) bool { return w.http2 && !p.only1 || !w.http2 && !p.only2 }

// settings fill a configuration's template.
type settings struct {
	Listen, ListenHost, ListenPort    string
	Admin, AdminHost, AdminPort       string
	Backend, BackendHost, BackendPort string
	Dir                               string
	HTTP2                             bool // on both sides
}

func products() []product {
	onPath := func(name string) func(string) (string, error) {
		return func(string) (string, error) {
			path, err := exec.LookPath(name)
			if err != nil {
				return "", fmt.Errorf("not on the PATH: %w", err)
			}
			return path, nil
		}
	}
	return []product{
		{
			name: "overhear", config: "overhear.yaml",
			find: func(dir string) (string, error) {
				path := filepath.Join(dir, "sidecar")
				build := exec.Command("go", "build", "-o", path, "github.com/overhear-mesh/overhear/cmd/sidecar")
				if out, err := build.CombinedOutput(); err != nil {
					return "", fmt.Errorf("go build ./cmd/sidecar: %w\n%s", err, out)
				}
				return path, nil
			},
			args: func(config string) []string { return []string{"run", "-c", config} },
			version: func(path string) (string, error) {
				out, err := exec.Command(path, "version").Output()
				return strings.TrimSpace(strings.TrimPrefix(string(out), "overhear sidecar")), err
			},
		},
		{
			name: "envoy", config: "envoy.yaml",
			find: func(string) (string, error) {
				return envoy.Locate()
			},
			args: func(config string) []string {
				return []string{"-c", config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"}
			},
			version: says("--version"),
		},
		{
			name: "haproxy", config: "haproxy.cfg", find: onPath("haproxy"),
			args:    func(config string) []string { return []string{"-db", "-f", config} },
			version: says("-v"),
		},
		{
			name: "nginx", config: "nginx.conf", find: onPath("nginx"), only1: true, // to servers
			args:    func(config string) []string { return []string{"-c", config, "-e", "/dev/null"} },
			version: says("-v"),
		},
		{
			name: "nghttpx", config: "nghttpx.conf", find: onPath("nghttpx"), only2: true,
			args:    func(config string) []string { return []string{"--conf=" + config} },
			version: says("--version"),
		},
	}
}

var versionNumber = regexp.MustCompile(`\d+\.\d+[\w.+-]*`)

func says(flag string) func(string) (string, error) {
	return func(path string) (string, error) {
		out, err := exec.Command(path, flag).CombinedOutput()
		if err != nil {
			return "", err
		}
		if v := versionNumber.Find(out); v != nil {
			return string(v), nil
		}
		return strings.TrimSpace(string(out)), nil
	}
}

// process is a product that runs.
type process struct {
	name, version, address string
	command                *exec.Cmd
	ended                  chan struct{}
	err                    error         // how it ended; read only after ended
	output                 *bytes.Buffer // likewise
}

func (p product) start(ctx context.Context, w work, dir, backend string) (*process, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	path, err := p.find(dir)
	if err != nil {
		return nil, err
	}
	version, err := p.version(path)
	if err != nil {
		return nil, fmt.Errorf("asking for its version: %w", err)
	}
	s := settings{Dir: dir, Backend: backend, HTTP2: w.http2}
	if s.Listen, err = freeAddress(); err != nil {
		return nil, err
	}
	if s.Admin, err = freeAddress(); err != nil {
		return nil, err
	}
	for address, parts := range map[string][2]*string{
		s.Listen: {&s.ListenHost, &s.ListenPort}, s.Admin: {&s.AdminHost, &s.AdminPort}, s.Backend: {&s.BackendHost, &s.BackendPort},
	} {
		if *parts[0], *parts[1], err = net.SplitHostPort(address); err != nil {
			return nil, err
		}
	}
	config := filepath.Join(dir, p.config)
	text, err := template.ParseFS(configurations, "products/"+p.config)
	if err != nil {
		return nil, err
	}
	var filled bytes.Buffer
	if err := text.Execute(&filled, s); err != nil {
		return nil, err
	}
	if err := os.WriteFile(config, filled.Bytes(), 0o600); err != nil {
		return nil, err
	}
	argv := append([]string{path}, p.args(config)...)
	if core := proxyCore(); core > 0 {
		argv = append([]string{"taskset", "-c", strconv.Itoa(core)}, argv...)
	}
	run := &process{name: p.name, version: version, address: s.Listen, ended: make(chan struct{}), output: new(bytes.Buffer)}
	run.command = exec.Command(argv[0], argv[1:]...)
	run.command.Env = append(os.Environ(), "GOMAXPROCS=1")
	run.command.Stdout, run.command.Stderr = run.output, run.output
	if err := run.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(run.ended)
		run.err = run.command.Wait()
	}()
	if err := run.ready(ctx, w, dir); err != nil {
		run.stop()
		return nil, err
	}
	return run, nil
}

// ready waits until one request is answered through the proxy.
func (p *process) ready(ctx context.Context, w work, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		_, err := w.run(ctx, p.address, dir, 10*time.Millisecond)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("ended at once: %w\n%s", p.err, p.output)
		case <-ctx.Done():
			return fmt.Errorf("not ready after 20 s: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop ends the process, asking first.
func (p *process) stop() {
	_ = p.command.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.ended:
	case <-time.After(3 * time.Second):
		_ = p.command.Process.Kill()
		<-p.ended
	}
}

// cpu is the user plus system time that the kernel has charged to the process and
// its children that it waited for, read as nanoseconds per thread because
// /proc/PID/stat counts in ticks of 10 ms.
func (p *process) cpu() (time.Duration, error) {
	var total time.Duration
	for _, pid := range append([]string{strconv.Itoa(p.command.Process.Pid)}, children(p.command.Process.Pid)...) {
		files, err := filepath.Glob(filepath.Join("/proc", pid, "task", "*", "schedstat"))
		if err != nil {
			return 0, err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				continue // the thread has ended since the listing
			}
			ns, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", file, err)
			}
			total += time.Duration(ns)
		}
	}
	if total == 0 {
		return 0, fmt.Errorf("no CPU time in /proc for process %d: has it ended?", p.command.Process.Pid)
	}
	return total, nil
}

// children lists the processes whose parent is pid: nginx and HAProxy may fork.
func children(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(text))
}

func proxyCore() int {
	if _, err := exec.LookPath("taskset"); err != nil || runtime.NumCPU() < 2 {
		return 0
	}
	return 1
}

// pinSelf binds every thread of this process, those to come included, to one core.
func pinSelf(core int) error {
	var set unix.CPUSet
	set.Set(core)
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(tid, &set); err != nil {
			return fmt.Errorf("binding to core %d: %w", core, err)
		}
	}
	return nil
}

// freeAddress finds a loopback port that is free at this moment.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
