package http1

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

const (
	// watchAfter is how long an answer may take before the client is watched.
	watchAfter = 50 * time.Millisecond
	// collectFor is how long a short request body may take to come before the
	// request goes ahead without it.
	collectFor = 50 * time.Millisecond
	// restAfter is how long a connection may be idle with a task, or a goroutine that has
	// served requests. Who returns after it costs some microseconds more; the sooner it is
	// over, the fewer have these at once after a burst.
	restAfter = 250 * time.Millisecond
)

// longAgo is a deadline that interrupts whoever reads or writes.
var longAgo = time.Unix(1, 0)

// reason is why a connection's goroutine was interrupted.
type reason uint8

const (
	uninterrupted reason = iota
	byIdle               // no request came in time
	byRest               // give back what only requests need, and go on waiting
	byHead               // the head did not come in time
	byCollect            // the body did not come at once
	byHedge              // the attempt is overdue, or the one beside it has an answer
	byTry                // the attempt's time is up
	byRequest            // the request's time is up
	byStall              // nothing has moved
	byClient             // the client left
	byBody               // the client's body is malformed
	byEnd                // ServeConn's context has ended
)

// phase is what a connection's goroutine is doing.
type phase uint8

const (
	waiting    phase = iota // for the first byte of a request
	reading                 // a head
	collecting              // a body that should be there at once
	exchanging              // with an endpoint
	tunneling               // what is no HTTP any more: time is the tunnel's own business
)

// guard is the part of a connection that others touch: the wheel, the watcher,
// the pump, Drain. It interrupts the connection's goroutine, whatever that is
// blocked in, and says why.
type guard struct {
	wheel *wheel.Wheel
	timer wheel.Timer
	nc    net.Conn
	moved atomic.Int64 // instant of the last progress of a body
	// lacks is the instant from which the endpoint may be given up, since the rest of
	// its answer does not come; never while nobody waits for that.
	lacks atomic.Int64

	mu      sync.Mutex // guards what follows
	phase   phase
	why     reason
	shutOff bool           // byEnd: for good
	up      *upstream.Conn // of the attempt under way
	hedge   *hedge         // beside it; nil: none
	alone   bool           // it is the only one left
	wake    chan struct{}  // who waits between two attempts listens here

	// dial bounds the waits for connections. It is used by one exchange after the
	// other until it has to be cancelled, since most of them find a connection
	// and need none.
	dial    context.Context
	cancel  context.CancelCauseFunc
	dialing bool

	until     time.Duration // end of waiting, reading, collecting; never if none
	restAt    time.Duration
	tryAt     time.Duration
	hedgeAt   time.Duration
	headed    bool // the attempt has been answered: tryAt does not matter
	requestAt time.Duration
	stall     time.Duration // 0: may stand still
	watchAt   time.Duration // the client is to be watched from then on; never: it is, or cannot be
	watch     func()        // starts watching; called with mu held
	begun     uint32        // exchanges
	seen      uint32        // exchanges when the wheel last came by
}

func (g *guard) init(w *wheel.Wheel, nc net.Conn, watch func()) {
	g.wheel, g.nc, g.watch = w, nc, watch
	g.wake = make(chan struct{}, 1)
	g.timer.Init(g.visit)
}

// expect begins one of the phases that have a single deadline; rest is when an
// idle connection comes to rest. What interrupted the phase before came
// too late and is forgotten.
func (g *guard) expect(p phase, until, rest time.Duration) {
	g.mu.Lock()
	if g.why != uninterrupted {
		g.settleLocked()
	}
	g.phase, g.until, g.restAt = p, until, rest
	g.mu.Unlock()
	g.wheel.Arm(&g.timer, min(until, rest))
}

// begin starts an exchange, as expect does the other phases.
func (g *guard) begin(now, stall time.Duration) {
	g.moved.Store(int64(now))
	g.lacks.Store(int64(wheel.Never))
	g.mu.Lock()
	if g.why != uninterrupted {
		g.settleLocked()
	}
	g.phase, g.stall = exchanging, stall
	g.tryAt, g.hedgeAt, g.requestAt, g.watchAt = wheel.Never, wheel.Never, wheel.Never, wheel.Never
	g.begun++
	g.mu.Unlock()
	at := now + watchAfter
	if stall > 0 {
		at = min(at, now+stall)
	}
	g.wheel.Arm(&g.timer, at)
}

