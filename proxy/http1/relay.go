package http1

import (
	"errors"
	"syscall"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/syntax"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// relay passes the response, whose head is in c.res, on to the client. It
// reports whether the client's connection can carry another request.
func (c *conn) relay() bool {
	keep, chunked := c.frameReply()
	c.buildResponse(keep, chunked)
	c.Record.Status = c.res.status
	c.Record.Flags |= exchange.OriginFlags(c.Answer.Origin)
	for at := c.res.size; ; {
		data, used, p := c.reply.take(c.resp[at:c.rw], c.srv.limits)
		if p != nil {
			c.srv.deps.Metrics.BadAnswers.Add(1)
			c.Record.Detail = p.text
			return c.cut(outlier.EndBadFraming)
		}
		rest := at + used
		if c.reply.done {
			keep = c.finish(rest == c.rw, true) && keep
			c.Leave(c.now) // before the client has the answer, and may count on it
		}
		if err := c.passOn(data, chunked); err != nil {
			return c.unheard()
		}
		if c.reply.done {
			c.linger = !keep && c.req.persistent() // the next request may be on its way
			return keep
		}
		// What is left is the beginning of a trailer section.
		c.rw = copy(c.resp, c.resp[rest:c.rw])
		at = 0
		if ending, ok := c.readReply(); !ok {
			return c.cut(ending)
		}
	}
}

// frameReply decides how the response's body is found, and how it is framed for
// the client. keep is whether the connection can carry another request, as far
// as one can know.
func (c *conn) frameReply() (keep, chunked bool) {
	r := &c.res
	keep = c.req.persistent() && !c.leaves() && !c.hasty() && (c.whole || c.pumping && c.bodyRead.Load())
	switch {
	case r.bodiless(c.isHead()):
		c.reply.begin(noBody, 0)
	case r.chunked:
		c.reply.begin(inChunks, 0)
		chunked = c.req.minor >= 1
		keep = keep && chunked
	case r.length >= 0:
		c.reply.begin(sized, r.length)
	default:
		c.reply.begin(untilClose, 0)
		chunked = c.req.minor >= 1
		keep = keep && chunked
	}
	return keep, chunked
}

// passOn writes data to the client, behind the head if that has not left yet.
func (c *conn) passOn(data []byte, chunked bool) error {
	var tail []byte
	if chunked {
		c.out.head, tail = frameChunk(c.out.head, data, &c.reply)
	}
	if len(c.out.head)+len(data)+len(tail) == 0 {
		return nil
	}
	c.answered = true
	_, err := c.out.send(c.nc, data, tail)
	c.out.head = c.out.head[:0]
	if err == nil {
		c.Record.BodySent += int64(len(data))
		if !c.reply.done {
			c.guard.moved.Store(int64(c.srv.deps.Clock.Now()))
		}
	}
	return err
}

// readReply reads more of the body behind resp[:rw].
func (c *conn) readReply() (outlier.Ending, bool) {
	if c.rw == 0 && c.reply.left > largeBuffer && len(c.resp) < largeBuffer {
		putBuffer(c.resp)
		c.resp = getBuffer(largeBuffer)
	}
	if c.rw == len(c.resp) {
		c.growResponse(c.srv.limits.bytes + minRoom)
	}
	if c.BodyIdle > 0 {
		c.guard.lack(time.Duration(c.guard.moved.Load()) + c.BodyIdle)
		defer c.guard.lacks.Store(int64(wheel.Never))
	}
	for {
		n, err := c.up.Read(c.resp[c.rw:])
		c.now = c.srv.deps.Clock.Now()
		if n > 0 {
			c.rw += n
			c.guard.moved.Store(int64(c.now))
			return 0, true
		}
		if err == nil {
			continue
		}
		if why := c.guard.reason(); why != uninterrupted {
			return why.ending(), false
		}
		if isEOF(err) && c.reply.framing == untilClose && !c.wasReset() && c.reply.closed() {
			return 0, true
		}
		if e, ok := errors.AsType[*upstream.StreamError](err); ok {
			return e.Ending, false
		}
		return outlier.EndBodyCut, false
	}
}

// wasReset reports whether the connection, of whose answer a read has found the end, was
// reset in truth. A reset is told to one system call only: maybe to a write. Where the
// kernel cannot be asked, that write knows; of what it was still to send nothing is of
// use any more.
func (c *conn) wasReset() bool {
	if upstream.TellsAborts(c.up.Conn) {
		return upstream.Aborted(c.up.Conn)
	}
	c.stopPump()
	return errors.Is(c.sendErr, syscall.ECONNRESET)
}

// finish ends the exchange with the endpoint: all of its answer has been read.
// clean says that nothing came after it, last that the answer is the client's. It
// reports whether the request has been read as well.
func (c *conn) finish(clean, last bool) bool {
	sent := c.stopPump()
	read := c.body.done
	if c.up == nil {
		return read
	}
	if c.Answer.GRPC {
		c.hearTrailers()
	}
	c.endAttempt(outlier.EndComplete)
	// Who answered before it had the request, or said more than the answer, may
	// take the next request for something else.
	reusable := clean && sent && c.res.persistent() && c.reply.framing != untilClose && !c.req.connect
	kicked := c.guard.release(last) != uninterrupted
	if reusable && !kicked {
		c.up.KeptFor(c.res.keptFor)
		c.Endpoint.Put(c.up, c.now)
	} else {
		c.up.Discard()
	}
	if kicked && last {
		c.guard.settle() // it came too late: the answer is here
	}
	c.up = nil
	return read
}

// hearTrailers takes in how a gRPC answer ended.
func (c *conn) hearTrailers() {
	for i := range c.reply.trailer.fields {
		if f := &c.reply.trailer.fields[i]; f.kind == syntax.GRPCStatus {
			if code, ok := syntax.Number(f.value.of(c.reply.section)); ok {
				c.Answer.GRPCSeen, c.Answer.GRPCStatus = true, int(code)
			}
		}
	}
}

// discardAnswer gives up a response that is not passed on because the request is
// tried again.
func (c *conn) discardAnswer() {
	c.frameReply()
	_, used, p := c.reply.take(c.resp[c.res.size:c.rw], c.srv.limits)
	if p == nil && c.reply.done {
		c.finish(c.res.size+used == c.rw, false)
		return
	}
	c.endAttempt(outlier.EndComplete)
	c.dropUpstream()
}

// unheard is the end of an exchange whose client did not take the answer.
func (c *conn) unheard() bool {
	c.now = c.srv.deps.Clock.Now()
	c.lost = true
	ending, flags := outlier.EndClientAbort, exchange.DownstreamTermination
	switch c.guard.reason() {
	case byStall, byRequest:
		ending, flags = outlier.EndClientNotReading, exchange.DownstreamTermination|exchange.StreamIdle
	case byBody:
		flags = exchange.DownstreamProtocolError
	case byEnd:
		ending, flags = outlier.EndLocalLimit, exchange.LocalReset
	}
	c.Record.Flags |= flags
	c.guard.moved.Store(int64(c.now)) // it was the client that stood still
	c.endAttempt(ending)
	return false
}

// cut ends an exchange in the middle of the answer. If the client has seen
// nothing of it yet, it gets another one; else its connection ends, in a way
// that cannot be taken for the end of the body.
func (c *conn) cut(ending outlier.Ending) bool {
	if !c.answered {
		c.endAttempt(ending)
		c.dropUpstream()
		return c.fail(ending)
	}
	c.endAttempt(ending)
	c.lost = true
	c.Record.Flags |= flagsOf(ending, c.guard.reason())
	if linger, ok := c.nc.(interface{ SetLinger(int) error }); ok && c.reply.framing != sized && c.req.minor == 0 {
		_ = linger.SetLinger(0) // there the close itself would be the body's end
	}
	return false
}
