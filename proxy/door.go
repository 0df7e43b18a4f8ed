package proxy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/config"
	"github.com/overhear-mesh/overhear/proxy/discovery"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/http1"
	"github.com/overhear-mesh/overhear/proxy/http2"
	"github.com/overhear-mesh/overhear/proxy/listener"
	"github.com/overhear-mesh/overhear/proxy/reporting"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/tcp"
	"github.com/overhear-mesh/overhear/proxy/telemetry"
	"github.com/overhear-mesh/overhear/proxy/tunnel"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// door is an open listener with the engine behind it.
type door struct {
	name     string
	address  string // as configured
	inbound  bool
	socket   net.Listener
	listener *listener.Listener
	clock    clock.Clock
	recorder *telemetry.Recorder

	// The engines: one of them, or with protocol auto all.
	http1   *http1.Server
	http2   *http2.Server
	tcp     *tcp.Proxy
	metrics exchange.Metrics             // of both versions of HTTP
	table   atomic.Pointer[router.Table] // of an outbound http door
	target  target                       // of an outbound tcp door
	leads   atomic.Bool                  // to one place, whatever is spoken
	apps    []*upstream.Endpoint         // of an inbound door
	opened  atomic.Uint32                // connections to these, ever

	redirection *redirection // of a transparent outbound door
	carried     tcp.Config   // how what is passed on is carried

	closing atomic.Bool   // shut has been called
	closed  chan struct{} // and has returned
}

// target is the cluster that a TCP door leads to at the moment.
type target struct {
	atomic.Pointer[cluster.Cluster]
}

func (t *target) Name() string { return t.Load().Name() }
func (t *target) PickKeyed(key uint64, now time.Duration, tried *cluster.Tried) *upstream.Endpoint {
	return t.Load().PickKeyed(key, now, tried)
}
func (t *target) Breaker() *resilience.Breaker { return t.Load().Breaker() }
func (t *target) ProxyProtocol() int           { return t.Load().ProxyProtocol() }
func (t *target) Known() bool                  { return t.Load().Known() }
func (t *target) Limits() *resilience.Limits   { return t.Load().Limits() }

// shut takes no new connections, lets those that are open finish, and cuts them
// after the timeout. A later call waits for the first to return.
func (d *door) shut(timeout time.Duration) {
	if d.closing.Swap(true) {
		<-d.closed
		return
	}
	defer close(d.closed)
	d.drainEngines()
	d.listener.Drain(timeout)
	for _, app := range d.apps {
		app.Retire()
	}
}

// drainEngines asks clients to go.
func (d *door) drainEngines() {
	if d.http1 != nil {
		d.http1.Drain()
	}
	if d.http2 != nil {
		d.http2.Drain()
	}
	if d.redirection != nil {
		d.redirection.drain()
	}
}

func (d *door) numbers() telemetry.Listener {
	l := telemetry.Listener{Recorder: d.recorder, Accepted: d.listener.Accepted}
	if d.http1 != nil {
		l.HTTP = &d.metrics
	}
	if d.tcp != nil {
		l.TCP = d.tcp.Stats
	}
	return l
}

// outboundKey is what makes an outbound listener the same over a reload.
func outboundKey(o config.Outbound) string { return fmt.Sprintf("outbound %+v", lasting(o)) }

// lasting is what of an outbound listener does not change while it is open: all of it,
// but for where requests go.
func lasting(o config.Outbound) config.Outbound {
	o.Cluster, o.Routes, o.Destinations = "", nil, nil
	return o
}

// inboundKey is the same for an inbound one, none of which can change.
func inboundKey(in config.Inbound) string { return fmt.Sprintf("inbound %s %s", in.Name, in.Address) }

