package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

const address = "10.0.0.2:80"

// bed is a server in memory and an endpoint that leads to it.
type bed struct {
	t        *testing.T
	clock    clock.Clock
	net      *pipenet.Network
	listener net.Listener
	endpoint *upstream.Endpoint
	woken    int
}

func newBed(t *testing.T, change func(*upstream.Options)) *bed {
	t.Helper()
	b := &bed{t: t, clock: clock.New(), net: pipenet.New(1)}
	b.listen()
	opts := upstream.DefaultOptions()
	opts.Dial = b.net.Host("10.0.0.1").Dial
	if change != nil {
		change(&opts)
	}
	b.endpoint = upstream.NewEndpoint("a", address, "z", 0, false, stats(t), func() { b.woken++ }, &opts)
	t.Cleanup(func() {
		b.endpoint.Retire()
		b.listener.Close()
	})
	return b
}

func stats(t *testing.T) *outlier.Endpoint {
	t.Helper()
	d := outlier.New(outlier.DefaultConfig(), rand.New(rand.NewPCG(1, 1)))
	d.SetMembers([]outlier.Member{{ID: "a", Weight: 1}}, 0)
	return d.Endpoint("a")
}

func (b *bed) listen() {
	b.t.Helper()
	ln, err := b.net.Host("10.0.0.2").Listen(b.t.Context(), "tcp", ":80")
	if err != nil {
		b.t.Fatal(err)
	}
	b.listener = ln
}

func (b *bed) get() (*upstream.Conn, bool) {
	b.t.Helper()
	c, reused, err := b.endpoint.Get(b.t.Context(), b.clock.Now())
	if err != nil {
		b.t.Fatalf("get: %v", err)
	}
	return c, reused
}

// fresh opens a connection and returns the server's end of it as well.
func (b *bed) fresh() (*upstream.Conn, *pipenet.Conn) {
	b.t.Helper()
	c, err := b.endpoint.Fresh(b.t.Context())
	if err != nil {
		b.t.Fatalf("fresh: %v", err)
	}
	s, err := b.listener.Accept()
	if err != nil {
		b.t.Fatalf("accept: %v", err)
	}
	b.t.Cleanup(func() { s.Close() })
	return c, s.(*pipenet.Conn)
}

func (b *bed) put(c *upstream.Conn) { b.endpoint.Put(c, b.clock.Now()) }

func (b *bed) want(idle, open int) {
	b.t.Helper()
	if got := b.endpoint.Idle(); got != idle {
		b.t.Errorf("idle connections: got %d, want %d", got, idle)
	}
	if got := b.endpoint.Open(); got != open {
		b.t.Errorf("open connections: got %d, want %d", got, open)
	}
}

func TestTheConnectionUsedLastIsUsedNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, nil)
		first, _ := b.fresh()
		second, _ := b.fresh()
		b.put(first)
		b.put(second)
		b.want(2, 2)
		for _, want := range []*upstream.Conn{second, first} {
			if got, reused := b.get(); got != want || !reused {
				t.Errorf("got connection %p, reused %v; want %p, true", got, reused, want)
			}
		}
		if c, reused := b.get(); reused {
			t.Errorf("got a third idle connection %p of two", c)
		}
		b.want(0, 3)
	})
}

func TestADeadIdleConnectionIsDroppedWithoutAWord(t *testing.T) {
	for name, dies := range map[string]func(server *pipenet.Conn){
		"closed by the server":     func(s *pipenet.Conn) { s.Close() },
		"reset by the server":      func(s *pipenet.Conn) { _ = s.Reset() },
		"bytes that nobody wanted": func(s *pipenet.Conn) { _, _ = io.WriteString(s, "HTTP/1.1 408 Request Timeout\r\n\r\n") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, nil)
				old, server := b.fresh()
				b.put(old)
				time.Sleep(10 * time.Millisecond)
				dies(server)
				c, reused := b.get()
				if c == old || reused {
					t.Errorf("got the dead connection, reused %v", reused)
				}
				b.want(0, 1)
			})
		})
	}
}

func TestABusyConnectionIsLookedAtToo(t *testing.T) {
	for name, then := range map[string]func(*pipenet.Conn) error{
		"closed": (*pipenet.Conn).Close,
		"reset":  (*pipenet.Conn).Reset,
		"spoke": func(c *pipenet.Conn) error {
			_, err := c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, nil)
				c, server := b.fresh()
				b.put(c)
				if err := then(server); err != nil {
					t.Fatal(err)
				}
				if got, reused := b.get(); got == c || reused {
					t.Error("got the connection, which was idle for no time at all and cannot be used")
				}
			})
		})
	}
}

