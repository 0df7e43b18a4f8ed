package listener

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"time"
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

// maxMethod bounds a method, as in proxy/http1.
const maxMethod = 24

// Detector tells by the first bytes of a connection what is spoken on it, and hands
// it to whoever understands. Where the server speaks first, nothing comes until the
// timeout is over; such connections are opaque.
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
	var first [64]byte
	n := 0
	spoken, sure := Opaque, false
	var err error
	for !sure && n < len(first) {
		var k int
		k, err = c.Read(first[n:])
		n += k
		if spoken, sure = recognise(first[:n]); err != nil {
			break
		}
	}
	if n == 0 && !errors.Is(err, os.ErrDeadlineExceeded) {
		return Opaque, c, err
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return Opaque, c, err
	}
	if n == 0 {
		return Opaque, c, nil
	}
	if socket, ok := c.(*net.TCPConn); ok {
		return spoken, &replaySocket{socket, replay{bytes.Clone(first[:n])}}, nil
	}
	return spoken, &replayConn{c, replay{bytes.Clone(first[:n])}}, nil
}

// recognise says what begins with these bytes, and whether more of them could change
// that.
func recognise(p []byte) (Spoken, bool) {
	n := min(len(p), len(preface))
	if string(p[:n]) == preface[:n] {
		return HTTP2, n == len(preface)
	}
	i := 0 // of what ends the method
	for i < len(p) && i <= maxMethod && ('A' <= p[i] && p[i] <= 'Z' || i > 0 && p[i] == '-') {
		i++
	}
	switch {
	case i == len(p):
		return Opaque, false
	case i == 0 || i > maxMethod || p[i] != ' ':
		return Opaque, true
	case i+1 == len(p):
		return Opaque, false
	}
	return recogniseTarget(string(p[:i]), p[i+1:])
}

// recogniseTarget goes on behind the method. Other protocols have commands that look
// like one, and arguments: `GET hits` and `KEYS *` are Redis, `CONNECT {` is NATS.
func recogniseTarget(method string, target []byte) (Spoken, bool) {
	switch c := target[0]; {
	case c == '/', c == '*' && (method == "OPTIONS" || method == "PRI"): // the latter of another version of HTTP
		return HTTP1, true
	case method == "CONNECT" && (c == '[' || 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9'):
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

// replaySocket is the same of a socket, and can do whatever that can.
type replaySocket struct {
	*net.TCPConn
	replay
}

// Read implements net.Conn.
func (r *replaySocket) Read(p []byte) (int, error) { return r.read(r.TCPConn, p) }

// NetConn is the socket, for whoever has read the first bytes.
func (r *replaySocket) NetConn() net.Conn { return r.TCPConn }
