package http2

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// Older serves requests for endpoints that speak HTTP/1.1 only, on a connection whose
// client speaks it: proxy/http1's Server.
type Older interface {
	ServeConn(ctx context.Context, nc net.Conn)
}

// Server speaks HTTP/2 with the clients of one listener. Its methods may be called
// from any goroutine.
type Server struct {
	cfg      Config
	deps     exchange.Deps
	client   *Client
	older    Older
	wheel    *wheel.Wheel
	via      string
	today    atomic.Pointer[today]
	draining atomic.Bool

	mu    sync.Mutex // guards conns
	conns map[*serverConn]struct{}
}

// today is a Date that has been written already.
type today struct {
	second int64
	text   string
}

// NewServer makes a server. It starts nothing. cfg must be valid. client opens the
// connections to endpoints; older may be nil, if no endpoint is known to need it.
func NewServer(cfg Config, deps exchange.Deps, client *Client, older Older) *Server {
	if deps.Metrics == nil {
		deps.Metrics = &exchange.Metrics{}
	}
	s := &Server{
		cfg: cfg, deps: deps, client: client, older: older,
		wheel: wheel.New(deps.Clock), conns: make(map[*serverConn]struct{}),
	}
	if cfg.Via != "" {
		s.via = "2 " + cfg.Via
	}
	return s
}

// ServeConn serves one client until either side has enough. It closes nc and returns
// when everything that it has started has ended. The end of ctx breaks off what is
// under way.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn) {
	c := newServerConn(ctx, s, nc)
	s.track(c, true)
	s.deps.Metrics.Connections.Add(1)
	stopped := context.AfterFunc(ctx, func() { c.link.shut(causeStopped) })
	c.link.start(&c.link.b)
	c.link.b.flush()
	if s.draining.Load() {
		c.drain()
	}
	c.link.run()
	stopped()
	c.quit()
	c.older.Wait()
	s.track(c, false)
	s.deps.Metrics.Connections.Add(-1)
}

// Drain asks every client to go: what is under way finishes, and no more streams are
// taken. It returns at once, and may be called again.
func (s *Server) Drain() {
	if s.draining.Swap(true) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.drain()
	}
}

func (s *Server) track(c *serverConn, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if open {
		s.conns[c] = struct{}{}
	} else {
		delete(s.conns, c)
	}
}

