package listener

import (
	"bufio"
	"bytes"
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/pires/go-proxyproto"
)

// Proxied is a Handler for connections that a load balancer has opened for
// somebody else: each begins with a PROXY header, version 1 or 2
// (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt), that says for
// whom, and next sees that address as the connection's own. A connection without
// one, or whose header does not come within timeout, is closed: whoever can reach
// the port could otherwise leave the header out. It must come in one piece, as the
// protocol asks of senders.
func Proxied(timeout time.Duration, log *slog.Logger, next Handler) Handler {
	return func(ctx context.Context, c net.Conn) {
		named, err := readProxy(c, timeout)
		if err != nil {
			log.Debug("no PROXY header", "client", c.RemoteAddr(), "error", err)
			_ = c.Close()
			return
		}
		next(ctx, named)
	}
}

// readProxy reads the header. The connection that it returns begins behind it.
func readProxy(c net.Conn, timeout time.Duration) (net.Conn, error) {
	if err := c.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(c, maxProxy)
	header, err := proxyproto.Read(r)
	if err != nil {
		return nil, err
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	from := c.RemoteAddr() // of the load balancer itself, if it speaks for nobody
	if header.Command == proxyproto.PROXY {
		if client, _, ok := header.TCPAddrs(); ok {
			from = client
		}
	}
	behind, _ := r.Peek(r.Buffered()) // what is there already cannot fail
	if socket, ok := c.(*net.TCPConn); ok {
		return &proxiedSocket{replaySocket{socket, replay{bytes.Clone(behind)}}, from}, nil
	}
	return &proxiedConn{replayConn{c, replay{bytes.Clone(behind)}}, from}, nil
}

// maxProxy is room for the longest header of version 1 (107 bytes), and for one of
// version 2 with the extensions that load balancers add.
const maxProxy = 4 << 10

// proxiedSocket is a socket whose peer speaks for somebody else.
type proxiedSocket struct {
	replaySocket
	from net.Addr
}

// RemoteAddr implements net.Conn.
func (p *proxiedSocket) RemoteAddr() net.Addr { return p.from }

// proxiedConn is the same of what is no socket.
type proxiedConn struct {
	replayConn
	from net.Addr
}

// RemoteAddr implements net.Conn.
func (p *proxiedConn) RemoteAddr() net.Addr { return p.from }
