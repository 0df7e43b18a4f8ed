// Package loopback makes TCP connections of the kernel's, for tests of what only a real
// socket does: splice(2), readiness without a read, a reset that is told once. Whatever
// else needs a network stands on package pipenet.
package loopback

import (
	"net"
	"testing"
)

// Pair is a TCP connection: the end that was dialled, and the one that was accepted. Both
// are closed when the test ends.
func Pair(tb testing.TB) (dialled, accepted *net.TCPConn) {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	d, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { d.Close() })
	a, err := ln.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { a.Close() })
	return d.(*net.TCPConn), a.(*net.TCPConn)
}
