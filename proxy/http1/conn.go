package http1

import (
	"context"
	"net"
	"time"

	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

const (
	// lingerFor and lingerBytes bound how long a connection that is closed with
	// unread bytes on the way is read on: closing at once would reset it, and the
	// client might never see the answer (RFC 9112, section 9.6).
	lingerFor   = 500 * time.Millisecond
	lingerBytes = 256 << 10
)

// Bridged is a connection that is one of the streams of another, whose client speaks a
// later version.
type Bridged interface {
	// Major is that version.
	Major() int
	// Matched is the route of the present request, if it has been looked for.
	Matched() *router.Route
	// Overruled is why its client has got 502 in place of what was written; "": it has not.
	Overruled() string
}

// conn is the connection of one client. All of it belongs to the goroutine of ServeConn, or
// to the one that serves in its place meanwhile (see live), except the guard.
type conn struct {
	guard  guard
	srv    *Server
	nc     net.Conn
	client net.Addr
	from   []byte // the client's IP address as text, for X-Forwarded-For

	rester *rester  // waits for the next request; nil if nc is no socket
	first  [32]byte // reads the first bytes of a request while there is no task

	born     time.Duration
	requests int           // that it has carried
	now      time.Duration // read from the clock once after each wait
	bridged  Bridged       // nil: nc is a connection of its own
	major    int           // of the version that the client speaks
	linger   bool          // bytes of the client may be on the way that nobody will read
	rests    bool          // the next request may be waited for on another goroutine

	// Made for the first pump, and used for all: a method value allocates too.
	pumpBody func()        // conn.runPump
	pumped   chan struct{} // gets one element when the pump has ended

	// What the present request needs; nil while the connection waits for one, since
	// most connections do nothing else.
	*task
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{srv: s, nc: nc, client: nc.RemoteAddr(), major: 1, born: s.deps.Clock.Now()}
	if tcp, ok := c.client.(*net.TCPAddr); ok {
		c.from = []byte(tcp.AddrPort().Addr().Unmap().String())
	}
	if s, ok := nc.(Bridged); ok {
		c.bridged, c.major = s, s.Major()
	}
	c.rester = newRester(c, nc)
	c.guard.init(s.wheel, nc, c.startWatch)
	return c
}

// live serves requests until the connection has ended. If it is a socket, then on another
// goroutine, which ends when no request has come for restAfter. Requests make a stack
// grow, and the runtime makes none smaller than 4 KB again: this goroutine waits with the
// 2 KB that it was born with.
func (c *conn) live(ctx context.Context) {
	if c.rester == nil {
		c.serve(ctx)
		return
	}
	ahead, rests := 0, make(chan bool)
	serve := func() {
		if ahead > 0 {
			c.begin(ahead)
		}
		rests <- c.serve(ctx)
	}
	for {
		go serve()
		if !<-rests {
			return
		}
		if ahead = c.rester.park(); ahead == 0 {
			return
		}
	}
}

// serve answers one request after the other. It reports whether the connection rests:
// then it has not ended, but waits for the next request with nothing but itself.
func (c *conn) serve(ctx context.Context) (rests bool) {
	c.rests = false
	for c.await() && c.readHead() && c.answer(ctx) {
		c.advance()
	}
	if c.linger {
		c.drainClient()
	}
	return c.rests
}

// await waits until there is something of the next request. If it returns false the
// connection has ended, or rests.
func (c *conn) await() bool {
	if c.task != nil && c.w > 0 { // the client pipelines
		c.now = c.srv.deps.Clock.Now()
		return true
	}
	c.now = c.srv.deps.Clock.Now()
	until := c.now + c.srv.cfg.IdleTimeout
	if c.srv.draining.Load() {
		until = min(until, c.now+c.srv.cfg.DrainIdleTimeout)
	}
	if d := c.srv.deps.Lifetime.MaxDuration; d > 0 && c.bridged == nil {
		// A client that is about to send its next request then should get its answer.
		until = min(until, max(c.now, c.born+d)+c.srv.cfg.DrainIdleTimeout)
	}
	c.guard.expect(waiting, until, c.now+restAfter)
	if c.srv.draining.Load() {
		c.guard.hurry(c.now + c.srv.cfg.DrainIdleTimeout) // it may have begun in between
	}
	for {
		n, err := c.readFirst()
		if n > 0 {
			c.now = c.srv.deps.Clock.Now()
			c.w = n
			return true
		}
		if err == nil {
			continue
		}
		if c.guard.reason() != byRest {
			return false
		}
		c.release()
		c.guard.settle()
		if c.rester != nil {
			c.rests = true
			return false
		}
	}
}

// leaves reports whether the client is to be told to use another connection from now on.
func (c *conn) leaves() bool {
	if c.bridged != nil { // its streams are counted where the connection is
		return c.srv.draining.Load()
	}
	return c.srv.draining.Load() || c.srv.deps.Lifetime.Over(c.now-c.born, c.requests)
}

// readFirst reads the beginning of a request. With it the connection has a task.
func (c *conn) readFirst() (n int, err error) {
	switch {
	case c.rester != nil:
		return c.rester.read()
	case c.task != nil:
		return c.nc.Read(c.in)
	}
	if n, err = c.nc.Read(c.first[:]); n > 0 {
		c.begin(n)
	}
	return n, err
}

// begin gets a task for a request, of which first has so many bytes.
func (c *conn) begin(ahead int) {
	c.task = getTask()
	c.w = copy(c.in, c.first[:ahead])
}

// readHead reads the rest of a head, and answers what is none.
func (c *conn) readHead() bool {
	c.req.reset()
	for began := false; ; {
		done, p := c.req.parse(c.in[:c.w], c.srv.limits)
		if p != nil {
			c.refuse(p)
			return false
		}
		if done {
			return true
		}
		if !began {
			began = true
			c.guard.expect(reading, c.now+c.srv.cfg.HeadTimeout, wheel.Never)
		}
		if c.w == len(c.in) {
			c.grow(min(2*len(c.in), c.srv.limits.bytes+1))
		}
		n, err := c.nc.Read(c.in[c.w:])
		c.w += n
		if n > 0 || err == nil {
			continue
		}
		if c.guard.settle() == byHead {
			c.refuse(errHeadTimeout)
		}
		return false // otherwise nothing was asked
	}
}

// advance makes what follows the request the beginning of the buffer.
func (c *conn) advance() {
	n := copy(c.in, c.in[c.rest:c.w])
	c.w = n
	if n <= smallBuffer && len(c.in) > smallBuffer {
		c.in = changeBuffer(c.in, n, smallBuffer)
	}
	c.resp = keepSmall(c.resp)
}

// grow makes room for n bytes in all; offsets stay, slices do not.
func (c *conn) grow(n int) {
	if n > len(c.in) {
		c.in = changeBuffer(c.in, c.w, n)
	}
}

// release gives the task back, while there is no request.
func (c *conn) release() {
	if c.task != nil {
		putTask(c.task)
		c.task = nil
	}
}

// drainClient ends the connection so that the last answer arrives, whatever the
// client is still sending.
func (c *conn) drainClient() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.guard.settle()
	if c.nc.SetReadDeadline(time.Now().Add(lingerFor)) != nil {
		return
	}
	if c.guard.reason() == byEnd {
		return
	}
	buf := getBuffer(smallBuffer)
	defer putBuffer(buf)
	for read := 0; read < lingerBytes; {
		n, err := c.nc.Read(buf)
		if read += n; err != nil {
			return
		}
	}
}
