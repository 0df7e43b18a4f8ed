package tunnel

import (
	"errors"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"

	"github.com/overhear-mesh/overhear/test/loopback"
)

// TestAResetThatAWriteHasSeenIsNoEnd: the kernel tells of a reset once. When the other
// direction has been told, what follows looks like the end of a stream.
func TestAResetThatAWriteHasSeenIsNoEnd(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells the two apart")
	}
	near, far := loopback.Pair(t)
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
			near, far := loopback.Pair(t)
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
