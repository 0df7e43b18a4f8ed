package upstream

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/vigil"
)

const (
	// raceAfter is how long a connection must have been idle for its death to
	// be the server's idle time-out, and raceWindow is how soon a second such
	// death is no coincidence any more.
	raceAfter  = time.Second
	raceWindow = time.Second

	never = time.Duration(-1 << 62)
)

// Endpoint is one server of a cluster: identity, counters, connections. Its
// methods may be called from any goroutine.
type Endpoint struct {
	ID       string // instance id if the registry knows one, else the address
	Address  string // host:port
	Zone     string
	Priority uint32
	Inbound  bool              // a sidecar stands in front of it
	Stats    *outlier.Endpoint // what the detector reads

	wake     func()
	options  atomic.Pointer[Options]
	open     atomic.Int32  // connections, also those being opened
	serial   atomic.Uint32 // of the last connection
	lastRace atomic.Int64  // instant of the last keep-alive race

	mu      sync.Mutex         // guards what follows; held for a few instructions
	conns   map[*Conn]struct{} // all that are open; nil before the first
	idle    []*Conn            // the youngest is last
	waiting []turn             // where new ones are refused; who has waited longest is first
	queued  []turn             // where MaxConns are open; likewise
	shared  Shared             // nil: nothing
	closes  vigil.Closes       // idle connections that it closed
	retired bool
}

// Shared is what a protocol that carries many requests on one connection keeps of an
// endpoint, in place of idle connections. It opens its connections by Fresh.
type Shared interface {
	// Expire closes connections that have had no request for so long.
	Expire(now, timeout time.Duration)
	// CloseIdle closes those that have none.
	CloseIdle()
	// Retire closes those that have none, and from then on each that has none left.
	Retire()
}

// NewEndpoint makes an endpoint without connections. wake is called when an
// outcome needs the detector at once, or an attempt ends a rest; it must neither block nor allocate, and
// may be nil. opts is shared and must not be changed afterwards; see SetOptions.
func NewEndpoint(id, address, zone string, priority uint32, inbound bool, stats *outlier.Endpoint, wake func(), opts *Options) *Endpoint {
	if wake == nil {
		wake = func() {}
	}
	e := &Endpoint{
		ID: id, Address: address, Zone: zone, Priority: priority, Inbound: inbound, Stats: stats,
		wake: wake,
	}
	e.options.Store(opts)
	e.lastRace.Store(int64(never))
	return e
}

// SetOptions replaces the options for whatever happens from now on. Connections
// that are open keep the socket options that they were opened with.
func (e *Endpoint) SetOptions(opts *Options) {
	e.options.Store(opts)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.letInLocked()
}

// Multiplexed reports whether the endpoint speaks HTTP/2.
func (e *Endpoint) Multiplexed() bool { return e.options.Load().HTTP2 }

// Shared returns what has been made to be kept here, by a call of make if there is
// nothing yet.
func (e *Endpoint) Shared(make func() Shared) Shared {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.shared == nil {
		e.shared = make()
		if e.retired {
			e.shared.Retire()
		}
	}
	return e.shared
}

// Lend makes a Conn of one that is part of another, such as a stream: it is not kept
// when it is given back, and does not count. hash is that of the whole.
func (e *Endpoint) Lend(part net.Conn, hash uint32) *Conn {
	return &Conn{Conn: part, endpoint: e, hash: hash, lent: true}
}

// Begin starts an attempt. deadlined says that somebody will give up on it one
// day: only such an attempt can be overdue.
func (e *Endpoint) Begin(now time.Duration, deadlined bool) Attempt {
	a := Attempt{Attempt: e.Stats.Start(now, deadlined), endpoint: e}
	e.rouse()
	return a
}

// BeginOn is Begin on a route that may be slow by nature.
func (e *Endpoint) BeginOn(route uint16, now time.Duration, deadlined bool) Attempt {
	a := Attempt{Attempt: e.Stats.StartOn(route, now, deadlined), endpoint: e}
	e.rouse()
	return a
}

// rouse comes after an attempt has been counted in: whoever has begun to rest, and
// looks then, has seen the attempt.
func (e *Endpoint) rouse() {
	if r := e.options.Load().Resting; r != nil && r.Load() && r.CompareAndSwap(true, false) {
		e.wake()
	}
}

