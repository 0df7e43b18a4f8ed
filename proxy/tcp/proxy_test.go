package tcp_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/tcp"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// fleet is a cluster that offers its endpoints in their order.
type fleet struct {
	endpoints []*upstream.Endpoint
	breaker   *resilience.Breaker
	limits    *resilience.Limits
	proxy     int  // version of the PROXY header
	unknown   bool // nobody has told of it

	mu   sync.Mutex
	keys []uint64 // that were asked with
}

func (f *fleet) Name() string                 { return "db" }
func (f *fleet) Breaker() *resilience.Breaker { return f.breaker }
func (f *fleet) Limits() *resilience.Limits   { return f.limits }
func (f *fleet) ProxyProtocol() int           { return f.proxy }
func (f *fleet) Known() bool                  { return !f.unknown }

func (f *fleet) PickKeyed(key uint64, _ time.Duration, tried *cluster.Tried) *upstream.Endpoint {
	f.mu.Lock()
	f.keys = append(f.keys, key)
	f.mu.Unlock()
	for _, e := range f.endpoints {
		if !tried.Has(e) {
			return e
		}
	}
	if len(f.endpoints) == 0 {
		return nil
	}
	return f.endpoints[0]
}

// bed is a proxy on 10.0.0.1 with endpoints on 10.0.1.1, 10.0.1.2 and so on.
type bed struct {
	t       *testing.T
	clock   clock.Clock
	net     *pipenet.Network
	fleet   *fleet
	config  tcp.Config
	timeout time.Duration // for the first byte
	records chan tcp.Record
	stop    context.CancelFunc
	proxy   *tcp.Proxy
}

func newBed(t *testing.T, endpoints int) *bed {
	t.Helper()
	b := &bed{
		t:       t,
		clock:   clock.New(),
		net:     pipenet.New(1),
		config:  tcp.DefaultConfig(),
		records: make(chan tcp.Record, 10),
		fleet: &fleet{
			breaker: resilience.NewBreaker(resilience.DefaultBreakerConfig(), nil),
			limits:  resilience.NewLimits(resilience.DefaultLimitsConfig()),
		},
	}
	for i := range endpoints {
		b.fleet.endpoints = append(b.fleet.endpoints, b.endpoint(fmt.Sprintf("10.0.1.%d:80", i+1), false))
	}
	return b
}

// endpoint is one that is dialled from the proxy's host.
func (b *bed) endpoint(address string, inbound bool) *upstream.Endpoint {
	opts := upstream.DefaultOptions()
	opts.Dial = b.net.Host("10.0.0.1").Dial
	return upstream.NewEndpoint(address, address, "", 0, inbound, stats(), nil, &opts)
}

func stats() *outlier.Endpoint {
	d := outlier.New(outlier.DefaultConfig(), rand.New(rand.NewPCG(1, 1)))
	d.SetMembers([]outlier.Member{{ID: "e", Weight: 1}}, 0)
	return d.Endpoint("e")
}

func (b *bed) LogTCP(r *tcp.Record) { b.records <- *r }

// start makes the proxy serve 10.0.0.1:15001.
func (b *bed) start() {
	b.t.Helper()
	b.serve("10.0.0.1", ":15001", tcp.Deps{Clock: b.clock, Cluster: b.fleet, Log: b})
}

func (b *bed) serve(host, address string, deps tcp.Deps) {
	b.t.Helper()
	deps.FirstByteTimeout = func() time.Duration { return b.timeout }
	b.proxy = tcp.New(b.config, deps)
	ctx, stop := context.WithCancel(b.t.Context())
	b.stop = stop
	b.accept(host, address, func(c net.Conn) { b.proxy.ServeConn(ctx, c) })
}

func (b *bed) accept(host, address string, handle func(net.Conn)) {
	b.t.Helper()
	ln, err := b.net.Host(host).Listen(b.t.Context(), "tcp", address)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go handle(c)
		}
	}()
}

