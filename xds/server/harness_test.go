package server_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	clusterservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	listenerservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	routeservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/overhear-mesh/overhear/test/pipenet"
	"github.com/overhear-mesh/overhear/xds/resource"
	"github.com/overhear-mesh/overhear/xds/server"
)

// harness is a server and a connection to it, inside a synctest bubble.
type harness struct {
	*server.Server
	t    *testing.T
	grpc *grpc.Server
	dial func(context.Context, string) (net.Conn, error)
	cc   *grpc.ClientConn
	log  *strings.Builder
}

// bubble runs a test with a harness in a bubble of virtual time: synctest.Wait there
// means "until everything that was sent has arrived and been dealt with".
func bubble(t *testing.T, f func(t *testing.T, h *harness)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newHarness(t, server.DefaultConfig())) })
}

func newHarness(t *testing.T, cfg server.Config) *harness {
	t.Helper()
	return newHarnessOn(t, cfg, grpc.NewServer(server.Options()...))
}

func newHarnessOn(t *testing.T, cfg server.Config, g *grpc.Server) *harness {
	t.Helper()
	return newHarnessWith(t, cfg, g, func(*server.Server) {})
}

// newHarnessWith has more registered with the gRPC server.
func newHarnessWith(t *testing.T, cfg server.Config, g *grpc.Server, register func(*server.Server)) *harness {
	t.Helper()
	n := pipenet.New(1)
	ln, err := n.Listen(t.Context(), "tcp", "127.0.0.1:15010")
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{t: t, grpc: g, log: new(strings.Builder)}
	h.Server = server.New(cfg, slog.New(slog.NewTextHandler(h.log, nil)))
	h.Register(g)
	register(h.Server)
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(ln) }()
	h.dial = func(ctx context.Context, a string) (net.Conn, error) { return n.Dial(ctx, "tcp", a) }
	h.cc = h.connect()
	t.Cleanup(func() {
		g.Stop()
		<-served
	})
	return h
}

func (h *harness) connect() *grpc.ClientConn {
	h.t.Helper()
	cc, err := grpc.NewClient("passthrough:///127.0.0.1:15010", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(h.dial))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { cc.Close() })
	return cc
}

// elsewhere is the same server over a connection of its own.
func (h *harness) elsewhere() *harness {
	h.t.Helper()
	other := *h
	other.cc = h.connect()
	return &other
}

func (h *harness) apply(changes ...server.Change) {
	h.t.Helper()
	if err := h.Apply(changes...); err != nil {
		h.t.Fatal(err)
	}
	synctest.Wait()
}

var (
	envoyView = resource.View{Kind: resource.Envoy}
	grpcView  = resource.View{Kind: resource.GRPC}
)

func node(id string, v resource.View) *corev3.Node {
	agent := map[resource.Kind]string{resource.Envoy: "envoy", resource.GRPC: "gRPC Go", resource.Overhear: "overhear"}[v.Kind]
	return &corev3.Node{Id: id, UserAgentName: agent, Locality: &corev3.Locality{Zone: v.Zone}}
}

// Changes of the view of all Envoys. A generation makes content that differs.

func cluster(name string, generation int) server.Change {
	c := resource.Cluster{Name: name, ConnectTimeout: time.Duration(generation) * time.Second}
	return server.Change{View: envoyView, TypeURL: resource.TypeCluster, Name: name, Message: resource.EncodeCluster(c, resource.Envoy)}
}

func assignment(name string, generation int) server.Change {
	e := resource.Endpoints{Service: name, Endpoints: []resource.Endpoint{{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(generation)}), 80)}}}
	return server.Change{View: envoyView, TypeURL: resource.TypeEndpoints, Name: name, Message: resource.EncodeEndpoints(e, resource.Envoy)}
}

func listener() server.Change {
	l := resource.Listener{Name: "l", Address: netip.MustParseAddrPort("127.0.0.1:80"), Route: "r"}
	return server.Change{View: envoyView, TypeURL: resource.TypeListener, Name: l.Name, Message: resource.EncodeListener(l, resource.Envoy)}
}

func route(cluster string) server.Change {
	r := resource.Route{Name: "r", Hosts: []resource.VirtualHost{{Name: "all", Domains: []string{"*"}, Cluster: cluster}}}
	return server.Change{View: envoyView, TypeURL: resource.TypeRoute, Name: r.Name, Message: resource.EncodeRoute(r, resource.Envoy)}
}

func in(v resource.View, c server.Change) server.Change { c.View = v; return c }

func without(c server.Change) server.Change { c.Message = nil; return c }

