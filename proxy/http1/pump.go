package http1

import (
	"net"
	"sync/atomic"
	"time"
)

// minRoom is how much a read of a body should have room for.
const minRoom = 4 << 10

// pump carries a request body that is not there when the attempt begins, on a
// goroutine of its own, so that the endpoint may answer before it has all of it.
// It reads into what is behind the head in conn.in, and gives that back when it
// has ended.
type pump struct {
	pumpTo    net.Conn    // the attempt's connection
	pumping   bool        // it has been started and not been waited for
	bodyRead  atomic.Bool // the client has sent all of the body
	bodyTaken atomic.Bool // and the endpoint has taken it
	starved   atomic.Bool // it waits for the client, or did so when it ended
	unpumping atomic.Bool // it is being ended
	sendErr   error       // of writing to the endpoint; once the pump is there, read after it
	malformed *problem    // why the interruption byBody; read after it
	pumpOut   outbox
}

// startPump starts the pump behind the part of the body that has been sent.
func (c *conn) startPump() {
	if c.pumpBody == nil {
		c.pumpBody, c.pumped = c.runPump, make(chan struct{}, 1)
	}
	if len(c.in)-c.w < minRoom {
		c.grow(len(c.in) + minRoom)
		c.title()
	}
	c.pumping, c.pumpTo, c.malformed = true, c.up.Conn, nil
	c.bodyRead.Store(false)
	c.bodyTaken.Store(false)
	c.unpumping.Store(false)
	c.srv.deps.Metrics.Pumps.Add(1)
	go c.pumpBody()
}

// runPump is the pump's goroutine.
func (c *conn) runPump() {
	defer func() {
		putBuffer(c.pumpOut.head)
		c.pumpOut.head = nil
		c.pumped <- struct{}{}
	}()
	if c.req.chunked {
		c.pumpOut.head = getBuffer(smallBuffer)
	}
	base := c.req.size
	c.w = base + copy(c.in[base:], c.in[c.rest:c.w])
	c.rest = base
	for {
		if c.w == len(c.in) {
			c.malformed = errTooLarge // only a trailer section is kept
			c.guard.interrupt(byBody)
			return
		}
		c.starved.Store(true)
		n, err := c.nc.Read(c.in[c.w:])
		if n == 0 && err != nil {
			if !c.unpumping.Load() {
				c.guard.interrupt(byClient)
			}
			return
		}
		c.starved.Store(false)
		c.w += n
		c.guard.moved.Store(int64(c.srv.deps.Clock.Now()))
		data, used, p := c.body.take(c.in[base:c.w], c.srv.limits)
		c.Record.BodyReceived += int64(len(data))
		if p != nil {
			c.malformed = p
			c.guard.interrupt(byBody)
			return
		}
		// Told before the last write: the endpoint may answer right after it.
		c.bodyRead.Store(c.body.done)
		if c.sendErr = c.forward(data); c.sendErr != nil {
			c.rest = base + used
			return // why shows where the answer is read
		}
		now := c.srv.deps.Clock.Now()
		c.guard.moved.Store(int64(now))
		if c.body.done {
			c.rest = base + used
			c.bodyTaken.Store(true)
			c.guard.awaited(now, c.Request, c.PerTry)
			return
		}
		c.w = base + copy(c.in[base:], c.in[base+used:c.w])
	}
}

// forward writes what has come of the body, in the request's own framing.
func (c *conn) forward(data []byte) error {
	var tail []byte
	if c.req.chunked {
		c.pumpOut.head, tail = frameChunk(c.pumpOut.head[:0], data, &c.body)
		if len(c.pumpOut.head)+len(tail) == 0 {
			return nil
		}
	} else if len(data) == 0 {
		return nil
	}
	_, err := c.pumpOut.send(c.pumpTo, data, tail)
	return err
}

// stopPump ends the pump, if it is there, and waits for it. It reports whether
// the endpoint has got the whole body.
func (c *conn) stopPump() bool {
	if !c.pumping {
		return c.whole
	}
	select {
	case <-c.pumped:
	default:
		c.unpumping.Store(true)
		_ = c.nc.SetReadDeadline(longAgo)
		if c.up != nil {
			_ = c.up.SetDeadline(longAgo)
		}
		<-c.pumped
		c.guard.reopen()
		if c.up != nil && c.bodyTaken.Load() {
			_ = c.up.SetDeadline(time.Time{}) // it was about to end by itself
		}
	}
	c.pumping = false
	return c.bodyTaken.Load()
}
