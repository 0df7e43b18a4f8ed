package tunnel

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/test/loopback"
)

// bare is a TCP connection that shows no descriptor.
type bare struct {
	net.Conn
	lingerer
}

// TestAResetThatAWriteHasSeenIsNoEnd: the kernel tells of a reset once. When the other
// direction has been told, what follows looks like the end of a stream.
func TestAResetThatAWriteHasSeenIsNoEnd(t *testing.T) {
	for name, show := range map[string]func(*net.TCPConn) net.Conn{
		"a socket":                        func(c *net.TCPConn) net.Conn { return c },
		"a connection with no descriptor": func(c *net.TCPConn) net.Conn { return bare{c, c} },
	} {
		t.Run(name, func(t *testing.T) {
			dialled, far := loopback.Pair(t)
			near := show(dialled)
			client, sink := net.Pipe()
			t.Cleanup(func() { _ = client.Close() })
			go func() { _, _ = io.Copy(io.Discard, client) }()
			var up, down direction
			down.connect(near, sink, &up, false)
			up.connect(sink, near, &down, false)
			if _, err := far.Write([]byte("half of")); err != nil {
				t.Fatal(err)
			}
			_ = far.SetLinger(0)
			_ = far.Close()
			if err := up.pass([]byte("more")); !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("a write to what was reset: got %v, want %v", err, syscall.ECONNRESET)
			}
			if how, err := down.run(nil); how != readFailed || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %d, %v, want a failed read, %v", how, err, syscall.ECONNRESET)
			}
			if got := down.moved.Load(); got != int64(len("half of")) {
				t.Errorf("%d bytes were passed on, want what came before the reset", got)
			}
		})
	}
}

// slow is a connection whose peer has ended, and to which a Write is under way.
type slow struct {
	net.Conn
	lingerer
	took time.Duration // until the Write returns
	err  error
}

func (*slow) Read([]byte) (int, error) { return 0, io.EOF }

func (s *slow) Write(b []byte) (int, error) {
	time.Sleep(s.took)
	return len(b), s.err
}

// TestAnEndWaitsForAWriteUnderWay: it may have been told of a reset, and not have said so
// yet. One that waits for room has not.
func TestAnEndWaitsForAWriteUnderWay(t *testing.T) {
	for _, x := range []struct {
		name string
		near slow
		how  stop
		at   time.Duration
	}{
		{"it was told of a reset", slow{took: resetWait / 2, err: syscall.ECONNRESET}, readFailed, resetWait / 2},
		{"it was told that the peer has ended and gone", slow{took: resetWait / 2, err: syscall.EPIPE}, endOfStream, resetWait / 2},
		{"it succeeded", slow{took: resetWait / 2}, endOfStream, resetWait / 2},
		{"it waits for room", slow{took: time.Hour}, endOfStream, resetWait},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var up, down direction
				down.connect(&x.near, nil, &up, false)
				up.connect(nil, &x.near, &down, false)
				var writer sync.WaitGroup
				defer writer.Wait()
				writer.Go(func() { _ = up.pass([]byte("more")) })
				synctest.Wait()
				begun := time.Now()
				if how, _ := down.run(nil); how != x.how || time.Since(begun) != x.at {
					t.Errorf("got %d after %v, want %d after %v", how, time.Since(begun), x.how, x.at)
				}
			})
		})
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
