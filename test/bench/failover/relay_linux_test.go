package main

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
	program "github.com/overhear-mesh/overhear/test/process"
)

// relayed is a relay before a backend that echoes, and a way to dial it.
func relayed(t *testing.T) (r *relay, b *fakeupstream.Backend, dial func() net.Conn) {
	t.Helper()
	b, err := fakeupstream.Start(t.Context(), fakeupstream.Config{Protocol: fakeupstream.TCP})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if r, err = startRelay(b.Addr()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r, b, func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", r.addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
}

func say(t *testing.T, c net.Conn, word string) {
	t.Helper()
	if _, err := c.Write([]byte(word)); err != nil {
		t.Fatal(err)
	}
}

// hears waits for as long as the answer takes.
func hears(t *testing.T, c net.Conn, want string) {
	t.Helper()
	buf := make([]byte, 64)
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(buf); string(buf[:n]) != want {
		t.Fatalf("got %q, %v, want %q", buf[:n], err, want)
	}
}

// hearsNothing looks for an answer that never comes, however long one waits.
func hearsNothing(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 64)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes and %v came through, want nothing", n, err)
	}
}

func TestAPartitionHoldsBackTheAnswersOfOneCaller(t *testing.T) {
	r, b, dial := relayed(t)
	struck, well := dial(), dial()
	for _, c := range []net.Conn{struck, well} {
		say(t, c, "before")
		hears(t, c, "before")
	}
	hit := func(c net.Conn) bool { return c.RemoteAddr().String() == struck.LocalAddr().String() }
	if err := r.set(t.Context(), cut{answers: true}, hit); err != nil {
		t.Fatal(err)
	}
	say(t, struck, "held")
	say(t, well, "passed")
	hears(t, well, "passed")
	hearsNothing(t, struck)
	if err := r.heal(); err != nil {
		t.Fatal(err)
	}
	hears(t, struck, "held")
	if n := b.Counts().Connections; n != 2 {
		t.Errorf("%d connections reached the backend, want 2", n)
	}
}

func TestConnectionsMadeDuringAPartitionAreHeldToo(t *testing.T) {
	for name, c := range map[string]struct {
		cut  cut
		seen int // requests that arrive
	}{"answers are lost": {cut{answers: true}, 1}, "requests are lost": {cut{requests: true}, 0}} {
		t.Run(name, func(t *testing.T) {
			r, b, dial := relayed(t)
			if err := r.set(t.Context(), c.cut, func(net.Conn) bool { return true }); err != nil {
				t.Fatal(err)
			}
			conn := dial()
			say(t, conn, "new")
			for b.Counts().Requests < c.seen {
				time.Sleep(time.Millisecond)
			}
			hearsNothing(t, conn)
			if n := b.Counts().Requests; n != c.seen {
				t.Errorf("%d requests arrived, want %d", n, c.seen)
			}
			if err := r.heal(); err != nil {
				t.Fatal(err)
			}
			hears(t, conn, "new")
		})
	}
}

func TestInTheDarkNobodyConnects(t *testing.T) {
	r, _, dial := relayed(t)
	open := dial()
	say(t, open, "before")
	hears(t, open, "before")
	for range 2 { // it may happen again
		if err := r.set(t.Context(), cut{requests: true, answers: true, dark: true}, func(net.Conn) bool { return true }); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			c, err := net.DialTimeout("tcp", r.addr(), 50*time.Millisecond)
			if err == nil {
				c.Close()
				t.Fatal("a connection came about")
			}
			if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
				t.Fatalf("got %v, want a SYN that nobody answers", err)
			}
		}
		say(t, open, "held")
		hearsNothing(t, open)
		if err := r.heal(); err != nil {
			t.Fatal(err)
		}
		hears(t, open, "held")
		c := dial()
		say(t, c, "after")
		hears(t, c, "after")
	}
}

func TestTheEndOfAConnectionPassesTheRelay(t *testing.T) {
	r, b, dial := relayed(t)
	c := dial()
	say(t, c, "before")
	hears(t, c, "before")
	if err := b.Set(fakeupstream.Crash()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the backend has crashed, and the connection goes on")
	}
	late, err := net.Dial("tcp", r.addr())
	if err != nil {
		return // the end was as quick as the connection
	}
	defer late.Close()
	if _, err := late.Read(make([]byte, 1)); err == nil {
		t.Error("the backend is down, and the connection goes on")
	}
}

func TestTheKernelSaysWhoseAConnectionIs(t *testing.T) {
	other, err := program.Start([]string{"sleep", "600"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Kill)
	f := &fleet{proxies: []*program.Process{other, {PID: os.Getpid()}}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	accepted := func(from net.IP) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
		c, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		a, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close() })
		return a
	}
	ours, third := accepted(nil), accepted(callerIP(2))
	for _, c := range []struct {
		name   string
		conn   net.Conn
		caller int
		want   bool
	}{
		{"another process", ours, 0, false}, {"the process", ours, 1, true}, {"no such caller", ours, 2, false},
		{"the caller of the address", third, 2, true}, {"a caller of another address", third, 3, false},
	} {
		if got := f.isOf(c.caller, c.conn); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if f.isFrom(1, ours) || !f.isFrom(2, ours) || !f.isFrom(3, third) {
		t.Error("want a connection among those of the first two callers, and not of the first")
	}
}