// server makes endpoint i answer with handle.
func (b *bed) server(i int, handle func(*pipenet.Conn)) {
	b.t.Helper()
	b.accept(fmt.Sprintf("10.0.1.%d", i+1), ":80", func(c net.Conn) { handle(c.(*pipenet.Conn)) })
}

func (b *bed) dial() *pipenet.Conn { return b.dialFrom("10.0.0.9") }

func (b *bed) dialFrom(host string) *pipenet.Conn {
	b.t.Helper()
	c, err := b.net.Host(host).Dial(b.t.Context(), "tcp", "10.0.0.1:15001")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	return c.(*pipenet.Conn)
}

// record is the record of the next connection to end.
func (b *bed) record() tcp.Record {
	b.t.Helper()
	select {
	case r := <-b.records:
		return r
	case <-time.After(24 * time.Hour):
		b.t.Fatal("no connection has ended for a day")
		return tcp.Record{}
	}
}

// classes lists how the attempts of a record ended.
func classes(r tcp.Record) []string {
	var all []string
	for _, a := range r.Attempts {
		all = append(all, fmt.Sprintf("%s %v %v", a.Endpoint, a.Ending, a.Class))
	}
	return all
}

// echo answers each byte until its client ends.
func echo(c *pipenet.Conn) {
	defer c.Close()
	_, _ = io.Copy(c, c) // how it ends is seen by the client
}

// say writes; whether it arrives is seen at the other end.
func say(c net.Conn, text string) { _, _ = io.WriteString(c, text) }

func wantReset(t *testing.T, c net.Conn) {
	t.Helper()
	if b, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client read %q, %v; want %v", b, err, syscall.ECONNRESET)
	}
}

func TestBytesFlowBothWaysUntilBothHaveEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 1)
		b.server(0, func(c *pipenet.Conn) {
			defer c.Close()
			request, err := io.ReadAll(c) // until the client's half-close arrives
			if err != nil {
				t.Errorf("the server's read: %v", err)
			}
			say(c, fmt.Sprintf("%d bytes", len(request)))
		})
		b.start()
		c := b.dial()
		if _, err := c.Write(make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		c.CloseWrite()
		got, err := io.ReadAll(c)
		if string(got) != "100000 bytes" || err != nil {
			t.Errorf("got %q, %v; want the server's answer", got, err)
		}
		r := b.record()
		want := tcp.Record{
			End: time.Second, Client: c.LocalAddr().String(), Listener: "10.0.0.1:15001", Cluster: "db",
			Endpoint: "10.0.1.1:80", Upstream: "10.0.1.1:80", Sent: 100_000, Received: 12,
			Attempts: []tcp.AttemptRecord{{Endpoint: "10.0.1.1:80", Ending: outlier.EndComplete, Class: outlier.OK}},
		}
		if diff := gocmp.Diff(want, r); diff != "" {
			t.Errorf("record (-want +got):\n%s", diff)
		}
		if diff := gocmp.Diff(tcp.Stats{Connections: 1, Sent: 100_000, Received: 12}, b.proxy.Stats()); diff != "" {
			t.Errorf("stats (-want +got):\n%s", diff)
		}
		if got := b.fleet.limits.Connections.Held(); got != 0 {
			t.Errorf("%d connections are held after the end", got)
		}
	})
}

func TestAConnectFailureIsRepairedOnAnotherEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 4) // nobody listens on 0, 1 hangs, there is no way to 2
		b.net.Blackhole("*", "10.0.1.2")
		b.net.Reject("*", "10.0.1.3")
		b.server(3, echo)
		b.start()
		c := b.dial()
		say(c, "hello")
		c.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
			t.Errorf("got %q, %v; want hello", got, err)
		}
		r := b.record()
		want := []string{
			"10.0.1.1:80 connect refused conn",
			"10.0.1.2:80 connect timeout timeout",
			"10.0.1.3:80 unreachable conn",
			"10.0.1.4:80 complete ok",
		}
		if diff := gocmp.Diff(want, classes(r)); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
		if r.Flags != 0 {
			t.Errorf("flags: got %v, want none", r.Flags)
		}
		for i, e := range b.fleet.endpoints {
			if n := e.Stats.Counts().N; n != 1 {
				t.Errorf("endpoint %d: %d attempts, want 1", i, n)
			}
			if n := e.Stats.Inflight(); n != 0 {
				t.Errorf("endpoint %d: %d attempts in flight at the end", i, n)
			}
		}
	})
}