// awaited is told that the endpoint has been sent all of the request: from now
// on time is the endpoint's.
func (g *guard) awaited(now, request, perTry time.Duration) {
	g.mu.Lock()
	g.requestAt = after(now, request)
	g.watchAt = now + watchAfter
	if !g.headed {
		g.tryAt = after(now, perTry)
	}
	at := min(g.requestAt, g.tryAt, g.watchAt)
	g.mu.Unlock()
	g.wheel.Arm(&g.timer, at)
}

// try begins an attempt. It may wait for its connection until the context ends.
func (g *guard) try(ctx context.Context, now, perTry time.Duration) context.Context {
	g.mu.Lock()
	if g.dial == nil {
		g.dial, g.cancel = context.WithCancelCause(ctx)
	}
	dial := g.dial
	g.tryAt, g.headed, g.dialing = after(now, perTry), false, true
	if g.why != uninterrupted {
		g.cancelLocked(g.why)
	}
	at := g.tryAt
	g.mu.Unlock()
	g.wheel.Arm(&g.timer, at)
	return dial
}

// hold names the attempt's connection, so that it can be interrupted. From hedgeAt on
// the attempt is overdue.
func (g *guard) hold(up *upstream.Conn, hedgeAt time.Duration) reason {
	g.mu.Lock()
	g.up, g.dialing, g.hedgeAt = up, false, hedgeAt
	why := g.why
	g.mu.Unlock()
	g.wheel.Arm(&g.timer, hedgeAt)
	return why
}

// answered is told that the attempt has brought a head, in time unless it
// returns otherwise.
func (g *guard) answered() reason {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calmLocked()
	g.tryAt, g.headed = wheel.Never, true
	return g.why
}

// calm reports whether it was byHedge that the attempt was interrupted, and lets it go
// on.
func (g *guard) calm() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.calmLocked()
}

func (g *guard) calmLocked() bool {
	g.hedgeAt = wheel.Never
	if g.why != byHedge {
		return false
	}
	g.why = uninterrupted
	_ = g.up.SetReadDeadline(time.Time{})
	return true
}

// lack is told that more of an answer is waited for until then.
func (g *guard) lack(until time.Duration) {
	g.lacks.Store(int64(until))
	g.wheel.Arm(&g.timer, until)
}

// release forgets the attempt's connection, and if done, that the request has a
// time limit. If it returns a reason, the connection's deadline may have been set.
func (g *guard) release(done bool) reason {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calmLocked()
	g.up, g.dialing, g.tryAt = nil, false, wheel.Never
	if done {
		g.requestAt = wheel.Never // what is left is between us and the client
	}
	return g.why
}

// tunnel leaves the connections alone from now on, unless it returns a reason: then
// it came too late.
func (g *guard) tunnel() reason {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.why == uninterrupted {
		g.phase, g.up = tunneling, nil
	}
	return g.why
}

// reason is why the goroutine was interrupted.
func (g *guard) reason() reason {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.why
}

// settle forgets the interruption, so that the client's connection can be used
// again; after shut it cannot. It returns what is forgotten.
func (g *guard) settle() reason {
	g.mu.Lock()
	defer g.mu.Unlock()
	why := g.why
	if why != uninterrupted {
		g.settleLocked()
	}
	return why
}

// reopen undoes a deadline that was set to end the pump or the watcher.
func (g *guard) reopen() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reopenLocked()
}

func (g *guard) reopenLocked() {
	if !g.shutOff {
		_ = g.nc.SetReadDeadline(time.Time{})
	}
}

// settleTry forgets that an attempt's time was up, unless there is worse news.
func (g *guard) settleTry() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.why == byTry {
		g.settleLocked()
	}
}

func (g *guard) settleLocked() {
	if g.shutOff {
		g.why = byEnd
		return
	}
	g.why = uninterrupted
	_ = g.nc.SetDeadline(time.Time{}) // fails only if closed, which the next read finds out
	select {
	case <-g.wake:
	default:
	}
}

// interrupt makes the connection's goroutine wake up. The first reason counts,
// except that what concerns an attempt is nothing beside its end, and that nothing
// beside the end of its request.
func (g *guard) interrupt(why reason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.interruptLocked(why)
}

