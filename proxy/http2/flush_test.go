package http2

import (
	"io"
	"testing"

	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/http1"
	"github.com/overhear-mesh/overhear/proxy/wheel"
	"github.com/overhear-mesh/overhear/test/loopback"
)

// socketLink is a link on a socket, whose peer reads and says nothing.
func socketLink(t *testing.T) *link {
	t.Helper()
	peer, socket := loopback.Pair(t)
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(io.Discard, peer)
	}()
	t.Cleanup(func() {
		socket.Close()
		<-read
	})
	cfg, k := DefaultConfig(), clock.New()
	cfg.PingAfter = 0 // there is no role that could be asked what to do
	return newLink(&cfg, k, wheel.New(k), socket, nil, false)
}

// sender is a party that has something to send.
type sender struct {
	party
	room chan struct{}
}

func (s sender) onRoom(*batch, *stream, place) { close(s.room) }

// Whoever found the connection's buffer full goes on when it has been written, also if the
// socket takes all of it at once and nobody else ever says that there is room.
func TestAStreamThatFoundTheBufferFullGoesOnWhenItIsWritten(t *testing.T) {
	l, b := socketLink(t), &batch{}
	s, st := sender{room: make(chan struct{})}, new(stream)
	l.mu.Lock()
	l.sendWin = maxWindow
	l.addLocked(b, st, 1, s, -1)
	l.out = make([]byte, highWater)
	l.mu.Unlock()
	if n := l.send(b, st, []byte("more"), false); n != 0 {
		t.Fatalf("%d bytes were appended to a full buffer", n)
	}
	b.flush()
	<-s.room
}

// greedy is a party that takes all the room there is, as streams of others do.
type greedy struct {
	party
	link *link
}

func (g greedy) onRoom(*batch, *stream, place) {
	g.link.mu.Lock()
	defer g.link.mu.Unlock()
	g.link.out = append(g.link.out, make([]byte, highWater)...)
}

// posting is a request that has been sent but for its body, of four bytes.
func posting(t *testing.T, l *link) *lend {
	t.Helper()
	w := &lend{link: l, open: true}
	w.init(clock.New(), w)
	w.script.Begin(http1.DefaultConfig(), false, "")
	w.script.Write([]byte("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n"))
	if whole, err := w.script.Head(); !whole || err != nil {
		t.Fatalf("the head is whole: %v, %v", whole, err)
	}
	return w
}

// An answer that was overruled may go on for as long as the endpoint likes.
func TestWhatIsWrittenBehindTheEndIsNotKept(t *testing.T) {
	w := posting(t, socketLink(t))
	w.sent = true
	if n, err := w.Write([]byte("more")); n != 4 || err != nil {
		t.Errorf("got %d and %v, want 4 and no error", n, err)
	}
	if kept, _, err := w.script.Body(); len(kept) != 0 || err != nil {
		t.Errorf("%q is kept, %v", kept, err)
	}
}

// A writer that flushes what he found in his way may be told of the room before he waits for
// it. If others have taken it by then, nobody will tell him again.
func TestAWriterWhoseRoomIsTakenBeforeHeWaitsAsksForItAnew(t *testing.T) {
	l, b := socketLink(t), &batch{}
	w := posting(t, l)
	other := new(stream)
	l.mu.Lock()
	l.sendWin = maxWindow
	l.addLocked(b, other, 1, greedy{link: l}, -1)
	l.addLocked(b, &w.st, 3, w, -1)
	l.out = make([]byte, highWater)
	l.mu.Unlock()
	first := make([]byte, 1)
	for _, st := range []*stream{&w.st, other} { // the writer is told first
		if n := l.send(b, st, first, false); n != 0 {
			t.Fatalf("%d bytes were appended to a full buffer", n)
		}
	}
	if n, err := w.Write([]byte("more")); n != 4 || err != nil {
		t.Errorf("got %d and %v, want 4 and no error", n, err)
	}
}

func TestWhatSomebodyIsAboutToFlushIsLeftToHim(t *testing.T) {
	l := socketLink(t)
	waits := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.out)
	}
	say := func() {
		b := &batch{}
		l.mu.Lock()
		l.out = appendPing(l.out, 0, [8]byte{})
		l.mu.Unlock()
		b.touch(l)
		b.flush()
	}
	say()
	if n := waits(); n != 0 {
		t.Errorf("%d bytes wait behind the first to say something, want 0", n)
	}
	first := &batch{}
	first.touch(l)
	if !first.claim() {
		t.Fatal("nobody has promised to flush the connection, and the first batch may not")
	}
	say()
	say()
	if got, want := waits(), 2*(frameHeader+8); got != want {
		t.Errorf("%d bytes wait for him who has promised to flush, want all %d", got, want)
	}
	l.flush()
	say()
	if n := waits(); n != 0 {
		t.Errorf("%d bytes wait after he has, want 0", n)
	}
}
