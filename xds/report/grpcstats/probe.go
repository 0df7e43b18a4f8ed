package grpcstats

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

const (
	maxProbes    = 16 // under way at a time
	probeTimeout = time.Second
)

// probe is what came of one.
type probe struct {
	result     outlier.ProbeResult
	start, end time.Duration
}

// prober connects to endpoints.
type prober struct {
	ctx     context.Context // ends those under way
	now     func() time.Duration
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	running sync.WaitGroup

	// under Reporter.mu
	under  int // way
	closed bool
}

// runLocked starts a probe, after which then is called under the lock. It reports false
// where there is no room for one more.
func (r *Reporter) runLocked(at netip.AddrPort, timeout time.Duration, then func(probe)) bool {
	p := &r.prober
	if p.closed || p.under >= maxProbes {
		return false
	}
	p.under++
	p.running.Go(func() {
		got := p.connect(at, min(timeout, probeTimeout))
		r.mu.Lock()
		defer r.mu.Unlock()
		p.under--
		then(got)
		r.wake()
	})
	return true
}

// connect makes one connection of its own.
func (p *prober) connect(at netip.AddrPort, timeout time.Duration) probe {
	ctx, cancel := context.WithTimeout(p.ctx, timeout)
	defer cancel()
	got := probe{start: p.now(), result: outlier.ProbeOK}
	conn, err := p.dial(ctx, "tcp", at.String())
	got.end = p.now()
	if err != nil {
		got.result = failed(p.ctx, err)
		return got
	}
	_ = conn.Close() // it was all that was wanted
	return got
}

// failed says what it means that a connection could not be had. What is neither the
// endpoint's fault nor the network's was not run.
func failed(ctx context.Context, err error) outlier.ProbeResult {
	switch {
	case ctx.Err() != nil:
		return outlier.NotRun
	case errors.Is(err, syscall.ECONNREFUSED):
		return outlier.Refused
	case errors.Is(err, syscall.ECONNRESET):
		return outlier.Reset
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return outlier.Unreachable
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return outlier.TimedOut
	}
	return outlier.NotRun
}
