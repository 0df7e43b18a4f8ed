package http1

import (
	"errors"
	"os"

	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// watcher notices that a client leaves while it waits for an answer, by reading
// on. What it reads is the beginning of the next request.
type watcher struct {
	watching   chan struct{} // closed when the watcher has ended; nil without one. Guarded by guard.mu.
	unwatching bool          // it is being ended. Guarded by guard.mu.
	watched    int           // bytes that it read
}

// startWatch is called by the wheel, with the guard's lock held, while the
// connection's goroutine waits for the endpoint and nobody else reads from the
// client.
func (c *conn) startWatch() {
	if c.watching != nil || c.w == len(c.in) || c.rest < c.w {
		return // who has sent a request ahead is taken to be there still
	}
	c.watching = make(chan struct{})
	c.srv.deps.Metrics.Watches.Add(1)
	go c.runWatch(c.in[c.w:], c.watching)
}

// runWatch takes the end of the client's sending for the client's end, as
// net/http and Envoy do.
func (c *conn) runWatch(room []byte, done chan struct{}) {
	defer close(done)
	n, err := c.nc.Read(room)
	if c.watched = n; n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		// By a deadline somebody of ours ends the read, who may have been heard
		// already: to call that the client's leaving would cut off the answer.
		return
	}
	c.guard.mu.Lock()
	defer c.guard.mu.Unlock()
	if !c.unwatching {
		c.guard.interruptLocked(byClient)
	}
}

// stopWatch ends the watcher, keeps another one from being started for this
// exchange, and takes over what was read.
func (c *conn) stopWatch() {
	c.guard.mu.Lock()
	c.guard.watchAt = wheel.Never
	done := c.watching
	if done != nil {
		c.unwatching = true
		_ = c.nc.SetReadDeadline(longAgo)
	}
	c.guard.mu.Unlock()
	if done == nil {
		return
	}
	<-done
	c.w += c.watched
	c.watched = 0
	c.guard.mu.Lock()
	defer c.guard.mu.Unlock()
	c.watching, c.unwatching = nil, false
	c.guard.reopenLocked()
}
