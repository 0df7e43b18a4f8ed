package tcp_test

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/listener"
	"github.com/overhear-mesh/overhear/proxy/tcp"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// loopback serves one connection after the other on a real socket.
func loopback(t testing.TB, handle func(*net.TCPConn)) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

// through is a connection to address through a proxy on real sockets.
func through(t testing.TB, address string, records chan<- tcp.Record) (*net.TCPConn, *tcp.Proxy) {
	t.Helper()
	opts := upstream.DefaultOptions()
	app := upstream.NewEndpoint("a", address, "", 0, false, stats(), nil, &opts)
	proxy := tcp.New(tcp.DefaultConfig(), tcp.Deps{Clock: clock.New(), Inbound: app, Log: recorder(records)})
	front := loopback(t, func(c *net.TCPConn) { proxy.ServeConn(t.Context(), c) })
	c, err := net.Dial("tcp", front)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn), proxy
}

type recorder chan<- tcp.Record

func (r recorder) LogTCP(record *tcp.Record) {
	if r != nil {
		r <- *record
	}
}

// pour writes n bytes that only the seed decides, in pieces of all sizes, and
// returns what they hash to.
func pour(w io.Writer, seed uint64, n int) ([]byte, error) {
	rng, sum := rand.NewChaCha8([32]byte{byte(seed)}), sha256.New()
	piece := make([]byte, 300_000)
	for n > 0 {
		b := piece[:min(n, 1+int(rng.Uint64()%uint64(len(piece))))]
		_, _ = rng.Read(b) // never fails
		sum.Write(b)
		if _, err := w.Write(b); err != nil {
			return nil, err
		}
		n -= len(b)
	}
	return sum.Sum(nil), nil
}

func TestBulkArrivesWholeInBothDirections(t *testing.T) {
	const size = 16 << 20 // far beyond where the kernel takes over
	type poured struct {
		sum []byte
		err error
	}
	fromServer, atServer := make(chan poured, 1), make(chan []byte, 1)
	address := loopback(t, func(c *net.TCPConn) {
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			sum, err := pour(c, 1, size)
			c.CloseWrite()
			fromServer <- poured{sum, err}
		})
		atServer <- drain(c)
	})
	records := make(chan tcp.Record, 1)
	c, proxy := through(t, address, records)
	fromClient := make(chan poured, 1)
	go func() {
		sum, err := pour(c, 2, size)
		c.CloseWrite()
		fromClient <- poured{sum, err}
	}()
	got := drain(c)
	for _, direction := range []struct {
		name string
		sent poured
		got  []byte
	}{{"to the client", <-fromServer, got}, {"to the server", <-fromClient, <-atServer}} {
		if direction.sent.err != nil || string(direction.sent.sum) != string(direction.got) {
			t.Errorf("%s: what arrived hashes to %x, want %x (%v)", direction.name, direction.got, direction.sent.sum, direction.sent.err)
		}
	}
	if r := <-records; r.Sent != size || r.Received != size || r.Flags != 0 {
		t.Errorf("got %d bytes sent, %d received, flags %v; want %d, %d and none", r.Sent, r.Received, r.Flags, size, size)
	}
	if got := proxy.Stats().Spliced; got == 0 {
		t.Error("the kernel has not taken over")
	}
}

// On listeners that detect, the client's connection begins with bytes that have been
// read already.
func TestBulkIsTheKernelsAlsoAfterADetector(t *testing.T) {
	const size = 16 << 20
	got := make(chan []byte, 1)
	opts := upstream.DefaultOptions()
	address := loopback(t, func(c *net.TCPConn) { got <- drain(c) })
	app := upstream.NewEndpoint("a", address, "", 0, false, stats(), nil, &opts)
	records := make(chan tcp.Record, 1)
	proxy := tcp.New(tcp.DefaultConfig(), tcp.Deps{Clock: clock.New(), Inbound: app, Log: recorder(records)})
	detector := listener.NewDetector(time.Minute, nil, nil, proxy.ServeConn)
	front := loopback(t, func(c *net.TCPConn) { detector.ServeConn(t.Context(), c) })
	c, err := net.Dial("tcp", front)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sum := sha256.New()
	first := []byte("\x00 is no HTTP")
	if _, err := io.MultiWriter(c, sum).Write(first); err != nil {
		t.Fatal(err)
	}
	if _, err := pour(io.MultiWriter(c, sum), 4, size); err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).CloseWrite()
	if got := <-got; string(got) != string(sum.Sum(nil)) {
		t.Errorf("what arrived hashes to %x, want %x", got, sum.Sum(nil))
	}
	if r := <-records; r.Sent != int64(size+len(first)) || proxy.Stats().Spliced == 0 {
		t.Errorf("got %d bytes, of which the kernel has moved %d; want %d and some", r.Sent, proxy.Stats().Spliced, size+len(first))
	}
}

func drain(r io.Reader) []byte {
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return []byte(err.Error())
	}
	return sum.Sum(nil)
}

func TestAfterBulkSmallExchangesWorkAgain(t *testing.T) {
	address := loopback(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	c, _ := through(t, address, nil)
	go func() {
		if _, err := pour(c, 3, 4<<20); err != nil {
			t.Errorf("pour: %v", err)
		}
	}()
	if _, err := io.CopyN(io.Discard, c, 4<<20); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		want := []byte{byte(i), byte(i + 1)}
		got := make([]byte, 2)
		if _, err := c.Write(want); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, got); err != nil || string(got) != string(want) {
			t.Fatalf("exchange %d: got %v, %v; want %v", i, got, err, want)
		}
	}
}

func TestARealResetIsPassedOn(t *testing.T) {
	address := loopback(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1))
		c.SetLinger(0)
	})
	records := make(chan tcp.Record, 1)
	c, _ := through(t, address, records)
	say(c, "x")
	if b, err := io.ReadAll(c); err == nil {
		t.Errorf("read %q and an orderly end, want a reset", b)
	}
	r := <-records
	if got := r.Attempts[0].Class; got != outlier.Server || r.Flags.String() != "UC" {
		t.Errorf("got class %v, flags %v; want server, UC", got, r.Flags)
	}
}

func BenchmarkSmallExchange(b *testing.B) {
	address := loopback(b, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })
	c, _ := through(b, address, nil)
	message := make([]byte, 100)
	for b.Loop() {
		if _, err := c.Write(message); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, message); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBulk(b *testing.B) {
	address := loopback(b, func(c *net.TCPConn) {
		chunk := make([]byte, 1<<20)
		for {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	})
	c, _ := through(b, address, nil)
	chunk := make([]byte, 1<<20)
	b.SetBytes(int64(len(chunk)))
	for b.Loop() {
		if _, err := io.ReadFull(c, chunk); err != nil {
			b.Fatal(err)
		}
	}
	c.Close()
}
