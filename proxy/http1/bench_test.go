package http1

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/router"
)

// loop is a server between a raw client and a raw backend over the network that
// it is given: real requests of the common kind, and nothing else.
type loop struct {
	client  net.Conn
	request []byte
	answer  []byte
	buf     []byte
	server  *Server
}

// newLoop puts a backend behind a proxy. The backend answers each request, of
// which it knows the size on the wire only by the empty line, with answer.
func newLoop(tb testing.TB, request, answer string, log exchange.Logger, listen func() (net.Listener, error), dial func(context.Context, string, string) (net.Conn, error)) *loop {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(tb.Context())
	var wg sync.WaitGroup
	backend, err := listen()
	must(err)
	front, err := listen()
	must(err)
	accept := func(ln net.Listener, serve func(net.Conn)) {
		wg.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				wg.Go(func() { serve(c) })
			}
		})
	}
	accept(backend, func(c net.Conn) {
		defer c.Close()
		answerRaw(c, []byte(answer))
	})

	k := clock.New()
	cfg := cluster.DefaultConfig()
	cfg.Name = "api"
	cl := cluster.New(cfg, cluster.Deps{Clock: k, Dial: dial})
	cl.Update([]cluster.Spec{{ID: "b", Address: backend.Addr().String()}})
	wg.Go(func() { _ = cl.Run(ctx) })
	rule := router.DefaultRule()
	rule.Cluster = "api"
	table, err := router.New([]router.Rule{rule}, func(string) *cluster.Cluster { return cl }, new(router.IDs))
	must(err)
	l := &loop{request: []byte(request), answer: []byte(answer), buf: make([]byte, 64<<10)}
	l.server = NewServer(DefaultConfig(), exchange.Deps{Clock: k, Router: func() *router.Table { return table }, Log: log})
	accept(front, func(c net.Conn) { l.server.ServeConn(ctx, c) })
	l.client, err = dial(ctx, "tcp", front.Addr().String())
	must(err)
	tb.Cleanup(func() {
		l.client.Close()
		cancel()
		front.Close()
		backend.Close()
		wg.Wait()
	})
	for cl.Pick(k.Now(), nil) == nil {
		time.Sleep(time.Millisecond) // until the cluster runs; nothing is measured yet
	}
	return l
}

