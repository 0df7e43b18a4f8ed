//go:build unix

package http1

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

func TestASocketWithoutARequestHoldsNoBuffer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	socket, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()

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
		_ = client.(*net.TCPConn).CloseWrite()
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
	quiet, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer quiet.Close()
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
