package http2

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/http1"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// lend is an attempt's stream to an endpoint, for proxy/http1.
type lend struct {
	wire
	pool     *pool
	link     *link
	answer   chan *upstream.ConnectError // of Open; nil: there is a link
	answered bool                        // the head of an answer has been written
	toHead   bool                        // the request is HEAD
	open     bool                        // the stream has been opened
	reused   bool
	waiting  bool
}

// Open implements exchange.Streams. The stream itself begins when the request is
// written; until then a place for it is kept.
func (c *Client) Open(ctx context.Context, ep *upstream.Endpoint) (*upstream.Conn, bool, error) {
	s := &lend{pool: poolOf(c, ep), waiting: true}
	s.init(c.clock, s)
	s.script.Begin(http1.Config{MaxHead: c.cfg.MaxHead, MaxFields: c.cfg.MaxFields}, false, "")
	b := newBatch(c.clock.Now())
	defer b.done()
	if !s.pool.find(b, s) {
		s.answer = make(chan *upstream.ConnectError, 1)
		s.pool.enqueue(b, waiter{s, 0})
		b.flush()
		select {
		case err := <-s.answer:
			if err != nil {
				_ = s.Close()
				return nil, false, err
			}
		case <-ctx.Done():
			s.pool.forget(s)
			s.mu.Lock()
			s.waiting = false
			s.mu.Unlock()
			_ = s.Close()
			return nil, false, upstream.Given(ctx, ctx.Err())
		}
	}
	return ep.Lend(s, s.link.hash), s.reused, nil
}

// openOn implements taker: it keeps a place on l.
func (s *lend) openOn(_ *batch, l *link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.waiting {
		return true // it has gone, and needs none
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.acceptsLocked() {
		return false
	}
	l.reserved++
	s.waiting, s.link, s.reused = false, l, l.nextID > 1
	return true
}

// onLink implements taker.
func (s *lend) onLink(b *batch, p *pool, _ uint64) {
	if p.find(b, s) {
		s.answer <- nil
		return
	}
	p.enqueue(b, waiter{s, 0})
}

// onNoLink implements taker.
func (s *lend) onNoLink(_ *batch, _ *pool, _ uint64, ending outlier.Ending, text string) bool {
	s.answer <- &upstream.ConnectError{Ending: ending, Err: errNoLink, Detail: text}
	return true
}

var errNoLink = &upstream.StreamError{Ending: outlier.EndUnreachable}

// head implements translator: it opens the stream with the request's head.
func (s *lend) head(b *batch) error {
	l, t := s.link, &s.script
	s.toHead = string(t.Method()) == "HEAD"
	if s.asks() {
		return nil
	}
	l.mu.Lock()
	l.reserved--
	s.open = true
	if l.closed || l.goingAway {
		l.mu.Unlock()
		s.stopped = &upstream.StreamError{Ending: outlier.EndGoAwayUnprocessed, Retry: outlier.EndGoAwayUnprocessed}
		s.readErr = s.stopped
		return s.stopped
	}
	l.beginLocked(b, &s.st, s)
	end := t.Bodiless() && !s.tunnel.asked
	s.sent = end
	l.sendHeadLocked(&s.st, end, s.encode)
	l.mu.Unlock()
	b.touch(l)
	return nil
}

func (s *lend) encode(e *encoder) {
	t := &s.script
	if s.tunnel.asked {
		s.tunnel.encode(e, t)
	} else {
		writeMethod(e, t.Method())
		e.scheme("http")
		writeField(e, ":authority", t.Host())
		writePath(e, t.Target(), t.GRPC())
	}
	for name, value := range t.Fields() {
		if drops(&s.tunnel, name) {
			continue
		}
		e.older(name, value)
	}
	if n := t.Length(); n >= 0 {
		e.number("content-length", n)
	}
	if t.TE() {
		e.field("te", "trailers")
	}
}

// tail implements translator.
func (s *lend) tail(b *batch) { s.tailOf(b) }

// Read implements net.Conn.
func (s *lend) Read(p []byte) (int, error) {
	b := newBatch(s.clock.Now())
	defer b.done()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if n, err := s.read(b, p); n > 0 || err != nil {
			return n, err
		}
		s.wake.Wait()
	}
}

