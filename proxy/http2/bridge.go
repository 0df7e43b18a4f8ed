package http2

import (
	"io"
	"net"
	"slices"
	"strconv"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/overhear-mesh/overhear/proxy/http1"
	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/syntax"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// bridge is a stream from a client, for an endpoint that speaks HTTP/1.1 only:
// proxy/http1 serves it as one of its own clients, on a goroutine that takes one
// stream of the connection after the other.
type bridge struct {
	wire
	conn *serverConn
	req  request
	busy bool // a request has been given to it that is not answered yet
	read bool // of which the server has begun to read
	all  bool // which the client has sent all of
	gone bool // the client has given it up

	chosen bool // it is about to be given a stream; guarded by the connection's mu
}

var _ http1.Bridged = (*bridge)(nil)

// bridge finds somebody to serve the request whose head has been read into c.req.
func (c *serverConn) bridge(b *batch, id uint32, end bool) *fault {
	c.mu.Lock()
	br := c.chooseLocked()
	running := c.running
	if br == nil && running < c.srv.cfg.MaxStreams {
		c.running++
	}
	c.mu.Unlock()
	if br == nil && running >= c.srv.cfg.MaxStreams {
		// Streams that were given up are not all cleaned up yet.
		l := c.link
		l.mu.Lock()
		l.forgetLocked(id)
		l.out = appendReset(l.out, id, codeRefused)
		l.mu.Unlock()
		b.touch(l)
		return l.pointless(b)
	}
	fresh := br == nil
	if fresh {
		br = &bridge{conn: c}
		br.init(c.srv.deps.Clock, br)
	}
	if !br.give(b, id, &c.req, end) {
		return c.bridge(b, id, end)
	}
	if fresh {
		c.older.Go(func() {
			c.srv.older.ServeConn(c.ctx, br)
			c.mu.Lock()
			c.running--
			c.mu.Unlock()
		})
	}
	return nil
}

// chooseLocked takes a bridge that waits for a stream; nil: none does. It is to be given
// one.
func (c *serverConn) chooseLocked() *bridge {
	n := len(c.idle) - 1
	if n < 0 {
		return nil
	}
	br := c.idle[n]
	c.idle = c.idle[:n]
	br.chosen = true
	return br
}

// give begins a stream, unless the server has closed the bridge since it was chosen.
func (br *bridge) give(b *batch, id uint32, r *request, end bool) bool {
	l := br.conn.link
	br.mu.Lock()
	defer br.mu.Unlock()
	if br.closed {
		return false
	}
	br.req = *r
	br.req.regular = nil
	br.busy, br.read, br.all, br.gone = true, false, end, false
	br.sent, br.end, br.rest, br.stopped, br.readErr = false, false, nil, nil, nil
	cfg := &br.conn.srv.cfg
	br.tunnel = tunnel{}
	br.script.Begin(http1.Config{MaxHead: cfg.MaxHead, MaxFields: cfg.MaxFields}, true, r.method)
	l.mu.Lock()
	l.addLocked(b, &br.st, id, br, r.length)
	br.st.received = end
	l.mu.Unlock()
	br.write(r, end)
	br.wake.Broadcast()
	br.conn.mu.Lock()
	br.chosen = false
	br.conn.mu.Unlock()
	return true
}

// write makes the head of a request in HTTP/1.1.
func (br *bridge) write(r *request, end bool) {
	t := br.text[:0]
	if r.connect {
		t = br.ask(t, r)
	} else {
		t = append(t, r.method...)
		t = append(append(append(t, ' '), r.path...), " HTTP/1.1\r\n"...)
	}
	t = appendField(t, "host", r.authority)
	for i := range r.regular {
		f := &r.regular[i]
		switch syntax.KindOf(f.Name) {
		case syntax.HopByHop, syntax.Host, syntax.TE, syntax.ContentLength:
			continue
		}
		if f.Name == "cookie" || drops(&br.tunnel, f.Name) {
			continue
		}
		t = appendField(t, f.Name, f.Value)
	}
	if cookie, ok := r.Field("cookie"); ok { // of all its crumbs
		t = append(append(append(t, "cookie: "...), cookie...), "\r\n"...)
	}
	if r.te && !r.connect {
		t = append(t, "te: trailers\r\n"...)
	}
	if !r.proto && r.scheme != "http" {
		t = appendField(t, "x-forwarded-proto", r.scheme)
	}
	br.chunked = false
	switch {
	case r.length >= 0:
		t = append(strconv.AppendInt(append(t, "content-length: "...), r.length, 10), "\r\n"...)
	case !end && !r.connect:
		t = append(t, "transfer-encoding: chunked\r\n"...)
		br.chunked = true
	}
	br.text, br.at = append(t, "\r\n"...), 0
}

// Major tells proxy/http1 which version the client speaks.
func (br *bridge) Major() int { return 2 }

// Matched is the route that has been found for the request, by which it came here; nil
// if none was looked for. A route may share its requests among clusters of both
// versions: drawn again, it would send some of them elsewhere.
func (br *bridge) Matched() *router.Route {
	br.mu.Lock()
	defer br.mu.Unlock()
	return br.req.route
}

// Read implements net.Conn. Between two requests it waits for the next stream.
func (br *bridge) Read(p []byte) (int, error) {
	b := newBatch(br.clock.Now())
	defer b.done()
	br.mu.Lock()
	defer br.mu.Unlock()
	for {
		if !br.busy && br.offer() {
			return 0, io.EOF
		}
		n, err := br.wire.read(b, p)
		if n > 0 {
			br.read = true
		}
		if n > 0 || err != nil {
			return n, err
		}
		br.wake.Wait()
	}
}

// offer puts the bridge among those that wait for a stream. It reports whether none
// can come any more.
func (br *bridge) offer() (over bool) {
	c := br.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return true
	}
	if !br.chosen && !slices.Contains(c.idle, br) {
		c.idle = append(c.idle, br)
	}
	return false
}

