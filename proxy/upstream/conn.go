package upstream

import (
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// Conn is a connection to an endpoint. It belongs to one goroutine at a time:
// to whoever got it from Get or Fresh, until Put, Discard or Close.
type Conn struct {
	net.Conn

	endpoint  *Endpoint
	hash      uint32
	born      time.Duration // if Options.Now is there
	requests  int           // that it has carried
	idleSince time.Duration // when it was put back
	idleFor   time.Duration // how long it was idle before its present use
	idleMax   time.Duration // how long it may be, see KeptFor; 0: its peer has not said
	closed    atomic.Bool
	lent      bool   // part of another connection: see Endpoint.Lend
	watch     *Watch // nil: it has not been idle yet
	watched   uint64 // its name there; 0: it is not noticed

	raw    syscall.RawConn // nil if the connection is no socket
	peek   func(fd uintptr) bool
	peeked bool // what peek found
	ask    ask
}

// condition is what a look at a connection shows.
type condition uint8

const (
	ended   condition = iota // closed or reset, by either side
	unclear                  // there is something to read: bytes, or the end
	stands
)

// readinessTeller is a connection without a descriptor that knows whether a
// Read would return at once.
type readinessTeller interface{ Readable() bool }

func newConn(raw net.Conn, e *Endpoint, serial uint32) *Conn {
	// Multiplying by an odd constant is a bijection: different connections of
	// an endpoint never share a hash (Knuth, TAOCP 3, section 6.4).
	c := &Conn{Conn: raw, endpoint: e, hash: serial * 2654435769}
	if socket, ok := raw.(syscall.Conn); ok {
		if rc, err := socket.SyscallConn(); err == nil {
			c.raw = rc
			c.peek = c.peekFD // made once: a method value allocates
			c.ask.call = c.askFD
		}
	}
	return c
}

// Socket is what c is, or what it is a shell of that has read the first bytes; nil: there
// is none.
func Socket(c net.Conn) *net.TCPConn {
	if shell, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = shell.NetConn()
	}
	s, _ := c.(*net.TCPConn)
	return s
}

// Hash tells the connections of one endpoint apart, for outlier.Outcome.
func (c *Conn) Hash() uint32 { return c.hash }

// Lifetime bounds its use, for whoever carries many requests on it.
func (c *Conn) Lifetime() Lifetime { return c.endpoint.options.Load().Lifetime }

// IdleFor is how long the connection was idle before its present use; 0 if it
// is fresh.
func (c *Conn) IdleFor() time.Duration { return c.idleFor }

// KeptFor is told, before Put, how long the peer says it keeps the connection without a
// request; 0: it does not say. It is given up up to a second sooner, so that no request
// meets the peer's close on the way.
func (c *Conn) KeptFor(d time.Duration) { c.idleMax = d - min(d/2, time.Second) }

// Discard closes the connection: it cannot be used for another request.
func (c *Conn) Discard() { _ = c.Close() }

// Close is Discard for whoever takes c as a net.Conn. Later calls do nothing.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	if !c.lent {
		c.endpoint.gone(c)
	}
	if c.watched != 0 {
		c.watch.forget(c.watched)
	}
	return c.Conn.Close()
}

// writeThenRead is Ask of what is no socket.
func (c *Conn) writeThenRead(request, answer []byte) (sent, n int, err error) {
	if sent, err = c.Write(request); sent < len(request) {
		return sent, 0, err
	}
	n, err = c.Read(answer)
	return sent, n, err
}

// readable reports whether a read would return at once. Of an idle connection
// that means that its peer has closed it, or has said something that nobody
// asked for; neither can carry another request.
func (c *Conn) readable() bool {
	if c.raw != nil {
		c.peeked = true
		// An error means that the connection is closed or its deadline over.
		return c.raw.Read(c.peek) != nil || c.peeked
	}
	if teller, ok := c.Conn.(readinessTeller); ok {
		return teller.Readable()
	}
	return false
}

// look says how the connection is. Unlike readable it may be asked of one that
// somebody else uses: it takes nothing from the connection, not even the error of
// a reset, which a kernel tells only once.
func (c *Conn) look() condition {
	if c.closed.Load() {
		return ended
	}
	if c.raw != nil {
		found := ended
		if err := c.raw.Control(func(fd uintptr) { found = lookFD(fd) }); err != nil {
			return ended // closed in between
		}
		return found
	}
	if teller, ok := c.Conn.(readinessTeller); ok && !teller.Readable() {
		return stands
	}
	return unclear
}
