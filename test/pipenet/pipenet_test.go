package pipenet_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/nettest"

	"github.com/overhear-mesh/overhear/test/pipenet"
)

const server = "10.0.0.2:80"

// mesh is a client host, a server host and a listener on server.
func mesh(t *testing.T) (*pipenet.Network, *pipenet.Host, net.Listener) {
	t.Helper()
	n := pipenet.New(1)
	ln, err := n.Host("10.0.0.2").Listen(t.Context(), "tcp", ":80")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	t.Cleanup(func() { ln.Close() })
	return n, n.Host("10.0.0.1"), ln
}

func connect(t *testing.T, h *pipenet.Host, ln net.Listener) (client, server *pipenet.Conn) {
	t.Helper()
	c, err := h.Dial(t.Context(), "tcp", "10.0.0.2:80")
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatalf("accept: %v", err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*pipenet.Conn), s.(*pipenet.Conn)
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if n, err := c.Write([]byte(s)); err != nil || n != len(s) {
		t.Fatalf("write %q: got %d, %v", s, n, err)
	}
}

func read(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, 64)
	n, err := c.Read(b)
	if err != nil || string(b[:n]) != want {
		t.Fatalf("read: got %q, %v; want %q", b[:n], err, want)
	}
}

func wantErr(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("%s: got error %v, want %v", what, got, want)
	}
}

// The standard library's own test of what a net.Conn must do.
func TestAConnectionBehavesAsNetConnMust(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		n := pipenet.New(1)
		ln, err := n.Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, nil, err
		}
		c1, err = n.Dial(context.Background(), "tcp", ln.Addr().String())
		if err != nil {
			return nil, nil, nil, err
		}
		c2, err = ln.Accept()
		return c1, c2, func() { c1.Close(); c2.Close(); ln.Close() }, err
	})
}

func TestBothEndsSeeEachOthersAddress(t *testing.T) {
	_, client, ln := mesh(t)
	c, s := connect(t, client, ln)
	if got, want := s.RemoteAddr().(*net.TCPAddr).IP.String(), "10.0.0.1"; got != want {
		t.Errorf("the server's remote address: got %s, want %s", got, want)
	}
	if got, want := s.RemoteAddr().String(), c.LocalAddr().String(); got != want {
		t.Errorf("the server's remote address: got %s, want the client's local %s", got, want)
	}
	if got := c.RemoteAddr().String(); got != server {
		t.Errorf("the client's remote address: got %s, want %s", got, server)
	}
}

func TestNobodyListeningRefuses(t *testing.T) {
	n, client, ln := mesh(t)
	ln.Close()
	for _, addr := range []string{server, "10.0.0.2:81", "10.9.9.9:80", "127.0.0.1:80", "0.0.0.0:80"} {
		_, err := client.Dial(t.Context(), "tcp", addr)
		wantErr(t, "dial "+addr, err, syscall.ECONNREFUSED)
		var op *net.OpError
		if !errors.As(err, &op) || op.Op != "dial" {
			t.Errorf("dial %s: got %T, want *net.OpError of a dial", addr, err)
		}
	}
	if _, err := n.Host("10.0.0.2").Listen(t.Context(), "tcp", ":80"); err != nil {
		t.Errorf("listening again on the same port: %v", err)
	}
}

func TestEachHostHasItsOwnLoopback(t *testing.T) {
	n, client, _ := mesh(t)
	if _, err := n.Host("10.0.0.2").Listen(t.Context(), "tcp", "127.0.0.1:8080"); err != nil {
		t.Fatal(err)
	}
	_, err := client.Dial(t.Context(), "tcp", "127.0.0.1:8080")
	wantErr(t, "dial another host's loopback", err, syscall.ECONNREFUSED)
	_, err = client.Dial(t.Context(), "tcp", "10.0.0.2:8080")
	wantErr(t, "dial a loopback listener from outside", err, syscall.ECONNREFUSED)
	c, err := n.Host("10.0.0.2").Dial(t.Context(), "tcp", "localhost:8080")
	if err != nil {
		t.Fatalf("dial the own loopback: %v", err)
	}
	c.Close()
}