func (g *guard) interruptLocked(why reason) {
	if g.why != uninterrupted && (g.why != byTry && g.why != byHedge || why <= g.why) {
		return
	}
	if why == byHedge && (g.up == nil || g.headed) {
		return // it is being looked at already
	}
	g.why = why
	if g.phase == tunneling {
		return // the tunnel sees the same context end
	}
	switch why {
	case byHedge:
		_ = g.up.SetReadDeadline(longAgo)
		return
	case byTry:
		if g.alone {
			g.stopHedgeLocked(why.ending())
			return
		}
	case byIdle, byRest, byHead, byCollect:
		_ = g.nc.SetReadDeadline(longAgo)
		return
	default:
		_ = g.nc.SetDeadline(longAgo)
		g.stopHedgeLocked(why.ending())
	}
	if g.up != nil {
		_ = g.up.SetDeadline(longAgo)
	}
	if g.dialing {
		g.cancelLocked(why)
	}
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// cancelLocked ends the wait for a connection.
func (g *guard) cancelLocked(why reason) {
	g.cancel(upstream.GivenUp(why.ending()))
	g.dial, g.dialing = nil, false
}

// close frees what an exchange has left for the next one.
func (g *guard) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.dial != nil {
		g.cancelLocked(byEnd)
	}
}

// shut interrupts for good.
func (g *guard) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shutOff = true
	g.why = uninterrupted
	g.interruptLocked(byEnd)
}

// hurry shortens the wait for the next request.
func (g *guard) hurry(until time.Duration) {
	g.mu.Lock()
	hurried := g.phase == waiting && until < g.until
	if hurried {
		g.until = until
	}
	g.mu.Unlock()
	if hurried {
		g.wheel.Arm(&g.timer, until)
	}
}

// visit is the wheel's: it looks at what is due.
func (g *guard) visit(now time.Duration) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	var next time.Duration
	switch {
	case g.shutOff, g.phase == tunneling:
		return wheel.Never
	case g.why != uninterrupted && g.why != byTry:
		return now + wheel.Tick // whoever was interrupted has not looked yet
	case g.phase == exchanging:
		next = g.visitExchangeLocked(now)
	default:
		if now >= g.until {
			g.until = wheel.Never
			g.interruptLocked([...]reason{waiting: byIdle, reading: byHead, collecting: byCollect}[g.phase])
		}
		if g.phase == waiting && now >= g.restAt {
			g.restAt = wheel.Never
			g.interruptLocked(byRest)
		}
		next = min(g.until, g.restAt)
	}
	if g.begun != g.seen {
		// In use: the next exchange will want to be looked at soon, so that arming
		// for it would mean moving from one slot to another each time.
		g.seen = g.begun
		next = min(next, now+watchAfter)
	}
	return next
}

func (g *guard) visitExchangeLocked(now time.Duration) time.Duration {
	if now >= g.requestAt {
		g.requestAt = wheel.Never
		g.interruptLocked(byRequest)
	}
	if now >= g.tryAt {
		g.tryAt = wheel.Never
		g.interruptLocked(byTry)
	}
	if now >= g.hedgeAt {
		g.hedgeAt = wheel.Never
		g.interruptLocked(byHedge)
	}
	if now >= g.watchAt {
		g.watchAt = wheel.Never
		g.watch()
	}
	lacks := time.Duration(g.lacks.Load())
	if now >= lacks {
		g.interruptLocked(byStall)
	}
	next := min(g.requestAt, g.tryAt, g.hedgeAt, g.watchAt, lacks)
	if g.stall > 0 {
		due := time.Duration(g.moved.Load()) + g.stall
		if now >= due {
			g.interruptLocked(byStall)
			return next
		}
		next = min(next, due)
	}
	return next
}

// after is the end of a time-out, of which 0 is none.
func after(now, timeout time.Duration) time.Duration {
	if timeout <= 0 {
		return wheel.Never
	}
	return now + timeout
}

// ending is what the interruption of an attempt means for it.
func (r reason) ending() outlier.Ending {
	switch r {
	case byTry:
		return outlier.EndPerTryTimeout
	case byHedge:
		return outlier.EndHedgeLoser
	case byRequest:
		return outlier.EndRouteTimeout
	case byClient, byBody:
		return outlier.EndClientAbort
	case byStall:
		return outlier.EndBodyIdle
	}
	return outlier.EndLocalLimit
}
