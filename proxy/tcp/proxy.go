package tcp

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/pires/go-proxyproto"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/tunnel"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// Cluster is what connections go to: a *cluster.Cluster.
type Cluster interface {
	Name() string
	PickKeyed(key uint64, now time.Duration, tried *cluster.Tried) *upstream.Endpoint
	Breaker() *resilience.Breaker
	Limits() *resilience.Limits
	// ProxyProtocol is the version of the PROXY header that endpoints want; 0: none.
	ProxyProtocol() int
	// Known reports whether anybody has told of the cluster.
	Known() bool
}

var _ Cluster = (*cluster.Cluster)(nil)

// Deps is what a proxy gets from the sidecar around it.
type Deps struct {
	Clock clock.Clock
	// Cluster is where connections go.
	Cluster Cluster
	// Inbound is the local application. It takes the place of Cluster on the
	// way in, where there is nothing to choose, to limit or to retry.
	Inbound *upstream.Endpoint
	// FirstByteTimeout is how long the server may take for its first byte; 0,
	// or no function, is for ever. It is asked for each connection.
	FirstByteTimeout func() time.Duration
	// Log takes a record of each connection; may be nil.
	Log Logger
}

// Proxy carries connections to one cluster, or to the local application.
type Proxy struct {
	cfg  Config
	deps Deps

	connections, active, failed, sent, received, spliced atomic.Int64
}

// New makes a proxy. cfg must be valid.
func New(cfg Config, deps Deps) *Proxy {
	if deps.FirstByteTimeout == nil {
		deps.FirstByteTimeout = func() time.Duration { return 0 }
	}
	return &Proxy{cfg: cfg, deps: deps}
}

// Stats are the totals of a proxy, for metrics.
type Stats struct {
	Connections, Active int64
	Failed              int64 // connections that no endpoint took
	Sent, Received      int64 // bytes, of connections that have ended
	Spliced             int64 // of those, bytes that the kernel has moved
}

// Stats returns the totals.
func (p *Proxy) Stats() Stats {
	return Stats{
		Connections: p.connections.Load(),
		Active:      p.active.Load(),
		Failed:      p.failed.Load(),
		Sent:        p.sent.Load(),
		Received:    p.received.Load(),
		Spliced:     p.spliced.Load(),
	}
}

// ServeConn carries one connection to its end and closes it. When ctx ends, it
// resets both sides.
func (p *Proxy) ServeConn(ctx context.Context, client net.Conn) {
	p.connections.Add(1)
	p.active.Add(1)
	defer p.active.Add(-1)
	r := &Record{
		Start:    p.deps.Clock.Now(),
		Client:   client.RemoteAddr().String(),
		Listener: client.LocalAddr().String(),
	}
	if p.deps.Cluster != nil {
		r.Cluster = p.deps.Cluster.Name()
	}
	p.serve(ctx, client, r)
	r.End = p.deps.Clock.Now()
	p.sent.Add(r.Sent)
	p.received.Add(r.Received)
	if r.Endpoint == "" {
		p.failed.Add(1)
	}
	if p.deps.Log != nil {
		p.deps.Log.LogTCP(r)
	}
}

func (p *Proxy) serve(ctx context.Context, client net.Conn, r *Record) {
	var header []byte // for the endpoint
	if p.deps.Inbound == nil {
		limit := &p.deps.Cluster.Limits().Connections
		if !limit.Acquire() {
			r.Flags |= UpstreamOverflow
			tunnel.Reset(client)
			return
		}
		defer limit.Release()
		if v := p.deps.Cluster.ProxyProtocol(); v > 0 {
			header = announce(byte(v), client.RemoteAddr(), client.LocalAddr())
		}
	}
	timeout := p.deps.FirstByteTimeout()
	a, server := p.open(ctx, r, header, timeout > 0)
	if server == nil {
		tunnel.Reset(client)
		return
	}
	s := &session{
		Tunnel:   tunnel.Tunnel{Client: client, Server: server, Idle: p.cfg.IdleTimeout, FirstByte: timeout},
		clock:    p.deps.Clock,
		endpoint: a.Endpoint(),
		attempt:  a,
	}
	s.carry(ctx)
	r.Sent, r.Received = s.Sent(), s.Received()
	p.spliced.Add(s.Spliced())
	r.Flags |= s.flags
	last := &r.Attempts[len(r.Attempts)-1]
	last.Ending, last.Class = s.ending, s.class
}

