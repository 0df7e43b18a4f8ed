package pipenet

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// window is how many bytes one direction holds that the reader has not taken.
const window = 64 << 10

// A Conn is one end of a connection.
type Conn struct {
	pair          *pair
	host          *Host
	local, remote netip.AddrPort
	in, out       *direction

	// guarded by pair.mu
	closed   bool
	linger0  bool
	reported bool // a write has returned ECONNRESET; the next ones return EPIPE
}

// pair is the connection that two ends share.
type pair struct {
	net  *Network
	a, b *Conn

	mu sync.Mutex // guards both ends, both directions
}

// direction carries bytes one way. All fields are guarded by the pair's lock.
type direction struct {
	pair     *pair
	from, to netip.AddrPort
	delay    delay
	held     bool // the rules let nothing through at the moment

	queue   []segment
	size    int       // bytes in queue
	last    time.Time // when the last segment arrives: keeps order under jitter
	fin     bool      // the writer sends nothing more
	rst     bool      // the connection was reset by the writer's end
	rstAt   time.Time // when the reader's end learns it; zero: it has
	gone    bool      // the reader's end is closed: data that arrives is answered with a reset
	bounced bool      // that answer is under way

	onEnd func() // called once when the end or the reset has arrived; nil: nobody waits, or it has been

	readable, writable          sync.Cond
	readDeadline, writeDeadline deadline
}

// A segment arrives at once if at is zero. Without data it is the end of the stream.
type segment struct {
	data []byte
	at   time.Time
}

// connect makes a connection between two hosts.
func (n *Network) connect(from, to *Host, local, remote netip.AddrPort) (near, far *Conn) {
	p := &pair{net: n}
	forth := &direction{pair: p, from: local, to: remote}
	back := &direction{pair: p, from: remote, to: local}
	for _, d := range []*direction{forth, back} {
		d.readable.L, d.writable.L = &p.mu, &p.mu
		d.readDeadline.wake = &d.readable
		d.writeDeadline.wake = &d.writable
	}
	p.a = &Conn{pair: p, host: from, local: local, remote: remote, in: back, out: forth}
	p.b = &Conn{pair: p, host: to, local: remote, remote: local, in: forth, out: back}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pairs[p] = struct{}{}
	p.relink(n)
	return p.a, p.b
}

// abandon drops a connection that never came about.
func abandon(near, far *Conn) {
	_ = near.Reset()
	_ = far.Reset()
}

// relink applies the network's rules to both directions. n.mu is held.
func (p *pair) relink(n *Network) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range []*direction{p.a.in, p.b.in} {
		l := n.linkLocked(d.from, d.to)
		d.delay = l.delay
		if held := l.fault >= cut; held && !d.held {
			d.holdLocked()
		} else if !held && d.held {
			d.releaseLocked()
		}
	}
}

// Read fails once the read deadline has passed, also with data there.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		err = c.opError("read", err)
	}
	return n, err
}

func (c *Conn) read(b []byte) (int, error) {
	c.pair.mu.Lock()
	defer c.pair.mu.Unlock()
	for {
		switch d := c.in; {
		case c.closed:
			return 0, net.ErrClosed
		case d.readDeadline.passed():
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case d.arrivedLocked():
			return d.takeLocked(b)
		case d.resetLocked():
			return 0, os.NewSyscallError("read", syscall.ECONNRESET)
		}
		c.in.readable.Wait()
	}
}

// Readable reports whether a Read would return at once, be it with an error. It is
// for who wants to know before using an idle connection whether its peer has closed
// it, as a look with MSG_PEEK does on a socket.
func (c *Conn) Readable() bool {
	c.pair.mu.Lock()
	defer c.pair.mu.Unlock()
	return c.closed || c.in.readDeadline.passed() || c.in.arrivedLocked() || c.in.resetLocked()
}

// OnPeerClose has f called, once and on a goroutine of its own, when the peer's end of
// the stream or its reset has arrived, be it with bytes unread before it: at once if it
// has by now, never once this end is closed. It tells what a socket's owner learns from
// EPOLLRDHUP without reading.
func (c *Conn) OnPeerClose(f func()) {
	c.pair.mu.Lock()
	defer c.pair.mu.Unlock()
	c.in.onEnd = f
	c.in.tellLocked()
}

// Write returns when all of b is in the window. It never waits for the peer to read
// while there is room.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.write(b)
	if err != nil {
		err = c.opError("write", err)
	}
	return n, err
}

