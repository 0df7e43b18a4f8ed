// Package process builds and runs the programs that a benchmark compares, and reads what
// the kernel charges them.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Process is a program that runs.
type Process struct {
	Begun  time.Time
	PID    int
	cmd    *exec.Cmd
	ended  chan struct{}
	err    error // how it ended; read only after ended
	output Log
}

// Log is what a program has written so far. It is safe for concurrent use.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write appends.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String is everything so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Start starts a program with these variables beside those of this process.
func Start(argv, env []string) (*Process, error) {
	p := &Process{Begun: time.Now(), ended: make(chan struct{})}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.PID = p.cmd.Process.Pid
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

// Output is what the program has written so far.
func (p *Process) Output() string { return p.output.String() }

// Ended is how the program has ended, whatever its status; nil: it runs.
func (p *Process) Ended() error {
	select {
	case <-p.ended:
		return errors.New(p.cmd.ProcessState.String())
	default:
		return nil
	}
}

// Wait tries until it works, for at most 20 s.
func (p *Process) Wait(ctx context.Context, every time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("ended at once: %w\n%s", p.err, p.Output())
		case <-ctx.Done():
			return fmt.Errorf("not ready after 20 s: %w\n%s", err, p.Output())
		case <-time.After(every):
		}
	}
}

// Stop ends the program, asking first.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.ended:
	case <-time.After(3 * time.Second):
		p.Kill()
	}
}

// Kill ends the program as a crash would.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.ended
}

// PIDs are the process and its children: nginx and HAProxy may fork.
func (p *Process) PIDs() []string {
	pid := strconv.Itoa(p.PID)
	text, err := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
	if err != nil {
		return []string{pid}
	}
	return append([]string{pid}, strings.Fields(string(text))...)
}

// CPU is the user plus system time that the kernel has charged to the process, read as
// nanoseconds per thread because /proc/PID/stat counts in ticks of 10 ms.
func (p *Process) CPU() (time.Duration, error) {
	var total time.Duration
	for _, pid := range p.PIDs() {
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
		return 0, fmt.Errorf("no CPU time in /proc for process %d: has it ended?\n%s", p.PID, p.Output())
	}
	return total, nil
}

// Ports that are given out lie below those that systems choose themselves (Linux from 32768
// on, others from 49152): so nobody who listens on port 0, or connects, gets one before
// the program that it is for has begun to listen.
const (
	firstPort = 20000
	ports     = 12000
)

var nextPort atomic.Uint32

func init() { nextPort.Store(rand.Uint32N(ports)) } // several programs may run at once

// FreeAddress finds a loopback port that is free at this moment, another one each time.
func FreeAddress() (string, error) {
	var err error
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", firstPort+nextPort.Add(1)%ports)
		var l net.Listener
		if l, err = net.Listen("tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", fmt.Errorf("no free port from %d to %d: %w", firstPort, firstPort+ports-1, err)
}
