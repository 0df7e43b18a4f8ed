package http2

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/http1"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// wire is a stream that looks like a connection on which HTTP/1.1 is spoken, so that
// proxy/http1 carries the exchange where one side knows no other version. What is
// read from it is text that the stream's frames are written as; what is written to
// it is taken apart by proxy/http1's own parser and framed. Both ways the strict
// reading of one version is the input of the other, and what either would not let
// pass cannot be smuggled through.
type wire struct {
	clock clock.Clock
	turn  translator

	mu      sync.Mutex // guards what follows; taken before the link's
	wake    sync.Cond
	st      stream
	text    []byte // to be read, from at on
	at      int
	credit  int   // bytes of bodies in text, to be granted anew once it has been read
	readErr error // when text has been read
	stopped error // nothing can be written any more
	chunked bool  // the body in text is in chunks
	script  http1.Transcript
	rest    []byte // of the script's body, not sent yet
	end     bool   // and it is the last of it
	sent    bool   // all has been
	closed  bool
	readBy  until
	writeBy until
}

// translator is what the two directions do differently. The wire's lock is held.
type translator interface {
	// head is called when the script has a head that is not interim, or one that is.
	head(b *batch) error
	// tail frames the script's trailers; done says whether there were any.
	tail(b *batch) (done bool)
}

func (w *wire) init(k clock.Clock, t translator) {
	w.clock, w.turn = k, t
	w.wake.L = &w.mu
	w.readBy.wake, w.writeBy.wake = &w.wake, &w.wake
}

// until is a deadline.
type until struct {
	at    time.Time
	timer *time.Timer
	wake  *sync.Cond
}

func (u *until) set(t time.Time) {
	u.at = t
	if u.timer != nil {
		u.timer.Stop()
		u.timer = nil
	}
	if wait := time.Until(t); !t.IsZero() && wait > 0 {
		u.timer = time.AfterFunc(wait, u.wake.Broadcast)
	}
	u.wake.Broadcast()
}

func (u *until) passed() bool { return !u.at.IsZero() && !time.Now().Before(u.at) }

// SetDeadline implements net.Conn.
func (w *wire) SetDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.readBy.set(t)
	w.writeBy.set(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (w *wire) SetReadDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.readBy.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (w *wire) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeBy.set(t)
	return nil
}

// read takes text. The lock is held. It returns 0 and no error if there is none yet.
func (w *wire) read(b *batch, p []byte) (int, error) {
	switch {
	case w.readBy.passed():
		return 0, os.ErrDeadlineExceeded
	case w.closed:
		return 0, net.ErrClosed
	case w.at < len(w.text):
		n := copy(p, w.text[w.at:])
		if w.at += n; w.at == len(w.text) {
			w.text, w.at = w.text[:0], 0
			w.grant(b)
		}
		return n, nil
	}
	return 0, w.readErr
}

// grant lets the peer send as much anew as has been read.
func (w *wire) grant(b *batch) {
	if w.credit > 0 && w.st.id != 0 {
		w.st.link.used(b, &w.st, w.st.id, w.credit)
	}
	w.credit = 0
}

// Write implements net.Conn: it returns when all of p is in the connection's buffer,
// which the stream's window may take its time for.
func (w *wire) Write(p []byte) (int, error) {
	b := batch{now: w.clock.Now()}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped == nil && !w.closed {
		w.script.Write(p)
	}
	for {
		blocked, err := w.forward(&b)
		w.mu.Unlock()
		b.flush()
		w.mu.Lock()
		switch {
		case err != nil:
			return 0, err
		case !blocked:
			return len(p), nil
		case w.writeBy.passed():
			return 0, os.ErrDeadlineExceeded
		}
		if w.blocked() {
			w.wake.Wait()
		}
		b.now = w.clock.Now()
	}
}

// blocked reports whether there is something to send and no window for it.
func (w *wire) blocked() bool {
	if w.stopped != nil || w.closed || w.writeBy.passed() {
		return false
	}
	l := w.st.link
	l.mu.Lock()
	defer l.mu.Unlock()
	return w.st.sendWin <= 0 || l.sendWin <= 0 || l.room() <= 0
}

