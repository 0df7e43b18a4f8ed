package tunnel

import (
	"errors"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
)

// pair is the two ends of a TCP connection.
func pair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.Close(), s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

// TestAResetThatAWriteHasSeenIsNoEnd: the kernel tells of a reset once. When the other
// direction has been told, what follows looks like the end of a stream.
func TestAResetThatAWriteHasSeenIsNoEnd(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells the two apart")
	}
	near, far := pair(t)
	if _, err := far.Write([]byte("half of")); err != nil {
		t.Fatal(err)
	}
	_ = far.SetLinger(0)
	_ = far.Close()
	if _, err := near.Write([]byte("more")); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("a write to what was reset: got %v, want %v", err, syscall.ECONNRESET)
	}
	client, sink := net.Pipe()
	t.Cleanup(func() { _ = client.Close() })
	go func() { _, _ = io.Copy(io.Discard, client) }()
	var up, down direction
	down.connect(near, sink, &up, false)
	if how, err := down.run(nil); how != readFailed || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %d, %v, want a failed read, %v", how, err, syscall.ECONNRESET)
	}
	if got := down.moved.Load(); got != int64(len("half of")) {
		t.Errorf("%d bytes were passed on, want what came before the reset", got)
	}
}

// TestAnEndOnBothSidesIsNoReset: the kernel shows a connection that both sides have
// ended like one that was reset.
func TestAnEndOnBothSidesIsNoReset(t *testing.T) {
	for _, first := range []string{"near", "far"} {
		t.Run(first+" ends first", func(t *testing.T) {
			near, far := pair(t)
			var up, down direction
			down.connect(near, nil, &up, false)
			up.connect(nil, near, &down, false)
			if first == "near" {
				up.finish()
				if _, err := io.ReadAll(far); err != nil {
					t.Fatal(err)
				}
			}
			if err := far.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if how, err := down.run(nil); how != endOfStream || err != nil {
				t.Errorf("got %d, %v, want an end of stream", how, err)
			}
		})
	}
}