func TestTheKeyOfAConnectionIsItsClientsHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 2) // nobody listens on 0
		b.server(1, echo)
		b.start()
		for _, host := range []string{"10.0.0.8", "10.0.0.8", "10.0.0.9"} {
			b.dialFrom(host).CloseWrite()
			b.record()
		}
		k := b.fleet.keys
		if len(k) != 6 {
			t.Fatalf("%d picks, want two for each of three connections", len(k))
		}
		if k[0] != k[1] || k[0] != k[2] || k[4] != k[5] || k[0] == k[4] {
			t.Errorf("keys %x: want one for each client host, whatever its port and the try", k)
		}
	})
}

func TestTheEndpointIsToldWhoseConnectionItIs(t *testing.T) {
	for version, want := range map[int]string{
		1: "PROXY TCP4 10.0.0.9 10.0.0.1 ",
		2: "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x0a\x00\x00\x09\x0a\x00\x00\x01",
	} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, 2) // nobody listens on 0
			b.fleet.proxy = version
			b.server(1, echo)
			b.start()
			c := b.dial()
			say(c, "hello")
			c.CloseWrite()
			got, err := io.ReadAll(c)
			if err != nil || !strings.HasPrefix(string(got), want) || !strings.HasSuffix(string(got), "hello") {
				t.Errorf("version %d: the endpoint got %q, %v; want %q first and hello last", version, got, err, want)
			}
			if n := strings.Count(string(got), want[:5]); n != 1 {
				t.Errorf("version %d: %d headers, want one", version, n)
			}
			b.record()
		})
	}
}

// named is a connection whose peer a PROXY header has named.
type named struct {
	net.Conn
	from net.Addr
}

func (n named) RemoteAddr() net.Addr { return n.from }

// TestTheEndpointIsToldInAnyFamily: else the first bytes of the client would be taken
// for what the proxy says.
func TestTheEndpointIsToldInAnyFamily(t *testing.T) {
	for _, client := range []net.Addr{
		&net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 7},
		&net.TCPAddr{IP: net.ParseIP("192.0.2.1"), Port: 7},
	} {
		for _, own := range []string{"10.0.0.1", "fd00::1"} {
			for version, want := range map[int]string{1: "PROXY TCP", 2: "\r\n\r\n\x00\r\nQUIT\n\x21"} {
				synctest.Test(t, func(t *testing.T) {
					b := newBed(t, 1)
					b.fleet.proxy = version
					b.server(0, echo)
					p := tcp.New(b.config, tcp.Deps{Clock: b.clock, Cluster: b.fleet, Log: b})
					c, far := net.Pipe()
					go p.ServeConn(t.Context(), at{named{far, client}, &net.TCPAddr{IP: net.ParseIP(own), Port: 80}})
					go say(c, "PROXY TCP4 6.6.6.6 6.6.6.6 1 1\r\n")
					got, err := bufio.NewReader(c).Peek(len(want) + 20)
					if !strings.HasPrefix(string(got), want) || strings.Contains(string(got[:len(want)+8]), "6.6") {
						t.Errorf("version %d of %v at %s: the endpoint got %q first, %v; want a header", version, client, own, got, err)
					}
					c.Close()
					b.record()
				})
			}
		}
	}
}

// at is a connection with an address of its own.
type at struct {
	named
	local net.Addr
}

func (a at) LocalAddr() net.Addr { return a.local }