// applyLocked makes listeners and the file's clusters those of cfg: it opens new
// listeners, gives those that stay their routes, and retires the others. With an
// error nothing has changed.
func (s *Sidecar) applyLocked(ctx context.Context, cfg config.Config) error {
	next, opened, err := s.openLocked(ctx, cfg)
	if err != nil {
		return err
	}
	tables := make([]*router.Table, len(cfg.Outbound))
	for i, o := range cfg.Outbound {
		if tables[i], err = router.New(rules(o), s.discovery.Lookup, &s.ids); err != nil {
			closeSockets(opened)
			return fmt.Errorf("outbound[%d]: %w", i, err)
		}
	}
	// From here on nothing can fail. Clusters that go are kept until no request
	// looks for them, and new ones are in use before one does.
	changed := !reflect.DeepEqual(s.cfg.Clusters, cfg.Clusters) // at the start they are there already
	if changed {
		s.discovery.SetStatic(append(static(cfg), without(static(s.cfg), static(cfg))...))
	}
	s.running.sync()
	patience := map[*cluster.Cluster]time.Duration{}
	used := map[string]bool{}
	for i, o := range cfg.Outbound {
		d := next[outboundKey(o)]
		for route := range tables[i].Routes() {
			if route.Cluster == nil {
				continue // it is answered here
			}
			d.target.Store(route.Cluster)
			impatient(patience, route)
			used[route.ClusterName] = true
		}
		tables[i].Inherit(d.table.Load())
		d.table.Store(tables[i])
		d.leads.Store(o.Cluster != "")
		if d.redirection != nil {
			d.redirection.destinations(o.Destinations, s.discovery.Lookup)
			for _, to := range o.Destinations {
				used[to.Cluster] = true
			}
		}
	}
	for c, timeout := range patience {
		c.SetTimeout(timeout)
	}
	s.discovery.Keep(used)
	for key, d := range s.doors {
		if next[key] == nil {
			delete(s.addrs, d.name)
			s.retired[d] = true
			s.running.retire(d)
		}
	}
	s.doors = next
	for _, d := range opened {
		s.addrs[d.name] = d.socket.Addr()
		s.opts.Log.Info("listening", "listener", d.name, "address", d.socket.Addr().String(), "inbound", d.inbound)
		s.running.serve(d)
	}
	if changed {
		s.discovery.SetStatic(static(cfg))
	}
	return nil
}

// openLocked returns the listeners of cfg by their keys, those that are open
// already and those that it has opened. With an error it has opened none.
func (s *Sidecar) openLocked(ctx context.Context, cfg config.Config) (next map[string]*door, opened []*door, err error) {
	next = make(map[string]*door, len(cfg.Outbound)+len(cfg.Inbound))
	add := func(key, address string, open func() (*door, error)) error {
		if d := s.doors[key]; d != nil {
			next[key] = d
			return nil
		}
		if other := s.holder(address); other != "" {
			return fmt.Errorf("address: %s is in use by the running listener %q: as long as the address is the same, nothing but cluster and routes can change", address, other)
		}
		d, err := open()
		if err == nil {
			next[key] = d
			opened = append(opened, d)
		}
		return err
	}
	for i, o := range cfg.Outbound {
		if err := add(outboundKey(o), o.Address, func() (*door, error) { return s.openOutbound(ctx, o, cfg) }); err != nil {
			closeSockets(opened)
			return nil, nil, fmt.Errorf("outbound[%d].%w", i, err)
		}
	}
	for i, in := range cfg.Inbound {
		if err := add(inboundKey(in), in.Address, func() (*door, error) { return s.openInbound(ctx, in, cfg) }); err != nil {
			closeSockets(opened)
			return nil, nil, fmt.Errorf("inbound[%d].%w", i, err)
		}
	}
	return next, opened, nil
}

// holder names the open listener whose configuration has this address; "": none. A
// port that the kernel chooses is nobody's.
func (s *Sidecar) holder(address string) string {
	if strings.HasSuffix(address, ":0") {
		return ""
	}
	for _, d := range s.doors {
		if d.address == address {
			return d.name
		}
	}
	return ""
}

// closeSockets closes listeners that have not been used.
func closeSockets(doors []*door) {
	for _, d := range doors {
		_ = d.socket.Close()
	}
}

// without returns the clusters of a whose names are not in b.
func without(a, b []discovery.Static) []discovery.Static {
	names := make(map[string]bool, len(b))
	for i := range b {
		names[b[i].Config.Name] = true
	}
	return slices.DeleteFunc(a, func(one discovery.Static) bool { return names[one.Config.Name] })
}

// impatient notes the shortest time that any route gives a cluster: an attempt
// must be overdue before the most impatient of them gives up.
func impatient(patience map[*cluster.Cluster]time.Duration, route *router.Route) {
	timeout := route.Timeout
	if route.PerTryTimeout > 0 && (timeout == 0 || route.PerTryTimeout < timeout) {
		timeout = route.PerTryTimeout
	}
	if now, known := patience[route.Cluster]; !known || timeout > 0 && (now == 0 || timeout < now) {
		patience[route.Cluster] = timeout
	}
}