func (s *lend) onHeaders(b *batch, _ *stream, at place, fields []hpack.HeaderField, end bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mine(at) {
		return
	}
	if s.answered {
		if f := checkTrailers(fields); f != nil || s.tunnel.open {
			s.refuse(b)
			return
		}
		s.hearTail(fields)
		s.heardAll()
		return
	}
	var r response
	if f := r.parse(fields); f != nil || end && r.status < 200 {
		s.refuse(b)
		return
	}
	if s.tunnel.asked && r.status/100 == 2 {
		s.agree(&r, end)
		return
	}
	s.text = append(s.text, "HTTP/1.1 "...)
	s.text = append(s.text, fields[0].Value...)
	s.text = append(append(append(s.text, ' '), http.StatusText(r.status)...), "\r\n"...) // some clients want a reason
	tail := r.grpc                                                                        // trailers are to come, and need chunks
	for i := range r.regular {
		switch f := &r.regular[i]; f.Name {
		case "content-length", "proxy-authenticate", "proxy-authorization":
		default:
			tail = tail || f.Name == "trailer"
			s.text = appendField(s.text, f.Name, f.Value)
		}
	}
	if r.status >= 200 {
		s.answered = true
		bodiless, length := r.bodiless("") || s.toHead, r.length
		if end && length < 0 && !bodiless {
			length = 0
		}
		s.chunked = !bodiless && !end && (length < 0 || tail)
		switch {
		case s.chunked:
			s.text = append(s.text, "transfer-encoding: chunked\r\n"...)
		case length >= 0 && r.status != 204:
			s.text = append(strconv.AppendInt(append(s.text, "content-length: "...), length, 10), "\r\n"...)
		}
		s.text = append(s.text, "connection: close\r\n"...) // it is one exchange's
		if bodiless {
			length = 0
		}
		s.st.link.expect(&s.st, length)
	}
	s.text = append(s.text, "\r\n"...)
	s.wake.Broadcast()
	if end {
		s.heardAll()
	}
}

func (s *lend) onData(b *batch, st *stream, at place, p []byte, end bool) bool {
	s.mu.Lock()
	early := s.mine(at) && !s.answered
	if early { // it would be read as the head
		s.refuse(b)
	}
	s.mu.Unlock()
	return !early && s.wire.onData(b, st, at, p, end)
}

// heardAll notes that the answer is complete: who reads on finds the end.
func (s *lend) heardAll() { s.readErr = io.EOF }

// refuse ends the stream for a malformed answer.
func (s *lend) refuse(b *batch) {
	s.st.link.reset(b, &s.st, codeProtocol)
	s.fail(&upstream.StreamError{Ending: outlier.EndBadFraming, Retry: outlier.EndBadFraming})
}

func (s *lend) fail(err error) {
	s.readErr, s.stopped = err, err
	s.wake.Broadcast()
}

func (s *lend) onReset(_ *batch, _ *stream, at place, c code) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mine(at) {
		return
	}
	if c == codeNo && errors.Is(s.readErr, io.EOF) {
		s.stopped = io.ErrClosedPipe // the answer is complete, and the rest of the request unwanted
		s.wake.Broadcast()
		return
	}
	ending := outlier.StreamReset(uint32(c))
	s.fail(&upstream.StreamError{Ending: ending, Retry: ending})
}

func (s *lend) onLost(_ *batch, _ *stream, at place, l *loss) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.mine(at):
	case s.tunnel.open:
		s.lostTunnel()
	default:
		ending, retry := l.ending(s.answered)
		s.fail(&upstream.StreamError{Ending: ending, Retry: retry})
	}
}

func (s *lend) visit(*batch, *stream, place) time.Duration { return wheel.Never }

// Close implements net.Conn: it gives the stream up, if it has not ended.
func (s *lend) Close() error {
	b := newBatch(s.clock.Now())
	defer b.done()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if l := s.link; l != nil {
		if s.open {
			s.grant(b)
			if s.st.id != 0 {
				l.reset(b, &s.st, codeCancel)
			}
		} else {
			s.open = true
			l.mu.Lock()
			l.reserved--
			l.mu.Unlock()
			l.role.freed(b, l)
		}
	}
	s.tear()
	s.wake.Broadcast()
	return nil
}

// LocalAddr implements net.Conn.
func (s *lend) LocalAddr() net.Addr { return s.link.nc.LocalAddr() }

// RemoteAddr implements net.Conn.
func (s *lend) RemoteAddr() net.Addr { return s.link.nc.RemoteAddr() }