func TestAConnectionThatNobodyTakesIsReset(t *testing.T) {
	tests := []struct {
		name     string
		bed      func(t *testing.T) *bed
		attempts int
		flags    string
	}{
		{"no endpoint", func(t *testing.T) *bed { return newBed(t, 0) }, 0, "UH"},
		{"no cluster", func(t *testing.T) *bed {
			b := newBed(t, 0)
			b.fleet.unknown = true
			return b
		}, 0, "NC"},
		{"each endpoint once", func(t *testing.T) *bed { return newBed(t, 3) }, 3, "UF"},
		{"as many as allowed", func(t *testing.T) *bed { return newBed(t, 9) }, 4, "UF,URX"},
		{"too many connections", func(t *testing.T) *bed {
			b := newBed(t, 1)
			b.fleet.limits.SetConfig(resilience.LimitsConfig{Connections: 1})
			b.fleet.limits.Connections.Acquire()
			return b
		}, 0, "UO"},
		{"open breaker", func(t *testing.T) *bed {
			b := newBed(t, 1)
			b.fleet.breaker = resilience.NewBreaker(resilience.BreakerConfig{Refusals: 1, Open: time.Hour, HalfOpen: 1}, nil)
			p, _ := b.fleet.breaker.Allow(b.clock.Now())
			p.Done(resilience.Refused, b.clock.Now())
			return b
		}, 0, "UO"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := test.bed(t)
				b.start()
				wantReset(t, b.dial())
				r := b.record()
				if len(r.Attempts) != test.attempts || r.Flags.String() != test.flags || r.Endpoint != "" {
					t.Errorf("got %d attempts, flags %v, endpoint %q; want %d, %s and none", len(r.Attempts), r.Flags, r.Endpoint, test.attempts, test.flags)
				}
				if got := b.proxy.Stats().Failed; got != 1 {
					t.Errorf("failed connections: got %d, want 1", got)
				}
			})
		})
	}
}

func TestTheBreakerLearnsFromConnecting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 2)
		b.fleet.breaker = resilience.NewBreaker(resilience.BreakerConfig{Refusals: 2, Open: time.Second, HalfOpen: 1}, nil)
		b.start()
		for range 2 {
			wantReset(t, b.dial())
			b.record()
		}
		if got := b.fleet.breaker.State(); got != resilience.Open {
			t.Fatalf("after two connections that nobody took: %v, want open", got)
		}
		b.server(1, func(c *pipenet.Conn) { c.Close() })
		time.Sleep(time.Second + time.Millisecond)
		_, _ = io.ReadAll(b.dial())
		synctest.Wait()
		if got := b.fleet.breaker.State(); got != resilience.Closed {
			t.Errorf("after one that somebody took: %v, want closed", got)
		}
	})
}