// Get hands out an idle connection, the one used last, or does as Fresh. The
// error is a *ConnectError.
//
// However short the connection was idle, it is looked at: what lies there unread
// would be taken for the answer to the next request, and that one's answer for the
// answer to the one after it. The look costs a third of a microsecond.
func (e *Endpoint) Get(ctx context.Context, now time.Duration) (c *Conn, reused bool, err error) {
	opts := e.options.Load()
	for c := e.take(now, opts.IdleTimeout); c != nil; c = e.take(now, opts.IdleTimeout) {
		if !c.over(opts, now) && !c.outstays(now) && !c.readable() {
			return c, true, nil
		}
		c.Discard()
	}
	c, err = e.Fresh(ctx)
	return c, false, err
}

// Fresh opens a connection, also when idle ones are there. Only if the endpoint
// refuses it, and Options.RefusedWait is set, one that is open already will do. The
// error is a *ConnectError.
func (e *Endpoint) Fresh(ctx context.Context) (*Conn, error) {
	opts := e.options.Load()
	c, err := e.fresh(ctx, opts)
	if err != nil && err.Ending == outlier.EndConnectRefused && opts.RefusedWait > 0 {
		c, err = e.free(ctx, opts.RefusedWait, err)
	}
	if err != nil {
		return nil, err // not before: a nil pointer in an interface is not nil
	}
	return c, nil
}

func (e *Endpoint) fresh(ctx context.Context, opts *Options) (*Conn, *ConnectError) {
	if !e.enter() {
		return nil, &ConnectError{Ending: outlier.EndLocalLimit, Err: ErrTooManyConnections}
	}
	return e.connect(ctx, opts)
}

// connect opens a connection for which there is room that has been taken.
func (e *Endpoint) connect(ctx context.Context, opts *Options) (*Conn, *ConnectError) {
	raw, err := e.dial(ctx, opts)
	if err != nil {
		e.leaveRoom()
		return nil, err
	}
	tune(raw, opts)
	c := newConn(raw, e, e.serial.Add(1))
	if opts.Now != nil {
		c.born = opts.Now()
	}
	e.mu.Lock()
	if e.conns == nil {
		e.conns = make(map[*Conn]struct{})
	}
	e.conns[c] = struct{}{}
	e.mu.Unlock()
	return c, nil
}

// dial opens a connection within the connect time-out and tells the ends apart:
// the client left, the caller's time was up, or the endpoint did not answer.
func (e *Endpoint) dial(ctx context.Context, opts *Options) (net.Conn, *ConnectError) {
	dialing := ctx
	if opts.ConnectTimeout > 0 {
		var cancel context.CancelFunc
		dialing, cancel = context.WithTimeoutCause(ctx, opts.ConnectTimeout, errConnectTimeout)
		defer cancel()
	}
	raw, err := opts.Dial(dialing, "tcp", e.Address)
	switch {
	case err == nil:
		return raw, nil
	case ctx.Err() != nil:
		return nil, Given(ctx, err)
	case dialing.Err() != nil:
		return nil, &ConnectError{Ending: outlier.EndConnectTimeout, Err: err}
	}
	return nil, &ConnectError{Ending: Ending(err), Err: err}
}

// Put gives a connection back after a complete exchange, for the next request.
// It closes the connection instead if the endpoint has enough of them or has
// been retired, or if the connection's lifetime is over.
func (e *Endpoint) Put(c *Conn, now time.Duration) {
	opts := e.options.Load()
	c.idleSince = now
	c.requests++
	if c.watch == nil && opts.Watch != nil && e.keeps(c, opts) {
		opts.Watch.add(c) // while nobody else knows of it
	}
	e.mu.Lock()
	e.closes.Kept(c.idleFor)
	keep := e.keepsLocked(c, opts)
	switch {
	case !keep:
	case len(e.waiting) > 0:
		serveLocked(&e.waiting, c)
	case len(e.queued) > 0:
		serveLocked(&e.queued, c)
	default:
		e.idle = append(e.idle, c)
	}
	e.mu.Unlock()
	if !keep {
		c.Discard()
	}
}

func (e *Endpoint) keeps(c *Conn, opts *Options) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.keepsLocked(c, opts)
}

