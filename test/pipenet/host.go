package pipenet

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"
)

const (
	firstEphemeral = 32768
	lastEphemeral  = 60999
	backlog        = 128 // connections that wait for Accept; a dial beyond them hangs
)

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// A Host is one IP address of the network, with a loopback of its own.
type Host struct {
	net  *Network
	addr netip.Addr

	// guarded by net.mu
	listeners map[netip.AddrPort]*Listener // by bound address, unspecified ones under the IPv4 form
	port      uint16                       // the last ephemeral port given
}

// Addr is the host's IP address.
func (h *Host) Addr() netip.Addr { return h.addr }

// Listen binds address on this host: its own IP, a loopback, or every address if the
// host part is empty or unspecified. Port 0 chooses a free one.
func (h *Host) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	fail := func(addr net.Addr, err error) error {
		return &net.OpError{Op: "listen", Net: network, Addr: addr, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return nil, fail(nil, err)
	}
	at, err := resolve(network, address)
	if err != nil {
		return nil, fail(nil, err)
	}
	if !at.Addr().IsUnspecified() && !at.Addr().IsLoopback() && at.Addr() != h.addr {
		return nil, fail(net.TCPAddrFromAddrPort(at), os.NewSyscallError("bind", syscall.EADDRNOTAVAIL))
	}

	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if at.Port() == 0 {
		at = netip.AddrPortFrom(at.Addr(), h.freePortLocked())
	}
	if h.listenerLocked(at) != nil {
		return nil, fail(net.TCPAddrFromAddrPort(at), os.NewSyscallError("bind", syscall.EADDRINUSE))
	}
	l := &Listener{
		host:   h,
		at:     at,
		queue:  make(chan *Conn, backlog),
		closed: make(chan struct{}),
	}
	h.listeners[at] = l
	return l, nil
}

// Dial connects from this host to address. It takes one round trip, and hangs until
// ctx ends where the rules or a full backlog say so.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := resolve(network, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	if to.Addr().IsUnspecified() { // as in a kernel: this host
		to = netip.AddrPortFrom(loopback, to.Port())
	}
	c, err := h.dial(ctx, to)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	return c, nil
}

// Crash ends everything that this host has open, as the end of its processes does:
// listeners are closed, connections are reset. The host can be used again at once.
func (h *Host) Crash() {
	h.net.mu.Lock()
	var listeners []*Listener
	for _, l := range h.listeners {
		listeners = append(listeners, l)
	}
	var conns []*Conn
	for p := range h.net.pairs {
		for _, c := range []*Conn{p.a, p.b} {
			if c.host == h {
				conns = append(conns, c)
			}
		}
	}
	h.net.mu.Unlock()
	for _, l := range listeners {
		_ = l.Close() // the only error is that somebody was faster
	}
	for _, c := range conns {
		_ = c.Reset() // likewise
	}
}

// Dial is Host("127.0.0.1").Dial, for a test that needs only one host.
func (n *Network) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return n.Host("127.0.0.1").Dial(ctx, network, address)
}

// Listen is Host("127.0.0.1").Listen, for a test that needs only one host.
func (n *Network) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return n.Host("127.0.0.1").Listen(ctx, network, address)
}

func (h *Host) dial(ctx context.Context, to netip.AddrPort) (*Conn, error) {
	from := h.source(to)
	there, back, err := h.net.route(ctx, from, to)
	if err != nil {
		return nil, err
	}
	if err := sleep(ctx, h.net.transit(there)); err != nil {
		return nil, err
	}
	l := h.listener(to)
	if l == nil {
		if err := sleep(ctx, h.net.transit(back)); err != nil {
			return nil, err
		}
		return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
	}

	near, far := h.net.connect(h, l.host, from, to)
	select {
	case l.queue <- far:
	case <-l.closed:
		abandon(near, far)
		return nil, os.NewSyscallError("connect", syscall.ECONNREFUSED)
	case <-ctx.Done():
		abandon(near, far)
		return nil, ctx.Err()
	}
	// The listener may have closed, and have emptied its queue, between the two.
	l.sweep()
	if err := sleep(ctx, h.net.transit(back)); err != nil {
		_ = near.Reset()
		return nil, err
	}
	return near, nil
}

// source chooses the address that a connection to this destination comes from.
func (h *Host) source(to netip.AddrPort) netip.AddrPort {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	addr := h.addr
	if to.Addr().IsLoopback() {
		addr = to.Addr()
	}
	return netip.AddrPortFrom(addr, h.ephemeralLocked())
}

// listener finds who would accept a connection from this host to this address.
func (h *Host) listener(to netip.AddrPort) *Listener {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	target := h
	if !to.Addr().IsLoopback() {
		target = h.net.hosts[to.Addr()]
	}
	if target == nil {
		return nil
	}
	if l := target.listeners[to]; l != nil {
		return l
	}
	return target.listeners[netip.AddrPortFrom(netip.IPv4Unspecified(), to.Port())]
}

// listenerLocked finds whom a listener on this address would collide with.
func (h *Host) listenerLocked(at netip.AddrPort) *Listener {
	for bound, l := range h.listeners {
		if bound.Port() == at.Port() && (bound == at || bound.Addr().IsUnspecified() || at.Addr().IsUnspecified()) {
			return l
		}
	}
	return nil
}

func (h *Host) freePortLocked() uint16 {
	for {
		p := h.ephemeralLocked()
		if h.listenerLocked(netip.AddrPortFrom(netip.IPv4Unspecified(), p)) == nil {
			return p
		}
	}
}

// ephemeralLocked does not ask whether the port is in use: nothing here finds a
// connection by its ports.
func (h *Host) ephemeralLocked() uint16 {
	h.port++
	if h.port > lastEphemeral {
		h.port = firstEphemeral
	}
	return h.port
}

// route waits until packets can pass both ways and returns how long each takes.
func (n *Network) route(ctx context.Context, from, to netip.AddrPort) (there, back delay, err error) {
	for {
		n.mu.Lock()
		out, in, changed := n.linkLocked(from, to), n.linkLocked(to, from), n.changed
		n.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return delay{}, delay{}, ctx.Err()
		case out.fault == reject:
			return delay{}, delay{}, os.NewSyscallError("connect", syscall.EHOSTUNREACH)
		case out.fault == 0 && (in.fault == 0 || in.fault == blackhole):
			return out.delay, in.delay, nil
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// resolve reads "ip:port", ":port" or "localhost:port". There are no names on this
// network.
func resolve(network, address string) (netip.AddrPort, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return netip.AddrPort{}, net.UnknownNetworkError(network)
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return netip.AddrPort{}, &net.AddrError{Err: "invalid port", Addr: address}
	}
	var addr netip.Addr
	switch host {
	case "":
		addr = netip.IPv4Unspecified()
	case "localhost":
		addr = loopback
	default:
		if addr, err = netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		addr = addr.Unmap()
		if addr == netip.IPv6Unspecified() {
			addr = netip.IPv4Unspecified()
		}
	}
	return netip.AddrPortFrom(addr, uint16(port)), nil
}
