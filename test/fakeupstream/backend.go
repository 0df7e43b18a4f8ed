package fakeupstream

import (
	"context"
	"errors"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Protocol is what a backend speaks.
type Protocol uint8

const (
	HTTP Protocol = iota
	TCP           // echoes what it reads
)

// Config is what a backend is like in health. The zero Config is usable.
type Config struct {
	// Name is sent with each answer as x-upstream.
	Name string
	// Protocol: HTTP or TCP.
	Protocol Protocol
	// Address to listen on; default 127.0.0.1:0. A port that is chosen stays.
	Address string
	// Listen opens the listener; default is the kernel's.
	Listen func(ctx context.Context, network, address string) (net.Listener, error)
	// Body of an answer over HTTP; default "ok\n".
	Body []byte
	// Latency before an answer; default none. Slow multiplies it, or 1 ms if it is 0.
	Latency time.Duration
	// Ping says which requests are pings; default: the path /healthz, or a
	// user-agent that begins with "overhear-ping".
	Ping func(*http.Request) bool
	// HTTP2 serves HTTP/2 without TLS beside HTTP/1.1, to who begins with it (RFC 9113 §3.3).
	HTTP2 bool
	// Handler answers what no fault takes, instead of Body.
	Handler http.Handler
	// Failure answers what Errors takes, instead of a status.
	Failure http.Handler
	// Seed of the dice of Errors.
	Seed uint64
}

// Backend is one server. Its methods may be called from any goroutine.
type Backend struct {
	cfg    Config
	addr   string
	http   *http.Server
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	record record

	mu       sync.Mutex // guards what follows
	fault    Fault      // in force: of a flapping one, its present half
	began    time.Time
	queue    *queue        // of the fault; nil: nobody waits
	changed  chan struct{} // closed and replaced when fault changes
	flap     *time.Timer
	listener net.Listener // nil: there is none
	conns    map[*conn]struct{}
	rng      *rand.Rand
	closed   bool
}

// Start listens and serves until Close.
func Start(ctx context.Context, cfg Config) (*Backend, error) {
	if cfg.Address == "" {
		cfg.Address = "127.0.0.1:0"
	}
	if cfg.Listen == nil {
		cfg.Listen = new(net.ListenConfig).Listen
	}
	if cfg.Body == nil {
		cfg.Body = []byte("ok\n")
	}
	if cfg.Ping == nil {
		cfg.Ping = func(r *http.Request) bool {
			return r.URL.Path == "/healthz" || strings.HasPrefix(r.UserAgent(), "overhear-ping")
		}
	}
	b := &Backend{
		cfg: cfg, addr: cfg.Address, began: time.Now(), changed: make(chan struct{}),
		conns: map[*conn]struct{}{}, rng: rand.New(rand.NewPCG(cfg.Seed, 0)),
	}
	b.ctx, b.cancel = context.WithCancel(context.WithoutCancel(ctx))
	// A backend that is killed on purpose has nothing to say about it.
	quiet := log.New(discard{}, "", 0)
	b.http = &http.Server{Handler: http.HandlerFunc(b.serveHTTP), ConnContext: connContext, ErrorLog: quiet}
	if cfg.HTTP2 {
		b.http.Protocols = new(http.Protocols)
		b.http.Protocols.SetHTTP1(true)
		b.http.Protocols.SetUnencryptedHTTP2(true)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.listenLocked(ctx); err != nil {
		b.cancel()
		return nil, err
	}
	b.addr = b.listener.Addr().String()
	return b, nil
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// Addr is where the backend listens, or did and will.
func (b *Backend) Addr() string { return b.addr }

// Set puts a fault in force, in the place of the one before. The error is that of
// listening again.
func (b *Backend) Set(f Fault) error {
	// Before the fault is in force, and without the lock, as idle connections are closed.
	b.http.SetKeepAlivesEnabled(!f.Drains)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return net.ErrClosed
	}
	if b.flap != nil {
		b.flap.Stop()
		b.flap = nil
	}
	if f.Down > 0 && f.Up > 0 {
		b.flapLocked(f, true)
	}
	return b.setLocked(f)
}

// Fault is what is in force now.
func (b *Backend) Fault() Fault {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fault
}

// Restart resets all connections and listens again at once, without a fault.
func (b *Backend) Restart() error { return errors.Join(b.Set(Crash()), b.Set(Fault{})) }

// Close ends the backend and returns when nothing of it is left.
func (b *Backend) Close() {
	b.mu.Lock()
	if b.flap != nil {
		b.flap.Stop()
	}
	if !b.closed {
		b.closed = true
		b.crashLocked()
	}
	b.mu.Unlock()
	b.cancel()
	b.wg.Wait()
	// All its connections are reset; what is left are handlers on their way out.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = b.http.Shutdown(ctx)
}

// flapLocked arranges for the other half of a flapping fault. down is whether the
// fault is in force now.
func (b *Backend) flapLocked(f Fault, down bool) {
	wait := f.Up
	if down {
		wait = f.Down
	}
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.closed || b.flap != timer {
			return
		}
		next := Fault{}
		if !down {
			next = f
		}
		if b.setLocked(next) == nil { // else the port is taken: it stays down until set again
			b.flapLocked(f, !down)
		}
	})
	b.flap = timer
}

func (b *Backend) setLocked(f Fault) error {
	b.fault, b.began, b.queue = f, time.Now(), newQueue(&f)
	close(b.changed)
	b.changed = make(chan struct{})
	if f.Reset {
		b.resetLocked()
	}
	switch {
	case f.Crashed:
		b.crashLocked()
	case f.Deaf:
		b.muteLocked()
	case b.listener == nil:
		return b.listenLocked(b.ctx)
	}
	return nil
}

