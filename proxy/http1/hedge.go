package http1

import (
	"context"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// hedge is a second attempt beside one that is overdue: see exchange.PickHedge. It is
// made on a goroutine of its own, which connects, sends the request, reads a final
// head, and wakes the connection's goroutine. That decides everything else: a hedge
// knows no time-outs but those by which the guard interrupts it.
type hedge struct {
	c      *conn
	ep     *upstream.Endpoint
	text   []byte // the whole request
	begun  time.Duration
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when what the goroutine finds out is known

	up    *upstream.Conn // guarded by guard.mu, as are the next two
	given bool           // it has been given up
	why   outlier.Ending // for this reason

	reused  bool
	sent    bool
	sendErr error
	resp    []byte // resp[:rw] has come
	rw      int
	res     response
	headed  bool          // res is a final head
	bad     *problem      // what came is none
	err     error         // there is no connection, or it broke
	at      time.Duration // when that was known
}

// hedgeAt is from when on the attempt that is about to be sent is overdue. What may
// become a tunnel is not at two endpoints at once, and of a body that is still to come
// there is no second copy.
func (c *conn) hedgeAt() time.Duration {
	if !c.whole || c.upgrade != "" || c.req.connect {
		return wheel.Never
	}
	return c.HedgeAt(c.now)
}

// beginHedge makes a second attempt, if there is to be one.
func (c *conn) beginHedge(ctx context.Context) {
	ep := c.PickHedge(c.now)
	if ep == nil {
		return
	}
	c.BeginHedge(ep, c.now)
	dialing, cancel := context.WithCancelCause(ctx)
	h := &hedge{c: c, ep: ep, begun: c.now, cancel: cancel, done: make(chan struct{}), resp: getBuffer(smallBuffer)}
	head, tail := c.appendRequest(nil, &c.Hedge)
	h.text = append(append(head, c.in[c.req.size:c.data]...), tail...)
	h.res.reset()
	c.hedge = h
	c.guard.beside(h)
	go h.run(dialing)
}

func (h *hedge) run(dialing context.Context) {
	defer close(h.done)
	h.converse(dialing)
	h.at = h.c.srv.deps.Clock.Now()
	if h.headed {
		h.c.guard.interrupt(byHedge)
	}
}

// ended reports whether the goroutine has found out everything.
func (h *hedge) ended() bool {
	select {
	case <-h.done:
		return true
	default:
		return false
	}
}

func (h *hedge) converse(dialing context.Context) {
	up, reused, err := h.c.dial(dialing, h.ep, h.begun, false)
	if h.err = err; err != nil || !h.c.guard.join(h, up) {
		return
	}
	h.reused = reused
	n, werr := up.Write(h.text)
	h.sent, h.sendErr = n > 0, werr
	for interim := 0; ; {
		done, p := h.res.parse(h.resp[:h.rw], h.c.srv.limits)
		switch {
		case p != nil:
			h.bad = p
			return
		case done && !h.res.interim():
			h.headed = true
			return
		case done:
			// The client gets those of the other attempt, or none: which of both brings
			// the answer is open.
			if interim++; interim > maxInterim || h.res.status == 101 {
				h.bad = errInterim
				return
			}
			h.rw = copy(h.resp, h.resp[h.res.size:h.rw])
			h.res.reset()
			continue
		case h.rw == len(h.resp):
			h.resp = changeBuffer(h.resp, h.rw, h.c.srv.limits.bytes+1)
		}
		n, err := up.Read(h.resp[h.rw:])
		if h.rw += n; n == 0 && err != nil {
			if h.err = err; werr != nil && isEOF(err) {
				h.err = werr
			}
			return
		}
	}
}

// overtaken is called when a hedge has woken the attempt up. It reports whether its
// answer is the request's, and has then taken it over.
func (c *conn) overtaken() bool {
	if !c.hearHedge() {
		return false
	}
	if c.Rejects(&c.Hedge) {
		c.dropHedge(outlier.EndComplete)
		return false
	}
	c.endAttempt(outlier.EndHedgeLoser)
	c.dropUpstream()
	c.adoptHedge()
	return true
}

// compare is called when the attempt has come to its end, or to a final head, while there
// is a hedge. It returns which of both is the request's, after which there is none.
func (c *conn) compare(ending outlier.Ending, ok bool) (outlier.Ending, bool) {
	switch why := c.guard.reason(); {
	case ok && !c.Rejects(&c.Try):
		c.stopHedge(outlier.EndHedgeLoser)
		return 0, true
	case why > byTry: // nobody waits for either
		c.stopHedge(why.ending())
		return ending, ok
	case !ok:
		c.endAttempt(ending)
		c.dropUpstream()
		c.guard.settleTry()
	}
	c.guard.rely(after(c.Hedge.Begun, c.PerTry))
	if c.hearHedge() {
		if !ok || !c.Rejects(&c.Hedge) {
			if ok {
				c.discardAnswer()
			}
			c.adoptHedge()
			if why := c.guard.answered(); why != uninterrupted {
				return why.ending(), false
			}
			return 0, true
		}
		c.dropHedge(outlier.EndComplete)
	}
	c.guard.settleTry()
	if why := c.guard.reason(); why != uninterrupted {
		if ok {
			c.endAttempt(outlier.EndComplete)
		}
		return why.ending(), false
	}
	return ending, ok
}

// hearHedge waits for the hedge and takes in what it has brought. It reports whether
// that is an answer; else there is no hedge any more.
func (c *conn) hearHedge() bool {
	h := c.hedge
	<-h.done
	c.now = c.srv.deps.Clock.Now()
	c.Hedge.Reused, c.Hedge.Sent = h.reused, h.sent
	c.Reached = c.Reached || h.up != nil
	if !h.headed {
		c.dropHedge(c.hedgeEnding())
		return false
	}
	hear(&c.Hedge, &h.res, h.resp, h.at)
	return true
}

// hedgeEnding is why the hedge has not brought an answer.
func (c *conn) hedgeEnding() outlier.Ending {
	h := c.hedge
	given, why := c.guard.given(h)
	switch {
	case h.bad != nil:
		c.srv.deps.Metrics.BadAnswers.Add(1)
		return outlier.EndBadFraming
	case given:
		return why
	case h.up == nil:
		return upstream.ConnectEnding(h.err)
	}
	return breakOf(&c.Hedge, h.up, h.rw > 0, h.err, h.at)
}

// adoptHedge makes the hedge, which has brought an answer, the attempt under way.
func (c *conn) adoptHedge() {
	h := c.hedge
	c.guard.adopt()
	c.Promote()
	c.up, c.hedge = h.up, nil
	c.resp, h.resp = h.resp, c.resp
	c.res, h.res = h.res, c.res
	c.rw, c.sendErr = h.rw, h.sendErr
	c.guard.moved.Store(int64(c.now))
	h.release()
}

// stopHedge gives the hedge up, and waits for it.
func (c *conn) stopHedge(ending outlier.Ending) {
	c.guard.stopHedge(ending)
	if c.hearHedge() {
		c.dropHedge(ending)
	}
}

// dropHedge tells how the hedge has ended.
func (c *conn) dropHedge(ending outlier.Ending) {
	h := c.hedge
	c.hedge = nil
	c.guard.beside(nil)
	how := exchange.Ended{Ending: ending}
	if !h.headed {
		how.Owed = h.at - h.begun
	}
	if h.up != nil {
		how.Conn = h.up.Hash()
		h.up.Discard()
	}
	c.EndHedge(&c.srv.deps, h.at, how)
	h.release()
}

func (h *hedge) release() {
	h.cancel(nil)
	putBuffer(h.resp)
}

// beside names the hedge, so that it can be interrupted too; nil is none any more.
func (g *guard) beside(h *hedge) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.alone {
		g.tryAt = wheel.Never // that was the hedge's time
	}
	g.hedge, g.alone = h, false
}