// head implements translator: it passes the head of an answer on.
func (br *bridge) head(b *batch) error {
	if br.tunnel.asked && br.consent(b) {
		return nil
	}
	t := &br.script
	interim := t.Status() < 200
	end := !interim && t.Bodiless()
	br.st.link.sendHead(b, &br.st, end, br.encode)
	if interim {
		t.Skip()
		return nil
	}
	if br.sent = end; end {
		br.done(b)
	}
	return nil
}

func (br *bridge) encode(e *encoder) {
	t := &br.script
	e.status(t.Status())
	for name, value := range t.Fields() {
		e.older(name, value)
	}
	if n := t.Length(); n >= 0 && t.Status() >= 200 {
		e.number("content-length", n)
	}
}

// tail implements translator.
func (br *bridge) tail(b *batch) {
	if br.tunnel.overruled == "" {
		br.tailOf(b)
		br.done(b)
		return
	}
	br.st.link.send(b, &br.st, nil, true)
	if !br.all {
		br.decline(b)
	}
	br.readErr = errAnswered // and the server closes, whatever it took the stream for
	br.wake.Broadcast()
}

// done notes that the answer is complete. When the client has sent all of the request
// as well, the bridge can take the next one; otherwise the server is about to close.
func (br *bridge) done(b *batch) {
	if br.tunnel.asked && !br.all {
		br.decline(b)
	}
	if br.all {
		br.busy = false
	}
}

// heardAll notes that the request is complete.
func (br *bridge) heardAll() {
	br.all = true
	if br.tunnel.open {
		br.readErr = io.EOF
		return
	}
	if br.sent {
		br.busy = false
	}
}

func (br *bridge) onHeaders(b *batch, st *stream, at place, fields []hpack.HeaderField, _ bool) {
	br.mu.Lock()
	defer br.mu.Unlock()
	if !br.mine(at) {
		return
	}
	f := checkTrailers(fields)
	if br.tunnel.asked {
		f = errTunnel
	}
	if f != nil {
		br.st.link.reset(b, st, f.code)
		br.lose()
		return
	}
	br.hearTail(fields)
	br.heardAll()
}

// lose tells the server that its client has left. What is in text is not read any
// more; Close answers for it.
func (br *bridge) lose() {
	br.gone = true
	br.text, br.at = br.text[:0], 0
	br.readErr, br.stopped = io.EOF, net.ErrClosed
	if br.tunnel.open {
		br.readErr = errGone // the end of a tunnel would be an orderly one
	}
	br.wake.Broadcast()
}

func (br *bridge) onReset(_ *batch, _ *stream, at place, _ code) {
	br.mu.Lock()
	defer br.mu.Unlock()
	if br.mine(at) && (!br.sent || br.tunnel.open) {
		br.lose()
	}
}

func (br *bridge) onLost(_ *batch, _ *stream, at place, _ *loss) {
	br.mu.Lock()
	defer br.mu.Unlock()
	if br.mine(at) && (!br.sent || br.tunnel.open) {
		br.lose()
	}
}

func (br *bridge) visit(*batch, *stream, place) time.Duration { return wheel.Never }

// Close implements net.Conn: the server is done with its client.
func (br *bridge) Close() error {
	c := br.conn
	c.mu.Lock()
	c.idle = slices.DeleteFunc(c.idle, func(other *bridge) bool { return other == br })
	c.mu.Unlock()
	b := newBatch(br.clock.Now())
	defer b.done()
	br.mu.Lock()
	defer br.mu.Unlock()
	if br.closed {
		return nil
	}
	br.closed = true
	br.credit += br.tunnel.drop()
	br.grant(b)
	if br.st.id != 0 {
		br.st.link.reset(b, &br.st, br.verdict())
	}
	br.tear()
	br.wake.Broadcast()
	return nil
}

// verdict is what the client is told if its stream is still open.
func (br *bridge) verdict() code {
	switch {
	case br.tunnel.open:
		return br.tunnel.broken()
	case br.sent || br.end && len(br.rest) == 0:
		return codeNo // the answer is complete, and the rest of the request unwanted
	case !br.read:
		return codeRefused // it came as the server closed
	}
	return codeInternal // an answer that is cut must not look whole
}

// quit ends the bridges that wait for a stream.
func (c *serverConn) quit() {
	c.mu.Lock()
	c.ended = true
	idle := c.idle
	c.idle = nil
	c.mu.Unlock()
	for _, br := range idle {
		br.mu.Lock()
		br.readErr = io.EOF
		br.wake.Broadcast()
		br.mu.Unlock()
	}
}

// LocalAddr implements net.Conn.
func (br *bridge) LocalAddr() net.Addr { return br.conn.link.nc.LocalAddr() }

// RemoteAddr implements net.Conn.
func (br *bridge) RemoteAddr() net.Addr { return br.conn.client }
