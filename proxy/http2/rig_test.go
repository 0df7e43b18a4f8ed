package http2

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/http1"
	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// rig is a server between clients and backends, on an in-memory network in a bubble.
type rig struct {
	t        *testing.T
	net      *pipenet.Network
	clock    clock.Clock
	server   *Server
	metrics  exchange.Metrics
	log      recorder
	cluster  *cluster.Cluster
	second   *cluster.Cluster // with the last backend, if options.split
	backends []*backend
	stop     context.CancelFunc // ends the context of server and cluster
	client   *http.Client
	deps     exchange.Deps
	ends     []func() // called when the body has returned
}

// options are what a test may change before its rig is put together.
type options struct {
	cfg     Config
	cluster cluster.Config
	rule    router.Rule
	inbound bool // the sidecar stands beside backend 0
	marked  bool // backends are marked as having an inbound sidecar
	split   bool // the last backend is a cluster of its own, which speaks HTTP/1.1 and gets half of the requests
	upgrade exchange.Upgrades
	life    upstream.Lifetime // of clients' connections
}

// backend is one server; serve is called for each of its connections, counted from 1.
type backend struct {
	host  *pipenet.Host
	serve func(c net.Conn, n int)
	ln    net.Listener

	mu    sync.Mutex
	conns []net.Conn
}

// speaks is a backend of the other implementation.
func speaks(h http.HandlerFunc) func(net.Conn, int) { return speaksWith(h, 0) }

// speaksWith allows so many streams; 0 is its default.
func speaksWith(h http.HandlerFunc, streams int) func(net.Conn, int) {
	return func(c net.Conn, _ int) {
		serveOne(c, &http.Server{Handler: h, Protocols: only2(), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: streams}})
	}
}

// only2 is HTTP/2 without being asked.
func only2() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// serveOne serves one connection to its end.
func serveOne(c net.Conn, srv *http.Server) {
	ln := &oneConn{c: c, done: make(chan struct{})}
	srv.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed || s == http.StateHijacked {
			close(ln.done)
		}
	}
	_ = srv.Serve(ln)
}

// oneConn is a listener of one connection.
type oneConn struct {
	c    net.Conn
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.c; c != nil {
		l.c = nil
		return c, nil
	}
	<-l.done
	return nil, io.EOF
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// says is a backend that gives the same answer to each request.
func says(text string) func(net.Conn, int) {
	return speaks(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, text)
	})
}

// inRig runs body with backends of these behaviours. When it returns, everything must
// end: a goroutine that is left fails the test.
func inRig(t *testing.T, edit func(*options), body func(*rig), behaviours ...func(net.Conn, int)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, net: pipenet.New(1), clock: clock.New()}
		o := options{cfg: DefaultConfig(), cluster: cluster.DefaultConfig(), rule: router.DefaultRule()}
		o.cluster.Name, o.rule.Cluster, o.cluster.Protocol = "api", "api", cluster.HTTP2
		if edit != nil {
			edit(&o)
		}
		ctx, cancel := context.WithCancel(t.Context())
		r.stop = cancel
		var wg sync.WaitGroup
		for i, serve := range behaviours {
			b := &backend{host: r.net.Host(fmt.Sprintf("10.0.1.%d", i+1)), serve: serve}
			b.listen(t, &wg)
			r.backends = append(r.backends, b)
		}
		inbound := r.put(o)
		wg.Go(func() { _ = r.cluster.Run(ctx) })
		if r.second != nil {
			wg.Go(func() { _ = r.second.Run(ctx) })
		}
		ln, err := r.net.Host("10.0.0.1").Listen(ctx, "tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				wg.Go(func() { r.server.ServeConn(ctx, c) })
			}
		})
		transport := r.transport()
		r.client = &http.Client{Transport: transport}
		synctest.Wait()
		body(r)
		for _, end := range r.ends {
			end()
		}
		transport.CloseIdleConnections()
		cancel()
		ln.Close()
		if inbound != nil {
			inbound.Retire()
		}
		for _, b := range r.backends {
			b.crash()
		}
		wg.Wait()
		if n := r.metrics.Connections.Load(); n != 0 {
			t.Errorf("connections after the end: got %d, want 0", n)
		}
	})
}

// transport is the other implementation's client.
func (r *rig) transport() *http.Transport {
	return &http.Transport{
		Protocols: only2(),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return r.net.Host("10.0.0.9").Dial(ctx, "tcp", "10.0.0.1:80")
		},
	}
}

