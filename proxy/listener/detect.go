package listener

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/proxy/syntax"
)

// Spoken is what a client has begun to speak.
type Spoken uint8

const (
	Opaque Spoken = iota // nothing that is known, or nothing at all
	HTTP1                // a request line of HTTP/1.x
	HTTP2                // the preface of HTTP/2
)

// preface is how a client begins that speaks HTTP/2 without being asked (RFC 9113,
// section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

const (
	maxMethod = 24 // bounds a method, as in proxy/http1

	glance  = 64      // bytes of what tells at once
	maxLine = 1 << 10 // bytes of a first line that is looked at to its end
)

// Detector tells by the first bytes of a connection what is spoken on it, and hands
// it to whoever understands. Where the server speaks first, nothing comes until the
// timeout is over; such connections are opaque. What looks like a request is one to it,
// however badly written, or slowly sent: its parser says what is wrong.
type Detector struct {
	timeout  time.Duration
	handlers [3]Handler
}

// NewDetector waits no longer than timeout for the first bytes. A connection for
// which there is no handler is closed.
func NewDetector(timeout time.Duration, http1, http2, opaque Handler) *Detector {
	return &Detector{timeout: timeout, handlers: [...]Handler{HTTP1: http1, HTTP2: http2, Opaque: opaque}}
}

// ServeConn is a Handler.
func (d *Detector) ServeConn(ctx context.Context, c net.Conn) {
	spoken, c, err := Detect(c, d.timeout)
	handler := d.handlers[spoken]
	if err != nil || handler == nil {
		_ = c.Close()
		return
	}
	handler(ctx, c)
}

// Detect reads as much of c as it needs to tell what is spoken. The connection that it
// returns begins with the first byte. It is c itself if nothing has been read. An
// error means that the connection has ended without a byte.
func Detect(c net.Conn, timeout time.Duration) (Spoken, net.Conn, error) {
	if err := c.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return Opaque, c, err
	}
	first := make([]byte, glance)
	n := 0
	spoken, sure := Opaque, false
	var err error
	for !sure {
		if n == len(first) {
			first = append(first, make([]byte, maxLine-n)...)
		}
		var k int
		k, err = c.Read(first[n:])
		n += k
		if spoken, sure = recognise(first[:n]); err != nil {
			break
		}
	}
	late := errors.Is(err, os.ErrDeadlineExceeded)
	if n == 0 && !late {
		return Opaque, c, err
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return Opaque, c, err
	}
	if n == 0 {
		return Opaque, c, nil
	}
	if late && !sure && spoken == Opaque {
		spoken = HTTP1 // who sends requests slowly must not pass by their rules either
	}
	if socket, ok := c.(*net.TCPConn); ok {
		return spoken, &replaySocket{socket, replay{first[:n]}}, nil
	}
	return spoken, &replayConn{c, replay{first[:n]}}, nil
}

// recognise says what begins with these bytes, and whether more of them could change
// that. Of maxLine bytes it is sure.
func recognise(p []byte) (Spoken, bool) {
	n := min(len(p), len(preface))
	if string(p[:n]) == preface[:n] {
		return HTTP2, n == len(preface)
	}
	line := bytes.TrimLeft(p, "\r\n \t")
	i := 0 // of what ends the method
	for i < len(line) && syntax.Class[line[i]]&syntax.Token != 0 {
		i++
	}
	target, full := bytes.TrimLeft(line[i:], " \t"), len(p) >= maxLine
	switch {
	case len(target) == 0 && !full:
		return Opaque, false
	case len(target) == 0 && len(line) < len(p):
		return HTTP1, true // so much space before is nobody's, and some servers skip it
	case i == 0 || i+len(target) == len(line) || len(target) == 0:
		return Opaque, true
	}
	spoken, sure := recogniseTarget(line[:i], target)
	strict := len(line) == len(p) && method(line[:i]) && i+1+len(target) == len(p)
	if spoken != HTTP1 || strict {
		return spoken, sure || full
	}
	return recogniseEnd(target, full)
}

// method reports whether it is one as all are that are registered.
func method(p []byte) bool {
	for i, b := range p {
		if ('A' > b || b > 'Z') && (i == 0 || b != '-') {
			return false
		}
	}
	return len(p) <= maxMethod
}

// recogniseTarget goes on behind the method. Other protocols have commands that look
// like one, and arguments: `GET hits` and `KEYS *` are Redis, `CONNECT {` is NATS.
func recogniseTarget(method, target []byte) (Spoken, bool) {
	switch c := target[0]; {
	case c == '/', c == '*' && (syntax.Is(method, "options") || syntax.Is(method, "pri")): // the latter of another version of HTTP
		return HTTP1, true
	case syntax.Is(method, "connect") && (c == '[' || 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'):
		return HTTP1, true
	}
	const scheme = "http://"
	n := min(len(target), len(scheme))
	switch {
	case !strings.EqualFold(string(target[:n]), scheme[:n]):
		return Opaque, true
	case n < len(scheme):
		return Opaque, false
	}
	return HTTP1, true
}

// recogniseEnd goes on where a request is not written as it should be, and many servers
// take it for one all the same: carried unread, it would be one that no rule has seen.
// `get /index.html` may also be memcached's, so that the version must be there, unless
// the line is too long to be anything else.
func recogniseEnd(target []byte, full bool) (Spoken, bool) {
	line, _, whole := strings.Cut(strings.ReplaceAll(string(target), "\t", " "), "\n")
	switch {
	case strings.Contains(strings.ToUpper(line), " HTTP/"), full && !whole:
		return HTTP1, true
	case whole:
		return Opaque, true
	}
	return Opaque, false
}

// replay has the bytes that have been read of a connection already.
type replay struct{ first []byte }

func (r *replay) read(c net.Conn, p []byte) (int, error) {
	if len(r.first) == 0 {
		return c.Read(p)
	}
	n := copy(p, r.first)
	r.first = r.first[n:]
	return n, nil
}

// unread gives back what has been read.
func (r *replay) unread(p []byte) { r.first = append(bytes.Clone(p), r.first...) }

// replayConn begins with bytes that have been read already.
type replayConn struct {
	net.Conn
	replay
}

// Read implements net.Conn.
func (r *replayConn) Read(p []byte) (int, error) { return r.read(r.Conn, p) }

// CloseWrite ends one direction, where that is possible.
func (r *replayConn) CloseWrite() error {
	if half, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetLinger is that of the connection, if it has one.
func (r *replayConn) SetLinger(sec int) error {
	if l, ok := r.Conn.(interface{ SetLinger(int) error }); ok {
		return l.SetLinger(sec)
	}
	return errors.ErrUnsupported
}

// NetConn is what the connection is a shell of, or itself.
func (r *replayConn) NetConn() net.Conn {
	if shell, ok := r.Conn.(interface{ NetConn() net.Conn }); ok {
		return shell.NetConn()
	}
	return r.Conn
}

// replaySocket is the same of a socket, and can do whatever that can.
type replaySocket struct {
	*net.TCPConn
	replay
}

// Read implements net.Conn.
func (r *replaySocket) Read(p []byte) (int, error) { return r.read(r.TCPConn, p) }

// NetConn is the socket, for whoever has read the first bytes.
func (r *replaySocket) NetConn() net.Conn { return r.TCPConn }