// rules are the routes of a listener; that of one with a cluster takes everything.
func rules(o config.Outbound) []router.Rule {
	if o.Cluster == "" {
		return o.Routes
	}
	all := router.DefaultRule()
	all.Cluster = o.Cluster
	if o.Protocol == config.TCP {
		all.Timeout = 0 // a connection may last
	}
	return []router.Rule{all}
}

func (s *Sidecar) openOutbound(ctx context.Context, o config.Outbound, cfg config.Config) (*door, error) {
	d, err := s.openDoor(ctx, o.Name, o.Address, false, cfg)
	if err != nil {
		return nil, err
	}
	if o.Protocol != config.TCP {
		deps := s.exchanges(d, o.Upgrades)
		deps.Router, deps.Paths, deps.TrustedHops, deps.Lifetime = d.table.Load, o.Paths, o.TrustedHops, o.Lifetime
		d.http1 = http1.NewServer(cfg.HTTP1, deps)
		d.http2 = http2.NewServer(cfg.HTTP2, deps, s.streams, d.http1)
	}
	if o.Protocol == config.TCP || o.Protocol == config.Auto {
		d.tcp = tcp.New(cfg.TCP, tcp.Deps{
			Clock: s.clock, Cluster: &d.target, Log: d.recorder,
			FirstByteTimeout: func() time.Duration { return d.target.Load().Config().Outlier.TCPFirstByteTimeout },
		})
	}
	handler := s.proxied(o.ProxyProtocol, d.handler(o.Protocol, o.DetectTimeout))
	if o.Redirected.Transparent {
		s.redirects.Store(true)
		d.redirection = &redirection{s: s, d: d, o: lasting(o), http1: cfg.HTTP1, http2: cfg.HTTP2, direct: handler, ways: map[*cluster.Cluster]*door{}}
		handler = d.redirection.serve
	}
	d.listener = listener.New(limit(o.MaxConnections), s.opts.Log, handler)
	return d, nil
}

// proxied reads the PROXY headers of a listener that wants them.
func (s *Sidecar) proxied(wants bool, next listener.Handler) listener.Handler {
	if !wants {
		return next
	}
	return listener.Proxied(proxyTimeout, s.opts.Log, next)
}

// proxyTimeout is how long a load balancer has for its PROXY header, as with
// Envoy's listener filters.
const proxyTimeout = 15 * time.Second

// exchanges is what the HTTP engines of a door get.
func (s *Sidecar) exchanges(d *door, u exchange.Upgrades) exchange.Deps {
	return exchange.Deps{Clock: s.clock, Log: d.recorder, Metrics: &d.metrics, Trace: s.tracing, Streams: s.streams, Mirror: s.mirror, Upgrades: u}
}

// handler is what a door does with a connection.
func (d *door) handler(p config.Protocol, detect time.Duration) listener.Handler {
	switch p {
	case config.TCP:
		return d.tcp.ServeConn
	case config.HTTP2:
		return d.http2.ServeConn
	case config.Auto:
		return listener.NewDetector(detect, d.http1.ServeConn, d.http2.ServeConn, d.opaque).ServeConn
	}
	return d.http1.ServeConn
}

// opaque carries what is no HTTP, unless there are only routes, which want some.
func (d *door) opaque(ctx context.Context, c net.Conn) {
	if !d.leads.Load() {
		d.refuse(c, "")
		return
	}
	d.tcp.ServeConn(ctx, c)
}

// refuse resets a connection for which there is no way, and says so as Envoy does. meant
// is where it was to go; "": nowhere else.
func (d *door) refuse(c net.Conn, meant string) {
	now := d.clock.Now()
	d.recorder.LogTCP(&tcp.Record{
		Start: now, End: now, Client: c.RemoteAddr().String(), Listener: c.LocalAddr().String(), Meant: meant, Flags: tcp.NoRoute,
	})
	tunnel.Reset(c)
}

