// Package mirror sends copies of requests to a cluster for whose answers nobody waits,
// so that a new version of a service can be tried with real traffic.
//
// A copy is a client's request like any other, and proxy/http1 carries it: what
// becomes of it is evidence for its own cluster, whose limits and breaker it obeys. It
// is never repeated, and what is too much is dropped: a mirror must not slow down what
// it mirrors.
package mirror

import (
	"bytes"
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/http1"
	"github.com/overhear-mesh/overhear/proxy/router"
)

// maxUnderWay is how many copies a sidecar has under way.
const maxUnderWay = 256

// Client sends copies. It implements exchange.Mirror.
type Client struct {
	server  *http1.Server
	held    atomic.Int64 // copies that wait or are under way
	waiting chan replica
}

// replica is one copy.
type replica struct {
	route *router.Route
	text  []byte
}

// New makes a client that works once it runs. Of deps it uses Clock and Streams.
func New(cfg http1.Config, deps exchange.Deps) *Client {
	cfg.Via = "" // the copy has what the request had
	return &Client{
		server:  http1.NewServer(cfg, exchange.Deps{Clock: deps.Clock, Streams: deps.Streams}),
		waiting: make(chan replica, maxUnderWay),
	}
}

// Run sends what Send is given until ctx ends, and cuts what is under way then.
func (c *Client) Run(ctx context.Context) error {
	var copies sync.WaitGroup
	defer copies.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-c.waiting:
			copies.Go(func() {
				defer c.held.Add(-1)
				c.play(ctx, r)
			})
		}
	}
}

// Send copies a request in HTTP/1.1, as its endpoint gets it, and sends it by route. It
// reports whether it has: it does not wait.
func (c *Client) Send(route *router.Route, head, body, tail []byte) bool {
	if c.held.Add(1) > maxUnderWay {
		c.held.Add(-1)
		return false
	}
	c.waiting <- replica{route, shadow(head, body, tail)} // has room for all that are held
	return true
}

// play is the client of one copy: it reads the answer and throws it away.
func (c *Client) play(ctx context.Context, r replica) {
	here, there := net.Pipe()
	var others sync.WaitGroup
	others.Go(func() {
		defer func() { _ = there.Close() }()
		c.server.ServeConn(ctx, conn{there, r.route})
	})
	// Not before it reads: who answers early does not wait for the rest.
	others.Go(func() { _, _ = here.Write(r.text) })
	_, _ = io.Copy(io.Discard, here)
	_ = here.Close()
	others.Wait()
}

// conn is a connection for one request whose route is known.
type conn struct {
	net.Conn
	route *router.Route
}

var _ http1.Bridged = conn{}

// Major is of HTTP/1.1.
func (conn) Major() int { return 1 }

// Matched is the request's route.
func (c conn) Matched() *router.Route { return c.route }

// Overruled: nobody puts another answer in the place of a copy's.
func (conn) Overruled() string { return "" }

// shadow is the request for a host whose name says that it is a copy, by which a
// service tells it from the original, as with Envoy; and the only one of its
// connection.
func shadow(head, body, tail []byte) []byte {
	const suffix, single = "-shadow", "connection: close\r\n"
	at := hostEnd(head)
	text := make([]byte, 0, len(head)+len(suffix)+len(single)+len(body)+len(tail))
	text = append(append(text, head[:at]...), suffix...)
	rest := head[at:]
	line := bytes.IndexByte(rest, '\n') + 1
	text = append(append(append(text, rest[:line]...), single...), rest[line:]...)
	return append(append(text, body...), tail...)
}

// hostEnd is where the name of the host ends, without its port, in a head of ours,
// whose second line is the host's.
func hostEnd(head []byte) int {
	start := bytes.IndexByte(head, '\n') + 1
	end := start + bytes.IndexByte(head[start:], '\r')
	line := head[start:end]
	if port := bytes.LastIndexByte(line, ':'); port > len("host:") && bytes.IndexByte(line[port:], ']') < 0 {
		return start + port
	}
	return end
}
