package http2

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// maxLinks bounds the connections to one endpoint that are opened only because those
// that are there are busy.
const maxLinks = 16

// Client keeps HTTP/2 connections to endpoints, for all servers of a sidecar.
type Client struct {
	cfg   Config
	clock clock.Clock
	wheel *wheel.Wheel
}

// NewClient makes a client. It starts nothing. cfg must be valid.
func NewClient(cfg Config, k clock.Clock) *Client {
	return &Client{cfg: cfg, clock: k, wheel: wheel.New(k)}
}

// pool has the connections to one endpoint. There is one goroutine for each of them,
// its reader, and one while another is being opened.
type pool struct {
	client *Client
	ep     *upstream.Endpoint
	ctx    context.Context // ends with the pool; only for opening connections
	cancel context.CancelCauseFunc

	waiters atomic.Int32 // len(queue), to be looked at without the lock

	mu      sync.Mutex // guards what follows
	links   []*link
	dialing bool
	queue   []waiter // who has waited longest is first
	retired bool
}

// taker is who wants a stream of its own.
type taker interface {
	// openOn opens it, and reports whether the link had room for it.
	openOn(b *batch, l *link) bool
	// onLink says that there is a connection for whoever held this ticket, onNoLink that
	// there will be none.
	onLink(b *batch, p *pool, ticket uint64)
	// text says what is the matter with it, if that is known.
	onNoLink(b *batch, p *pool, ticket uint64, ending outlier.Ending, text string) (took bool)
}

type waiter struct {
	taker  taker
	ticket uint64
}

// poolOf is the endpoint's pool.
func poolOf(c *Client, ep *upstream.Endpoint) *pool {
	return ep.Shared(func() upstream.Shared {
		p := &pool{client: c, ep: ep}
		p.ctx, p.cancel = context.WithCancelCause(context.Background())
		return p
	}).(*pool)
}

// find opens t's stream on a connection that has room.
func (p *pool) find(b *batch, t taker) bool {
	for range maxLinks {
		l := p.best()
		if l == nil {
			return false
		}
		if t.openOn(b, l) {
			return true
		}
	}
	return false
}

// best is the connection with the fewest streams, nil if none has room. An idle one
// answers soonest, and the streams of one connection hold each other up.
func (p *pool) best() *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *link
	for _, l := range p.links {
		if best != nil && l.active.Load() >= best.active.Load() {
			continue
		}
		l.mu.Lock()
		accepts := l.acceptsLocked() && len(l.out)+l.inflight < drownedAt/2
		l.mu.Unlock()
		if accepts {
			best = l
		}
	}
	if best != nil && best.active.Load() >= manyStreams && p.promisingLocked() < maxLinks {
		p.dialLocked()
	}
	return best
}

// promising reports whether streams may be opened one day.
func (l *link) promising() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.closed && !l.goingAway && !l.wornLocked()
}

// promisingLocked is how many connections there are of which more can be expected.
func (p *pool) promisingLocked() int {
	n := 0
	for _, l := range p.links {
		if l.promising() {
			n++
		}
	}
	return n
}

// enqueue lets somebody wait who has found no connection with room. One that has got
// room since does not know of him, and makes another one needless.
func (p *pool) enqueue(b *batch, w waiter) {
	p.mu.Lock()
	p.queue = append(p.queue, w)
	p.waiters.Store(int32(len(p.queue)))
	p.mu.Unlock()
	if p.best() != nil {
		b.freed(p)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialLocked()
}

// forget takes a waiter out of the queue.
func (p *pool) forget(t taker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = slices.DeleteFunc(p.queue, func(w waiter) bool { return w.taker == t })
	p.waiters.Store(int32(len(p.queue)))
}

// dialLocked opens a connection, one at a time: as long as one is on its way, or has not
// heard from its peer, no other is opened.
func (p *pool) dialLocked() {
	if p.dialing || slices.ContainsFunc(p.links, (*link).young) {
		return
	}
	p.dialing = true
	go p.dial()
}

// young reports whether the peer has yet to say its settings.
func (l *link) young() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.settled && !l.closed
}

// dial opens a connection, and then is its reader.
func (p *pool) dial() {
	conn, err := p.ep.Fresh(p.ctx)
	b := &batch{now: p.client.clock.Now()}
	if err != nil {
		p.mu.Lock()
		p.dialing = false
		p.mu.Unlock()
		p.failed(b, upstream.ConnectEnding(err), "")
		b.flush()
		return
	}
	l := newLink(&p.client.cfg, p.client.clock, p.client.wheel, conn, clientRole{p}, true)
	p.mu.Lock()
	p.dialing = false
	p.links = append(p.links, l)
	if p.retired {
		l.shut(causeStopped)
	}
	p.mu.Unlock()
	l.start(b)
	b.flush()
	l.run()
}

// failed tells those who wait that no connection has come about, unless there is
// another one to wait for.
func (p *pool) failed(b *batch, ending outlier.Ending, text string) {
	p.mu.Lock()
	var queue []waiter
	if p.retired || !slices.ContainsFunc(p.links, (*link).promising) {
		queue = p.queue
		p.queue = nil
		p.waiters.Store(0)
	}
	p.mu.Unlock()
	for _, w := range queue {
		if w.taker.onNoLink(b, p, w.ticket, ending, text) {
			ending = outlier.EndSharedConnection // one connection event is one failure
		}
	}
}

