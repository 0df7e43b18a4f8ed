package upstream

import (
	"context"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/overhear-mesh/overhear/proxy/clock"
)

// Watch notices at once that a peer closes a connection which lies idle, and which
// nobody reads: a process that dies closes all of its own. Requests do not pay for it:
// a connection is registered once, when it lies idle for the first time.
//
// One Watch serves a whole sidecar. It takes sockets on Linux, and connections of other
// kinds that tell by themselves; of others nothing is noticed before they are used.
type Watch struct {
	clock clock.Clock
	files chan *os.File // the epoll instance, for Run; there is at most one

	mu     sync.Mutex       // guards what follows
	over   bool             // Run has ended
	epoll  int              // the instance's descriptor; -1: not opened
	serial uint64           // of the last connection; never used again, unlike descriptors
	conns  map[uint64]*Conn // that are registered
}

// NewWatch makes a Watch. It notices nothing before Run, which must be called. Its clock
// is that of the instants which endpoints are given.
func NewWatch(k clock.Clock) *Watch {
	return &Watch{clock: k, files: make(chan *os.File, 1), epoll: -1, conns: make(map[uint64]*Conn)}
}

// Run notices until ctx ends. It may be called once. After an error nothing is noticed
// any more.
func (w *Watch) Run(ctx context.Context) error {
	err := w.run(ctx)
	w.mu.Lock()
	w.over = true
	w.mu.Unlock()
	select {
	case file := <-w.files: // opened in the last moment
		_ = file.Close()
	default:
	}
	return err
}

// closeTeller is a connection without a descriptor that calls back once its peer's end
// or reset has arrived.
type closeTeller interface{ OnPeerClose(func()) }

// add registers c, which nobody else knows of yet. If that fails it is not tried again:
// a request pays for it once at most.
func (w *Watch) add(c *Conn) {
	c.watch = w
	if c.raw == nil {
		if teller, ok := c.Conn.(closeTeller); ok {
			teller.OnPeerClose(func() { c.endpoint.leftBy(c, w.clock.Now()) })
		}
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || w.epoll < 0 && !w.openLocked() {
		return
	}
	w.serial++
	if w.registerLocked(c, w.serial) {
		c.watched = w.serial
		w.conns[w.serial] = c
	}
}

// forget is the end of a registered connection.
func (w *Watch) forget(serial uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, serial)
}

// noticed finds whom an event is about. It may be that the connection has just been
// closed by us, or is in use: then its user finds out.
func (w *Watch) noticed(serial uint64, now time.Duration) {
	w.mu.Lock()
	c := w.conns[serial]
	w.mu.Unlock()
	if c != nil {
		c.endpoint.leftBy(c, now)
	}
}

// leftBy takes in that the peer of c has closed it. If it lay idle, that may be a hint.
func (e *Endpoint) leftBy(c *Conn, now time.Duration) {
	e.mu.Lock()
	i := slices.Index(e.idle, c)
	if i >= 0 {
		e.idle = slices.Delete(e.idle, i, i+1)
	}
	e.mu.Unlock()
	if i >= 0 {
		c.Discard()
		e.Left(now-c.idleSince, now)
	}
}

// Left takes in that the peer has closed a connection, of its own accord and without a
// word, that had been idle for so long.
func (e *Endpoint) Left(idle, now time.Duration) {
	opts := e.options.Load()
	e.mu.Lock()
	hint := !e.retired && e.closes.Hint(idle, now)
	e.mu.Unlock()
	if hint && opts.Hint != nil {
		opts.Hint(e)
	}
}

// Hinted takes in what came of a hint: whether the endpoint was well.
func (e *Endpoint) Hinted(well bool, now time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closes.Settle(well, now)
}