func (s *Sidecar) openInbound(ctx context.Context, in config.Inbound, cfg config.Config) (*door, error) {
	d, err := s.openDoor(ctx, in.Name, in.Address, true, cfg)
	if err != nil {
		return nil, err
	}
	stats, wake := s.counted(d, in)
	if in.Protocol != config.TCP {
		deps := func(version config.ApplicationProtocol) exchange.Deps {
			if in.ApplicationProtocol != config.Same {
				version = in.ApplicationProtocol
			}
			deps := s.exchanges(d, in.Upgrades)
			deps.TrustedHops, deps.Lifetime = in.TrustedHops, in.Lifetime
			deps.Inbound = &exchange.InboundTarget{Endpoint: s.application(d, in, version, stats, wake)}
			return deps
		}
		d.http1 = http1.NewServer(cfg.HTTP1, deps(config.OnlyHTTP1))
		h2 := deps(config.OnlyHTTP2)
		d.http2 = http2.NewServer(cfg.HTTP2, h2, s.streams, http1.NewServer(cfg.HTTP1, h2))
	}
	d.leads.Store(true)
	if in.Protocol == config.TCP || in.Protocol == config.Auto {
		d.tcp = tcp.New(cfg.TCP, tcp.Deps{Clock: s.clock, Inbound: s.application(d, in, config.Same, stats, wake), Log: d.recorder})
	}
	handler := s.proxied(in.ProxyProtocol, d.handler(in.Protocol, in.DetectTimeout))
	if in.Redirected.Transparent {
		handler = s.inboundRedirection(d, in, handler)
	}
	d.listener = listener.New(limit(in.MaxConnections), s.opts.Log, handler)
	return d, nil
}

// applicationWait is for how long a request may wait for a connection that the
// application has, when it refuses a new one. Otherwise as many requests at once as
// there are connections, and one more, would make it look dead. It is shorter than
// the time in which a caller begins to wonder, and cut off by the caller's leaving.
const applicationWait = 250 * time.Millisecond

// unjudged makes the counters of what is counted and not judged: their detector is made
// for them and never stepped.
func unjudged(id string, now time.Duration) *outlier.Endpoint {
	detector := outlier.New(outlier.DefaultConfig(), rand.New(rand.NewPCG(0, 0)))
	detector.SetMembers([]outlier.Member{{ID: id, Weight: 1}}, now)
	return detector.Endpoint(id)
}

// counted makes the counters of the local application.
func (s *Sidecar) counted(d *door, in config.Inbound) (stats *outlier.Endpoint, wake func()) {
	stats, wake = unjudged(in.Instance, s.clock.Now()), func() {}
	if s.reporter != nil {
		wake = s.reporter.Own(reporting.Instance{Service: in.Service, Instance: in.Instance, Stats: stats, Opened: d.opened.Load})
	}
	return stats, wake
}

// application is the local application as an endpoint that speaks one version of HTTP;
// Same: none, but opaquely.
func (s *Sidecar) application(d *door, in config.Inbound, version config.ApplicationProtocol, stats *outlier.Endpoint, wake func()) *upstream.Endpoint {
	options := upstream.DefaultOptions()
	options.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := s.opts.Dial(ctx, network, address)
		if err == nil {
			d.opened.Add(1)
		}
		return c, err
	}
	options.HTTP2 = version == config.OnlyHTTP2
	if version != config.Same {
		options.RefusedWait = applicationWait
	}
	app := upstream.NewEndpoint(in.Instance, in.Application, s.node.Zone, 0, false, stats, wake, &options)
	d.apps = append(d.apps, app)
	return app
}

func (s *Sidecar) openDoor(ctx context.Context, name, address string, inbound bool, cfg config.Config) (*door, error) {
	socket, err := s.opts.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("address: %w", err)
	}
	log := s.accessLog
	if inbound && !cfg.AccessLog.Inbound {
		log = nil
	}
	var observe func(*exchange.Record)
	if s.opts.OnRequest != nil || s.spans != nil {
		observe = func(r *exchange.Record) {
			if s.spans != nil {
				s.spans.Observe(r)
			}
			if s.opts.OnRequest != nil {
				s.opts.OnRequest(name, r)
			}
		}
	}
	return &door{
		name: name, address: address, inbound: inbound, socket: socket, clock: s.clock, closed: make(chan struct{}), carried: cfg.TCP,
		recorder: telemetry.NewRecorder(name, inbound, log, observe),
	}, nil
}

func limit(n int) listener.Config {
	cfg := listener.DefaultConfig()
	if n > 0 {
		cfg.MaxConnections = n
	}
	return cfg
}