// answer is one response, in either variant.
type answer struct {
	url, version, nonce string
	resources           map[string]*anypb.Any
	versions            map[string]string // delta
	removed             []string          // delta
}

func (a answer) names() string {
	names := slices.Sorted(maps.Keys(a.resources))
	for _, r := range slices.Sorted(slices.Values(a.removed)) {
		names = append(names, "-"+r)
	}
	return fmt.Sprintf("%s[%s]", short(a.url), strings.Join(names, " "))
}

func short(url string) string {
	return map[string]string{resource.TypeCluster: "clusters", resource.TypeEndpoints: "endpoints", resource.TypeListener: "listeners", resource.TypeRoute: "routes"}[url]
}

func nameOf(t *testing.T, a *anypb.Any) string {
	t.Helper()
	m, err := a.UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	switch m := m.(type) {
	case *endpointv3.ClusterLoadAssignment:
		return m.GetClusterName()
	case interface{ GetName() string }:
		return m.GetName()
	}
	t.Fatalf("a %s has no name", proto.MessageName(m))
	return ""
}

// stream is a client that does what the test tells it, on a stream of either variant.
type stream struct {
	t     *testing.T
	delta bool
	node  *corev3.Node
	sotw  grpc.BidiStreamingClient[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]
	incr  grpc.BidiStreamingClient[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]
	free  bool // do not wait after sending
	got   chan answer
	ended chan error
	close func()
	// What state of the world says in each request.
	names   map[string][]string
	version map[string]string
}

// open begins an ADS stream.
func (h *harness) open(n *corev3.Node, delta bool) *stream {
	h.t.Helper()
	return h.openType(n, delta, "")
}

// openType begins a stream of one type; "" is ADS.
func (h *harness) openType(n *corev3.Node, delta bool, url string) *stream {
	h.t.Helper()
	ctx, cancel := context.WithCancel(h.t.Context())
	c := &stream{
		t: h.t, delta: delta, node: n, got: make(chan answer, 1000), ended: make(chan error, 1),
		names: map[string][]string{}, version: map[string]string{},
	}
	c.close = func() { cancel(); synctest.Wait() }
	var err error
	switch {
	case delta && url == resource.TypeEndpoints:
		c.incr, err = endpointservicev3.NewEndpointDiscoveryServiceClient(h.cc).DeltaEndpoints(ctx)
	case delta && url == resource.TypeCluster:
		c.incr, err = clusterservicev3.NewClusterDiscoveryServiceClient(h.cc).DeltaClusters(ctx)
	case delta && url == resource.TypeListener:
		c.incr, err = listenerservicev3.NewListenerDiscoveryServiceClient(h.cc).DeltaListeners(ctx)
	case delta && url == resource.TypeRoute:
		c.incr, err = routeservicev3.NewRouteDiscoveryServiceClient(h.cc).DeltaRoutes(ctx)
	case delta:
		c.incr, err = discoveryv3.NewAggregatedDiscoveryServiceClient(h.cc).DeltaAggregatedResources(ctx)
	case url == resource.TypeEndpoints:
		c.sotw, err = endpointservicev3.NewEndpointDiscoveryServiceClient(h.cc).StreamEndpoints(ctx)
	case url == resource.TypeCluster:
		c.sotw, err = clusterservicev3.NewClusterDiscoveryServiceClient(h.cc).StreamClusters(ctx)
	case url == resource.TypeListener:
		c.sotw, err = listenerservicev3.NewListenerDiscoveryServiceClient(h.cc).StreamListeners(ctx)
	case url == resource.TypeRoute:
		c.sotw, err = routeservicev3.NewRouteDiscoveryServiceClient(h.cc).StreamRoutes(ctx)
	default:
		c.sotw, err = discoveryv3.NewAggregatedDiscoveryServiceClient(h.cc).StreamAggregatedResources(ctx)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(cancel)
	go c.receive()
	return c
}

func (c *stream) receive() {
	for {
		a := answer{resources: map[string]*anypb.Any{}, versions: map[string]string{}}
		if c.delta {
			m, err := c.incr.Recv()
			if err != nil {
				c.ended <- err
				return
			}
			a.url, a.version, a.nonce, a.removed = m.GetTypeUrl(), m.GetSystemVersionInfo(), m.GetNonce(), m.GetRemovedResources()
			for _, r := range m.GetResources() {
				if r.GetTtl() != nil {
					c.t.Errorf("%s has a time to live", r.GetName())
				}
				a.resources[r.GetName()], a.versions[r.GetName()] = r.GetResource(), r.GetVersion()
			}
		} else {
			m, err := c.sotw.Recv()
			if err != nil {
				c.ended <- err
				return
			}
			a.url, a.version, a.nonce = m.GetTypeUrl(), m.GetVersionInfo(), m.GetNonce()
			for _, r := range m.GetResources() {
				a.resources[nameOf(c.t, r)] = r
			}
		}
		c.got <- a
	}
}

// subscribe asks for names in addition to those asked for before; without names,
// for everything.
func (c *stream) subscribe(url string, names ...string) {
	c.t.Helper()
	if len(names) == 0 {
		names = []string{"*"}
	}
	if c.delta {
		c.sendDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, ResourceNamesSubscribe: names})
		return
	}
	c.names[url] = append(c.names[url], names...)
	c.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: url, ResourceNames: c.names[url], VersionInfo: c.version[url], ResponseNonce: c.version[url+"nonce"]})
}