func TestAnAddressIsBoundOnce(t *testing.T) {
	n, _, _ := mesh(t)
	for _, tc := range []struct {
		addr string
		want error
	}{
		{"10.0.0.2:80", syscall.EADDRINUSE},
		{"127.0.0.1:80", syscall.EADDRINUSE},
		{"10.0.0.3:81", syscall.EADDRNOTAVAIL},
		{"10.0.0.2:81", nil},
	} {
		_, err := n.Host("10.0.0.2").Listen(t.Context(), "tcp", tc.addr)
		wantErr(t, "listen "+tc.addr, err, tc.want)
	}
}

func TestHalfCloseLeavesTheOtherDirectionOpen(t *testing.T) {
	_, client, ln := mesh(t)
	c, s := connect(t, client, ln)
	write(t, c, "request")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	read(t, s, "request")
	_, err := s.Read(make([]byte, 1))
	wantErr(t, "read after the peer's half-close", err, io.EOF)
	_, err = c.Write([]byte("x"))
	wantErr(t, "write after the own half-close", err, syscall.EPIPE)
	write(t, s, "response")
	read(t, c, "response")
}

func TestWaysToLoseAConnection(t *testing.T) {
	for _, tc := range []struct {
		name        string
		end         func(t *testing.T, s *pipenet.Conn)
		unread      bool // the client's bytes stay unread at the server
		read, write error
		writes      int // which write fails
	}{
		{"an orderly close is EOF, then the second write fails", func(t *testing.T, s *pipenet.Conn) { s.Close() }, false, io.EOF, syscall.EPIPE, 2},
		{"a close with unread data resets", func(t *testing.T, s *pipenet.Conn) { s.Close() }, true, syscall.ECONNRESET, syscall.ECONNRESET, 1},
		{"linger 0 resets", func(t *testing.T, s *pipenet.Conn) { s.SetLinger(0); s.Close() }, false, syscall.ECONNRESET, syscall.ECONNRESET, 1},
		{"Reset resets", func(t *testing.T, s *pipenet.Conn) { _ = s.Reset() }, false, syscall.ECONNRESET, syscall.ECONNRESET, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, client, ln := mesh(t)
			c, s := connect(t, client, ln)
			write(t, s, "last words")
			write(t, c, "request")
			if !tc.unread {
				read(t, s, "request")
			}
			tc.end(t, s)
			for i := range tc.writes {
				_, err := c.Write([]byte("x"))
				if i+1 < tc.writes {
					wantErr(t, fmt.Sprintf("write %d", i+1), err, nil)
				} else {
					wantErr(t, fmt.Sprintf("write %d", i+1), err, tc.write)
				}
			}
			_, err := c.Write([]byte("x"))
			wantErr(t, "the write after that", err, syscall.EPIPE)
			read(t, c, "last words") // what had arrived stays readable
			_, err = c.Read(make([]byte, 1))
			wantErr(t, "read", err, tc.read)
			_, err = s.Read(make([]byte, 1))
			wantErr(t, "read at the closed end", err, net.ErrClosed)
		})
	}
}

func TestReadableIsWhetherAReadWouldReturnAtOnce(t *testing.T) {
	for name, happens := range map[string]func(server *pipenet.Conn){
		"data":          func(s *pipenet.Conn) { _, _ = s.Write([]byte("x")) },
		"end of stream": func(s *pipenet.Conn) { s.CloseWrite() },
		"reset":         func(s *pipenet.Conn) { _ = s.Reset() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, h, ln := mesh(t)
				n.Delay("10.0.0.2", "10.0.0.1", time.Millisecond, 0)
				c, s := connect(t, h, ln)
				happens(s)
				if c.Readable() {
					t.Error("readable before anything has arrived")
				}
				time.Sleep(time.Millisecond)
				if !c.Readable() {
					t.Error("not readable after it has arrived")
				}
			})
		})
	}
}

