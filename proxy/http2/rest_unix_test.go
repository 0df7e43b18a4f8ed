//go:build unix

package http2

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/test/loopback"
)

func TestASocketWithNothingToReadHoldsNoBuffer(t *testing.T) {
	peer, socket := loopback.Pair(t)
	cfg := DefaultConfig()
	l := newLink(&cfg, clock.New(), nil, socket, nil, false)
	l.in = getBuffer() // as after a frame
	if err := l.raw.Control(func(fd uintptr) {
		if l.readFD(fd) {
			t.Errorf("of a socket without bytes it says that %d have come, or %v", l.got, l.gotErr)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if l.in != nil {
		t.Error("it waits with a buffer")
	}
	if err := socket.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if n, err := l.receive(); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("interrupted it got %d bytes and %v, want none and %v", n, err, os.ErrDeadlineExceeded)
	}
	if err := socket.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.WriteString(peer, "half a frame")
		_ = peer.CloseWrite()
	}()
	for l.w < len("half a frame") { // what is there stays while more is waited for
		n, err := l.receive()
		if err != nil {
			t.Fatalf("after %q: %v", l.in[:l.w], err)
		}
		l.w += n
	}
	if got := string(l.in[:l.w]); got != "half a frame" {
		t.Errorf("read %q", got)
	}
	if n, err := l.receive(); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("at the end it got %d bytes and %v, want none and %v", n, err, io.EOF)
	}
}