func TestWhatAConnectionSaysAboutItsEndpoint(t *testing.T) {
	type side func(c *pipenet.Conn)
	// What the two sides do, each after what it waits for.
	silent := func(c *pipenet.Conn) { _, _ = io.Copy(io.Discard, c); c.Close() }
	closes := func(c *pipenet.Conn) { c.Close() }
	closesLater := func(c *pipenet.Conn) { time.Sleep(time.Second); c.CloseWrite(); silent(c) }
	resets := func(c *pipenet.Conn) { time.Sleep(time.Second); _ = c.Reset() }
	speaks := func(c *pipenet.Conn) { say(c, "220 hello\r\n") }
	asks := func(c *pipenet.Conn) { say(c, "ask") }
	hears := func(c *pipenet.Conn) { _, _ = io.ReadFull(c, make([]byte, 3)) }
	ends := func(c *pipenet.Conn) { c.CloseWrite() }
	nothing := func(*pipenet.Conn) {}
	pause := func(d time.Duration) side { return func(*pipenet.Conn) { time.Sleep(d) } }
	then := func(sides ...side) side {
		return func(c *pipenet.Conn) {
			for _, s := range sides {
				s(c)
			}
		}
	}
	tests := []struct {
		name           string
		client, server side
		inbound        bool
		timeout        time.Duration
		want           string // ending and class
		flags          string // default none
		read           string // by the client
		reset          bool   // the client's connection
	}{
		{name: "server speaks first", client: nothing, server: then(speaks, closes), want: "complete ok", read: "220 hello\r\n"},
		{name: "answer, then reset", client: asks, server: then(speaks, resets), want: "complete ok", flags: "UC", read: "220 hello\r\n", reset: true},
		{name: "server closes without a word", client: asks, server: closesLater, want: "peer closed silent server"},
		{name: "server resets without a word", client: asks, server: resets, want: "peer closed silent server", flags: "UC", reset: true},
		{name: "server closes, nobody spoke", client: nothing, server: closesLater, want: "peer closed untouched ignore"},
		{name: "server resets, nobody spoke", client: nothing, server: resets, want: "peer closed untouched ignore", flags: "UC", reset: true},
		{name: "application behind a sidecar refuses", client: nothing, server: resets, inbound: true, want: "connect refused conn", flags: "UC", reset: true},
		{name: "the same, client had spoken", client: asks, server: resets, inbound: true, want: "connect refused conn", flags: "UC", reset: true},
		{name: "application behind a sidecar closes", client: asks, server: closesLater, inbound: true, want: "peer closed silent server"},
		{name: "client leaves", client: closes, server: silent, want: "client abort ignore"},
		{name: "client speaks, leaves", client: then(asks, closes), server: silent, want: "client abort ignore"},
		{name: "client speaks, half-closes, server closes", client: then(asks, ends), server: closesLater, want: "client abort ignore"},
		{name: "client speaks, half-closes, is answered", client: then(asks, ends), server: then(hears, speaks, closes), want: "complete ok", read: "220 hello\r\n"},
		{name: "client resets", client: then(asks, resets), server: silent, want: "client abort ignore", flags: "DC"},
		{name: "no first byte in time", client: asks, server: silent, timeout: 5 * time.Second, want: "first byte timeout timeout", flags: "UT", reset: true},
		{name: "first byte in time", client: asks, server: then(hears, pause(4*time.Second), speaks, pause(time.Minute), closes), timeout: 5 * time.Second, want: "complete ok", read: "220 hello\r\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, 0)
				b.timeout = test.timeout
				b.fleet.endpoints = []*upstream.Endpoint{b.endpoint("10.0.1.1:80", test.inbound)}
				b.server(0, test.server)
				b.start()
				c := b.dial()
				test.client(c)
				if got, err := io.ReadAll(c); !errors.Is(err, net.ErrClosed) { // unless it closed by itself
					if string(got) != test.read || errors.Is(err, syscall.ECONNRESET) != test.reset {
						t.Errorf("the client read %q, %v; want %q, reset %v", got, err, test.read, test.reset)
					}
				}
				c.Close()
				r := b.record()
				if got := fmt.Sprint(r.Attempts[0].Ending, " ", r.Attempts[0].Class); got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
				if got, want := r.Flags.String(), cmp.Or(test.flags, "-"); got != want {
					t.Errorf("flags: got %s, want %s", got, want)
				}
				e := b.fleet.endpoints[0]
				counted := uint32(0)
				if c := r.Attempts[0].Class; c.Failure() || c == outlier.OK {
					counted = 1
				}
				if got := e.Stats.Counts().N; got != counted {
					t.Errorf("the endpoint has counted %d attempts, want %d", got, counted)
				}
				if e.Stats.Inflight() != 0 || e.Open() != 0 {
					t.Errorf("%d attempts and %d connections are left", e.Stats.Inflight(), e.Open())
				}
			})
		})
	}
}