// date is the Date that a response must not lack when it is passed on (RFC 9110,
// section 6.6.1).
func (s *Server) date(now time.Duration) string {
	at := s.deps.Clock.Time(now)
	if d := s.today.Load(); d != nil && d.second == at.Unix() {
		return d.text
	}
	d := &today{at.Unix(), at.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")}
	s.today.Store(d)
	return d.text
}

// serverConn is the connection of one client.
type serverConn struct {
	srv    *Server
	ctx    context.Context // of ServeConn, for what serves requests in another version
	link   *link
	client net.Addr
	from   string // the client's IP address, for x-forwarded-for

	req  request // the reader's, of the head that is being read, and
	text []byte  // what is looked for in the table of routes

	requests int // the reader's, that have come

	older sync.WaitGroup // goroutines that serve requests for older endpoints

	mu      sync.Mutex    // guards what follows
	idle    []*bridge     // of them, those that wait for a request
	running int           // all of them
	ended   bool          // no more requests come
	leaving bool          // the first GOAWAY has been sent
	goAway  time.Duration // when the second one is due, wheel.Never: not, or sent
	over    time.Duration // when its lifetime is; wheel.Never: never
}

func newServerConn(ctx context.Context, s *Server, nc net.Conn) *serverConn {
	c := &serverConn{srv: s, ctx: ctx, client: nc.RemoteAddr(), goAway: wheel.Never, over: wheel.Never}
	if d := s.deps.Lifetime.MaxDuration; d > 0 {
		c.over = s.deps.Clock.Now() + d
	}
	if tcp, ok := c.client.(*net.TCPAddr); ok {
		c.from = tcp.AddrPort().Addr().Unmap().String()
	}
	c.link = newLink(&s.cfg, s.deps.Clock, s.wheel, nc, c, false)
	c.link.offers = s.offers()
	return c
}

// opened implements role: it begins a request.
func (c *serverConn) opened(b *batch, l *link, id uint32, fields []hpack.HeaderField, over *fault, end bool) *fault {
	l.mu.Lock()
	refused := l.goingAway || int(l.active.Load()) >= c.srv.cfg.MaxStreams
	if refused {
		// What came after the last GOAWAY is not looked at, and the client knows
		// (RFC 9113, section 6.8). Beyond the limit it is told (section 5.1.2).
		if !l.goingAway {
			l.out = appendReset(l.out, id, codeRefused)
		}
		l.forgetLocked(id)
	}
	l.mu.Unlock()
	if refused {
		b.touch(l)
		return l.pointless(b) // no endpoint has seen it
	}
	if c.requests++; c.requests == c.srv.deps.Lifetime.MaxRequests {
		c.leave(b)
	}
	tooMuch := over == errTooLarge || over == errTooMany
	if over == nil || tooMuch {
		if f := c.req.parse(fields); f != nil && !tooMuch {
			over = f
		}
	}
	if over == nil && end && c.req.length > 0 {
		over = errLength
	}
	if over == nil && c.req.protocol != "" && !l.offers {
		over = errPseudo // RFC 8441, section 3
	}
	escaped := over == nil && !c.req.cleanPath(&c.srv.deps.Paths)
	doomed := over == nil && l.doomed(id)
	if over == nil && !escaped && !doomed && (c.tunnels(&c.req) || c.outdated(&c.req)) {
		return c.bridge(b, id, end)
	}
	x := relays.Get().(*relay)
	x.mu.Lock()
	defer x.unlock()
	x.open(b, c, &c.req)
	l.mu.Lock()
	l.addLocked(b, &x.down, id, x, c.req.length)
	x.down.received = end
	l.mu.Unlock()
	switch {
	case doomed: // it goes nowhere: its end is about to be read
	case tooMuch:
		c.srv.deps.Metrics.Malformed.Add(1)
		x.reply(b, 431, exchange.DownstreamProtocolError, over.text, "")
	case over != nil:
		x.blame(b, over)
		return l.cancelled(b)
	case escaped:
		x.refuse(b, x.Slashed(&c.srv.deps.Paths))
	case c.req.connect:
		x.reply(b, 501, exchange.DownstreamProtocolError, "no tunnel for this protocol", "")
	default:
		x.begin(b, end)
	}
	return nil
}

// outdated looks for the route of a request, and reports whether it goes to endpoints
// that speak HTTP/1.1 only.
func (c *serverConn) outdated(r *request) bool {
	if c.srv.older == nil || r.connect {
		return false
	}
	if in := c.srv.deps.Inbound; in != nil {
		return !in.Endpoint.Multiplexed()
	}
	t := append(append(append(c.text[:0], r.authority...), r.method...), r.path...)
	m, p := len(r.authority), len(r.authority)+len(r.method)
	c.text = t
	q := router.Request{Host: t[:m:m], Method: t[m:p:p], Path: t[p:], GRPC: r.grpc, Fields: r}
	r.route = c.srv.deps.Router().Match(&q, rand.Uint32())
	return r.route != nil && r.route.Cluster != nil && !r.route.Cluster.Multiplexed()
}

// freed implements role.
func (c *serverConn) freed(_ *batch, l *link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.goingAway && l.active.Load() == 0 {
		l.shutLocked(causeStopped)
	}
}

// goneAway implements role: the client opens no more streams, and ends the connection
// when it likes.
func (c *serverConn) goneAway(*batch, *link, uint32, code) {}

func (c *serverConn) settled(*batch, *link) {}

// blamed tells that the connection ends for a fault of the client's. There may be no
// request that could tell: who floods leaves none open.
func (c *serverConn) blamed(now time.Duration, f *fault) {
	d := &c.srv.deps
	d.Metrics.Malformed.Add(1)
	if d.Log != nil {
		d.Log.Log(&exchange.Record{
			Start: now, Client: c.client, Inbound: d.Inbound != nil, Major: 2, GRPCStatus: -1,
			Flags: exchange.DownstreamProtocolError, Detail: f.text,
		})
	}
}

// drain says that the client should go. Since it may be opening a stream at this
// moment, the first GOAWAY allows all, and the second one, after a while, those that
// have come (RFC 9113, section 6.8).
func (c *serverConn) drain() {
	b := batch{now: c.srv.deps.Clock.Now()}
	c.leave(&b)
	b.flush()
}

// leave is drain for one connection. Later calls do nothing.
func (c *serverConn) leave(b *batch) {
	l, until := c.link, b.now+c.srv.cfg.DrainIdleTimeout
	c.mu.Lock()
	again := c.leaving
	if !again {
		c.leaving, c.goAway, c.over = true, until, wheel.Never
	}
	c.mu.Unlock()
	if again {
		return
	}
	l.mu.Lock()
	if !l.closed && !l.goingAway { // a later GOAWAY must not allow more
		l.out = appendGoAway(l.out, maxWindow, codeNo)
	}
	l.mu.Unlock()
	b.touch(l)
	l.wheel.Arm(&l.timer, until)
}

// visit implements role: it looks at the time of all streams, and at how long there
// has been none.
func (c *serverConn) visit(b *batch, l *link) time.Duration {
	next := wheel.Never
	for _, id := range l.open() {
		if st, p := l.find(id); st != nil {
			next = min(next, p.visit(b, st, place{l, id}))
		}
	}
	c.mu.Lock()
	over := b.now >= c.over
	c.mu.Unlock()
	if over {
		c.leave(b)
	}
	c.mu.Lock()
	leave := b.now >= c.goAway
	if leave {
		c.goAway = wheel.Never
	}
	next = min(next, c.goAway, c.over)
	c.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if leave && !l.closed {
		c.leaveLocked(b, l)
	}
	if l.active.Load() > 0 || l.goingAway {
		return next
	}
	idle := max(time.Duration(l.idleFrom.Load()), 0) + c.srv.cfg.IdleTimeout
	if b.now < idle {
		return min(next, idle)
	}
	c.leaveLocked(b, l)
	return wheel.Never
}

// leaveLocked sends the last GOAWAY. The connection ends with its last stream.
func (c *serverConn) leaveLocked(b *batch, l *link) {
	l.goingAway = true
	l.out = appendGoAway(l.out, l.last.Load(), codeNo)
	b.touch(l)
	if l.active.Load() == 0 {
		l.shutLocked(causeStopped)
	}
}
