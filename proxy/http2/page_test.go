package http2

import (
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/overhear-mesh/overhear/proxy/clock"
)

// What a wire's messages were written on is somebody else's once it is closed, whatever still
// comes for it.
func TestAClosedWireHasNoMoreToDoWithItsMessages(t *testing.T) {
	l, b := socketLink(t), &batch{}
	lent := &lend{link: l, open: true}
	lent.init(clock.New(), lent)
	bridged := &bridge{conn: alone(t)}
	bridged.init(clock.New(), bridged)
	for name, w := range map[string]struct {
		net.Conn
		party
		*wire
	}{
		"an endpoint's": {lent, lent, &lent.wire},
		"a client's":    {bridged, bridged, &bridged.wire},
	} {
		t.Run(name, func(t *testing.T) {
			at := place{l, 1}
			w.st.place = at
			for range 2 {
				if err := w.Close(); err != nil {
					t.Fatalf("closing: %v", err)
				}
			}
			if w.page != nil {
				t.Error("it keeps them")
			}
			if _, err := w.Read(make([]byte, 8)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("reading: got %v, want %v", err, net.ErrClosed)
			}
			if _, err := w.Conn.Write([]byte("GET / HTTP/1.1\r\n\r\n")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("writing: got %v, want %v", err, net.ErrClosed)
			}
			if err := w.Conn.SetDeadline(time.Time{}); err != nil {
				t.Errorf("setting a deadline: %v", err)
			}
			w.onHeaders(b, &w.st, at, []hpack.HeaderField{{Name: ":status", Value: "200"}}, false)
			if w.party.onData(b, &w.st, at, []byte("late"), true) {
				t.Error("it has taken data")
			}
			w.party.onRoom(b, &w.st, at)
			w.onReset(b, &w.st, at, codeCancel)
			w.onLost(b, &w.st, at, &loss{})
		})
	}
}