// put assembles the server.
func (r *rig) put(o options) *upstream.Endpoint {
	dial := r.net.Host("10.0.0.1").Dial
	r.cluster = cluster.New(o.cluster, cluster.Deps{Clock: r.clock, Dial: dial, Seed: 1})
	var specs []cluster.Spec
	for _, b := range r.backends {
		address := b.host.Addr().String() + ":80"
		specs = append(specs, cluster.Spec{ID: address, Address: address, Inbound: o.marked})
	}
	if o.split {
		last := len(specs) - 1
		cfg := o.cluster
		cfg.Name, cfg.Protocol = "second", cluster.HTTP1
		r.second = cluster.New(cfg, cluster.Deps{Clock: r.clock, Dial: dial, Seed: 1})
		r.second.Update(specs[last:])
		specs = specs[:last]
		o.rule.Cluster, o.rule.Clusters = "", []router.Share{{Cluster: "api", Weight: 1}, {Cluster: "second", Weight: 1}}
	}
	r.cluster.Update(specs)
	lookup := func(name string) *cluster.Cluster {
		if name == "second" {
			return r.second
		}
		return r.cluster
	}
	table, err := router.New([]router.Rule{o.rule}, lookup, new(router.IDs))
	if err != nil {
		r.t.Fatal(err)
	}
	deps := exchange.Deps{Clock: r.clock, Router: func() *router.Table { return table }, Log: &r.log, Metrics: &r.metrics, Upgrades: o.upgrade, Lifetime: o.life}
	if o.inbound {
		opts := upstream.DefaultOptions()
		opts.Dial, opts.HTTP2 = dial, o.cluster.Protocol == cluster.HTTP2
		detector := outlier.New(outlier.DefaultConfig(), nil)
		detector.SetMembers([]outlier.Member{{ID: "app"}}, 0)
		deps.Inbound = &exchange.InboundTarget{
			Endpoint: upstream.NewEndpoint("app", specs[0].Address, "", 0, false, detector.Endpoint("app"), nil, &opts),
			Timeout:  o.rule.PerTryTimeout,
		}
	}
	client := NewClient(o.cfg, r.clock)
	deps.Streams = client
	r.deps = deps
	r.server = NewServer(o.cfg, deps, client, http1.NewServer(http1.DefaultConfig(), deps))
	if deps.Inbound != nil {
		return deps.Inbound.Endpoint
	}
	return nil
}

func (b *backend) listen(t *testing.T, wg *sync.WaitGroup) {
	t.Helper()
	ln, err := b.host.Listen(t.Context(), "tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	b.ln = ln
	wg.Go(func() {
		for n := 1; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns = append(b.conns, c)
			b.mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				b.serve(c, n)
			})
		}
	})
}

// crash closes the listener and resets every connection.
func (b *backend) crash() {
	b.ln.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.conns {
		_ = c.(*pipenet.Conn).Reset()
	}
}

// reply is a response with its body, and with how the reading of the body ended.
type reply struct {
	*http.Response
	body string
	err  error
}

func (r *rig) do(method, path, body string) reply {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://api"+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	return r.send(req)
}

func (r *rig) send(req *http.Request) reply {
	r.t.Helper()
	resp, err := r.client.Do(req)
	if err != nil {
		return reply{&http.Response{}, "", err}
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	return reply{resp, string(text), err}
}

func (r *rig) get() reply { return r.do("GET", "/", "") }

// recorder keeps what was logged.
type recorder struct {
	mu    sync.Mutex
	lines []logged
}

type logged struct {
	Method, Host, Path, ID, Detail string
	Major, Status, GRPC            int
	Flags                          string
	Received, Sent                 int64
	Attempts                       []string // endpoint: class
	Duration                       time.Duration
}

func (r *recorder) Log(a *exchange.Record) {
	l := logged{
		Method: string(a.Method), Host: string(a.Host), Path: string(a.Path), ID: string(a.RequestID), Detail: a.Detail,
		Major: a.Major, Status: a.Status, GRPC: a.GRPCStatus, Flags: a.Flags.String(),
		Received: a.BodyReceived, Sent: a.BodySent, Duration: a.Duration,
	}
	for _, at := range a.Attempts {
		host, _, _ := net.SplitHostPort(at.Endpoint.Address)
		l.Attempts = append(l.Attempts, host+" "+at.Class.String())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, l)
}

func (r *recorder) all() []logged {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines)
}

func (r *rig) last() logged {
	r.t.Helper()
	lines := r.log.all()
	if len(lines) == 0 {
		r.t.Fatal("access log: got nothing")
	}
	return lines[len(lines)-1]
}

// check compares a response and the last line of the log with what they should be.
func (r *rig) check(got reply, status int, body, flags string, attempts ...string) {
	r.t.Helper()
	if got.StatusCode != status || body != "*" && got.body != body {
		r.t.Errorf("response: got %d %q (%v), want %d %q", got.StatusCode, got.body, got.err, status, body)
	}
	line := r.last()
	if line.Status != status || line.Flags != flags {
		r.t.Errorf("log: got %d %s (%s), want %d %s", line.Status, line.Flags, line.Detail, status, flags)
	}
	if !slices.Equal(line.Attempts, attempts) {
		r.t.Errorf("attempts: got %q, want %q", line.Attempts, attempts)
	}
}
