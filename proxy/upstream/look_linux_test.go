package upstream_test

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

func TestASocketIsLookedAtWithoutTakingAnything(t *testing.T) {
	for _, tt := range []struct {
		name string
		dies func(server *net.TCPConn)
		want bool
	}{
		{"has sent bytes", func(s *net.TCPConn) { _, _ = s.Write([]byte("ab")) }, true},
		{"closed behind its last bytes", func(s *net.TCPConn) { _, _ = s.Write([]byte("ab")); s.Close() }, false},
		{"reset", func(s *net.TCPConn) { s.SetLinger(0); s.Close() }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, open := loopback(t)
			c, s := open() // busy: it is not given back
			tt.dies(s)
			arrived(t, c)
			for range 2 {
				if got := e.Stands(t.Context()); got != tt.want {
					t.Errorf("Stands = %v, want %v", got, tt.want)
				}
			}
			// Whoever uses the connection must find what he would have found.
			b := make([]byte, 3)
			n, err := c.Read(b)
			switch {
			case tt.name == "reset":
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("read: got %d, %v; want %v", n, err, syscall.ECONNRESET)
				}
			case string(b[:n]) != "ab":
				t.Errorf("read: got %q, %v; want ab", b[:n], err)
			}
		})
	}
}

func TestAQuietSocketStands(t *testing.T) {
	e, open := loopback(t)
	c, _ := open()
	reading := make(chan error, 1)
	go func() { // somebody waits for an answer on it all the while
		_, err := c.Read(make([]byte, 1))
		reading <- err
	}()
	if !e.Stands(t.Context()) {
		t.Error("Stands = false for a connection on which somebody waits")
	}
	c.Close()
	if err := <-reading; !errors.Is(err, net.ErrClosed) {
		t.Errorf("who waits on it: got %v, want %v", err, net.ErrClosed)
	}
	if e.Stands(t.Context()) {
		t.Error("Stands = true without a connection")
	}
}