func (c *Conn) write(b []byte) (int, error) {
	c.pair.mu.Lock()
	defer c.pair.mu.Unlock()
	n := 0
	for {
		d := c.out
		switch {
		case c.closed:
			return n, net.ErrClosed
		case d.writeDeadline.passed():
			return n, os.ErrDeadlineExceeded
		case d.fin:
			return n, os.NewSyscallError("write", syscall.EPIPE)
		case c.in.resetLocked():
			return n, os.NewSyscallError("write", c.resetErrnoLocked())
		case n == len(b):
			return n, nil
		case d.gone && !d.held:
			d.bounceLocked(c.in)
			return len(b), nil
		}
		room := window - d.size
		if room == 0 {
			d.writable.Wait()
			continue
		}
		chunk := b[n:min(len(b), n+room)]
		d.sendLocked(append([]byte(nil), chunk...))
		n += len(chunk)
	}
}

// resetErrnoLocked: a socket that had its peer's FIN before the reset says EPIPE, one
// that did not says ECONNRESET once (Linux, tcp_reset).
func (c *Conn) resetErrnoLocked() syscall.Errno {
	if c.reported || c.in.fin {
		return syscall.EPIPE
	}
	c.reported = true
	return syscall.ECONNRESET
}

// CloseWrite ends this direction; the peer reads EOF after the last byte.
func (c *Conn) CloseWrite() error {
	c.pair.mu.Lock()
	defer c.pair.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	c.out.finishLocked()
	return nil
}

// Close ends the connection in good order, or resets the peer if data is left unread
// or SetLinger(0) was called.
func (c *Conn) Close() error {
	c.pair.mu.Lock()
	if c.closed {
		c.pair.mu.Unlock()
		return c.opError("close", net.ErrClosed)
	}
	c.closed = true
	c.in.gone = true
	c.in.readDeadline.stop()
	c.out.writeDeadline.stop()
	if c.linger0 || c.in.unreadLocked() {
		c.out.abortLocked(0)
	} else {
		c.out.finishLocked()
		c.in.dropLocked(c.out)
	}
	c.in.readable.Broadcast()
	c.in.writable.Broadcast()
	c.out.writable.Broadcast()
	both := c.pair.a.closed && c.pair.b.closed
	c.pair.mu.Unlock()
	if both {
		c.pair.net.forget(c.pair)
	}
	return nil
}

// Reset closes the connection so that the peer reads ECONNRESET.
func (c *Conn) Reset() error {
	if err := c.SetLinger(0); err != nil {
		return err
	}
	return c.Close()
}

// SetLinger is net.TCPConn's: 0 makes Close reset the peer; other values change
// nothing, since Close never waits here.
func (c *Conn) SetLinger(sec int) error {
	c.pair.mu.Lock()
	defer c.pair.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	c.linger0 = sec == 0
	return nil
}

// LocalAddr is this end's address, as *net.TCPAddr.
func (c *Conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr is the peer's address, as *net.TCPAddr.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return c.setDeadline(t, &c.in.readDeadline, &c.out.writeDeadline)
}

// SetReadDeadline also ends a Read that is waiting.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(t, &c.in.readDeadline) }

// SetWriteDeadline also ends a Write that is waiting.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(t, &c.out.writeDeadline) }

