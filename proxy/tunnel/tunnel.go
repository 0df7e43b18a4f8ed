package tunnel

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/overhear-mesh/overhear/proxy/upstream"
)

const (
	// idleTicks is into how many parts the idle time-out is divided: how often a
	// tunnel is looked at, and by how much the time-out may be late. Looking now and
	// then is cheaper than a deadline for each read.
	idleTicks = 4

	// spliceIdle is the idle time-out below which data is not handed to the
	// kernel, which does not say how far it has come: a slow reader would look
	// idle.
	spliceIdle = 30 * time.Second
)

// End is the end of one direction, or of the whole tunnel.
type End uint8

const (
	ClientDone  End = iota // the client has sent its end of stream
	ServerDone             // the server has sent its own
	ClientLost             // the client's connection failed
	ServerLost             // the server's did
	NoFirstByte            // the server took too long for its first byte
	Idle                   // nothing has moved
	Stopped                // the context has ended
)

// Tunnel is one client with one server. The exported fields are set before Carry.
type Tunnel struct {
	Client net.Conn
	Server *upstream.Conn
	// ToServer and ToClient go ahead of what is read: the client has sent the one
	// already, and is owed the other.
	ToServer, ToClient []byte
	// Idle ends a tunnel in which nothing has moved for so long, up to a quarter longer;
	// 0 is never.
	Idle time.Duration
	// FirstByte is how long the server may take for its first byte; 0 is for ever.
	FirstByte time.Duration
	// First is called before the server's first bytes are passed on; may be nil.
	First func()
	// Ended is told of an end before the other side can see it: once of each direction
	// that is done, and then at most once of what has cut the tunnel. err is why a
	// connection was lost. Ended must not call the tunnel's methods.
	Ended func(end End, err error)

	up        direction   // from client to server
	down      direction   // from server to client
	firstByte *time.Timer // nil: nobody waits for it
	stopped   func() bool // the context has ended

	mu        sync.Mutex  // guards what follows
	over      bool        // both sides are closed or being closed
	watch     *time.Timer // the idle time-out's next look; nil: none
	lastMoved int64       // bytes at its last look
	quiet     int         // looks without a byte in between
}

// Carry moves bytes until both sides have ended, and closes them. When ctx ends, it
// resets both.
func (t *Tunnel) Carry(ctx context.Context) {
	spliced := t.Idle == 0 || t.Idle >= spliceIdle
	t.up.connect(t.Client, t.Server.Conn, &t.down, spliced)
	t.down.connect(t.Server.Conn, t.Client, &t.up, spliced)
	t.down.first = t.answered

	t.stopped = func() bool { return ctx.Err() != nil }
	unwatch := context.AfterFunc(ctx, func() { t.cut(Stopped, nil) })
	defer unwatch()
	if t.Idle > 0 {
		t.mu.Lock() // look waits until watch is set
		t.watch = time.AfterFunc(t.Idle/idleTicks, t.look)
		t.mu.Unlock()
	}
	if t.FirstByte > 0 {
		t.firstByte = time.AfterFunc(t.FirstByte, func() { t.cut(NoFirstByte, nil) })
		defer t.firstByte.Stop()
	}

	var wg sync.WaitGroup
	wg.Go(t.fromServer)
	t.fromClient()
	wg.Wait()
	t.finish()
}

// Sent is how many bytes the server has taken, Received how many the client has, and
// Spliced how many of both the kernel has moved; Spliced is known after Carry.
func (t *Tunnel) Sent() int64     { return t.up.moved.Load() }
func (t *Tunnel) Received() int64 { return t.down.moved.Load() }
func (t *Tunnel) Spliced() int64  { return t.up.bulk + t.down.bulk }

// Asked reports whether the client has sent anything, taken or not.
func (t *Tunnel) Asked() bool { return t.up.began.Load() }

func (t *Tunnel) fromClient() {
	switch how, err := t.up.run(t.ToServer); how {
	case endOfStream:
		t.Ended(ClientDone, nil)
		t.up.finish()
	case readFailed:
		t.cut(ClientLost, err)
	case writeFailed:
		t.cut(ServerLost, err)
	}
}

func (t *Tunnel) fromServer() {
	switch how, err := t.down.run(t.ToClient); how {
	case endOfStream:
		t.Ended(ServerDone, nil)
		t.down.finish()
	case readFailed:
		t.cut(ServerLost, err)
	case writeFailed:
		t.cut(ClientLost, err)
	}
}

func (t *Tunnel) answered() {
	if t.firstByte != nil {
		t.firstByte.Stop()
	}
	if t.First != nil {
		t.First()
	}
}

// cut ends both sides by a reset, once.
func (t *Tunnel) cut(end End, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	t.over = true
	if (end == ClientLost || end == ServerLost) && t.stopped() {
		end, err = Stopped, nil // whoever has ended the context has closed the connection
	}
	t.Ended(end, err)
	Reset(t.Client)
	setLingerZero(t.Server.Conn)
	t.Server.Discard()
}

// finish closes what has ended by itself.
func (t *Tunnel) finish() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	if t.watch != nil {
		t.watch.Stop()
	}
	_ = t.Client.Close()
	t.Server.Discard()
}

// look cuts a tunnel that has been idle for too long.
func (t *Tunnel) look() {
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		return
	}
	moved := t.up.moved.Load() + t.down.moved.Load()
	if moved == t.lastMoved {
		t.quiet++
	} else {
		t.lastMoved, t.quiet = moved, 0
	}
	idle := t.quiet >= idleTicks
	if !idle {
		t.watch.Reset(t.Idle / idleTicks)
	}
	t.mu.Unlock()
	if idle {
		t.cut(Idle, nil)
	}
}

// Reset closes a connection so that its peer does not take the end for an
// orderly one.
func Reset(c net.Conn) {
	setLingerZero(c)
	_ = c.Close()
}

// lingerer is a connection that can be reset.
type lingerer interface{ SetLinger(sec int) error }

func setLingerZero(c net.Conn) {
	if l, ok := c.(lingerer); ok {
		_ = l.SetLinger(0)
	}
}