// crashLocked is what the kernel does to a process that dies.
func (b *Backend) crashLocked() {
	b.muteLocked()
	b.resetLocked()
}

func (b *Backend) resetLocked() {
	for c := range b.conns {
		c.reset()
	}
	clear(b.conns)
}

func (b *Backend) muteLocked() {
	if b.listener != nil {
		_ = b.listener.Close() // nobody else closes it
		b.listener = nil
	}
}

func (b *Backend) listenLocked(ctx context.Context) error {
	ln, err := b.cfg.Listen(ctx, "tcp", b.addr)
	if err != nil {
		return err
	}
	b.listener = ln
	b.wg.Go(func() {
		if b.cfg.Protocol == TCP {
			b.accept(ln)
			return
		}
		_ = b.http.Serve(tracker{ln, b}) // ends when the listener is closed
	})
	return nil
}

// accept serves TCP.
func (b *Backend) accept(ln net.Listener) {
	t := tracker{ln, b}
	for {
		c, err := t.Accept()
		if err != nil {
			return
		}
		b.wg.Go(func() { b.echo(c.(*conn)) })
	}
}

// tracker notes connections as they come.
type tracker struct {
	net.Listener
	b *Backend
}

func (t tracker) Accept() (net.Conn, error) {
	nc, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: nc, b: t.b, gone: make(chan struct{})}
	c.id = t.b.record.connection()
	t.b.mu.Lock()
	defer t.b.mu.Unlock()
	if t.b.fault.Crashed || t.b.closed { // accepted before the listener was closed, and noted after
		c.reset()
		return c, nil
	}
	t.b.conns[c] = struct{}{}
	return c, nil
}

// conn is a connection that can be reset.
type conn struct {
	net.Conn
	b     *Backend
	id    int
	spoke atomic.Bool
	once  sync.Once
	gone  chan struct{} // closed with the connection
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.spoke.Store(true)
	}
	return n, err
}

func (c *conn) Close() error {
	c.b.mu.Lock()
	delete(c.b.conns, c)
	c.b.mu.Unlock()
	c.once.Do(func() {
		close(c.gone)
		if !c.spoke.Load() {
			c.b.record.silent()
		}
	})
	return c.Conn.Close()
}

// reset closes the connection so that the peer learns that it was not meant. The
// caller takes it off the books.
func (c *conn) reset() {
	if l, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0) // fails on a connection that has gone by itself
	}
	c.once.Do(func() { close(c.gone) })
	_ = c.Conn.Close() // likewise
}

type connKey struct{}

func connContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// roll throws the dice.
func (b *Backend) roll(rate float64) bool {
	if rate <= 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rng.Float64() < rate
}

// now is the fault in force, for how long it has been, its queue, and what is closed
// when it changes.
func (b *Backend) now() (f Fault, since time.Duration, q *queue, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fault, time.Since(b.began), b.queue, b.changed
}

// await lets a request wait for as long as the backend does not answer, and then takes
// its time. It returns the fault to answer with; false: there is nobody to answer any
// more.
func (b *Backend) await(gone <-chan struct{}, path string, ping bool) (Fault, bool) {
	for {
		f, since, q, changed := b.now()
		if f.spares(path, ping) {
			f, q = Fault{}, nil
		}
		wait := f.pause(since)
		if !f.Hung && wait == 0 {
			if q != nil {
				return b.line(gone, q, f, ping)
			}
			return f, b.rest(gone, b.latency(&f))
		}
		var over <-chan time.Time
		if !f.Hung {
			t := time.NewTimer(wait)
			defer t.Stop()
			over = t.C
		}
		select {
		case <-over:
		case <-changed:
		case <-gone:
			return f, false
		case <-b.ctx.Done():
			return f, false
		}
	}
}

// line lets a request wait for its place and take its time there. Who waits when the
// fault ends is still served in order: the work does not go away.
func (b *Backend) line(gone <-chan struct{}, q *queue, f Fault, ping bool) (Fault, bool) {
	if !ping && q.full() {
		f.ErrorRate, f.Status = 1, http.StatusServiceUnavailable
		return f, true
	}
	q.waiting.Add(1)
	select {
	case q.places <- struct{}{}:
		q.waiting.Add(-1)
	case <-gone:
		q.waiting.Add(-1)
		return f, false
	case <-b.ctx.Done():
		q.waiting.Add(-1)
		return f, false
	}
	defer func() { <-q.places }()
	return f, b.rest(gone, b.latency(&f))
}

func (b *Backend) latency(f *Fault) time.Duration {
	if f.Slow <= 0 || f.SlowShare > 0 && !b.roll(f.SlowShare) {
		return b.cfg.Latency
	}
	return time.Duration(f.Slow * float64(max(b.cfg.Latency, time.Millisecond)))
}

// rest waits, unless the connection ends first.
func (b *Backend) rest(gone <-chan struct{}, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-gone:
		return false
	case <-b.ctx.Done():
		return false
	}
}

// stall waits until the fault ends or nobody waits for the rest any more.
func (b *Backend) stall(gone <-chan struct{}) {
	for {
		f, _, _, changed := b.now()
		if f.Body != Stalled {
			return
		}
		select {
		case <-changed:
		case <-gone:
			return
		case <-b.ctx.Done():
			return
		}
	}
}