func TestClosingAListenerResetsOnlyWhatNobodyAccepted(t *testing.T) {
	_, client, ln := mesh(t)
	c1, s1 := connect(t, client, ln)
	c2, err := client.Dial(t.Context(), "tcp", server)
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	_, err = c2.Read(make([]byte, 1))
	wantErr(t, "read on a connection nobody accepted", err, syscall.ECONNRESET)
	write(t, c1, "still here")
	read(t, s1, "still here")
	_, err = ln.Accept()
	wantErr(t, "accept", err, net.ErrClosed)
}

func TestACrashResetsConnectionsAndFreesPorts(t *testing.T) {
	n, client, ln := mesh(t)
	c, s := connect(t, client, ln)
	n.Host("10.0.0.2").Crash()
	_, err := c.Read(make([]byte, 1))
	wantErr(t, "the peer's read", err, syscall.ECONNRESET)
	_, err = s.Read(make([]byte, 1))
	wantErr(t, "the own read", err, net.ErrClosed)
	_, err = client.Dial(t.Context(), "tcp", server)
	wantErr(t, "dial", err, syscall.ECONNREFUSED)
	if _, err := n.Host("10.0.0.2").Listen(t.Context(), "tcp", ":80"); err != nil {
		t.Errorf("listen after the crash: %v", err)
	}
}

func TestAWriterWaitsWhenTheWindowIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, ln := mesh(t)
		c, s := connect(t, client, ln)
		c.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := c.Write(make([]byte, 1<<20))
		wantErr(t, "write", err, os.ErrDeadlineExceeded)
		if want := 64 << 10; n != want {
			t.Errorf("bytes written before the deadline: got %d, want the window %d", n, want)
		}
		c.SetWriteDeadline(time.Time{})
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Write(make([]byte, 100)); err != nil {
				t.Errorf("write once there is room: %v", err)
			}
			c.Close()
		})
		got, err := io.Copy(io.Discard, s)
		wg.Wait()
		if want := int64(64<<10 + 100); got != want || err != nil {
			t.Errorf("read: got %d, %v; want %d", got, err, want)
		}
	})
}

func TestDeadlinesEndWaitingReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, ln := mesh(t)
		c, _ := connect(t, client, ln)
		start := time.Now()
		c.SetReadDeadline(start.Add(3 * time.Second))
		_, err := c.Read(make([]byte, 1))
		wantErr(t, "read", err, os.ErrDeadlineExceeded)
		if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
			t.Errorf("read: %v does not say Timeout", err)
		}
		if got, want := time.Since(start), 3*time.Second; got != want {
			t.Errorf("the read took %v, want %v", got, want)
		}
		time.AfterFunc(time.Second, func() { c.SetReadDeadline(time.Now()) })
		c.SetReadDeadline(time.Time{})
		_, err = c.Read(make([]byte, 1))
		wantErr(t, "a read interrupted by a deadline in the past", err, os.ErrDeadlineExceeded)
	})
}

func TestBytesArriveLateAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, client, ln := mesh(t)
		n.Delay("*", "*", 10*time.Millisecond, 5*time.Millisecond)
		n.Delay("10.0.0.1", "10.0.0.2", 20*time.Millisecond, 0)
		start := time.Now()
		c, s := connect(t, client, ln)
		if got := time.Since(start); got < 30*time.Millisecond || got > 35*time.Millisecond {
			t.Errorf("dialling took %v, want 20 ms there and 10 to 15 ms back", got)
		}
		start = time.Now()
		write(t, c, "x")
		read(t, s, "x")
		if got, want := time.Since(start), 20*time.Millisecond; got != want {
			t.Errorf("one way took %v, want %v", got, want)
		}
		go func() {
			for i := range 200 {
				_, _ = fmt.Fprintf(s, "%d\n", i) // the reader sees what is missing
			}
			s.Close()
		}()
		sc := bufio.NewScanner(c)
		var got, want []string
		for i := range 200 {
			want = append(want, fmt.Sprint(i))
		}
		for sc.Scan() {
			got = append(got, sc.Text())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("lines under jitter (-want +got):\n%s", diff)
		}
	})
}

func TestADelayedResetOvertakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, client, ln := mesh(t)
		n.Delay("*", "*", 10*time.Millisecond, 0)
		c, s := connect(t, client, ln)
		write(t, s, "last words")
		_ = s.Reset()
		write(t, c, "the reset is still under way")
		read(t, c, "last words")
		_, err := c.Read(make([]byte, 1))
		wantErr(t, "read", err, syscall.ECONNRESET)
	})
}

func TestDataThatMeetsAClosedSocketComesBackAsAReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, client, ln := mesh(t)
		n.Delay("*", "*", 10*time.Millisecond, 0)
		c, s := connect(t, client, ln)
		s.Close()
		write(t, c, "crossing the close")
		_, err := c.Read(make([]byte, 1))
		wantErr(t, "read", err, io.EOF)
		write(t, c, "the reset is still under way")
		time.Sleep(10 * time.Millisecond)
		_, err = c.Write([]byte("x"))
		wantErr(t, "write after a round trip", err, syscall.EPIPE)
	})
}

func TestACutHoldsBytesUntilItHeals(t *testing.T) {
	for _, place := range [][2]string{
		{"10.0.0.1", "10.0.0.2"}, {"10.0.0.1", server}, {"*", server}, {"10.0.0.0/24", "*"}, {"10.0.0.1", "10.0.0.0/8"},
	} {
		t.Run(place[0]+" to "+place[1], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, client, ln := mesh(t)
				c, s := connect(t, client, ln)
				other, err := n.Host("10.7.0.1").Dial(t.Context(), "tcp", server)
				if err != nil {
					t.Fatal(err)
				}
				other.Close()
				write(t, c, "before")
				n.Cut(place[0], place[1])
				write(t, c, "held")
				read(t, s, "before")
				s.SetReadDeadline(time.Now().Add(time.Minute))
				_, err = s.Read(make([]byte, 1))
				wantErr(t, "read during the cut", err, os.ErrDeadlineExceeded)
				s.SetReadDeadline(time.Time{})
				time.AfterFunc(time.Second, func() { n.Heal(place[0], place[1]) })
				read(t, s, "held")
			})
		})
	}
}

func TestACutCanBeOneWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, client, ln := mesh(t)
		c, s := connect(t, client, ln)
		n.Cut("10.0.0.2", "10.0.0.1")
		write(t, c, "there")
		read(t, s, "there")
		s.Close() // its FIN cannot pass
		c.SetReadDeadline(time.Now().Add(time.Minute))
		_, err := c.Read(make([]byte, 1))
		wantErr(t, "read", err, os.ErrDeadlineExceeded)
		c.SetReadDeadline(time.Time{})
		n.Heal("10.0.0.2", "10.0.0.1")
		_, err = c.Read(make([]byte, 1))
		wantErr(t, "read after healing", err, io.EOF)
	})
}

func TestAResetWaitsForACutToHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, client, ln := mesh(t)
		c, s := connect(t, client, ln)
		n.Cut("*", "*")
		_ = s.Reset()
		time.Sleep(time.Minute)
		write(t, c, "into the void")
		time.AfterFunc(time.Second, func() { n.Heal("*", "*") })
		_, err := c.Read(make([]byte, 1))
		wantErr(t, "read", err, syscall.ECONNRESET)
	})
}

func TestDialsThatHangOrFail(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault func(n *pipenet.Network)
		want  error
	}{
		{"a cut there hangs", func(n *pipenet.Network) { n.Cut("10.0.0.1", "10.0.0.2") }, context.DeadlineExceeded},
		{"a cut back hangs", func(n *pipenet.Network) { n.Cut("10.0.0.2", "10.0.0.1") }, context.DeadlineExceeded},
		{"a black hole hangs", func(n *pipenet.Network) { n.Blackhole("*", server) }, context.DeadlineExceeded},
		{"a black hole elsewhere does not", func(n *pipenet.Network) { n.Blackhole("*", "10.0.0.2:81") }, nil},
		{"a black hole for the peer's dials does not", func(n *pipenet.Network) { n.Blackhole("10.0.0.2", "*") }, nil},
		{"no route fails at once", func(n *pipenet.Network) { n.Reject("10.0.0.1", "*") }, syscall.EHOSTUNREACH},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, client, _ := mesh(t)
				tc.fault(n)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				c, err := client.Dial(ctx, "tcp", server)
				if tc.want == nil && err == nil {
					c.Close()
					return
				}
				wantErr(t, "dial", err, tc.want)
			})
		})
	}
}

