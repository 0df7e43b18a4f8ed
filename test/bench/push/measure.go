package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// calm is how long the machine is left alone before something is measured.
const calm = 300 * time.Millisecond

// measured is what one turn of a server brought at one rate.
type measured struct {
	first, users, half, last   []time.Duration
	cpuServer, cpuClients      time.Duration // for each client and verdict
	memoryServer, memoryClient int64         // for each client
}

// measure gives a server its turn: it starts, a fleet comes, verdicts go out at each of
// the rates.
func measure(ctx context.Context, o options, s setting, f feed, tell func(rate int, m measured)) (failed error) {
	r, err := f.serve(initial(s))
	if err != nil {
		return err
	}
	defer func() { failed = errors.Join(failed, r.stop()) }()
	before := settled()
	clients, err := startFleet(ctx, fleet{setting: s, Address: r.address, Profile: o.profileOf(f, "clients")})
	if err != nil {
		return err
	}
	defer clients.stop()
	ready, err := clients.hear(ctx, o.within)
	if err != nil {
		return err
	}
	if !ready.Ready {
		return errors.New("the clients speak of verdicts before there are any")
	}
	m := measured{memoryServer: (memory() - before) / int64(s.Streams), memoryClient: ready.Memory / int64(s.Streams)}
	stop, err := startProfile(o.profileOf(f, "server"))
	if err != nil {
		return err
	}
	defer func() { failed = errors.Join(failed, stop()) }()
	var nodes []string
	for i := range s.Streams {
		if isUser(i, s) {
			nodes = append(nodes, nodeID(i))
		}
	}
	next := hot // the number of the next verdict
	for _, rate := range o.rates {
		n := o.verdicts
		if rate > 10 {
			n *= 10
		}
		m := m
		if err := m.verdicts(ctx, o, s, clients, rate, next, n, func(verdict int) error {
			return r.publish(assignment(s, verdict%hot, verdict), nodes)
		}); err != nil {
			return err
		}
		next += n
		tell(rate, m)
	}
	return nil
}

// verdicts publishes n verdicts at a rate, and waits for each to be everywhere.
func (m *measured) verdicts(ctx context.Context, o options, s setting, clients *process, rate, from, n int, publish func(int) error) error {
	began := make([]time.Duration, n)
	published := make(chan error, 1)
	cpuServer, cpuClients, err := clients.cpu()
	if err != nil {
		return err
	}
	go func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for i := range n {
			began[i] = monotonic()
			if err := publish(from + i); err != nil {
				published <- err
				return
			}
			<-tick.C
		}
		published <- nil
	}()
	heard := make([]word, 0, n)
	for len(heard) < n {
		w, err := clients.hear(ctx, o.within)
		if err != nil {
			return err
		}
		heard = append(heard, w)
	}
	if err := <-published; err != nil { // also: began is all written
		return err
	}
	for _, w := range heard {
		at := began[w.Verdict-from]
		m.first = append(m.first, w.First-at)
		m.users = append(m.users, w.Users-at)
		m.half = append(m.half, w.Half-at)
		m.last = append(m.last, w.Last-at)
	}
	time.Sleep(calm) // the last ACKs
	serverAfter, clientsAfter, err := clients.cpu()
	if err != nil {
		return err
	}
	each := time.Duration(s.Streams * n)
	m.cpuServer, m.cpuClients = (serverAfter-cpuServer)/each, (clientsAfter-cpuClients)/each
	return nil
}

// process is the process of the clients.
type process struct {
	command *exec.Cmd
	input   io.WriteCloser
	words   chan word
}

func startFleet(ctx context.Context, f fleet) (*process, error) {
	spec, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{command: exec.CommandContext(ctx, self), words: make(chan word, 1000)}
	p.command.Env = append(os.Environ(), fmt.Sprintf("%s=%s", fleetSpec, spec))
	p.command.Stderr = os.Stderr
	out, err := p.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if p.input, err = p.command.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.words)
		for dec := json.NewDecoder(out); ; {
			var w word
			if dec.Decode(&w) != nil {
				return
			}
			p.words <- w
		}
	}()
	return p, nil
}

// stop ends the clients.
func (p *process) stop() {
	_ = p.input.Close()
	for range p.words { // until its end: Wait closes the pipe
	}
	_ = p.command.Wait() // it has said on standard error what was wrong
}

// hear waits for the clients' next word.
func (p *process) hear(ctx context.Context, within time.Duration) (word, error) {
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case w, ok := <-p.words:
		if !ok {
			return word{}, errors.New("the clients have ended")
		}
		return w, nil
	case <-late.C:
		return word{}, fmt.Errorf("the clients have not been told everything within %v", within)
	case <-ctx.Done():
		return word{}, ctx.Err()
	}
}

// cpu is what this process and that of the clients have used so far.
func (p *process) cpu() (server, clients time.Duration, err error) {
	if server, err = clock(unix.CLOCK_PROCESS_CPUTIME_ID); err != nil {
		return 0, 0, err
	}
	// The clock of another process: clock_getcpuclockid(3).
	const perProcess = 2
	clients, err = clock(int32(^p.command.Process.Pid<<3 | perProcess))
	return server, clients, err
}

func clock(id int32) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		return 0, fmt.Errorf("clock %d: %w", id, err)
	}
	return time.Duration(ts.Nano()), nil
}

// monotonic is a clock that all processes of the machine share.
func monotonic() time.Duration {
	now, err := clock(unix.CLOCK_MONOTONIC)
	if err != nil {
		panic(err) // every Linux has it
	}
	return now
}

// settled is the memory when what the turn before has left is gone.
func settled() int64 {
	now := memory()
	for {
		time.Sleep(calm)
		later := memory()
		if later > now-now/100 {
			return later
		}
		now = later
	}
}

// memory is what is alive on the heap, and all stacks.
func memory() int64 {
	for range 3 { // pools let go of what they hold in the second, what hung on that goes in the third
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