// forward frames what the script has. blocked says that the window is shut.
func (w *wire) forward(b *batch) (blocked bool, err error) {
	for {
		switch {
		case w.closed:
			return false, net.ErrClosed
		case w.stopped != nil:
			return false, w.stopped
		case w.sent:
			return false, nil
		case len(w.rest) > 0:
			n := w.st.link.send(b, &w.st, w.rest, false)
			if w.rest = w.rest[n:]; len(w.rest) > 0 {
				return true, nil
			}
			continue
		case w.end:
			w.sent = true
			if !w.turn.tail(b) {
				w.st.link.send(b, &w.st, nil, true)
			}
			return false, nil
		case !w.script.Headed():
			whole, err := w.script.Head()
			if err != nil {
				return false, err
			}
			if !whole {
				return false, nil
			}
			if err := w.turn.head(b); err != nil {
				return false, err
			}
			continue
		}
		data, end, err := w.script.Body()
		if err != nil {
			return false, err
		}
		if len(data) == 0 && !end {
			return false, nil
		}
		w.rest, w.end = data, end
	}
}

// hear writes data of the stream as text.
func (w *wire) hear(p []byte, end bool) {
	if len(p) > 0 {
		if w.chunked {
			w.text = http1.AppendChunkSize(w.text, len(p))
		}
		w.text = append(w.text, p...)
		if w.chunked {
			w.text = append(w.text, "\r\n"...)
		}
		w.credit += len(p)
	}
	if end && w.chunked {
		w.text = append(w.text, "0\r\n\r\n"...)
	}
	w.wake.Broadcast()
}

// hearTail writes trailers as text.
func (w *wire) hearTail(fields []hpack.HeaderField) {
	if w.chunked {
		w.text = append(w.text, "0\r\n"...)
		for i := range fields {
			w.text = appendField(w.text, fields[i].Name, fields[i].Value)
		}
		w.text = append(w.text, "\r\n"...)
	}
	w.wake.Broadcast()
}

func appendField(b []byte, name, value string) []byte {
	b = append(append(b, name...), ": "...)
	return append(append(b, value...), "\r\n"...)
}

// mine reports whether news of a stream is still news.
func (w *wire) mine(id uint32) bool { return w.st.id == id && id != 0 && !w.closed }

func (w *wire) onData(_ *batch, _ *stream, id uint32, p []byte, end bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mine(id) {
		w.hear(p, end)
		w.ended(end)
	}
}

// ended notes the end of what comes.
func (w *wire) ended(end bool) {
	if e, ok := w.turn.(interface{ heardAll() }); ok && end {
		e.heardAll()
	}
}