func TestTheFirstByteCountsAtOnceAndTheConnectionStaysLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 1)
		b.server(0, echo)
		b.start()
		c := b.dial()
		stats := b.fleet.endpoints[0].Stats
		synctest.Wait()
		if n, inflight := stats.Counts().N, stats.Inflight(); n != 0 || inflight != 1 {
			t.Errorf("before a byte: %d counted, %d in flight; want 0, 1", n, inflight)
		}
		say(c, "x")
		synctest.Wait()
		if n, inflight := stats.Counts().N, stats.Inflight(); n != 1 || inflight != 1 {
			t.Errorf("after the first byte: %d counted, %d in flight; want 1, 1", n, inflight)
		}
		c.Close()
		synctest.Wait()
		if n, inflight := stats.Counts().N, stats.Inflight(); n != 1 || inflight != 0 {
			t.Errorf("after the end: %d counted, %d in flight; want 1, 0", n, inflight)
		}
	})
}

func TestASilentConnectionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 1)
		b.config.IdleTimeout = time.Minute
		b.server(0, echo)
		b.start()
		c := b.dial()
		for range 10 { // ten minutes of one byte every 59 seconds
			time.Sleep(59 * time.Second)
			if _, err := c.Write([]byte("x")); err != nil {
				t.Fatalf("a connection with traffic has ended: %v", err)
			}
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatalf("a connection with traffic has ended: %v", err)
			}
		}
		last := time.Now()
		wantReset(t, c)
		if got := time.Since(last); got < time.Minute || got > 75*time.Second {
			t.Errorf("it ended %v after the last byte, want 1m to 1m15s", got)
		}
		if got := b.record().Flags.String(); got != "SI" {
			t.Errorf("flags: got %s, want SI", got)
		}
	})
}

func TestAClientThatDoesNotReadIsSilentToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 1)
		b.config.IdleTimeout = time.Minute
		var sent atomic.Int64
		b.server(0, func(c *pipenet.Conn) {
			defer c.Close()
			for {
				n, err := c.Write(make([]byte, 1000))
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
		b.start()
		b.dial()
		r := b.record()
		if got := r.Flags.String(); got != "SI" {
			t.Errorf("flags: got %s, want SI", got)
		}
		if got := sent.Load(); got > 1<<20 {
			t.Errorf("%d bytes are under way to a client that reads none", got)
		}
	})
}

func TestTheEndOfTheContextResetsBothSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 1)
		var serverErr atomic.Value
		b.server(0, func(c *pipenet.Conn) {
			_, err := c.Read(make([]byte, 1))
			serverErr.Store(err)
			c.Close()
		})
		b.start()
		c := b.dial()
		synctest.Wait()
		b.stop()
		wantReset(t, c)
		if got := b.record(); got.Flags.String() != "LR" || got.Attempts[0].Class != outlier.Ignore {
			t.Errorf("got flags %v, class %v; want LR, ignore", got.Flags, got.Attempts[0].Class)
		}
		synctest.Wait()
		if err, _ := serverErr.Load().(error); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the server read %v, want %v", err, syscall.ECONNRESET)
		}
	})
}

func TestTheEndOfTheContextEndsConnecting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 2)
		b.net.Blackhole("*", "10.0.1.0/24")
		b.start()
		c := b.dial()
		time.Sleep(100 * time.Millisecond)
		b.stop()
		wantReset(t, c)
		r := b.record()
		if got := classes(r); len(got) != 1 || r.Attempts[0].Class != outlier.Ignore || r.Flags.String() != "LR" {
			t.Errorf("got attempts %v, flags %v; want one to be ignored, LR", got, r.Flags)
		}
	})
}

