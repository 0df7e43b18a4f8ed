package http2

import (
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/http1"
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
	*page          // nil when the wire is closed
	at      int    // text[at:] is still to be read
	credit  int    // bytes of bodies in text, to be granted anew once it has been read
	readErr error  // when text has been read
	stopped error  // nothing can be written any more
	chunked bool   // the body in text is in chunks
	rest    []byte // of the script's body, not sent yet
	end     bool   // and it is the last of it
	sent    bool   // all has been
	closed  bool
	tunnel  tunnel
	readBy  until
	writeBy until
}

// translator is what the two directions do differently. The wire's lock is held.
type translator interface {
	// head is called when the script has a head that is not interim, or one that is.
	head(b *batch) error
	// tail ends the stream, with the script's trailers if there are any.
	tail(b *batch)
	// heardAll is called when the peer has sent all.
	heardAll()
}

func (w *wire) init(k clock.Clock, t translator) {
	w.clock, w.turn, w.page = k, t, pages.Get().(*page)
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
		u.timer = time.AfterFunc(wait, u.tell)
	}
	u.wake.Broadcast()
}

// tell wakes who waits. Without the lock it might come between his look at the time and
// his wait.
func (u *until) tell() {
	u.wake.L.Lock()
	defer u.wake.L.Unlock()
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
	b := newBatch(w.clock.Now())
	defer b.done()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped == nil && !w.closed && !w.sent { // else nobody reads it
		w.script.Write(p)
	}
	for {
		blocked, err := w.forward(b)
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

// blocked reports whether there is something to send and no window for it, so that the
// stream will be told of one. Who was told before he waits, and finds the room taken by
// others, would not be told again: he has to ask for it anew.
func (w *wire) blocked() bool {
	if w.stopped != nil || w.closed || w.writeBy.passed() {
		return false
	}
	l := w.st.link
	l.mu.Lock()
	defer l.mu.Unlock()
	return w.st.sendWin <= 0 || w.st.waiting
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
			w.turn.tail(b)
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
	if w.tunnel.hold(p) {
		return
	}
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
func (w *wire) mine(at place) bool { return w.st.place == at && at.id != 0 && !w.closed }

func (w *wire) onData(_ *batch, _ *stream, at place, p []byte, end bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.mine(at) {
		return false
	}
	w.hear(p, end)
	if end {
		w.turn.heardAll()
	}
	return true
}

func (w *wire) onRoom(*batch, *stream, place) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wake.Broadcast()
}

// tailOf ends the stream, with the script's trailers if there are any.
func (w *wire) tailOf(b *batch) {
	for range w.script.Trailers() {
		w.st.link.sendHead(b, &w.st, true, func(e *encoder) {
			for name, value := range w.script.Trailers() {
				e.older(name, value)
			}
		})
		return
	}
	w.st.link.send(b, &w.st, nil, true)
}