func TestAHangingDialSucceedsWhenTheFaultEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, client, ln := mesh(t)
		n.Blackhole("*", server)
		start := time.Now()
		time.AfterFunc(3*time.Second, func() { n.Heal("*", server) })
		connect(t, client, ln)
		if got, want := time.Since(start), 3*time.Second; got != want {
			t.Errorf("dialling took %v, want %v", got, want)
		}
	})
}

func TestABlackHoleSparesOpenConnections(t *testing.T) {
	n, client, ln := mesh(t)
	c, s := connect(t, client, ln)
	n.Blackhole("*", server)
	write(t, c, "still here")
	read(t, s, "still here")
}

func TestAFullBacklogHangsDialsUntilSomebodyAccepts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client, ln := mesh(t)
		for range 128 {
			c, err := client.Dial(t.Context(), "tcp", server)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := client.Dial(ctx, "tcp", server)
		wantErr(t, "dial beyond the backlog", err, context.DeadlineExceeded)
		time.AfterFunc(time.Second, func() { _, _ = ln.Accept() })
		c, err := client.Dial(t.Context(), "tcp", server)
		if err != nil {
			t.Fatalf("dial after an accept: %v", err)
		}
		c.Close()
	})
}

func TestNetHTTPRunsOverItInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, client, ln := mesh(t)
		n.Delay("*", "*", 5*time.Millisecond, 0)
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body) // whole: HTTP/1.1 of net/http is half-duplex
			_, _ = w.Write(b)
		})}
		go func() { _ = srv.Serve(ln) }()
		defer srv.Close()
		tr := &http.Transport{DialContext: client.Dial}
		defer tr.CloseIdleConnections()
		body := bytes.Repeat([]byte("0123456789"), 100_000)
		start := time.Now()
		for range 3 {
			resp, err := (&http.Client{Transport: tr}).Post("http://"+server, "", bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || !bytes.Equal(got, body) {
				t.Fatalf("echo: got %d bytes, %v; want %d", len(got), err, len(body))
			}
		}
		if got := time.Since(start); got < 40*time.Millisecond {
			t.Errorf("three requests took %v of virtual time, want at least a dial and three round trips of 10 ms", got)
		}
	})
}

func TestThePeersCloseIsToldWhenItArrives(t *testing.T) {
	for name, c := range map[string]struct {
		ends func(far *pipenet.Conn) error
		want bool
	}{
		"closed":         {(*pipenet.Conn).Close, true},
		"half closed":    {(*pipenet.Conn).CloseWrite, true},
		"reset":          {(*pipenet.Conn).Reset, true},
		"spoke":          {func(far *pipenet.Conn) error { _, err := far.Write([]byte("x")); return err }, false},
		"spoke its last": {func(far *pipenet.Conn) error { _, _ = far.Write([]byte("x")); return far.Close() }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := joined(t, 5*time.Millisecond)
				told := time.Duration(-1)
				began := time.Now()
				near.OnPeerClose(func() { told = time.Since(began) })
				if err := c.ends(far); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if got := told >= 0; got != c.want {
					t.Fatalf("told: %v, want %v", got, c.want)
				}
				if c.want && told != 5*time.Millisecond {
					t.Errorf("told after %v, want 5ms", told)
				}
			})
		})
	}
}

func TestWhoHasClosedIsNotToldOfThePeersClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := joined(t, 5*time.Millisecond)
		near.OnPeerClose(func() { t.Error("told") })
		_ = near.Close()
		_ = far.Close()
		time.Sleep(time.Second)
	})
}

// joined is a connection over a way that takes so long.
func joined(t *testing.T, way time.Duration) (near, far *pipenet.Conn) {
	t.Helper()
	n, client, ln := mesh(t)
	n.Delay("*", "*", way, 0)
	return connect(t, client, ln)
}