func TestOldConnectionsSurviveTheLossOfTheListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, nil)
		old, _ := b.fresh()
		b.put(old)
		time.Sleep(time.Second)
		b.listener.Close()
		a := b.endpoint.Begin(b.clock.Now(), true)
		_, err := b.endpoint.Fresh(t.Context())
		if err == nil {
			t.Fatal("connected without a listener")
		}
		a.End(outlier.Outcome{Class: outlier.Conn, Now: b.clock.Now()})
		if c, reused := b.get(); c != old || !reused {
			t.Errorf("got %p, reused %v; want the connection that still answers", c, reused)
		}
	})
}

func TestIdleConnectionsExpire(t *testing.T) {
	setup := func(t *testing.T) *bed {
		b := newBed(t, func(o *upstream.Options) { o.IdleTimeout = 10 * time.Second })
		older, _ := b.fresh()
		younger, _ := b.fresh()
		b.put(older)
		time.Sleep(5 * time.Second)
		b.put(younger)
		return b
	}
	t.Run("when somebody looks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := setup(t)
			time.Sleep(5 * time.Second)
			b.endpoint.Expire(b.clock.Now())
			b.want(1, 1)
			time.Sleep(5 * time.Second)
			b.endpoint.Expire(b.clock.Now())
			b.want(0, 0)
		})
	})
	t.Run("when one is asked for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := setup(t)
			time.Sleep(10 * time.Second)
			if c, reused := b.get(); reused {
				t.Errorf("got %p, which is too old", c)
			}
			b.want(0, 1)
		})
	})
}

func TestAConnectionIsGivenUpBeforeItsServerClosesIt(t *testing.T) {
	for _, x := range []struct{ kept, until time.Duration }{
		{5 * time.Second, 4 * time.Second},
		{2 * time.Second, time.Second},
		{time.Second, 500 * time.Millisecond},
		{time.Hour, 30 * time.Second}, // our own time-out
		{0, 30 * time.Second},
	} {
		for _, look := range []string{"get", "expire"} {
			t.Run(fmt.Sprintf("%v, %s", x.kept, look), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBed(t, nil)
					put := func() {
						c, _ := b.fresh()
						c.KeptFor(x.kept)
						b.put(c)
					}
					put()
					time.Sleep(x.until - 1)
					if look == "get" {
						c, reused := b.get()
						if !reused {
							t.Fatal("just before it: got another connection")
						}
						b.put(c)
					} else {
						b.endpoint.Expire(b.clock.Now())
						b.want(1, 1)
						b.endpoint.CloseIdle()
						put()
					}
					time.Sleep(x.until)
					if look == "expire" {
						b.endpoint.Expire(b.clock.Now())
						b.want(0, 0)
					} else if _, reused := b.get(); reused {
						t.Error("after it: got it again")
					}
				})
			})
		}
	}
}

func TestLimitsOfAnEndpoint(t *testing.T) {
	t.Run("connections", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(o *upstream.Options) { o.MaxConns = 1 })
			c, _ := b.fresh()
			_, _, err := b.endpoint.Get(t.Context(), b.clock.Now())
			failure, ok := errors.AsType[*upstream.ConnectError](err)
			if !ok || failure.Ending != outlier.EndLocalLimit || !errors.Is(err, upstream.ErrTooManyConnections) {
				t.Errorf("beyond the limit: got %v, want %v with the ending local limit", err, upstream.ErrTooManyConnections)
			}
			c.Discard()
			b.get()
			b.want(0, 1)
		})
	})
	t.Run("idle connections", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, func(o *upstream.Options) { o.MaxIdle = 1 })
			first, _ := b.fresh()
			second, _ := b.fresh()
			b.put(first)
			b.put(second)
			b.want(1, 1)
		})
	})
}

func TestARetiredEndpointFinishesAndKeepsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, nil)
		idle, _ := b.fresh()
		busy, server := b.fresh()
		b.put(idle)
		b.endpoint.Retire()
		b.want(0, 1)
		if _, err := busy.Write([]byte("x")); err != nil {
			t.Errorf("the connection in use: %v", err)
		}
		if n, err := server.Read(make([]byte, 1)); n != 1 {
			t.Errorf("the connection in use: the server got %d bytes, %v", n, err)
		}
		b.put(busy)
		b.want(0, 0)
	})
}

func TestClosingTwiceCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, nil)
		c, _ := b.fresh()
		b.fresh()
		c.Close()
		c.Discard()
		b.want(0, 1)
	})
}

func TestAnAttemptEndsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, nil)
		a := b.endpoint.Begin(b.clock.Now(), true)
		if got := b.endpoint.Stats.Inflight(); got != 1 {
			t.Errorf("in flight: got %d, want 1", got)
		}
		a.End(outlier.Outcome{Class: outlier.Conn, Now: b.clock.Now()})
		if !a.Ended() || a.Endpoint() != nil {
			t.Error("an attempt that has ended says that it has not")
		}
		a.End(outlier.Outcome{Class: outlier.OK, Now: b.clock.Now()})
		a.Headers(b.clock.Now())
		if got := b.endpoint.Stats.Inflight(); got != 0 {
			t.Errorf("in flight after the end: got %d, want 0", got)
		}
		if got := b.endpoint.Stats.Counts(); got.Conn != 1 || got.N != 1 {
			t.Errorf("counts: got %+v, want one attempt, one hard failure", got)
		}
		if b.woken != 1 {
			t.Errorf("the detector was woken %d times by one hard failure, want 1", b.woken)
		}
		var zero upstream.Attempt
		zero.End(outlier.Outcome{Class: outlier.Conn}) // never began: must not panic
	})
}

func TestWhyThereIsNoConnection(t *testing.T) {
	route := errors.New("route")
	tests := []struct {
		name  string
		fault func(b *bed)
		ctx   func(context.Context) (context.Context, context.CancelFunc)
		want  outlier.Ending
		after time.Duration
	}{
		{
			name:  "nobody listens",
			fault: func(b *bed) { b.listener.Close() },
			want:  outlier.EndConnectRefused,
		},
		{
			name:  "no route",
			fault: func(b *bed) { b.net.Reject("*", "10.0.0.2") },
			want:  outlier.EndUnreachable,
		},
		{
			name:  "no answer",
			fault: func(b *bed) { b.net.Blackhole("*", "10.0.0.2") },
			want:  outlier.EndConnectTimeout,
			after: time.Second,
		},
		{
			name:  "the client leaves",
			fault: func(b *bed) { b.net.Blackhole("*", "10.0.0.2") },
			ctx: func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(ctx)
				time.AfterFunc(time.Millisecond, cancel)
				return ctx, cancel
			},
			want:  outlier.EndClientAbort,
			after: time.Millisecond,
		},
		{
			name:  "the request's time is up",
			fault: func(b *bed) { b.net.Blackhole("*", "10.0.0.2") },
			ctx: func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeoutCause(ctx, time.Millisecond, context.DeadlineExceeded)
			},
			want:  outlier.EndRouteTimeout,
			after: time.Millisecond,
		},
		{
			name:  "the attempt's time is up",
			fault: func(b *bed) { b.net.Blackhole("*", "10.0.0.2") },
			ctx: func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancelCause(ctx)
				time.AfterFunc(time.Millisecond, func() { cancel(upstream.GivenUp(outlier.EndPerTryTimeout)) })
				return ctx, func() { cancel(route) }
			},
			want:  outlier.EndPerTryTimeout,
			after: time.Millisecond,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, nil)
				test.fault(b)
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if test.ctx != nil {
					ctx, cancel = test.ctx(ctx)
				}
				defer cancel()
				began := b.clock.Now()
				c, _, err := b.endpoint.Get(ctx, began)
				failure, ok := errors.AsType[*upstream.ConnectError](err)
				if !ok || failure.Ending != test.want {
					t.Fatalf("got %v, %v; want the ending %v", c, err, test.want)
				}
				if got := b.clock.Now() - began; got != test.after {
					t.Errorf("it took %v, want %v", got, test.after)
				}
				b.want(0, 0)
			})
		})
	}
}

func TestEndingOfAnError(t *testing.T) {
	dial := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", err)}
	}
	read := func(err error) error {
		return &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", err)}
	}
	tests := []struct {
		err  error
		want outlier.Ending
	}{
		{dial(syscall.ECONNREFUSED), outlier.EndConnectRefused},
		{dial(syscall.EHOSTUNREACH), outlier.EndUnreachable},
		{dial(syscall.ENETUNREACH), outlier.EndUnreachable},
		{dial(syscall.ETIMEDOUT), outlier.EndConnectTimeout},
		{dial(syscall.EMFILE), outlier.EndOwnErrno},
		{dial(syscall.ENFILE), outlier.EndOwnErrno},
		{dial(syscall.EADDRNOTAVAIL), outlier.EndOwnErrno},
		{dial(syscall.ENOBUFS), outlier.EndOwnErrno},
		{dial(syscall.ENETDOWN), outlier.EndOwnErrno},
		{dial(os.ErrDeadlineExceeded), outlier.EndConnectTimeout},
		{read(syscall.ECONNRESET), outlier.EndResetBeforeHeaders},
		{read(syscall.EPIPE), outlier.EndResetBeforeHeaders},
		{read(syscall.ETIMEDOUT), outlier.EndResetBeforeHeaders},
		{io.EOF, outlier.EndResetBeforeHeaders},
		{io.ErrUnexpectedEOF, outlier.EndResetBeforeHeaders},
		{io.ErrClosedPipe, outlier.EndResetBeforeHeaders},
		{net.ErrClosed, outlier.EndLocalLimit},
		{context.Canceled, outlier.EndClientAbort},
		{&net.DNSError{IsNotFound: true}, outlier.EndUnreachable},
		{&net.DNSError{IsTimeout: true}, outlier.EndOwnErrno},
	}
	for _, test := range tests {
		if got := upstream.Ending(test.err); got != test.want {
			t.Errorf("%v: got %v, want %v", test.err, got, test.want)
		}
	}
}