// answerRaw answers each empty line.
func answerRaw(c net.Conn, answer []byte) {
	buf := make([]byte, 64<<10)
	n := 0
	for {
		k, err := c.Read(buf[n:])
		if err != nil {
			return
		}
		if n += k; !bytes.Contains(buf[:n], []byte("\r\n\r\n")) {
			continue
		}
		n = 0
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// once makes one request and reads as much as its answer must have.
func (l *loop) once(tb testing.TB) {
	if err := l.ask(); err != nil {
		tb.Fatal(err)
	}
}

func (l *loop) ask() error {
	if _, err := l.client.Write(l.request); err != nil {
		return err
	}
	n := 0
	for {
		k, err := l.client.Read(l.buf[n:])
		if err != nil {
			return err
		}
		n += k
		head := bytes.Index(l.buf[:n], []byte("\r\n\r\n"))
		body := len(l.answer) - bytes.Index(l.answer, []byte("\r\n\r\n"))
		if head >= 0 && n-head >= body {
			if !bytes.HasPrefix(l.buf, l.answer[:len("HTTP/1.1 200 ")]) {
				return fmt.Errorf("got %q", l.buf[:n])
			}
			return nil
		}
	}
}

const browser = "GET /api/v1/things?id=42 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n" +
	"Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\n" +
	"Cookie: session=0123456789abcdef0123456789abcdef\r\nX-Request-Id: 01234567-89ab-cdef-0123-456789abcdef\r\nConnection: keep-alive\r\n\r\n"

var kilobyte = "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: application/json\r\nServer: test\r\n" +
	"Cache-Control: no-cache\r\nContent-Length: 1024\r\n\r\n" + string(make([]byte, 1024))

// discardLog is an access log that looks at nothing.
type discardLog struct{}

func (discardLog) Log(*exchange.Record) {}

// streams is an in-memory network whose connections allocate nothing per byte,
// unlike test/pipenet, which is after the truth about failures.
type streams struct {
	mu        sync.Mutex
	listeners map[string]*streamListener
}

type streamListener struct {
	name  string
	queue chan net.Conn
	once  sync.Once
}

func (n *streams) listen() (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &streamListener{name: string(rune('a'+len(n.listeners))) + ":1", queue: make(chan net.Conn, 8)}
	if n.listeners == nil {
		n.listeners = map[string]*streamListener{}
	}
	n.listeners[l.name] = l
	return l, nil
}

func (n *streams) dial(_ context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a, b := newStream(), newStream()
	n.listeners[address].queue <- &streamConn{in: a, out: b}
	return &streamConn{in: b, out: a}, nil
}

func (l *streamListener) Accept() (net.Conn, error) {
	c, ok := <-l.queue
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l *streamListener) Close() error    { l.once.Do(func() { close(l.queue) }); return nil }
func (l *streamListener) Addr() net.Addr  { return l }
func (l *streamListener) Network() string { return "stream" }
func (l *streamListener) String() string  { return l.name }

// stream is one direction: a fixed buffer.
type stream struct {
	mu     sync.Mutex
	moved  sync.Cond
	buf    [64 << 10]byte
	r, w   int
	closed bool
}

func newStream() *stream {
	s := &stream{}
	s.moved.L = &s.mu
	return s
}

type streamConn struct {
	net.Conn // nil: what is not below is not called
	in, out  *stream
}

func (c *streamConn) Read(p []byte) (int, error) {
	s := c.in
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.r == s.w {
		if s.closed {
			return 0, io.EOF
		}
		s.moved.Wait()
	}
	n := copy(p, s.buf[s.r:s.w])
	if s.r += n; s.r == s.w {
		s.r, s.w = 0, 0
	}
	return n, nil
}

func (c *streamConn) Write(p []byte) (int, error) {
	s := c.out
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	if len(p) > len(s.buf)-s.w {
		return 0, io.ErrShortWrite
	}
	s.w += copy(s.buf[s.w:], p)
	s.moved.Broadcast()
	return len(p), nil
}

func (c *streamConn) Close() error {
	for _, s := range []*stream{c.in, c.out} {
		s.mu.Lock()
		s.closed = true
		s.moved.Broadcast()
		s.mu.Unlock()
	}
	return nil
}

func (c *streamConn) SetDeadline(time.Time) error     { return nil }
func (c *streamConn) SetReadDeadline(time.Time) error { return nil }
func (c *streamConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 1}
}

func TestARequestAllocatesNothing(t *testing.T) {
	chunked := strings.Replace(kilobyte, "Content-Length: 1024\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n400\r\n", 1) + "\r\n0\r\n\r\n"
	for name, tt := range map[string]struct{ request, answer string }{
		"GET":             {browser, kilobyte},
		"without an id":   {strings.Replace(browser, "X-Request-Id: 01234567-89ab-cdef-0123-456789abcdef\r\n", "", 1), kilobyte},
		"an Upgrade":      {strings.Replace(browser, "keep-alive\r\n", "keep-alive, upgrade\r\nUpgrade: h2c, other\r\n", 1), kilobyte},
		"a body":          {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + strings.Repeat("x", 1000), kilobyte},
		"chunks":          {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + strings.Repeat("x", 1000) + "\r\n0\r\n\r\n", chunked},
		"answered by 304": {browser, "HTTP/1.1 304 Not Modified\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nEtag: x\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var network streams
			l := newLoop(t, tt.request, tt.answer, discardLog{}, network.listen, network.dial)
			for range 10 {
				l.once(t)
			}
			// The cluster's own goroutine allocates now and then.
			if n := testing.AllocsPerRun(2000, func() { l.once(t) }); n != 0 {
				t.Errorf("allocations per request, client and backend included: got %v, want 0", n)
			}
		})
	}
}

func TestParsingAllocatesNothing(t *testing.T) {
	var q request
	var s response
	asked, answered := []byte(browser), []byte(kilobyte)
	run := func() {
		q.reset()
		if done, p := q.parse(asked, testLimits); !done || p != nil {
			t.Fatal(done, p)
		}
		s.reset()
		if done, p := s.parse(answered, testLimits); !done || p != nil {
			t.Fatal(done, p)
		}
	}
	run()
	if n := testing.AllocsPerRun(100, run); n != 0 {
		t.Errorf("allocations: got %v, want 0", n)
	}
}

// newSocketLoop is a loop on real sockets that has been used.
func newSocketLoop(tb testing.TB) *loop {
	tb.Helper()
	listen := func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }
	l := newLoop(tb, browser, kilobyte, discardLog{}, listen, new(net.Dialer).DialContext)
	l.once(tb)
	return l
}

func BenchmarkProxiedGET(b *testing.B) {
	l := newSocketLoop(b)
	b.ReportAllocs()
	for b.Loop() {
		l.once(b)
	}
}

func BenchmarkParseRequest(b *testing.B) {
	var q request
	text := []byte(browser)
	b.ReportAllocs()
	for b.Loop() {
		q.reset()
		if done, p := q.parse(text, testLimits); !done || p != nil {
			b.Fatal(done, p)
		}
	}
}

func BenchmarkLoopInMemory(b *testing.B) {
	var network streams
	l := newLoop(b, browser, kilobyte, discardLog{}, network.listen, network.dial)
	b.ReportAllocs()
	for b.Loop() {
		l.once(b)
	}
}
