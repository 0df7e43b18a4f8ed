package listener

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var (
	// ErrDrained is the cause with which a handler's context ends when the
	// deadline of a drain is over.
	ErrDrained = errors.New("drain deadline is over")
	// ErrStopped is the cause when Serve's own context has ended or accepting
	// has failed.
	ErrStopped = errors.New("listener has stopped")
)

// The wait after an error of accepting that may pass, as net/http has it.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

// Handler carries one connection to its end. The listener closes the connection
// when the handler returns, and also when ctx ends: then the handler must return
// soon.
type Handler func(ctx context.Context, c net.Conn)

// Listener accepts connections. It serves once. Its methods may be called from
// any goroutine.
type Listener struct {
	cfg     Config
	log     *slog.Logger
	handler Handler

	drain    sync.Once
	draining chan struct{} // closed by the first Drain
	served   chan struct{} // closed when Serve has returned
	accepted atomic.Uint64
	cut      atomic.Uint64
	pauses   atomic.Uint64

	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]struct{}
	cancel context.CancelCauseFunc // of the handlers; nil before Serve
	closed bool                    // what is accepted from now on is closed at once
}

// New makes a listener that has not begun.
func New(cfg Config, log *slog.Logger, handler Handler) *Listener {
	return &Listener{
		cfg:      cfg,
		log:      log,
		handler:  handler,
		draining: make(chan struct{}),
		served:   make(chan struct{}),
		conns:    make(map[net.Conn]struct{}),
	}
}

// Serve accepts connections from ln, which it closes, until ctx ends, Drain is
// called or accepting fails for good. It returns when all handlers have
// returned: nil, unless accepting failed. It must be called once.
//
// The end of ctx closes every connection at once; Drain is the gentle way.
func (l *Listener) Serve(ctx context.Context, ln net.Listener) error {
	defer close(l.served)
	// The handlers' context ends by closeAll only, so that it always has one of
	// our causes, and while draining does not end at all.
	handling, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	l.mu.Lock()
	l.cancel = cancel
	l.mu.Unlock()

	accepting, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-accepting.Done():
		case <-l.draining:
			stop()
		}
		_ = ln.Close()
	})
	unwatch := context.AfterFunc(ctx, func() { l.closeAll(ErrStopped) })

	err := l.accept(accepting, handling, ln, &wg)
	stop()
	if err != nil {
		l.closeAll(ErrStopped)
	}
	wg.Wait()
	unwatch()
	cancel(ErrStopped)
	return err
}

// Drain stops accepting and waits until all connections have ended. When
// timeout is over it closes what is left and waits for the handlers. It returns
// how many it had to close. Whoever speaks a protocol must tell the peers that
// it would like to end; that is not the listener's business.
func (l *Listener) Drain(timeout time.Duration) int {
	l.drain.Do(func() { close(l.draining) })
	l.mu.Lock()
	began := l.cancel != nil
	l.mu.Unlock()
	if !began {
		return 0
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-l.served:
		return 0
	case <-timer.C:
	}
	n := l.closeAll(ErrDrained)
	<-l.served
	return n
}

// Active is the number of connections that are open.
func (l *Listener) Active() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

// Accepted is how many connections there have been.
func (l *Listener) Accepted() uint64 { return l.accepted.Load() }

// Cut is how many connections were closed before their handler had returned.
func (l *Listener) Cut() uint64 { return l.cut.Load() }

// Pauses is how often accepting had to wait because the process was short of
// something, or the network at fault.
func (l *Listener) Pauses() uint64 { return l.pauses.Load() }

// accept hands connections to the handler until accepting ends.
func (l *Listener) accept(accepting, handling context.Context, ln net.Listener, wg *sync.WaitGroup) error {
	var slots chan struct{} // its elements have no size
	if l.cfg.MaxConnections > 0 {
		slots = make(chan struct{}, l.cfg.MaxConnections)
	}
	var pause time.Duration
	for {
		if slots != nil {
			select {
			case slots <- struct{}{}:
			case <-accepting.Done():
				return nil
			}
		}
		c, err := l.next(accepting, ln, &pause)
		if c == nil {
			return err
		}
		if !l.track(c) {
			return nil
		}
		wg.Go(func() {
			defer func() {
				l.forget(c)
				if slots != nil {
					<-slots
				}
			}()
			l.handler(handling, c)
		})
	}
}

// next accepts one connection. It returns neither a connection nor an error when
// accepting has ended.
func (l *Listener) next(accepting context.Context, ln net.Listener, pause *time.Duration) (net.Conn, error) {
	for {
		c, err := ln.Accept()
		switch {
		case err == nil:
			*pause = 0
			return c, nil
		case accepting.Err() != nil:
			return nil, nil
		case errors.Is(err, syscall.ECONNABORTED), errors.Is(err, syscall.EINTR):
			continue // the peer gave up while it waited in the backlog
		case !passing(err):
			return nil, fmt.Errorf("accept on %v: %w", ln.Addr(), err)
		}
		if *pause == 0 { // once, until a connection is accepted again
			l.log.LogAttrs(accepting, slog.LevelWarn, "accepting pauses",
				slog.String("address", ln.Addr().String()), slog.Any("error", err))
		}
		*pause = min(max(firstPause, 2*(*pause)), lastPause)
		l.pauses.Add(1)
		select {
		case <-time.After(*pause):
		case <-accepting.Done():
			return nil, nil
		}
	}
}

// passing reports whether accepting may work again: it failed for want of something
// that may come back, or of the network. Linux hands on what has happened to the new
// connection as the error of accepting it, and a firewall may forbid that one alone
// (accept(2), "Error handling").
func passing(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH,
		syscall.EPROTO, syscall.ENOPROTOOPT, syscall.EOPNOTSUPP, syscall.ETIMEDOUT, syscall.EPERM,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// track counts c among the open connections; it closes c if those are being
// closed.
func (l *Listener) track(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_ = c.Close()
		return false
	}
	l.accepted.Add(1)
	l.conns[c] = struct{}{}
	return true
}

// forget closes c, whose handler has returned.
func (l *Listener) forget(c net.Conn) {
	_ = c.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// closeAll ends the handlers' context and closes every connection, once. It
// returns how many it closed.
func (l *Listener) closeAll(cause error) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0
	}
	l.closed = true
	l.cancel(cause)
	for c := range l.conns {
		_ = c.Close()
	}
	n := len(l.conns)
	l.cut.Add(uint64(n))
	return n
}