// resume is the first request for names, or without them for everything, of a client that
// holds what came with an answer on another stream.
func (c *stream) resume(held answer, names ...string) {
	c.t.Helper()
	if len(names) == 0 {
		names = []string{"*"}
	}
	if c.delta {
		c.sendDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: held.url, ResourceNamesSubscribe: names, InitialResourceVersions: held.versions})
		return
	}
	c.names[held.url] = names
	c.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: held.url, ResourceNames: names, VersionInfo: held.version})
}

func (c *stream) unsubscribe(url string, name string) {
	c.t.Helper()
	if c.delta {
		c.sendDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, ResourceNamesUnsubscribe: []string{name}})
		return
	}
	c.names[url] = slices.DeleteFunc(c.names[url], func(n string) bool { return n == name })
	c.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: url, ResourceNames: c.names[url], VersionInfo: c.version[url], ResponseNonce: c.version[url+"nonce"]})
}

// askAgain asks in state of the world for the names of before, and answers nothing.
func (c *stream) askAgain(url string) {
	c.t.Helper()
	c.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: url, ResourceNames: c.names[url], VersionInfo: c.version[url], ResponseNonce: c.version[url+"nonce"]})
}

func (c *stream) ack(a answer) {
	c.t.Helper()
	c.version[a.url], c.version[a.url+"nonce"] = a.version, a.nonce
	if c.delta {
		c.sendDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: a.url, ResponseNonce: a.nonce})
		return
	}
	c.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: a.url, ResourceNames: c.names[a.url], VersionInfo: a.version, ResponseNonce: a.nonce})
}

func (c *stream) nack(a answer, why string) {
	c.t.Helper()
	detail := &spb.Status{Message: why}
	c.version[a.url+"nonce"] = a.nonce
	if c.delta {
		c.sendDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: a.url, ResponseNonce: a.nonce, ErrorDetail: detail})
		return
	}
	c.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: a.url, ResourceNames: c.names[a.url], VersionInfo: c.version[a.url], ResponseNonce: a.nonce, ErrorDetail: detail})
}

func (c *stream) sendDelta(r *discoveryv3.DeltaDiscoveryRequest) {
	c.t.Helper()
	r.Node, c.node = c.node, nil // only in the first
	if err := c.incr.Send(r); err != nil {
		c.t.Fatal(err)
	}
	c.settle()
}

func (c *stream) sendSotw(r *discoveryv3.DiscoveryRequest) {
	c.t.Helper()
	r.Node, c.node = c.node, nil
	if err := c.sotw.Send(r); err != nil {
		c.t.Fatal(err)
	}
	c.settle()
}

func (c *stream) settle() {
	if !c.free {
		synctest.Wait()
	}
}

// next is the response that has come.
func (c *stream) next() answer {
	c.t.Helper()
	select {
	case a := <-c.got:
		return a
	case err := <-c.ended:
		c.t.Fatalf("the stream ended: %v", err)
	default:
		c.t.Fatal("no response has come")
	}
	return answer{}
}

// want checks the response that has come, and acknowledges it.
func (c *stream) want(names string) answer {
	c.t.Helper()
	a := c.next()
	if got := a.names(); got != names {
		c.t.Fatalf("got %s, want %s", got, names)
	}
	c.ack(a)
	return a
}

// quiet checks that nothing has come.
func (c *stream) quiet(when string) {
	c.t.Helper()
	select {
	case a := <-c.got:
		c.t.Fatalf("%s: got %s, want nothing", when, a.names())
	default:
	}
}

// both runs a test for both variants of the protocol.
func both(t *testing.T, f func(t *testing.T, h *harness, delta bool)) {
	t.Helper()
	for _, delta := range []bool{false, true} {
		name := map[bool]string{false: "SotW", true: "delta"}[delta]
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *harness) { f(t, h, delta) })
		})
	}
}
