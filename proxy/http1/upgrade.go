package http1

import (
	"bytes"
	"context"
	"iter"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/syntax"
	"github.com/overhear-mesh/overhear/proxy/tunnel"
)

// A connection changes its protocol when a client asks for one that the listener
// allows, and the endpoint consents with 101 (RFC 9110, section 7.8) or, to CONNECT,
// with any 2xx (section 9.3.6). Until then it is a request like any other, with its
// time-outs and retries, and not a byte of what the client sends ahead is passed on:
// who took a request for changed that the endpoint has refused would let the client
// speak to the endpoint past every rule.

// wanted is the first protocol that the request asks for and may have. One of
// HTTP/1.0 must not change (RFC 9110, section 7.8). One with a body could, behind
// the body; but where that ends, two readers would have to agree, and no protocol
// that is in use needs it.
func (r *request) wanted(buf []byte, u *exchange.Upgrades) string {
	if !r.upgrading || r.minor == 0 || r.connect || r.hasBody() {
		return ""
	}
	for list := range r.upgrades(buf) {
		for len(list) > 0 {
			var name []byte
			name, list = syntax.Element(list)
			if allowed := u.Find(name); allowed != "" {
				return allowed
			}
		}
	}
	return ""
}

// upgrades are the values of the head's Upgrade fields.
func (h *head) upgrades(buf []byte) iter.Seq[[]byte] {
	return func(yield func(value []byte) bool) {
		for i := range h.fields {
			if f := &h.fields[i]; f.kind == syntax.Upgrade && !yield(f.value.of(buf)) {
				return
			}
		}
	}
}

// hasty reports whether the client has not waited for consent to what it has asked
// for, so that what it sent must not be read as a request. After CONNECT none can tell:
// what follows may be of somebody who speaks through the client.
func (c *conn) hasty() bool {
	if c.upgrade != "" {
		c.stopWatch() // what came while the answer was awaited counts
	}
	return c.req.connect || c.upgrade != "" && c.rest < c.w
}

// switches reports whether the head in c.res makes a tunnel of the connection.
func (c *conn) switches() bool {
	r := &c.res
	if c.req.connect {
		return r.status/100 == 2
	}
	if r.status != 101 || c.upgrade == "" || r.minor == 0 || !r.upgrading {
		return false
	}
	agreed := 0
	for value := range r.upgrades(c.resp) {
		if agreed++; !syntax.Is(value, c.upgrade) {
			return false
		}
	}
	return agreed == 1
}

// tunnel carries what follows the head in c.res, both ways, to the end of both
// connections. The attempt is over: the endpoint has answered, and how a protocol ends
// that is not known here says nothing about it. Were the attempt told at the end of the
// tunnel, a crash would come with one success for each tunnel that it cuts.
func (c *conn) tunnel(ctx context.Context) bool {
	c.stopWatch() // what it has read is for the endpoint
	if c.Cluster != nil {
		limit := &c.Cluster.Limits().Connections
		if !limit.Acquire() {
			c.endAttempt(outlier.EndComplete)
			c.dropUpstream()
			return c.reject(503, exchange.UpstreamOverflow, "too many connections")
		}
		defer limit.Release()
	}
	if why := c.guard.tunnel(); why != uninterrupted {
		return c.cut(why.ending())
	}
	held := c.Endpoint.Begin(c.now, false) // load of the endpoint that will say nothing
	c.endAttempt(outlier.EndComplete)
	c.Leave(c.now)
	c.Record.Status, c.answered, c.lost = c.res.status, true, true

	c.buildSwitch()
	head := len(c.out.head)
	t := &tunnel.Tunnel{
		Client: c.nc, Server: c.up,
		ToClient: append(bytes.Clone(c.out.head), c.resp[c.res.size:c.rw]...),
		ToServer: bytes.Clone(c.in[c.rest:c.w]),
		Idle:     c.srv.deps.Upgrades.TunnelIdle,
		Ended:    c.tunnelEnded,
	}
	c.up = nil
	c.shrink()
	c.srv.deps.Metrics.Tunnels.Add(1)
	t.Carry(ctx)
	c.srv.deps.Metrics.Tunnels.Add(-1)
	c.now = c.srv.deps.Clock.Now()
	held.End(outlier.Outcome{Class: outlier.Ignore, Now: c.now})
	c.Record.BodyReceived, c.Record.BodySent = t.Sent(), max(0, t.Received()-int64(head))
	return false
}

// shrink keeps only the head of the request, which the record is made of: a tunnel may
// last for hours.
func (c *conn) shrink() {
	head := bytes.Clone(c.in[:c.req.size])
	putBuffer(c.in)
	putBuffer(c.resp)
	putBuffer(c.out.head)
	c.resp, c.out.head = nil, nil
	c.in, c.w, c.rest, c.data = head, len(head), len(head), len(head)
	c.title()
}

func (c *conn) tunnelEnded(end tunnel.End, _ error) {
	switch end {
	case tunnel.ClientLost:
		c.Record.Flags |= exchange.DownstreamTermination
	case tunnel.ServerLost:
		c.Record.Flags |= exchange.UpstreamTermination
	case tunnel.Idle:
		c.Record.Flags |= exchange.StreamIdle
	case tunnel.Stopped:
		c.Record.Flags |= exchange.LocalReset
	}
}
