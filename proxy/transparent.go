package proxy

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/config"
	"github.com/overhear-mesh/overhear/proxy/http1"
	"github.com/overhear-mesh/overhear/proxy/http2"
	"github.com/overhear-mesh/overhear/proxy/listener"
	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/tcp"
	"github.com/overhear-mesh/overhear/proxy/tunnel"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// redirection is what a transparent listener does with connections that were meant for
// others. Where one was to go tells the cluster: a destination of the file, or the
// address of an endpoint that is known. Otherwise rules for the host that its first
// request asks for may. What is left is passed on to where it was to go, or reset.
type redirection struct {
	s      *Sidecar
	d      *door
	o      config.Outbound // that lasts: not where requests go
	http1  http1.Config
	http2  http2.Config
	direct listener.Handler // for what has come by itself, if there is something for it

	places atomic.Pointer[[]place]

	mu      sync.Mutex // guards what follows
	ways    map[*cluster.Cluster]*door
	index   map[string]*cluster.Cluster // by the address of an endpoint
	indexed time.Duration               // when that was made; 0: never
	drained bool                        // a way that is made from now on drains at once
}

// place is a destination of the file.
type place struct {
	holds   func(to netip.AddrPort) bool
	cluster *cluster.Cluster
}

// indexFor is for how long the addresses of endpoints are taken to be what they were.
const indexFor = time.Second

// serve is a Handler.
func (r *redirection) serve(ctx context.Context, c net.Conn) {
	to, ok := r.s.redirected(c)
	switch {
	case !ok && !r.d.table.Load().Empty():
		r.direct(ctx, c)
		return
	case !ok:
		r.d.refuse(c, "")
		return
	case r.s.loops(c, to, r.d.name):
		tunnel.Reset(c)
		return
	}
	if known := r.known(to); known != nil {
		r.way(known)(ctx, c)
		return
	}
	if r.d.leads.Load() {
		r.direct(ctx, c)
		return
	}
	r.byHost(ctx, c, to)
}

// redirected is where a connection was to go; false: it has come by itself.
func (s *Sidecar) redirected(c net.Conn) (netip.AddrPort, bool) {
	to, err := s.opts.OriginalDestination(c)
	return to, err == nil
}