// keepsLocked reports whether a connection that is put back is of use to somebody.
func (e *Endpoint) keepsLocked(c *Conn, opts *Options) bool {
	if e.retired || c.lent || c.over(opts, c.idleSince) {
		return false
	}
	return len(e.waiting) > 0 || len(e.queued) > 0 || len(e.idle) < opts.MaxIdle
}

// over reports whether the connection's lifetime is.
func (c *Conn) over(opts *Options, now time.Duration) bool {
	return opts.Lifetime.Over(now-c.born, c.requests)
}

// outstays reports whether an idle connection's peer is about to close it.
func (c *Conn) outstays(now time.Duration) bool {
	return c.idleMax > 0 && now-c.idleSince >= c.idleMax
}

// Expire closes what has been idle for too long. Somebody must call it now and
// then, else an endpoint that gets no more requests keeps its connections.
func (e *Endpoint) Expire(now time.Duration) {
	opts := e.options.Load()
	timeout := opts.IdleTimeout
	var old []*Conn
	e.mu.Lock()
	e.idle = slices.DeleteFunc(e.idle, func(c *Conn) bool {
		expired := timeout > 0 && now-c.idleSince >= timeout || c.over(opts, now) || c.outstays(now)
		if expired {
			old = append(old, c)
		}
		return expired
	})
	shared := e.shared
	e.mu.Unlock()
	discard(old)
	if shared != nil && timeout > 0 {
		shared.Expire(now, timeout)
	}
}

// CloseIdle closes every idle connection.
func (e *Endpoint) CloseIdle() {
	e.mu.Lock()
	all, shared := e.emptyLocked(), e.shared
	e.mu.Unlock()
	discard(all)
	if shared != nil {
		shared.CloseIdle()
	}
}

// Retire closes every idle connection, and from then on whatever is given back:
// the endpoint has left its cluster. Attempts that are under way finish.
func (e *Endpoint) Retire() {
	e.mu.Lock()
	e.retired = true
	all, shared := e.emptyLocked(), e.shared
	e.mu.Unlock()
	discard(all)
	if shared != nil {
		shared.Retire()
	}
}

// Lost says what it means that c died before the first byte of an answer.
func (e *Endpoint) Lost(c *Conn, now time.Duration) outlier.Ending {
	if e.Raced(c.idleFor, now) {
		return outlier.EndKeepAliveRace
	}
	return outlier.EndResetBeforeHeaders
}

// Raced reports whether the death of a connection, on which requests were waiting that
// had found it idle for so long, is nobody's fault.
//
// A server that closes a connection because it was idle may do so at the very
// moment when a request is on the way (RFC 9112, section 9.3.1 and 9.6). But that
// is rare, so a second one within a second is a server that drops its connections.
func (e *Endpoint) Raced(idleFor, now time.Duration) bool {
	if idleFor < raceAfter {
		return false
	}
	last := time.Duration(e.lastRace.Swap(int64(now)))
	return now-last >= raceWindow
}

// Idle is the number of idle connections.
func (e *Endpoint) Idle() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.idle)
}

// Open is the number of connections, idle ones and those being opened included.
func (e *Endpoint) Open() int { return int(e.open.Load()) }

// take removes the youngest idle connection from the pool. If that one is too
// old, all are.
func (e *Endpoint) take(now, timeout time.Duration) *Conn {
	e.mu.Lock()
	n := len(e.idle)
	if n > 0 && timeout > 0 && now-e.idle[n-1].idleSince >= timeout {
		all := e.emptyLocked()
		e.mu.Unlock()
		discard(all)
		return nil
	}
	c := e.popLocked()
	e.mu.Unlock()
	if c != nil {
		c.idleFor = max(0, now-c.idleSince)
	}
	return c
}

// popLocked removes the youngest idle connection; nil: there is none.
func (e *Endpoint) popLocked() *Conn {
	n := len(e.idle)
	if n == 0 {
		return nil
	}
	c := e.idle[n-1]
	e.idle[n-1] = nil
	e.idle = e.idle[:n-1]
	return c
}

// emptyLocked removes all idle connections and returns them.
func (e *Endpoint) emptyLocked() []*Conn {
	all := e.idle
	e.idle = nil
	return all
}

func discard(conns []*Conn) {
	for _, c := range conns {
		c.Discard()
	}
}