func (c *Conn) setDeadline(t time.Time, ds ...*deadline) error {
	c.pair.mu.Lock()
	defer c.pair.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	for _, d := range ds {
		d.set(t)
	}
	return nil
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// sendLocked puts a segment on the way; nil is the end of the stream.
func (d *direction) sendLocked(data []byte) {
	at := d.arrivalLocked(0)
	d.queue = append(d.queue, segment{data: data, at: at})
	d.size += len(data)
	d.wakeAtLocked(at)
}

// arrivalLocked is when something sent after a further delay arrives: zero if at once.
func (d *direction) arrivalLocked(after time.Duration) time.Time {
	after += d.pair.net.transit(d.delay)
	if after == 0 && d.last.IsZero() && !d.held {
		return time.Time{}
	}
	at := time.Now().Add(after)
	if at.Before(d.last) {
		at = d.last
	}
	d.last = at
	return at
}

// wakeAtLocked wakes whoever waits for what arrives at this time.
func (d *direction) wakeAtLocked(at time.Time) {
	wait := time.Duration(0)
	if !at.IsZero() {
		wait = time.Until(at)
	}
	if wait <= 0 {
		d.wakeLocked()
		return
	}
	time.AfterFunc(wait, func() {
		d.pair.mu.Lock()
		defer d.pair.mu.Unlock()
		d.wakeLocked()
	})
}

// wakeLocked wakes the reader, and the writers of the other direction: a reset ends
// both.
func (d *direction) wakeLocked() {
	d.tellLocked()
	d.readable.Broadcast()
	d.reverse().writable.Broadcast()
}

func (d *direction) reverse() *direction {
	if d.pair.a.in == d {
		return d.pair.b.in
	}
	return d.pair.a.in
}

// finishLocked sends the end of the stream, once.
func (d *direction) finishLocked() {
	if !d.fin && !d.rst {
		d.fin = true
		d.sendLocked(nil)
	}
}

// abortLocked sends a reset, once, after a further delay. It overtakes nothing.
func (d *direction) abortLocked(after time.Duration) {
	if d.rst {
		return
	}
	d.rst = true
	d.rstAt = d.arrivalLocked(after)
	d.wakeAtLocked(d.rstAt)
}

// bounceLocked is data that reaches a closed end: its answer is a reset.
func (d *direction) bounceLocked(back *direction) {
	if !d.bounced {
		d.bounced = true
		back.abortLocked(d.pair.net.transit(d.delay))
	}
}

// arrivedLocked reports whether the reader can take something now.
func (d *direction) arrivedLocked() bool {
	return len(d.queue) > 0 && d.hereLocked(d.queue[0].at)
}

// tellLocked calls back whoever waits for the end, if it has arrived.
func (d *direction) tellLocked() {
	if d.onEnd == nil || d.gone || !d.resetLocked() && !d.endedLocked() {
		return
	}
	go d.onEnd()
	d.onEnd = nil
}

// endedLocked reports whether the end of the stream has arrived: it is the last segment.
func (d *direction) endedLocked() bool {
	return d.fin && len(d.queue) > 0 && d.hereLocked(d.queue[len(d.queue)-1].at)
}

func (d *direction) resetLocked() bool { return d.rst && d.hereLocked(d.rstAt) }

func (d *direction) hereLocked(at time.Time) bool {
	return at.IsZero() || !d.held && !time.Now().Before(at)
}

// takeLocked reads from the first segment, which has arrived. The end of the stream
// stays where it is, for the next Read.
func (d *direction) takeLocked(b []byte) (int, error) {
	s := &d.queue[0]
	if s.data == nil {
		return 0, io.EOF
	}
	n := 0
	for len(d.queue) > 0 && n < len(b) && d.arrivedLocked() && d.queue[0].data != nil {
		s = &d.queue[0]
		k := copy(b[n:], s.data)
		n += k
		d.size -= k
		if s.data = s.data[k:]; len(s.data) == 0 {
			d.queue[0] = segment{}
			d.queue = d.queue[1:]
		}
	}
	d.writable.Broadcast()
	return n, nil
}

// unreadLocked reports whether data has arrived that the reader never took.
func (d *direction) unreadLocked() bool { return d.arrivedLocked() && d.queue[0].data != nil }

// dropLocked throws away what is still under way to an end that has closed; the
// answer to it is a reset.
func (d *direction) dropLocked(back *direction) {
	if d.held || d.size == 0 {
		return
	}
	d.queue, d.size = nil, 0
	d.bounceLocked(back)
}

// holdLocked begins a cut: what has arrived stays readable, the rest waits.
func (d *direction) holdLocked() {
	now := time.Now()
	for i := range d.queue {
		if !now.Before(d.queue[i].at) {
			d.queue[i].at = time.Time{}
		}
	}
	if d.rst && !now.Before(d.rstAt) {
		d.rstAt = time.Time{}
	}
	d.held = true
}

// releaseLocked ends a cut: what waited is sent again.
func (d *direction) releaseLocked() {
	d.held = false
	at := time.Now().Add(d.pair.net.transit(d.delay))
	for i := range d.queue {
		if !d.queue[i].at.IsZero() {
			d.queue[i].at = at
		}
	}
	if d.rst && !d.rstAt.IsZero() {
		d.rstAt = at
	}
	d.last = at
	if d.gone {
		d.dropLocked(d.reverse())
	}
	d.writable.Broadcast()
	d.wakeAtLocked(at)
}

// A deadline wakes its waiters when it passes.
type deadline struct {
	wake  *sync.Cond
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) set(t time.Time) {
	d.stop()
	d.at = t
	if wait := time.Until(t); !t.IsZero() && wait > 0 {
		d.timer = time.AfterFunc(wait, func() {
			d.wake.L.Lock()
			defer d.wake.L.Unlock()
			d.wake.Broadcast()
		})
	}
	d.wake.Broadcast()
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