// announce is the PROXY header for a client's connection. There always is one: the
// endpoint would take the client's own first bytes for it.
func announce(version byte, client, own net.Addr) []byte {
	h := proxyproto.HeaderProxyFromAddrs(version, client, own)
	b, err := h.Format()
	if err != nil {
		// A header has one family of addresses, and a load balancer before this proxy may
		// have named a client of another one.
		if to, ok := own.(*net.TCPAddr); ok && h.TransportProtocol == proxyproto.TCPv4 {
			h.DestinationAddr = &net.TCPAddr{IP: net.IPv4zero, Port: to.Port}
			b, err = h.Format()
		}
	}
	if err != nil {
		b, _ = (&proxyproto.Header{Version: version, Command: proxyproto.LOCAL}).Format() // of nobody
	}
	return b
}

// open connects to an endpoint, asking the breaker first. It returns no
// connection when it has given up, and has then ended every attempt.
func (p *Proxy) open(ctx context.Context, r *Record, header []byte, deadlined bool) (upstream.Attempt, *upstream.Conn) {
	if p.deps.Inbound != nil {
		a, server, _ := p.connect(ctx, p.deps.Inbound, r, nil, deadlined)
		switch {
		case server != nil:
		case ctx.Err() != nil:
			r.Flags |= LocalReset
		default:
			r.Flags |= UpstreamConnectFailure
		}
		return a, server
	}
	permit, ok := p.deps.Cluster.Breaker().Allow(r.Start)
	if !ok {
		r.Flags |= UpstreamOverflow
		return upstream.Attempt{}, nil
	}
	a, server, result := p.try(ctx, r, header, deadlined)
	permit.Done(result, p.deps.Clock.Now())
	return a, server
}

// try connects to one endpoint after the other, each of them once.
func (p *Proxy) try(ctx context.Context, r *Record, header []byte, deadlined bool) (upstream.Attempt, *upstream.Conn, resilience.Result) {
	var tried cluster.Tried
	// A policy that hashes keeps the connections of one client host together.
	host, _, _ := net.SplitHostPort(r.Client)
	key := xxhash.Sum64String(host)
	result := resilience.Unknown
	for {
		e := p.deps.Cluster.PickKeyed(key, p.deps.Clock.Now(), &tried)
		switch {
		case e == nil && !p.deps.Cluster.Known():
			r.Flags |= NoCluster
			return upstream.Attempt{}, nil, result
		case e == nil:
			r.Flags |= NoHealthyUpstream
			return upstream.Attempt{}, nil, result
		case tried.Has(e): // there is no other
			r.Flags |= UpstreamConnectFailure
			return upstream.Attempt{}, nil, result
		}
		tried.Add(e)
		a, server, class := p.connect(ctx, e, r, header, deadlined)
		switch {
		case server != nil:
			return a, server, resilience.Reached
		case ctx.Err() != nil:
			r.Flags |= LocalReset
			return upstream.Attempt{}, nil, resilience.Unknown
		case class.Failure():
			result = resilience.Refused
		}
		if tried.Len() >= p.cfg.MaxAttempts {
			r.Flags |= UpstreamConnectFailure | UpstreamRetryLimit
			return upstream.Attempt{}, nil, result
		}
	}
}

// connect makes one attempt. If it fails, the attempt has ended with class.
func (p *Proxy) connect(ctx context.Context, e *upstream.Endpoint, r *Record, header []byte, deadlined bool) (upstream.Attempt, *upstream.Conn, outlier.Class) {
	now := p.deps.Clock.Now()
	a := e.Begin(now, true) // connecting has a deadline, whatever follows
	r.Attempts = append(r.Attempts, AttemptRecord{Endpoint: e.ID, Offset: now - r.Start})
	server, err := e.Fresh(ctx)
	if err == nil && len(header) > 0 {
		// A new connection has room for it: the write waits for nobody. If it fails,
		// so does the next one, and that is told.
		_, _ = server.Write(header)
	}
	if err == nil {
		r.Endpoint, r.Upstream = e.ID, e.Address
		if !deadlined {
			// Nobody waits for the first byte, so that it cannot be overdue: the
			// connection is the answer, and how long it took is the latency.
			a.Headers(p.deps.Clock.Now())
		}
		return a, server, outlier.Ignore
	}
	result := outlier.TCPResult{Ending: upstream.ConnectEnding(err)}
	outcome := outlier.Outcome{Class: outlier.ClassifyTCP(result), Level: result.Level()}
	if p.deps.Inbound != nil && result.Ending == outlier.EndConnectRefused && e.Stands(ctx) {
		// The application lives, and only its listener is gone. A hard failure
		// would testify, at first hand, to a crash.
		outcome.Class, outcome.Level = outlier.Server, outlier.LevelNone
	}
	last := &r.Attempts[len(r.Attempts)-1]
	last.Ending, last.Class = result.Ending, outcome.Class
	outcome.Now = p.deps.Clock.Now()
	a.End(outcome)
	return upstream.Attempt{}, nil, last.Class
}
