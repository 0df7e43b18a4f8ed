//go:build unix

package upstream_test

import (
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// loopback is an endpoint behind a real socket, with the ends of its connections.
func loopback(t *testing.T) (*upstream.Endpoint, func() (*upstream.Conn, *net.TCPConn)) {
	t.Helper()
	return loopbackWith(t, upstream.DefaultOptions())
}

func loopbackWith(t *testing.T, opts upstream.Options) (*upstream.Endpoint, func() (*upstream.Conn, *net.TCPConn)) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	e := upstream.NewEndpoint("a", ln.Addr().String(), "", 0, false, stats(t), nil, &opts)
	t.Cleanup(e.Retire)
	return e, func() (*upstream.Conn, *net.TCPConn) {
		t.Helper()
		c, err := e.Fresh(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(); s.Close() })
		return c, s.(*net.TCPConn)
	}
}

// arrived waits until something can be read from c, without reading it.
func arrived(t *testing.T, c *upstream.Conn) {
	t.Helper()
	control(t, c, func(fd int) {
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
			if err == unix.EINTR {
				continue
			}
			if n != 1 || err != nil {
				t.Errorf("poll: got %d, %v", n, err)
			}
			return
		}
	})
}

func control(t *testing.T, c *upstream.Conn, fn func(fd int)) {
	t.Helper()
	raw, err := c.Conn.(*net.TCPConn).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { fn(int(fd)) })
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestADeadSocketIsDroppedWithoutAWord(t *testing.T) {
	for name, dies := range map[string]func(server *net.TCPConn){
		"closed": func(s *net.TCPConn) { s.Close() },
		"reset":  func(s *net.TCPConn) { s.SetLinger(0); s.Close() },
		"spoke":  func(s *net.TCPConn) { _, _ = s.Write([]byte("x")) },
	} {
		t.Run(name, func(t *testing.T) {
			e, open := loopback(t)
			c, s := open()
			e.Put(c, 0)
			dies(s)
			arrived(t, c)
			got, reused, err := e.Get(t.Context(), time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer got.Close()
			if got == c || reused {
				t.Error("got the dead connection")
			}
		})
	}
}

func TestALivingSocketIsReusedAndKeepsItsBytes(t *testing.T) {
	e, open := loopback(t)
	c, s := open()
	e.Put(c, 0)
	got, reused, err := e.Get(t.Context(), time.Second)
	if err != nil || got != c || !reused {
		t.Fatalf("got %p, reused %v, %v; want %p, true", got, reused, err, c)
	}
	if _, err := s.Write([]byte("ab")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "ab" {
		t.Errorf("read %q, %v; want ab", b, err)
	}
}

func TestReuseDoesNotAllocate(t *testing.T) {
	e, open := loopback(t)
	c, _ := open()
	now := time.Duration(0)
	ctx := t.Context()
	allocs := testing.AllocsPerRun(100, func() {
		now += time.Second
		a := e.Begin(now, true)
		e.Put(c, now-time.Millisecond)
		got, reused, err := e.Get(ctx, now)
		if got != c || !reused || err != nil {
			t.Fatalf("got %p, %v, %v", got, reused, err)
		}
		a.Headers(now)
		a.End(outlier.Outcome{Class: outlier.OK, Now: now, Conn: c.Hash()})
	})
	if allocs != 0 {
		t.Errorf("got %v allocations per attempt, want 0", allocs)
	}
}

func BenchmarkReuse(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	opts := upstream.DefaultOptions()
	e := upstream.NewEndpoint("a", ln.Addr().String(), "", 0, false, nil, nil, &opts)
	defer e.Retire()
	c, err := e.Fresh(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	ctx := b.Context()
	for now := time.Second; b.Loop(); now += time.Microsecond {
		e.Put(c, now)
		if _, _, err := e.Get(ctx, now); err != nil {
			b.Fatal(err)
		}
	}
}