// rely says that only the hedge is left, which has until tryAt.
func (g *guard) rely(tryAt time.Duration) {
	g.mu.Lock()
	g.alone, g.tryAt = true, tryAt
	g.mu.Unlock()
	g.wheel.Arm(&g.timer, tryAt)
}

// adopt makes the hedge's connection that of the attempt.
func (g *guard) adopt() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.why == byTry && !g.alone {
		g.settleLocked() // that was the other's time
	}
	g.up, g.hedge, g.alone, g.tryAt = g.hedge.up, nil, false, wheel.Never
}

// join names the hedge's connection. It reports whether that is still wanted.
func (g *guard) join(h *hedge, up *upstream.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	h.up = up
	return !h.given
}

// given reports whether the hedge has been given up, and why.
func (g *guard) given(h *hedge) (bool, outlier.Ending) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return h.given, h.why
}

// stopHedge makes the hedge end.
func (g *guard) stopHedge(ending outlier.Ending) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopHedgeLocked(ending)
}

func (g *guard) stopHedgeLocked(ending outlier.Ending) {
	h := g.hedge
	if h == nil || h.given || h.ended() {
		return
	}
	h.given, h.why = true, ending
	h.cancel(upstream.GivenUp(ending))
	if h.up != nil {
		_ = h.up.SetDeadline(longAgo)
	}
}
