//go:build unix

package upstream_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// No answer is missed, however soon it comes: before the wait begins, and after.
func TestAskHearsWhateverComesAfterTheRequest(t *testing.T) {
	_, open := loopback(t)
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range 8 {
		c, s := open()
		wg.Go(func() { // answers each byte with one, at once or a little later
			rng := rand.New(rand.NewPCG(uint64(i), 0))
			b := make([]byte, 1)
			for {
				if _, err := io.ReadFull(s, b); err != nil {
					return
				}
				for range rng.IntN(3) * rng.IntN(2000) {
					b[0]++
				}
				b[0] = ^b[0]
				if _, err := s.Write(b); err != nil {
					return
				}
			}
		})
		wg.Go(func() {
			defer c.Close()
			answer := make([]byte, 16)
			for n := range 2000 {
				if sent, got, err := c.Ask([]byte{byte(n)}, answer); sent != 1 || got != 1 || err != nil {
					t.Errorf("exchange %d: sent %d, got %d, %v; want 1 and 1", n, sent, got, err)
					return
				}
			}
		})
	}
}

func TestAskSaysHowFarItCame(t *testing.T) {
	interrupt := func(c *upstream.Conn) { _ = c.SetDeadline(time.Unix(1, 0)) }
	large := bytes.Repeat([]byte("x"), 64<<20)
	for _, tt := range []struct {
		name    string
		request []byte
		before  func(c *upstream.Conn)
		server  func(s *net.TCPConn, c *upstream.Conn)
		sent    int // -1: some, and not all
		err     error
	}{
		{"the end", []byte("ask"), nil, func(s *net.TCPConn, _ *upstream.Conn) { _ = s.CloseWrite() }, 3, io.EOF},
		{"a reset", []byte("ask"), nil, func(s *net.TCPConn, _ *upstream.Conn) { _ = s.SetLinger(0); _ = s.Close() }, 3, syscall.ECONNRESET},
		{"an interruption while it waits", []byte("ask"), nil, func(_ *net.TCPConn, c *upstream.Conn) { interrupt(c) }, 3, os.ErrDeadlineExceeded},
		{"an interruption before", []byte("ask"), interrupt, nil, 0, os.ErrDeadlineExceeded},
		{"an interruption of reading before", []byte("ask"), func(c *upstream.Conn) { _ = c.SetReadDeadline(time.Unix(1, 0)) }, nil, 3, os.ErrDeadlineExceeded},
		{"closed before", []byte("ask"), func(c *upstream.Conn) { c.Discard() }, nil, 0, net.ErrClosed},
		{"a request that does not fit", large, nil, nil, -1, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, open := loopback(t)
			c, s := open()
			if tt.before != nil {
				tt.before(c)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				if tt.server == nil {
					return
				}
				_, _ = io.ReadFull(s, make([]byte, len(tt.request)))
				tt.server(s, c)
			}()
			sent, n, err := c.Ask(tt.request, make([]byte, 16))
			<-done
			if tt.sent >= 0 && sent != tt.sent || tt.sent < 0 && (sent <= 0 || sent >= len(tt.request)) || n != 0 || !errors.Is(err, tt.err) {
				t.Errorf("sent %d, got %d, %v; want %d (-1: a part), none, %v", sent, n, err, tt.sent, tt.err)
			}
		})
	}
}

func TestAskMeansWhatReadAndWriteWouldMean(t *testing.T) {
	_, open := loopback(t)
	c, s := open()
	_ = s.SetLinger(0)
	_ = s.Close()
	arrived(t, c)
	// The first write after a reset fails.
	sent, _, err := c.Ask([]byte("ask"), make([]byte, 16))
	if sent != 0 || err == nil || upstream.Ending(err) != outlier.EndResetBeforeHeaders {
		t.Errorf("sent %d, %v, which means %v; want none and a reset", sent, err, upstream.Ending(err))
	}
}

func TestAskDoesNotAllocate(t *testing.T) {
	_, open := loopback(t)
	c, s := open()
	go func() { _, _ = io.Copy(s, s) }()
	request, answer := []byte("ask"), make([]byte, 16)
	if n := testing.AllocsPerRun(200, func() {
		if _, got, err := c.Ask(request, answer); got == 0 || err != nil {
			t.Fatal(got, err)
		}
	}); n != 0 {
		t.Errorf("got %v allocations per request, want 0", n)
	}
}

// Without a socket it is a Write and a Read.
func TestAskOfWhatIsNoSocket(t *testing.T) {
	opts := upstream.DefaultOptions()
	e := upstream.NewEndpoint("a", "a", "", 0, false, stats(t), nil, &opts)
	near, far := net.Pipe()
	defer far.Close()
	c := e.Lend(near, 0)
	defer c.Close()
	go func() {
		b := make([]byte, 3)
		if _, err := io.ReadFull(far, b); err == nil {
			_, _ = far.Write([]byte("answer"))
		}
	}()
	answer := make([]byte, 16)
	if sent, n, err := c.Ask([]byte("ask"), answer); sent != 3 || string(answer[:n]) != "answer" || err != nil {
		t.Errorf("sent %d, got %q, %v; want 3 and the answer", sent, answer[:n], err)
	}
}
