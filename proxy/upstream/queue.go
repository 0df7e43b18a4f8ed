package upstream

import (
	"context"
	"slices"
)

// Await is for whom Get or Fresh has told that Options.MaxConns are open: it waits until
// a connection is put back, or closed so that another one may be opened. Who came first
// is first. How many may wait, and for how long, is the caller's matter. When his turn
// has come ready is called, and returns the context for what is left to do. The error is
// a *ConnectError.
func (e *Endpoint) Await(ctx context.Context, ready func() context.Context) (c *Conn, reused bool, err error) {
	for mine := e.join(); ; {
		select {
		case c = <-mine:
		case <-ctx.Done():
			e.quit(mine)
			return nil, false, Given(ctx, ctx.Err())
		}
		switch {
		case c == nil:
			c, err := e.connect(ready(), e.options.Load())
			if err != nil {
				return nil, false, err // not c: a nil pointer in an interface is not nil
			}
			return c, false, nil
		case c.readable():
			mine = e.first()
			c.Discard() // which makes room
		default:
			c.idleFor = 0
			ready()
			return c, true, nil
		}
	}
}

// enter takes the room for a connection, if there is some and nobody has waited for it.
func (e *Endpoint) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.enterLocked()
}

func (e *Endpoint) enterLocked() bool {
	if len(e.queued) > 0 || !e.roomLocked() {
		return false
	}
	e.open.Add(1)
	return true
}

func (e *Endpoint) roomLocked() bool {
	most := e.options.Load().MaxConns
	return most <= 0 || int(e.open.Load()) < most
}

// leaveRoom gives back what enter took.
func (e *Endpoint) leaveRoom() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.open.Add(-1)
	e.letInLocked()
}

// letInLocked gives room to those who wait for it.
func (e *Endpoint) letInLocked() {
	for len(e.queued) > 0 && e.roomLocked() {
		e.open.Add(1)
		serveLocked(&e.queued, nil)
	}
}

// join takes a place behind those who wait, or what there is by now.
func (e *Endpoint) join() turn {
	e.mu.Lock()
	defer e.mu.Unlock()
	mine := make(turn, 1)
	switch c := e.popLocked(); {
	case c != nil:
		mine <- c
	case e.enterLocked():
		mine <- nil
	default:
		e.queued = append(e.queued, mine)
	}
	return mine
}

// first takes the place of who was called in vain.
func (e *Endpoint) first() turn {
	e.mu.Lock()
	defer e.mu.Unlock()
	mine := make(turn, 1)
	e.queued = slices.Insert(e.queued, 0, mine)
	return mine
}

// quit gives a place up, and on what may have come in the meantime.
func (e *Endpoint) quit(mine turn) {
	switch c, served := e.withdraw(&e.queued, mine); {
	case !served:
	case c != nil:
		e.Put(c, c.idleSince)
	default:
		e.leaveRoom()
	}
}