// known is the cluster that a destination tells; nil: none.
func (r *redirection) known(to netip.AddrPort) *cluster.Cluster {
	for _, p := range *r.places.Load() {
		if p.holds(to) {
			return p.cluster
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.s.clock.Now(); r.indexed == 0 || now-r.indexed >= indexFor {
		r.indexLocked()
		r.indexed = max(now, 1)
	}
	return r.index[to.String()]
}

// indexLocked finds out who is where. Of clusters with the same endpoint the first by
// name counts. Ways to clusters that are gone take no more requests.
func (r *redirection) indexLocked() {
	r.index = map[string]*cluster.Cluster{}
	all := r.s.discovery.Clusters()
	for _, c := range all {
		snapshot := c.Snapshot()
		if snapshot == nil {
			continue
		}
		for i := range snapshot.Endpoints {
			if at := snapshot.Endpoints[i].Address; r.index[at] == nil {
				r.index[at] = c
			}
		}
	}
	for c, way := range r.ways {
		if !slices.Contains(all, c) {
			way.drainEngines()
			delete(r.ways, c)
		}
	}
}

// byHost asks the rules for the host that is asked for.
func (r *redirection) byHost(ctx context.Context, c net.Conn, to netip.AddrPort) {
	table := r.d.table.Load()
	if r.d.http1 != nil && !table.Empty() {
		spoken, host, again, err := listener.Peek(c, r.o.DetectTimeout)
		if err != nil {
			_ = c.Close()
			return
		}
		c = again
		closes := r.o.Redirected.UnknownDestinations == config.CloseUnknown
		switch {
		case spoken == listener.HTTP1 && (closes || table.Serves(host)):
			r.d.http1.ServeConn(ctx, c)
			return
		case spoken == listener.HTTP2: // its requests may be for several hosts
			r.d.http2.ServeConn(ctx, c)
			return
		}
	}
	if r.o.Redirected.UnknownDestinations == config.CloseUnknown {
		r.d.refuse(c, to.String())
		return
	}
	r.s.pass(ctx, c, to, r.d)
}

// way is what is done with connections to a cluster.
func (r *redirection) way(c *cluster.Cluster) listener.Handler {
	r.mu.Lock()
	defer r.mu.Unlock()
	way := r.ways[c]
	if way == nil {
		way = r.openWay(c)
		r.ways[c] = way
		if r.drained {
			way.drainEngines()
		}
	}
	if c.Config().Protocol == cluster.TCP {
		return way.tcp.ServeConn // where the server may speak first, nothing is waited for
	}
	return way.handler(r.o.Protocol, r.o.DetectTimeout)
}

// openWay makes the engines of a listener for one cluster.
func (r *redirection) openWay(c *cluster.Cluster) *door {
	way := &door{name: r.d.name, clock: r.d.clock, recorder: r.d.recorder}
	way.target.Store(c)
	way.leads.Store(true)
	rule := router.DefaultRule()
	rule.Cluster = c.Name()
	table, err := router.New([]router.Rule{rule}, func(string) *cluster.Cluster { return c }, &r.s.ids)
	if err != nil {
		panic("a rule with a cluster and nothing else is wrong: " + err.Error())
	}
	deps := r.s.exchanges(r.d, r.o.Upgrades)
	deps.Router, deps.Paths = func() *router.Table { return table }, r.o.Paths
	deps.TrustedHops, deps.Lifetime = r.o.TrustedHops, r.o.Lifetime
	way.http1 = http1.NewServer(r.http1, deps)
	way.http2 = http2.NewServer(r.http2, deps, r.s.streams, way.http1)
	way.tcp = tcp.New(r.d.carried, tcp.Deps{
		Clock: r.s.clock, Cluster: c, Log: r.d.recorder,
		FirstByteTimeout: func() time.Duration { return c.Config().Outlier.TCPFirstByteTimeout },
	})
	return way
}

// drain lets the ways end.
func (r *redirection) drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drained = true
	for _, way := range r.ways {
		way.drainEngines()
	}
}

// destinations are the file's, with their clusters.
func (r *redirection) destinations(all []config.Destination, lookup func(string) *cluster.Cluster) {
	places := make([]place, len(all))
	for i, d := range all {
		places[i] = place{d.Holds(), lookup(d.Cluster)}
	}
	r.places.Store(&places)
}

// inboundRedirection has what was to go to another port than the application's carried
// there: to the address that was meant. The application's host is the loopback as a rule,
// on which others listen that are not for callers from outside, such as the sidecar's own
// outbound listeners.
func (s *Sidecar) inboundRedirection(d *door, in config.Inbound, next listener.Handler) listener.Handler {
	_, port, _ := net.SplitHostPort(in.Application) // it was checked
	s.redirects.Store(true)
	return func(ctx context.Context, c net.Conn) {
		to, ok := s.redirected(c)
		switch {
		case !ok || strconv.Itoa(int(to.Port())) == port:
			next(ctx, c)
		case in.Redirected.UnknownDestinations == config.CloseUnknown:
			d.refuse(c, to.String())
		case s.loops(c, to, d.name):
			tunnel.Reset(c)
		default:
			s.pass(ctx, c, to, d)
		}
	}
}

// passage is a connection that the sidecar has opened, as both of its ends see it. Of
// its own address alone there may be another one, of the application, to somewhere else.
type passage struct{ own, to string }

// ownFor is for how long a connection of the sidecar is known for one, which has been
// led back to it at once or never.
const ownFor = time.Second

// dial opens a connection, and remembers whose it is.
func (s *Sidecar) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := s.opts.Dial(ctx, network, address)
	if err == nil && s.redirects.Load() {
		way := passage{conn.LocalAddr().String(), conn.RemoteAddr().String()}
		s.own.Store(way, true)
		time.AfterFunc(ownFor, func() { s.own.Delete(way) })
	}
	return conn, err
}

// pass carries a connection to an address that is nobody's endpoint: nothing is read of
// it, and nothing is counted against anybody.
func (s *Sidecar) pass(ctx context.Context, c net.Conn, to netip.AddrPort, d *door) {
	options := upstream.DefaultOptions()
	options.Dial = s.dial
	address := to.String()
	at := upstream.NewEndpoint(address, address, "", 0, false, s.passed, nil, &options)
	defer at.Retire()
	tcp.New(d.carried, tcp.Deps{Clock: s.clock, Inbound: at, Log: d.recorder}).ServeConn(ctx, c)
}

// loops reports whether a connection is one that the sidecar has opened: the rules of the
// firewall lead its own connections back to it.
func (s *Sidecar) loops(c net.Conn, to netip.AddrPort, name string) bool {
	if _, ours := s.own.Load(passage{c.RemoteAddr().String(), to.String()}); !ours {
		return false
	}
	s.opts.Log.Error("a connection of this sidecar has been redirected to itself: exclude its user, or its mark, from redirection", "listener", name)
	return true
}
