package http1

import (
	"bufio"
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
	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/trace"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// rig is a server between raw clients and raw backends, on an in-memory network
// in a bubble.
type rig struct {
	t        *testing.T
	net      *pipenet.Network
	clock    clock.Clock
	server   *Server
	metrics  exchange.Metrics
	log      recorder
	cluster  *cluster.Cluster
	backends []*backend
	stop     context.CancelFunc // ends the context of server and cluster
}

// options are what a test may change before its rig is put together.
type options struct {
	cfg     Config
	cluster cluster.Config
	rule    router.Rule
	inbound bool // the sidecar stands beside backend 0
	marked  bool // backends are marked as having an inbound sidecar
	trace   *trace.Policy
	upgrade exchange.Upgrades
	life    upstream.Lifetime // of clients' connections
}

// backend is one server; serve is called for each of its connections, counted
// from 1.
type backend struct {
	host  *pipenet.Host
	serve func(c net.Conn, n int)
	ln    net.Listener

	mu    sync.Mutex
	conns []net.Conn
}

// talk is a backend that answers each request by the function.
func talk(answer func(*http.Request) string) func(net.Conn, int) {
	return func(c net.Conn, _ int) {
		br := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			text := answer(req)
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	}
}

// say is a backend that gives the same answer to each request.
func say(text string) func(net.Conn, int) {
	return talk(func(*http.Request) string { return text })
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// inRig runs body with backends of these behaviours. When it returns, everything
// must end: a goroutine that is left fails the test.
func inRig(t *testing.T, edit func(*options), body func(*rig), behaviours ...func(net.Conn, int)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, net: pipenet.New(1), clock: clock.New()}
		o := options{cfg: DefaultConfig(), cluster: cluster.DefaultConfig(), rule: router.DefaultRule()}
		o.cluster.Name, o.rule.Cluster = "api", "api"
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
		r.put(o)
		wg.Go(func() { _ = r.cluster.Run(ctx) })
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
		synctest.Wait()
		body(r)
		cancel()
		ln.Close()
		for _, b := range r.backends {
			b.crash()
		}
		wg.Wait()
		if n, tunnels := r.metrics.Connections.Load(), r.metrics.Tunnels.Load(); n != 0 || tunnels != 0 {
			t.Errorf("connections after the end: got %d with %d tunnels, want none", n, tunnels)
		}
	})
}

// put assembles the server.
func (r *rig) put(o options) {
	dial := r.net.Host("10.0.0.1").Dial
	r.cluster = cluster.New(o.cluster, cluster.Deps{Clock: r.clock, Dial: dial, Seed: 1})
	var specs []cluster.Spec
	for _, b := range r.backends {
		address := b.host.Addr().String() + ":80"
		specs = append(specs, cluster.Spec{ID: address, Address: address, Inbound: o.marked})
	}
	r.cluster.Update(specs)
	table, err := router.New([]router.Rule{o.rule}, func(string) *cluster.Cluster { return r.cluster }, new(router.IDs))
	if err != nil {
		r.t.Fatal(err)
	}
	deps := exchange.Deps{Clock: r.clock, Router: func() *router.Table { return table }, Log: &r.log, Metrics: &r.metrics, Trace: o.trace, Upgrades: o.upgrade, Lifetime: o.life}
	if o.inbound {
		opts := upstream.DefaultOptions()
		opts.Dial = dial
		detector := outlier.New(outlier.DefaultConfig(), nil)
		detector.SetMembers([]outlier.Member{{ID: "app"}}, 0)
		deps.Inbound = &exchange.InboundTarget{
			Endpoint: upstream.NewEndpoint("app", specs[0].Address, "", 0, false, detector.Endpoint("app"), nil, &opts),
			Timeout:  o.rule.PerTryTimeout,
		}
		r.t.Cleanup(deps.Inbound.Endpoint.Retire)
	}
	r.server = NewServer(o.cfg, deps)
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

// client is one connection to the server.
type client struct {
	t *testing.T
	*pipenet.Conn
	br *bufio.Reader
}

func (r *rig) dial() *client {
	r.t.Helper()
	c, err := r.net.Host("10.0.0.9").Dial(r.t.Context(), "tcp", "10.0.0.1:80")
	if err != nil {
		r.t.Fatal(err)
	}
	return &client{r.t, c.(*pipenet.Conn), bufio.NewReader(c)}
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatalf("send %q: %v", text, err)
	}
}

// reply is a response with its body, and with how the reading of the body ended.
type reply struct {
	*http.Response
	body string
	err  error
}

func (c *client) read(method string) reply {
	c.t.Helper()
	resp, err := http.ReadResponse(c.br, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("response: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	return reply{resp, string(body), err}
}

func (c *client) do(text string) reply {
	c.t.Helper()
	c.send(text)
	method, _, _ := strings.Cut(text, " ")
	return c.read(method)
}

// ended waits for the end of the connection: nil for an orderly one.
func (c *client) ended() error {
	c.t.Helper()
	rest, err := io.ReadAll(c.br)
	if len(rest) > 0 {
		c.t.Errorf("bytes before the end of the connection: got %q, want none", rest)
	}
	return err
}

const get = "GET / HTTP/1.1\r\nHost: api\r\n\r\n"

// recorder keeps what was logged, and shows that nothing else is kept: a record
// is copied to text.
type recorder struct {
	mu    sync.Mutex
	lines []logged
	took  []time.Duration // the attempts of all lines
}

type logged struct {
	Method, Host, Path, ID, Detail string
	Status                         int
	Flags                          string
	Received, Sent                 int64
	Attempts                       []string // endpoint: class
	Duration                       time.Duration
}

func (r *recorder) Log(a *exchange.Record) {
	l := logged{
		Method: string(a.Method), Host: string(a.Host), Path: string(a.Path), ID: string(a.RequestID), Detail: a.Detail,
		Status: a.Status, Flags: a.Flags.String(), Received: a.BodyReceived, Sent: a.BodySent, Duration: a.Duration,
	}
	for _, at := range a.Attempts {
		host, _, _ := net.SplitHostPort(at.Endpoint.Address)
		l.Attempts = append(l.Attempts, host+" "+at.Class.String())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range a.Attempts {
		r.took = append(r.took, a.Attempts[i].Duration)
	}
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
		r.t.Errorf("response: got %d %q, want %d %q", got.StatusCode, got.body, status, body)
	}
	line := r.last()
	if line.Status != status || line.Flags != flags {
		r.t.Errorf("log: got %d %s (%s), want %d %s", line.Status, line.Flags, line.Detail, status, flags)
	}
	if !slices.Equal(line.Attempts, attempts) {
		r.t.Errorf("attempts: got %q, want %q", line.Attempts, attempts)
	}
}

// outcomes sums the counters of all endpoints.
func (r *rig) outcomes() outlier.Counts {
	r.t.Helper()
	var sum outlier.Counts
	err := r.cluster.Ask(r.t.Context(), func(d *outlier.Detector, _ time.Duration) {
		for _, b := range r.backends {
			n := d.Endpoint(b.host.Addr().String() + ":80").Counts()
			sum.N += n.N
			sum.Conn += n.Conn
			sum.Timeout += n.Timeout
			sum.Server += n.Server
			sum.Over += n.Over
			sum.Cens += n.Cens
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return sum
}
