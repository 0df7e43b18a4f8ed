package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a product that runs, or nothing at all: the way without a proxy.
type process struct {
	name, version, address string
	begun                  time.Time
	command                *exec.Cmd
	ended                  chan struct{}
	err                    error         // how it ended; read only after ended
	output                 *bytes.Buffer // likewise
}

// start starts the product for the work.
func (p product) start(w work, dir, backend, sink string) (*process, error) {
	if need := p.cores + 2; p.cores > 1 && runtime.NumCPU() < need {
		return nil, fmt.Errorf("needs %d cores, here are %d: load and server want cores of their own", need, runtime.NumCPU())
	}
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
	s, err := p.settingsFor(w, dir, backend, sink)
	if err != nil {
		return nil, err
	}
	argv := append([]string{path}, p.args(s)...)
	if cores := proxyCores(s.Cores); cores != "" {
		argv = append([]string{"taskset", "-c", cores}, argv...)
	}
	run := &process{name: p.name, version: version, address: s.Listen, begun: time.Now(), ended: make(chan struct{}), output: new(bytes.Buffer)}
	run.command = exec.Command(argv[0], argv[1:]...)
	run.command.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(s.Cores))
	run.command.Stdout, run.command.Stderr = run.output, run.output
	if err := run.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(run.ended)
		run.err = run.command.Wait()
	}()
	return run, nil
}

// wait tries until something comes through the proxy.
func (p *process) wait(ctx context.Context, every time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("ended at once: %w\n%s", p.err, p.output)
		case <-ctx.Done():
			return fmt.Errorf("not ready after 20 s: %w", err)
		case <-time.After(every):
		}
	}
}

// stop ends the process, asking first.
func (p *process) stop() {
	if p.command == nil {
		return
	}
	_ = p.command.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.ended:
	case <-time.After(3 * time.Second):
		_ = p.command.Process.Kill()
		<-p.ended
	}
}

// pids are the process and its children: nginx and HAProxy may fork.
func (p *process) pids() []string {
	pid := strconv.Itoa(p.command.Process.Pid)
	text, err := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	if err != nil {
		return []string{pid}
	}
	return append([]string{pid}, strings.Fields(string(text))...)
}

// cpu is the user plus system time that the kernel has charged to the process, read as
// nanoseconds per thread because /proc/PID/stat counts in ticks of 10 ms.
func (p *process) cpu() (time.Duration, error) {
	if p.command == nil {
		return 0, nil
	}
	var total time.Duration
	for _, pid := range p.pids() {
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
		return 0, fmt.Errorf("no CPU time in /proc for process %d: has it ended?\n%s", p.command.Process.Pid, p.output)
	}
	return total, nil
}

// rss is how many bytes of the process are in memory.
func (p *process) rss() (float64, error) {
	total := 0.0
	for _, pid := range p.pids() {
		text, err := os.ReadFile("/proc/" + pid + "/status")
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
				if err != nil {
					return 0, err
				}
				total += kb * 1024
			}
		}
	}
	return total, nil
}

// syscalls counts the system calls of the process for as long as during runs.
func (p *process) syscalls(ctx context.Context, during func() error) (float64, error) {
	counter, err := exec.LookPath("perf")
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	count := exec.CommandContext(ctx, counter, "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", strings.Join(p.pids(), ","))
	count.Cancel = func() error { return count.Process.Signal(os.Interrupt) }
	var out bytes.Buffer
	count.Stderr = &out
	if err := count.Start(); err != nil {
		return 0, err
	}
	time.Sleep(200 * time.Millisecond) // until it looks
	err = during()
	cancel()
	_ = count.Wait() // that it was interrupted
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseFloat(strings.Split(strings.TrimSpace(out.String()), ",")[0], 64)
	if err != nil {
		return 0, fmt.Errorf("perf stat: %s", out.String())
	}
	return n, nil
}

// proxyCores are what taskset gives a proxy: all but the first, which is the load's;
// "": the machine has no second, or there is no taskset.
func proxyCores(n int) string {
	if _, err := exec.LookPath("taskset"); err != nil || runtime.NumCPU() < n+1 {
		return ""
	}
	return fmt.Sprintf("1-%d", n)
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
		if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.ESRCH) {
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
