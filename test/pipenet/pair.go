package pipenet

import (
	"net"
	"testing"
)

// Pair is a connection from this host to another: its end here, and the one there. Both
// are closed when the test ends.
func (h *Host) Pair(tb testing.TB, to *Host) (near, far *Conn) {
	tb.Helper()
	ln, err := to.Listen(tb.Context(), "tcp", net.JoinHostPort(to.addr.String(), "0"))
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	n, err := h.Dial(tb.Context(), "tcp", ln.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { n.Close() })
	f, err := ln.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	return n.(*Conn), f.(*Conn)
}
