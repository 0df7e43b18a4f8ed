//go:build unix

package http1

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/proxy/wheel"
	"github.com/overhear-mesh/overhear/test/loopback"
)

func TestASocketWithoutARequestHoldsNoBuffer(t *testing.T) {
	client, socket := loopback.Pair(t)
	c := &conn{task: getTask()} // as after a request
	c.resp = getBuffer(smallBuffer)
	c.rester = newRester(c, socket)
	if c.rester == nil {
		t.Skip("no raw sockets here")
	}
	if err := socket.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if n, err := c.readFirst(); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("got %d bytes and %v, want none and %v", n, err, os.ErrDeadlineExceeded)
		}
	}
	if err := socket.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.WriteString(client, "GET")
		_ = client.CloseWrite()
	}()
	got := ""
	for len(got) < 3 {
		n, err := c.readFirst()
		if err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		got += string(c.in[:n])
	}
	if got != "GET" {
		t.Errorf("read %q, want %q", got, "GET")
	}
	if n, err := c.readFirst(); n != 0 || err != io.EOF { //nolint:errorlint // Read says this very value
		t.Errorf("at the end got %d bytes and %v, want none and %v", n, err, io.EOF)
	}
	c.release()

	// Nothing has come, and it looks once.
	quiet, _ := loopback.Pair(t)
	c = &conn{task: getTask()}
	c.resp = getBuffer(smallBuffer)
	c.rester = newRester(c, quiet)
	if err := c.rester.raw.Control(func(fd uintptr) {
		if c.rester.look(fd) {
			t.Errorf("of a socket without bytes it says that %d have come, or %v", c.rester.n, c.rester.err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if c.task != nil {
		t.Error("it waits with a task")
	}
}

// toRest brings the only connection to rest, without waiting until the wheel would.
func (l *loop) toRest() {
	for serving() {
		l.eachGuard(func(g *guard) {
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.phase == waiting && g.restAt != wheel.Never {
				g.restAt = wheel.Never // as the wheel does: once
				g.interruptLocked(byRest)
			}
		})
		runtime.Gosched()
	}
}

// serving reports whether there is a goroutine that serves requests.
func serving() bool {
	stacks := make([]byte, 1<<20)
	return bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("http1.(*conn).serve("))
}

func TestAConnectionAtRestHasNoGoroutineThatServes(t *testing.T) {
	l := newSocketLoop(t)
	for range 20 {
		l.toRest()
		l.once(t)
		l.once(t)
	}
	// A request whose first bytes come alone.
	l.toRest()
	if _, err := l.client.Write(l.request[:1]); err != nil {
		t.Fatal(err)
	}
	for !serving() {
		runtime.Gosched()
	}
	l.request = l.request[1:]
	l.once(t)
}

func TestAConnectionAtRestEndsWithWhoeverEndsIt(t *testing.T) {
	for name, end := range map[string]func(*loop){
		"the client":   func(l *loop) { _ = l.client.(*net.TCPConn).CloseWrite() },
		"a drain":      func(l *loop) { l.server.cfg.DrainIdleTimeout = time.Millisecond; l.server.Drain() },
		"its time-out": func(l *loop) { l.eachGuard(func(g *guard) { g.interrupt(byIdle) }) },
		"the sidecar":  func(l *loop) { l.eachGuard((*guard).shut) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newSocketLoop(t)
			l.toRest()
			end(l)
			if n, err := l.client.Read(l.buf); n != 0 || err != io.EOF { //nolint:errorlint // Read says this very value
				t.Errorf("got %d bytes and %v, want none and %v", n, err, io.EOF)
			}
		})
	}
}

func (l *loop) eachGuard(do func(*guard)) {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	for c := range l.server.conns {
		do(&c.guard)
	}
}
