package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	program "github.com/overhear-mesh/overhear/test/process"
)

// process is a product that runs, or nothing at all: the way without a proxy.
type process struct {
	*program.Process       // nil: nothing
	name, version, address string
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
	run, err := program.Start(argv, []string{"GOMAXPROCS=" + strconv.Itoa(s.Cores)})
	if err != nil {
		return nil, err
	}
	return &process{Process: run, name: p.name, version: version, address: s.Listen}, nil
}

// stop ends the process, asking first.
func (p *process) stop() {
	if p.Process != nil {
		p.Stop()
	}
}

// cpu is what the kernel has charged to the process.
func (p *process) cpu() (time.Duration, error) {
	if p.Process == nil {
		return 0, nil
	}
	return p.CPU()
}

// rss is how many bytes of the process are in memory.
func (p *process) rss() (float64, error) {
	total := 0.0
	for _, pid := range p.PIDs() {
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
	count := exec.CommandContext(ctx, counter, "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", strings.Join(p.PIDs(), ","))
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