func (w *wire) onRoom(*batch, *stream, uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wake.Broadcast()
}

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
	s := &lend{pool: poolOf(c, ep), answer: make(chan *upstream.ConnectError, 1), waiting: true}
	s.init(c.clock, s)
	s.script.Begin(http1.Config{MaxHead: c.cfg.MaxHead, MaxFields: c.cfg.MaxFields}, false, "")
	b := batch{now: c.clock.Now()}
	if !s.pool.find(&b, s) {
		s.pool.enqueue(waiter{s, 0})
		select {
		case err := <-s.answer:
			if err != nil {
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
	p.enqueue(waiter{s, 0})
}

// onNoLink implements taker.
func (s *lend) onNoLink(_ *batch, _ *pool, _ uint64, ending outlier.Ending, charged bool) bool {
	if charged {
		ending = outlier.EndSharedConnection
	}
	s.answer <- &upstream.ConnectError{Ending: ending, Err: errNoLink}
	return true
}

var errNoLink = &upstream.StreamError{Ending: outlier.EndUnreachable}

// head implements translator: it opens the stream with the request's head.
func (s *lend) head(b *batch) error {
	l, t := s.link, &s.script
	s.toHead = string(t.Method()) == "HEAD"
	l.mu.Lock()
	l.reserved--
	s.open = true
	if l.closed || l.goingAway {
		l.mu.Unlock()
		s.stopped = &upstream.StreamError{Ending: outlier.EndGoAwayUnprocessed, Retry: outlier.EndGoAwayUnprocessed}
		s.readErr = s.stopped
		return s.stopped
	}
	id := l.nextID
	l.nextID += 2
	l.addLocked(b, &s.st, id, s, -1)
	end := t.Bodiless()
	s.sent = end
	l.sendHeadLocked(&s.st, end, s.encode)
	l.mu.Unlock()
	b.touch(l)
	return nil
}

func (s *lend) encode(e *encoder) {
	t := &s.script
	e.method(string(t.Method()))
	e.scheme("http")
	e.field(":authority", string(t.Host()))
	e.path(string(t.Target()), t.GRPC())
	for name, value := range t.Fields() {
		e.put(hpack.HeaderField{Name: lower(name), Value: string(value)})
	}
	if n := t.Length(); n >= 0 {
		e.number("content-length", n)
	}
	if t.TE() {
		e.field("te", "trailers")
	}
}

// tail implements translator.
func (s *lend) tail(b *batch) bool { return s.tailOf(b) }

// tailOf frames the script's trailers.
func (w *wire) tailOf(b *batch) bool {
	some := false
	for range w.script.Trailers() {
		some = true
		break
	}
	if some {
		w.st.link.sendHead(b, &w.st, true, func(e *encoder) {
			for name, value := range w.script.Trailers() {
				e.put(hpack.HeaderField{Name: lower(name), Value: string(value)})
			}
		})
	}
	return some
}

// lower is a field's name as HTTP/2 wants it.
func lower(name []byte) string {
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			low := make([]byte, len(name))
			copy(low, name)
			for ; i < len(low); i++ {
				if c := low[i]; 'A' <= c && c <= 'Z' {
					low[i] = c + 'a' - 'A'
				}
			}
			return string(low)
		}
	}
	return string(name)
}

// Read implements net.Conn.
func (s *lend) Read(p []byte) (int, error) {
	b := batch{now: s.clock.Now()}
	defer b.flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if n, err := s.read(&b, p); n > 0 || err != nil {
			return n, err
		}
		s.wake.Wait()
	}
}

func (s *lend) onHeaders(b *batch, _ *stream, id uint32, fields []hpack.HeaderField, end bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mine(id) {
		return
	}
	if s.answered {
		if f := checkTrailers(fields); f != nil {
			s.refuse(b)
			return
		}
		s.hearTail(fields)
		s.ended(true)
		return
	}
	var r response
	if f := r.parse(fields); f != nil || end && r.status < 200 {
		s.refuse(b)
		return
	}
	s.text = append(s.text, "HTTP/1.1 "...)
	s.text = append(s.text, fields[0].Value...)
	s.text = append(s.text, " \r\n"...)
	tail := r.grpc // trailers are to come, and need chunks
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
	s.ended(end)
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

func (s *lend) onReset(_ *batch, _ *stream, id uint32, c code) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mine(id) {
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

func (s *lend) onLost(_ *batch, _ *stream, id uint32, l *loss) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mine(id) {
		ending, retry := l.ending(s.answered)
		s.fail(&upstream.StreamError{Ending: ending, Retry: retry})
	}
}

func (s *lend) visit(*batch, *stream, uint32) time.Duration { return wheel.Never }

// Close implements net.Conn: it gives the stream up, if it has not ended.
func (s *lend) Close() error {
	b := batch{now: s.clock.Now()}
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	if l := s.link; l != nil && !closed {
		if s.open {
			s.grant(&b)
			if s.st.id != 0 {
				l.reset(&b, &s.st, codeCancel)
			}
		} else {
			s.open = true
			l.mu.Lock()
			l.reserved--
			l.mu.Unlock()
			l.role.freed(&b, l)
		}
	}
	s.wake.Broadcast()
	s.mu.Unlock()
	b.flush()
	return nil
}

// LocalAddr implements net.Conn.
func (s *lend) LocalAddr() net.Addr { return s.link.nc.LocalAddr() }

// RemoteAddr implements net.Conn.
func (s *lend) RemoteAddr() net.Addr { return s.link.nc.RemoteAddr() }