// serve opens streams for those who wait, as long as there is room.
func (p *pool) serve(b *batch) {
	for range p.waiters.Load() {
		if p.best() == nil {
			break
		}
		p.mu.Lock()
		if len(p.queue) == 0 {
			p.mu.Unlock()
			return
		}
		w := p.queue[0]
		p.queue = slices.Delete(p.queue, 0, 1)
		p.waiters.Store(int32(len(p.queue)))
		p.mu.Unlock()
		w.taker.onLink(b, p, w.ticket)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 && !p.retired && p.promisingLocked() < maxLinks {
		p.dialLocked()
	}
}

// drop forgets a connection that has ended.
func (p *pool) drop(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.links = slices.DeleteFunc(p.links, func(other *link) bool { return other == l })
}

// Expire implements upstream.Shared: it closes what has been idle for too long.
func (p *pool) Expire(now, timeout time.Duration) {
	p.closeIdle(func(l *link) bool { return now-time.Duration(l.idleFrom.Load()) >= timeout })
}

// CloseIdle implements upstream.Shared.
func (p *pool) CloseIdle() { p.closeIdle(func(*link) bool { return true }) }

// Retire implements upstream.Shared: streams that are open finish, and no more are
// opened.
func (p *pool) Retire() {
	p.mu.Lock()
	p.retired = true
	p.mu.Unlock()
	p.cancel(upstream.GivenUp(outlier.EndLocalLimit))
	p.CloseIdle()
}

func (p *pool) closeIdle(which func(*link) bool) {
	p.mu.Lock()
	links := slices.Clone(p.links)
	p.mu.Unlock()
	b := batch{now: p.client.clock.Now()}
	for _, l := range links {
		if which(l) {
			l.leave(&b)
		}
	}
	b.flush()
}

// leave says goodbye if there is no stream.
func (l *link) leave(b *batch) {
	l.mu.Lock()
	idle := l.active.Load() == 0 && !l.closed
	if idle {
		l.goingAway = true
		l.out = appendGoAway(l.out, 0, codeNo)
	}
	l.mu.Unlock()
	if !idle {
		return
	}
	b.touch(l)
	l.shut(causeStopped)
}

// clientRole is the role of a connection to an endpoint.
type clientRole struct{ p *pool }

func (c clientRole) opened(*batch, *link, uint32, []hpack.HeaderField, *fault, bool) *fault {
	return errStreamID
}

func (c clientRole) freed(b *batch, l *link) {
	l.mu.Lock()
	over := l.active.Load() == 0 && l.goingAway && !l.closed
	closed, settled, why := l.closed, l.settled, l.why
	worn := l.reserved == 0 && l.wornLocked()
	if over {
		l.shutLocked(causeStopped)
	}
	l.mu.Unlock()
	if closed {
		c.p.drop(l)
		if !settled {
			c.p.failed(b, why.handshake(), why.text)
		}
	} else if l.active.Load() == 0 && (worn || c.p.gone()) {
		l.leave(b)
	}
	if c.p.waiters.Load() > 0 {
		b.freed(c.p)
	}
}

// handshake is what it means that a connection ended before its peer had said its
// settings. Nothing has been sent that must not be sent again.
func (l *loss) handshake() outlier.Ending {
	switch l.cause {
	case causeFault:
		return outlier.EndBadFraming // it may speak another protocol
	case causePing:
		return outlier.EndPeerWait
	case causeStopped:
		return outlier.EndLocalLimit
	}
	return outlier.EndResetBeforeHeaders
}

func (p *pool) gone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.retired
}

// goneAway handles GOAWAY (RFC 9113, section 6.8): the streams above last have not been
// looked at, and are tried elsewhere; the others finish.
func (c clientRole) goneAway(b *batch, l *link, last uint32, why code) {
	loss := &loss{cause: causeEnd, clean: true}
	switch why {
	case codeNo:
	case codeCalm:
		loss.cause = causeCalm
	default:
		loss.cause = causeGoAway
	}
	l.mu.Lock()
	l.goingAway = true
	l.mu.Unlock()
	for _, id := range l.open() {
		if id > last {
			l.lose(b, id, loss)
		}
	}
	c.freed(b, l)
}

func (c clientRole) settled(b *batch, _ *link) {
	if c.p.waiters.Load() > 0 {
		b.freed(c.p)
	}
}

// visit ends the use of a connection that has lasted as long as it may.
func (c clientRole) visit(b *batch, l *link) time.Duration {
	if l.lifetime.MaxDuration <= 0 {
		return wheel.Never
	}
	if due := l.born + l.lifetime.MaxDuration; b.now < due {
		return due
	}
	l.mu.Lock()
	l.aged = true
	unused := l.active.Load() == 0 && l.reserved == 0
	l.mu.Unlock()
	if unused {
		l.leave(b)
	}
	return wheel.Never
}
