package listener_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/proxy/listener"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

const address = "10.0.0.2:80"

// bed is a listener that serves in memory.
type bed struct {
	t        *testing.T
	client   *pipenet.Host
	listener *listener.Listener
	log      strings.Builder
	ln       net.Listener
	stop     context.CancelCauseFunc
	served   chan error
}

func serve(t *testing.T, cfg listener.Config, wrap func(net.Listener) net.Listener, handler listener.Handler) *bed {
	t.Helper()
	n := pipenet.New(1)
	ln, err := n.Host("10.0.0.2").Listen(t.Context(), "tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	if wrap != nil {
		ln = wrap(ln)
	}
	b := &bed{t: t, client: n.Host("10.0.0.1"), ln: ln, served: make(chan error, 1)}
	b.listener = listener.New(cfg, slog.New(slog.NewTextHandler(&b.log, nil)), handler)
	ctx, stop := context.WithCancelCause(t.Context())
	b.stop = stop
	go func() { b.served <- b.listener.Serve(ctx, ln) }()
	return b
}

func (b *bed) dial() net.Conn {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Second)
	defer cancel()
	c, err := b.client.Dial(ctx, "tcp", address)
	if err != nil {
		b.t.Fatalf("dial: %v", err)
	}
	b.t.Cleanup(func() { c.Close() })
	return c
}

func (b *bed) wait(want error) {
	b.t.Helper()
	if err := <-b.served; !errors.Is(err, want) {
		b.t.Errorf("Serve returned %v, want %v", err, want)
	}
	if got := b.listener.Active(); got != 0 {
		b.t.Errorf("%d connections are open after Serve has returned", got)
	}
}

// echo answers each byte until its client ends.
func echo(_ context.Context, c net.Conn) { _, _ = io.Copy(c, c) }

// exchange sends a byte and wants it back.
func exchange(t *testing.T, c net.Conn) {
	t.Helper()
	b := []byte("x")
	if _, err := c.Write(b); err != nil {
		t.Errorf("write: %v", err)
	}
	if _, err := io.ReadFull(c, b); err != nil {
		t.Errorf("read: %v", err)
	}
}

func TestConnectionsAreServedSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, listener.DefaultConfig(), nil, echo)
		first, second := b.dial(), b.dial()
		exchange(t, second)
		exchange(t, first)
		if got := b.listener.Active(); got != 2 {
			t.Errorf("active: got %d, want 2", got)
		}
		first.Close()
		synctest.Wait()
		if got := b.listener.Active(); got != 1 {
			t.Errorf("active after one has ended: got %d, want 1", got)
		}
		exchange(t, second)
		b.stop(nil)
		b.wait(nil)
		if got := b.listener.Accepted(); got != 2 {
			t.Errorf("accepted: got %d, want 2", got)
		}
	})
}

func TestTheEndOfTheContextEndsEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cause atomic.Pointer[error]
		b := serve(t, listener.DefaultConfig(), nil, func(ctx context.Context, c net.Conn) {
			_, _ = c.Read(make([]byte, 1)) // ends because the connection is closed
			cause.Store(new(context.Cause(ctx)))
		})
		c := b.dial()
		synctest.Wait()
		b.stop(nil)
		b.wait(nil)
		if got := *cause.Load(); !errors.Is(got, listener.ErrStopped) {
			t.Errorf("the handler's context ended with %v, want %v", got, listener.ErrStopped)
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the connection is still open")
		}
		if _, err := b.client.Dial(t.Context(), "tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dialing afterwards: got %v, want %v", err, syscall.ECONNREFUSED)
		}
	})
}

func TestDrainLetsConnectionsFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, listener.DefaultConfig(), nil, echo)
		c := b.dial()
		synctest.Wait()
		time.AfterFunc(3*time.Second, func() {
			exchange(t, c)
			c.Close()
		})
		began := time.Now()
		go func() {
			time.Sleep(time.Second)
			if _, err := b.client.Dial(t.Context(), "tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("dialing while it drains: got %v, want %v", err, syscall.ECONNREFUSED)
			}
		}()
		if cut := b.listener.Drain(10 * time.Second); cut != 0 {
			t.Errorf("cut %d connections, want 0", cut)
		}
		if got := time.Since(began); got != 3*time.Second {
			t.Errorf("draining took %v, want 3s", got)
		}
		b.wait(nil)
	})
}

func TestDrainCutsWhatIsLeftAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cause atomic.Pointer[error]
		b := serve(t, listener.DefaultConfig(), nil, func(ctx context.Context, c net.Conn) {
			<-ctx.Done()
			cause.Store(new(context.Cause(ctx)))
		})
		b.dial()
		b.dial()
		synctest.Wait()
		began := time.Now()
		if cut := b.listener.Drain(10 * time.Second); cut != 2 {
			t.Errorf("cut %d connections, want 2", cut)
		}
		if got := time.Since(began); got != 10*time.Second {
			t.Errorf("draining took %v, want 10s", got)
		}
		if got := *cause.Load(); !errors.Is(got, listener.ErrDrained) {
			t.Errorf("the handler's context ended with %v, want %v", got, listener.ErrDrained)
		}
		b.wait(nil)
		if got := b.listener.Cut(); got != 2 {
			t.Errorf("cut in all: got %d, want 2", got)
		}
		if cut := b.listener.Drain(time.Second); cut != 0 {
			t.Errorf("draining again cut %d connections", cut)
		}
	})
}

func TestTheEndOfTheContextEndsADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, listener.DefaultConfig(), nil, echo)
		b.dial()
		synctest.Wait()
		time.AfterFunc(time.Second, func() { b.stop(nil) })
		began := time.Now()
		b.listener.Drain(time.Minute)
		if got := time.Since(began); got != time.Second {
			t.Errorf("draining took %v, want 1s", got)
		}
		b.wait(nil)
	})
}

func TestDrainBeforeServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := listener.New(listener.DefaultConfig(), slog.New(slog.DiscardHandler), echo)
		l.Drain(time.Minute) // must not wait for what has not begun
		ln, err := pipenet.New(1).Listen(t.Context(), "tcp", "127.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Serve(t.Context(), ln); err != nil {
			t.Errorf("Serve after Drain: %v", err)
		}
	})
}

func TestAFullListenerIsSlowAndNotDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, listener.Config{MaxConnections: 1}, nil, echo)
		first := b.dial()
		exchange(t, first)
		second := b.dial() // the backlog takes it
		if _, err := second.Write([]byte("x")); err != nil {
			t.Errorf("write: %v", err)
		}
		synctest.Wait()
		if got := b.listener.Active(); got != 1 {
			t.Errorf("active: got %d, want 1", got)
		}
		time.AfterFunc(time.Minute, func() { first.Close() })
		began := time.Now()
		if _, err := io.ReadFull(second, make([]byte, 1)); err != nil {
			t.Errorf("the connection that had to wait: %v", err)
		}
		if got := time.Since(began); got != time.Minute {
			t.Errorf("it waited %v, want 1m", got)
		}
		third := b.dial()
		synctest.Wait()
		b.stop(nil)
		b.wait(nil)
		if _, err := third.Read(make([]byte, 1)); err == nil {
			t.Error("the connection that was never accepted is still open")
		}
	})
}

// flaky fails to accept a number of times, as a listener of a process does that
// has run out of something.
type flaky struct {
	net.Listener
	mu     sync.Mutex
	errors []error
	times  []time.Time
}

func (f *flaky) Accept() (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.times = append(f.times, time.Now())
	if len(f.errors) > 0 {
		err := f.errors[0]
		f.errors = f.errors[1:]
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: f.Addr(), Err: os.NewSyscallError("accept4", err)}
	}
	return f.Listener.Accept()
}

func TestAcceptingPausesWhenDescriptorsRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{}
		for range 12 {
			f.errors = append(f.errors, syscall.EMFILE)
		}
		b := serve(t, listener.DefaultConfig(), func(ln net.Listener) net.Listener {
			f.Listener = ln
			return f
		}, echo)
		exchange(t, b.dial())
		b.stop(nil)
		b.wait(nil)
		var got []time.Duration
		for i, at := range f.times[1:13] {
			got = append(got, at.Sub(f.times[i]))
		}
		for i, want := 0, 5*time.Millisecond; i < len(got); i, want = i+1, min(2*want, time.Second) {
			if got[i] != want {
				t.Errorf("pause %d: got %v, want %v", i, got[i], want)
			}
		}
		if got := b.listener.Pauses(); got != 12 {
			t.Errorf("pauses: got %d, want 12", got)
		}
		if got := strings.Count(b.log.String(), "accepting pauses"); got != 1 {
			t.Errorf("got %d log lines of one shortage, want 1:\n%s", got, b.log.String())
		}
	})
}

func TestTheErrorOfOneConnectionIsNotTheListeners(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		errs := []error{syscall.ENETDOWN, syscall.EPROTO, syscall.EHOSTUNREACH, syscall.EOPNOTSUPP, syscall.EPERM}
		b := serve(t, listener.DefaultConfig(), func(ln net.Listener) net.Listener {
			return &flaky{Listener: ln, errors: errs}
		}, echo)
		exchange(t, b.dial())
		b.stop(nil)
		b.wait(nil)
	})
}

func TestAPauseEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flaky{}
		for range 100 {
			f.errors = append(f.errors, syscall.ENFILE)
		}
		b := serve(t, listener.DefaultConfig(), func(ln net.Listener) net.Listener {
			f.Listener = ln
			return f
		}, echo)
		time.Sleep(2500 * time.Millisecond)
		began := time.Now()
		b.stop(nil)
		b.wait(nil)
		if got := time.Since(began); got != 0 {
			t.Errorf("it took %v to stop, want no time", got)
		}
	})
}

func TestAPeerThatGaveUpInTheBacklogIsNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, listener.DefaultConfig(), func(ln net.Listener) net.Listener {
			return &flaky{Listener: ln, errors: []error{syscall.ECONNABORTED, syscall.EINTR}}
		}, echo)
		began := time.Now()
		exchange(t, b.dial())
		if got := time.Since(began); got != 0 {
			t.Errorf("accepting paused for %v", got)
		}
		b.stop(nil)
		b.wait(nil)
	})
}

func TestAListenerThatFailsForGoodEndsServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, listener.DefaultConfig(), func(ln net.Listener) net.Listener {
			return &flaky{Listener: ln, errors: []error{syscall.EINVAL}}
		}, echo)
		b.wait(syscall.EINVAL)
		// Somebody else closed the socket: that is no order to stop either.
		b = serve(t, listener.DefaultConfig(), nil, echo)
		c := b.dial()
		exchange(t, c)
		b.ln.Close()
		b.wait(net.ErrClosed)
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the connection is still open")
		}
	})
}

// late accepts a connection in the moment in which it is closed.
type late struct {
	net.Listener
	conn   net.Conn
	closed chan struct{}
}

func (l *late) Accept() (net.Conn, error) {
	<-l.closed
	synctest.Wait() // until everything else has ended
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l *late) Close() error {
	close(l.closed)
	return l.Listener.Close()
}

func TestAConnectionThatComesTooLateIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		b := serve(t, listener.DefaultConfig(), func(ln net.Listener) net.Listener {
			return &late{Listener: ln, conn: ours, closed: make(chan struct{})}
		}, func(context.Context, net.Conn) { t.Error("it was handled") })
		synctest.Wait()
		b.stop(nil)
		if _, err := theirs.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("reading from it: got %v, want %v", err, io.EOF)
		}
		b.wait(nil)
	})
}

func TestWrongConfigurationNamesTheField(t *testing.T) {
	if err := listener.DefaultConfig().Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	err := listener.Config{MaxConnections: -1}.Validate()
	if f, ok := errors.AsType[interface {
		error
		Field() string
	}](err); !ok || f.Field() != "max_connections" {
		t.Errorf("got %v, want an error of max_connections", err)
	}
}
