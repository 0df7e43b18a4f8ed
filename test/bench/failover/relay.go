package main

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// cut is a fault of the network between callers and a backend. What a direction holds back
// is delivered when the fault ends, as TCP does by sending it again.
type cut struct {
	answers  bool // what the backend sends is held back
	requests bool // what callers send is
	dark     bool // and no connection comes about: SYNs are not answered
}

// relay stands before one backend and passes on whole connections.
type relay struct {
	ln      *net.TCPListener
	to      string
	running sync.WaitGroup // pumps, and whoever accepts

	// Closed when nobody accepts any more. It belongs to whoever calls set and heal.
	accepting chan struct{}

	mu        sync.Mutex // guards what follows
	cut       cut
	hit       func(net.Conn) bool // whether the fault takes this caller's connection
	crossings map[*crossing]struct{}
	filler    net.Conn // what the dark has in its queue; nil: nothing
	closed    bool
}

// crossing is one connection, and its other half.
type crossing struct {
	near, far *net.TCPConn
	// Closed when what they hold back may go on; nil: nothing is held. The relay's lock guards
	// them.
	requests, answers chan struct{}
}

func startRelay(to string) (*relay, error) {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	r := &relay{ln: ln, to: to, crossings: map[*crossing]struct{}{}}
	r.accept()
	return r, nil
}

func (r *relay) addr() string { return r.ln.Addr().String() }

// set puts a fault in force for the connections that hit is true of, open ones and new
// ones. The dark takes all: a SYN does not say whose it is.
func (r *relay) set(ctx context.Context, c cut, hit func(net.Conn) bool) error {
	r.mu.Lock()
	r.cut, r.hit = c, hit
	for x := range r.crossings {
		r.holdLocked(x)
	}
	r.mu.Unlock()
	if !c.dark {
		return nil
	}
	return r.darken(ctx)
}

// darken fills the listener's queue. With a backlog of 0 Linux keeps one connection that
// nobody accepts, and drops every SYN after it without a word, as a dead machine or a
// firewall does (tcp_conn_request: sk_acceptq_is_full).
func (r *relay) darken(ctx context.Context) error {
	if err := r.ln.SetDeadline(time.Unix(1, 0)); err != nil {
		return err
	}
	<-r.accepting
	if err := backlog(r.ln, 0); err != nil {
		return err
	}
	// If a caller was quicker, this one is not answered either: the queue is full.
	d := net.Dialer{Timeout: time.Second}
	filler, err := d.DialContext(ctx, "tcp", r.addr())
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return nil
	}
	r.mu.Lock()
	r.filler = filler
	r.mu.Unlock()
	return err
}

// heal ends the fault.
func (r *relay) heal() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	dark := r.cut.dark
	r.cut, r.hit = cut{}, nil
	for x := range r.crossings {
		x.release()
	}
	if !dark {
		return nil
	}
	if r.filler != nil {
		r.filler.Close()
		r.filler = nil
	}
	if err := errors.Join(backlog(r.ln, 1024), r.ln.SetDeadline(time.Time{})); err != nil {
		return err
	}
	r.accept()
	return nil
}

// close ends everything, and returns when nothing is left.
func (r *relay) close() {
	r.mu.Lock()
	r.closed = true
	r.ln.Close()
	if r.filler != nil {
		r.filler.Close()
	}
	for x := range r.crossings {
		x.release()
		x.reset()
	}
	r.mu.Unlock()
	r.running.Wait()
}

// accept takes connections until the listener is closed or dark.
func (r *relay) accept() {
	done := make(chan struct{})
	r.accepting = done
	r.running.Go(func() {
		defer close(done)
		for {
			near, err := r.ln.AcceptTCP()
			if err != nil {
				return
			}
			r.running.Go(func() { r.cross(near) })
		}
	})
}

// cross passes one connection on.
func (r *relay) cross(near *net.TCPConn) {
	conn, err := net.DialTimeout("tcp", r.to, time.Second)
	if err != nil { // the backend is closed, and so is what leads to it
		_ = near.SetLinger(0)
		near.Close()
		return
	}
	x := &crossing{near: near, far: conn.(*net.TCPConn)}
	r.mu.Lock()
	if r.closed {
		x.reset()
	} else {
		r.crossings[x] = struct{}{}
		r.holdLocked(x)
	}
	r.mu.Unlock()
	var pumps sync.WaitGroup
	pumps.Go(func() { r.pump(x, x.far, x.near, &x.requests) })
	pumps.Go(func() { r.pump(x, x.near, x.far, &x.answers) })
	pumps.Wait()
	r.mu.Lock()
	delete(r.crossings, x)
	r.mu.Unlock()
	near.Close()
	x.far.Close()
}

// holdLocked closes the gates of a connection that the fault takes.
func (r *relay) holdLocked(x *crossing) {
	if r.hit == nil || !r.hit(x.near) {
		return
	}
	if r.cut.requests && x.requests == nil {
		x.requests = make(chan struct{})
	}
	if r.cut.answers && x.answers == nil {
		x.answers = make(chan struct{})
	}
}

// release opens the gates. The relay's lock is held.
func (x *crossing) release() {
	for _, gate := range []*chan struct{}{&x.requests, &x.answers} {
		if *gate != nil {
			close(*gate)
			*gate = nil
		}
	}
}

// reset tells both ends that it is over.
func (x *crossing) reset() {
	for _, c := range []*net.TCPConn{x.near, x.far} {
		_ = c.SetLinger(0) // fails on a connection that has gone by itself
		c.Close()
	}
}

// pump carries one direction, and how it ends.
func (r *relay) pump(x *crossing, to, from *net.TCPConn, gate *chan struct{}) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		r.mu.Lock()
		held := *gate
		r.mu.Unlock()
		if held != nil {
			<-held
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				x.reset()
				return
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			_ = to.CloseWrite() // it may have gone
			return
		case err != nil:
			x.reset()
			return
		}
	}
}
