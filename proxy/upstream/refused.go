package upstream

import (
	"context"
	"maps"
	"slices"
	"time"
)

// A server that refuses new connections has crashed, or has lost its listener
// alone: closed it, run out of descriptors, filled its queue. A crash resets all
// of its connections at once, so those that stand tell the two apart. And where the
// listener alone is gone, they are the way to reach it.

const (
	// settle is for how long the resets of a crash may be on their way, behind the
	// refusal of a new connection: the kernel closes a dead process's descriptors
	// one after the other, and an inbound sidecar passes on what it sees.
	settle = 10 * time.Millisecond

	// maxWaiting bounds those who wait for a connection of one endpoint. Who comes
	// after them is refused.
	maxWaiting = 64

	// lookAgain is how often they look whether there is something to wait for. Who
	// uses a connection and reads finds its end himself; who is kept from reading by
	// a client that does not, may be late.
	lookAgain = 10 * time.Millisecond
)

// Stands reports whether a connection that is open now is still so after a
// moment: asked when a new one has been refused, that the server lives. It returns
// false when ctx ends first.
func (e *Endpoint) Stands(ctx context.Context) bool {
	open := e.all()
	open = slices.DeleteFunc(open, func(c *Conn) bool { return c.look() != stands })
	if len(open) == 0 {
		return false
	}
	timer := time.NewTimer(settle)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	// The very same ones: behind an inbound sidecar connections can be had, and are
	// reset at once, while the application is dead.
	return slices.ContainsFunc(open, func(c *Conn) bool { return c.look() == stands })
}

// turn is the place of one who waits: it brings a connection, or nil. That is, in the line
// of Endpoint.waiting, that there is none left to wait for; in Endpoint.queued, room for one.
type turn chan *Conn

// free waits until a connection becomes free, for as long as there is one that
// may: no longer than patience, and than ctx lasts. Without one the answer is
// refused.
func (e *Endpoint) free(ctx context.Context, patience time.Duration, refused *ConnectError) (*Conn, *ConnectError) {
	over := time.NewTimer(patience)
	defer over.Stop()
	for e.hopeful() {
		mine := e.queue()
		if mine == nil {
			break
		}
		switch c, err := e.await(ctx, mine, over.C); {
		case err != nil:
			return nil, err
		case c == nil:
			return nil, refused
		case c.readable():
			c.Discard() // and on
		default:
			c.idleFor = 0
			return c, nil
		}
	}
	return nil, refused
}

// await waits in a place. It returns no connection when there is none to be had,
// and an error when ctx ends first; then the place has been given up.
func (e *Endpoint) await(ctx context.Context, mine turn, over <-chan time.Time) (*Conn, *ConnectError) {
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		select {
		case c := <-mine:
			return c, nil
		case <-again.C:
			if e.hopeful() {
				continue
			}
		case <-over:
		case <-ctx.Done():
			e.leave(mine)
			return nil, Given(ctx, ctx.Err())
		}
		e.leave(mine)
		return nil, nil
	}
}

// hopeful reports whether a connection is open, as far as a look shows.
func (e *Endpoint) hopeful() bool {
	return slices.ContainsFunc(e.all(), func(c *Conn) bool { return c.look() != ended })
}

// queue takes a place behind those who wait, or an idle connection at once. It
// returns nil if there is no connection to wait for, or no place.
func (e *Endpoint) queue() turn {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.conns) == 0 || len(e.waiting) >= maxWaiting {
		return nil
	}
	mine := make(turn, 1)
	if c := e.popLocked(); c != nil {
		mine <- c
	} else {
		e.waiting = append(e.waiting, mine)
	}
	return mine
}

// leave gives a place up, and back what may have come in the meantime.
func (e *Endpoint) leave(mine turn) {
	if c, served := e.withdraw(&e.waiting, mine); served && c != nil {
		e.Put(c, c.idleSince)
	}
}

// withdraw takes a place out of its line. Who has been served in the meantime is there no
// more, and has what he was given.
func (e *Endpoint) withdraw(line *[]turn, mine turn) (c *Conn, served bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i := slices.Index(*line, mine); i >= 0 {
		*line = slices.Delete(*line, i, i+1)
		return nil, false
	}
	return <-mine, true // it has been put there under the lock
}

// serveLocked gives c to who has waited longest in a line. There is somebody.
func serveLocked(line *[]turn, c *Conn) {
	(*line)[0] <- c
	*line = slices.Delete(*line, 0, 1)
}

// gone takes c off the books. When it was the last one, nobody needs to wait.
func (e *Endpoint) gone(c *Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.open.Add(-1)
	e.letInLocked()
	delete(e.conns, c)
	if len(e.conns) > 0 {
		return
	}
	for len(e.waiting) > 0 {
		serveLocked(&e.waiting, nil)
	}
}

// all are the connections that are open.
func (e *Endpoint) all() []*Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Keys(e.conns))
}