func TestAKeepAliveRaceIsNobodysFaultOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, nil)
		reuse := func(idle time.Duration) *upstream.Conn {
			c, _ := b.fresh()
			b.put(c)
			time.Sleep(idle)
			c, reused := b.get()
			if !reused || c.IdleFor() != idle {
				t.Fatalf("got reused %v after %v, want true after %v", reused, c.IdleFor(), idle)
			}
			return c
		}
		fresh, _ := b.fresh()
		if got := b.endpoint.Lost(fresh, b.clock.Now()); got != outlier.EndResetBeforeHeaders {
			t.Errorf("a fresh connection: got %v, want %v", got, outlier.EndResetBeforeHeaders)
		}
		if got := b.endpoint.Lost(reuse(999*time.Millisecond), b.clock.Now()); got != outlier.EndResetBeforeHeaders {
			t.Errorf("idle for less than a second: got %v, want %v", got, outlier.EndResetBeforeHeaders)
		}
		if got := b.endpoint.Lost(reuse(time.Second), b.clock.Now()); got != outlier.EndKeepAliveRace {
			t.Errorf("idle for a second: got %v, want %v", got, outlier.EndKeepAliveRace)
		}
		if got := b.endpoint.Lost(reuse(time.Second), b.clock.Now()); got != outlier.EndKeepAliveRace {
			t.Errorf("again a second later: got %v, want %v", got, outlier.EndKeepAliveRace)
		}
		c := reuse(time.Second)
		b.endpoint.Lost(c, b.clock.Now())
		time.Sleep(999 * time.Millisecond)
		if got := b.endpoint.Lost(c, b.clock.Now()); got != outlier.EndResetBeforeHeaders {
			t.Errorf("again within a second: got %v, want %v", got, outlier.EndResetBeforeHeaders)
		}
	})
}

func TestConnectionsHaveDifferentHashes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, nil)
		seen := map[uint32]bool{0: true}
		for range 100 {
			c, _ := b.fresh()
			if seen[c.Hash()] {
				t.Fatalf("hash %d: twice, or zero", c.Hash())
			}
			seen[c.Hash()] = true
		}
	})
}

func TestManyAtOnceNeverShareAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, func(o *upstream.Options) { o.MaxIdle = 4 })
		go func() {
			for {
				s, err := b.listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer s.Close()
					_, _ = io.Copy(s, s)
				}()
			}
		}()
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 50 {
					c, _, err := b.endpoint.Get(t.Context(), b.clock.Now())
					if err != nil {
						t.Errorf("get: %v", err)
						return
					}
					message := []byte{byte(g), byte(i)}
					answer := make([]byte, 2)
					if _, err := c.Write(message); err != nil {
						t.Errorf("write: %v", err)
					}
					if _, err := io.ReadFull(c, answer); err != nil || string(answer) != string(message) {
						t.Errorf("got the answer %v (%v) to %v", answer, err, message)
					}
					if i%7 == 0 {
						c.Discard()
					} else {
						b.endpoint.Put(c, b.clock.Now())
					}
				}
			})
		}
		wg.Wait()
		b.want(b.endpoint.Idle(), b.endpoint.Idle())
		if got := b.endpoint.Idle(); got > 4 {
			t.Errorf("idle connections: got %d, want at most 4", got)
		}
	})
}

// A connection that is not kept costs no registration: its peer's end would mean nothing.
func TestOnlyAConnectionThatIsKeptIsWatched(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*upstream.Options)
		want   int64
	}{
		"kept":             {func(*upstream.Options) {}, 1},
		"none is kept":     {func(o *upstream.Options) { o.MaxIdle = 0 }, 0},
		"its last request": {func(o *upstream.Options) { o.Lifetime.MaxRequests = 1 }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int64
				b := newBed(t, func(o *upstream.Options) {
					o.Watch = upstream.NewWatch(clock.New())
					dial := o.Dial
					o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
						c, err := dial(ctx, network, address)
						return tellsClose{c, &asked}, err
					}
					test.change(o)
				})
				c, _ := b.fresh()
				b.put(c)
				if got := asked.Load(); got != test.want {
					t.Errorf("connections that are watched: got %d, want %d", got, test.want)
				}
			})
		})
	}
}

// tellsClose counts who wants to know of its peer's end.
type tellsClose struct {
	net.Conn
	asked *atomic.Int64
}

func (c tellsClose) OnPeerClose(func()) { c.asked.Add(1) }