// A dead application must look dead through both sidecars.
func TestADeadApplicationLooksDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 0)
		inbound := newBed(t, 0)
		inbound.net = b.net
		opts := upstream.DefaultOptions()
		opts.Dial = b.net.Host("10.0.1.1").Dial
		application := upstream.NewEndpoint("app", "127.0.0.1:8080", "", 0, false, stats(), nil, &opts)
		inbound.serve("10.0.1.1", ":80", tcp.Deps{Clock: b.clock, Inbound: application, Log: inbound})

		dead := b.endpoint("10.0.1.1:80", true)
		b.fleet.endpoints = []*upstream.Endpoint{dead}
		b.start()
		c := b.dial()
		wantReset(t, c)
		if got := classes(inbound.record()); !gocmp.Equal(got, []string{"app connect refused conn"}) {
			t.Errorf("the inbound sidecar: got %v, want its application to have refused", got)
		}
		if got := classes(b.record()); !gocmp.Equal(got, []string{"10.0.1.1:80 connect refused conn"}) {
			t.Errorf("the outbound sidecar: got %v, want a hard failure", got)
		}

		// The application comes up: nothing stands in its way.
		b.accept("10.0.1.1", "127.0.0.1:8080", func(c net.Conn) { echo(c.(*pipenet.Conn)) })
		c = b.dial()
		say(c, "hello")
		c.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
			t.Errorf("got %q, %v; want hello", got, err)
		}
	})
}

// Whose listener alone is gone must not look dead to its own sidecar.
func TestAnApplicationWithoutAListenerLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 0)
		opts := upstream.DefaultOptions()
		opts.Dial = b.net.Host("10.0.1.1").Dial
		application := upstream.NewEndpoint("app", "127.0.0.1:8080", "", 0, false, stats(), nil, &opts)
		b.serve("10.0.1.1", ":80", tcp.Deps{Clock: b.clock, Inbound: application, Log: b})
		ln, err := b.net.Host("10.0.1.1").Listen(t.Context(), "tcp", "127.0.0.1:8080")
		if err != nil {
			t.Fatal(err)
		}
		accepted := make(chan net.Conn, 1)
		go func() {
			c, err := ln.Accept()
			if err != nil {
				t.Error(err)
			}
			accepted <- c
		}()
		dial := func() net.Conn {
			c, err := b.net.Host("10.0.0.9").Dial(t.Context(), "tcp", "10.0.1.1:80")
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		old := dial()
		server := <-accepted
		synctest.Wait() // the sidecar has it, too
		ln.Close()

		wantReset(t, dial())
		if got := classes(b.record()); !gocmp.Equal(got, []string{"app connect refused server"}) {
			t.Errorf("while an old connection stands: got %v, want a failure that is not hard", got)
		}
		server.Close()
		if _, err := io.ReadAll(old); err != nil {
			t.Errorf("the old connection: %v", err)
		}
		old.Close()
		b.record()
		wantReset(t, dial())
		if got := classes(b.record()); !gocmp.Equal(got, []string{"app connect refused conn"}) {
			t.Errorf("with no connection left: got %v, want a hard failure", got)
		}
	})
}

func TestManyConnectionsKeepTheirBytesApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, 3)
		b.records = make(chan tcp.Record, 100)
		for i := range 3 {
			b.server(i, echo)
		}
		b.start()
		done := make(chan bool)
		for i := range 100 {
			c := b.dial()
			go func() {
				rng := rand.New(rand.NewPCG(uint64(i), 0))
				message := make([]byte, rng.IntN(100_000))
				for j := range message {
					message[j] = byte(rng.Uint32())
				}
				go func() {
					say(c, string(message))
					c.CloseWrite()
				}()
				got, err := io.ReadAll(c)
				if err != nil || string(got) != string(message) {
					t.Errorf("connection %d: got %d bytes, %v; want the %d that it sent", i, len(got), err, len(message))
				}
				done <- true
			}()
		}
		for range 100 {
			<-done
			b.record()
		}
	})
}

func TestWrongConfigurationNamesTheField(t *testing.T) {
	if err := tcp.DefaultConfig().Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	err := tcp.Config{MaxAttempts: 11, IdleTimeout: time.Millisecond}.Validate()
	want := "max_attempts: 11: want 1 to 10\nidle_timeout: 1ms: want 0s (never) or at least 1s"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
