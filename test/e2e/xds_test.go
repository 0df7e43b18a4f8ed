package e2e_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/xds"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/test/envoy"
	"github.com/overhear-mesh/overhear/xds/resource"
	"github.com/overhear-mesh/overhear/xds/server"
)

// patience bounds every wait here. Nothing is asserted about how long things take;
// it is less than the 15 s after which Envoy and gRPC give up waiting for a resource
// and go on without.
const patience = 10 * time.Second

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// feed is an xDS server on a loopback port.
type feed struct {
	*server.Server
	t       *testing.T
	address string
	epoch   uint64 // of the last verdict
}

func newFeed(t *testing.T) *feed {
	t.Helper()
	f := &feed{t: t, Server: server.New(server.DefaultConfig(), slog.New(slog.NewTextHandler(t.Output(), nil)))}
	g := grpc.NewServer(server.Options()...)
	f.Register(g)
	ln := listen(t)
	f.address = ln.Addr().String()
	go func() { _ = g.Serve(ln) }()
	t.Cleanup(g.Stop)
	return f
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// publish tells all clients what is believed of the endpoints of "api", and waits until
// the client has taken it.
func (f *feed) publish(backends []*backend, beliefs ...outlier.Verdict) {
	f.t.Helper()
	all := known(backends)
	for i, v := range beliefs {
		if v != in {
			f.epoch++
			v.Epoch = f.epoch
		}
		all.Endpoints[i].Verdict = v
	}
	f.tell(all)
}

// slow tells that one of the backends is slow and gets a part of its weight.
func (f *feed) slow(backends []*backend, which int, share float64) {
	f.t.Helper()
	all := known(backends)
	all.Endpoints[which].Share = share
	f.tell(all)
}

// lend tells that the first backend, of which that is believed, is tried by a part of its
// weight.
func (f *feed) lend(backends []*backend, v outlier.Verdict, trial float64) {
	f.t.Helper()
	all := known(backends)
	all.Endpoints[0].Verdict, all.Endpoints[0].Trial = v, trial
	f.tell(all)
}

// known are the backends as the endpoints of "api", of which nothing is believed.
func known(backends []*backend) resource.Endpoints {
	all := resource.Endpoints{Service: "api"}
	for _, b := range backends {
		all.Endpoints = append(all.Endpoints, resource.Endpoint{Address: b.address, Zone: "z", Weight: 1})
	}
	return all
}

func (f *feed) tell(all resource.Endpoints) {
	f.t.Helper()
	acks := f.Stats().ACKs[resource.TypeEndpoints]
	for _, k := range []resource.Kind{resource.Envoy, resource.GRPC, resource.Overhear} {
		if err := f.SetEndpoints(resource.View{Kind: k}, "api", resource.EncodeEndpoints(all, k)); err != nil {
			f.t.Fatal(err)
		}
	}
	if f.Stats().Streams > 0 {
		eventually(f.t, "an ACK for the endpoints", func() bool { return f.Stats().ACKs[resource.TypeEndpoints] > acks })
	}
}

func (f *feed) set(k resource.Kind, c resource.Cluster, l resource.Listener, r resource.Route) {
	f.t.Helper()
	v := resource.View{Kind: k}
	if err := f.Apply(
		server.Change{View: v, TypeURL: resource.TypeCluster, Name: c.Name, Message: resource.EncodeCluster(c, k)},
		server.Change{View: v, TypeURL: resource.TypeListener, Name: l.Name, Message: resource.EncodeListener(l, k)},
		server.Change{View: v, TypeURL: resource.TypeRoute, Name: r.Name, Message: resource.EncodeRoute(r, k)},
	); err != nil {
		f.t.Fatal(err)
	}
}

// backend is one endpoint that counts what it gets.
type backend struct {
	address netip.AddrPort
	n       atomic.Int64
}

// traffic makes requests one after the other and knows which failed.
type traffic struct {
	t       *testing.T
	request func(ctx context.Context) error
}

// send makes n requests; none may fail.
func (r traffic) send(n int) {
	r.t.Helper()
	for range n {
		ctx, cancel := context.WithTimeout(r.t.Context(), patience)
		err := r.request(ctx)
		cancel()
		if err != nil {
			r.t.Fatalf("a request failed: %v", err)
		}
	}
}

// leaves checks that requests stop reaching the backends, and that the others take
// them all. The client acknowledged a moment ago: what is on its way may still arrive.
func (r traffic) leaves(backends ...*backend) {
	r.t.Helper()
	count := func() (n int64) {
		for _, b := range backends {
			n += b.n.Load()
		}
		return n
	}
	eventually(r.t, "fifty requests in a row elsewhere", func() bool {
		before := count()
		r.send(50)
		return count() == before
	})
	before := count()
	r.send(300)
	if got := count() - before; got != 0 {
		r.t.Errorf("of 300 requests after that, %d reached endpoints that are out", got)
	}
}

// reaches checks that each of the backends gets requests.
func (r traffic) reaches(backends ...*backend) {
	r.t.Helper()
	for i, b := range backends {
		before := b.n.Load()
		eventually(r.t, fmt.Sprintf("a request at backend %d", i), func() bool {
			r.send(20)
			return b.n.Load() > before
		})
	}
}

var (
	in        = outlier.Verdict{}
	ejected   = outlier.Verdict{State: outlier.Ejected, Rule: outlier.RuleFast}
	dead      = outlier.Verdict{State: outlier.Ejected, Rule: outlier.RuleHard}
	suspended = outlier.Verdict{State: outlier.Suspended, Rule: outlier.RuleStalled}
	probed    = outlier.Verdict{State: outlier.Probing, Rule: outlier.RuleFast}
	probation = outlier.Verdict{State: outlier.Probation}
	draining  = outlier.Verdict{State: outlier.Draining}
	ramp      = outlier.Verdict{State: outlier.Ramp, RampFrom: 0.1}
)

// verdicts takes a client through what can be believed of an endpoint.
func verdicts(f *feed, r traffic, backends []*backend) {
	f.t.Helper()
	r.reaches(backends...)

	f.publish(backends, ejected)
	r.leaves(backends[0])
	r.reaches(backends[1:]...)

	f.publish(backends, ejected, suspended)
	r.leaves(backends[:2]...)

	f.publish(backends, probed)
	r.leaves(backends[0])
	r.reaches(backends[1:]...)

	f.publish(backends, in, probation)
	r.leaves(backends[1])
	r.reaches(backends[0], backends[2], backends[3])

	f.publish(backends, draining)
	r.leaves(backends[0])
	r.reaches(backends[1:]...)

	f.publish(backends, ramp)
	r.reaches(backends...)
	r.gets(backends[0], 0.003, 0.12) // 0.1 of 3.1

	// Nobody is left: the least bad is better than no answer.
	f.publish(backends, dead, dead, dead, ejected)
	r.leaves(backends[:3]...)
	r.reaches(backends[3])

	f.publish(backends)
	r.reaches(backends...)
	if st := f.Stats(); st.NACKs[resource.TypeEndpoints]+st.NACKs[resource.TypeCluster]+st.NACKs[resource.TypeListener]+st.NACKs[resource.TypeRoute] != 0 {
		f.t.Errorf("the client refused something: %v", st.NACKs)
	}
}

// trials takes a foreign client through what it is told of an endpoint that it tries. A
// sidecar is told so over its report stream.
func trials(f *feed, r traffic, backends []*backend) {
	f.t.Helper()
	f.lend(backends, probation, 0.2)
	r.reaches(backends...)
	r.gets(backends[0], 0.003, 0.15) // 0.2 of 3.2
	f.lend(backends, suspended, 0.1)
	r.gets(backends[0], 0.003, 0.12) // 0.1 of 3.1
	f.publish(backends)
	r.reaches(backends...)
}

// Envoy.

func httpBackends(t *testing.T, n int) []*backend {
	t.Helper()
	var all []*backend
	for range n {
		b := new(backend)
		ln := listen(t)
		b.address = ln.Addr().(*net.TCPAddr).AddrPort()
		s := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { b.n.Add(1) })}
		go func() { _ = s.Serve(ln) }()
		t.Cleanup(func() { _ = s.Close() })
		all = append(all, b)
	}
	return all
}

// throughEnvoy makes HTTP requests through one of Envoy's listeners.
func throughEnvoy(t *testing.T, p *envoy.Process, listener string) traffic {
	t.Helper()
	return through(t, entry(t, p, listener))
}

// entry is where one of Envoy's listeners accepts.
func entry(t *testing.T, p *envoy.Process, listener string) (address string) {
	t.Helper()
	eventually(t, "Envoy listens", func() bool {
		// It names a listener a moment before its worker accepts.
		var err error
		if address, err = p.Listener(listener); err != nil {
			t.Fatal(err)
		}
		if address == "" {
			return false
		}
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return address
}

// through makes HTTP requests to a proxy.
func through(t *testing.T, address string) traffic {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	c := &http.Client{Transport: transport}
	return traffic{t: t, request: func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/", strings.NewReader("hello"))
		if err != nil {
			return err
		}
		resp, err := c.Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s, flags %s", resp.Status, resp.Header.Get("x-envoy-response-flags"))
		}
		return nil
	}}
}

// bootstrap has the parts that all Envoys here have: who it is, and where the control
// plane, or what stands for it, is.
func bootstrap(control, dynamic, listeners, clusters string) string {
	host, port, _ := net.SplitHostPort(control)
	return fmt.Sprintf(`
node: { id: envoy-1, cluster: test, locality: { zone: z } }
admin: { address: %s }
%s
static_resources:
  listeners: %s
  clusters:
  - name: xds
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }
    load_assignment:
      cluster_name: xds
      endpoints: [ { lb_endpoints: [ { endpoint: { address: { socket_address: { address: %s, port_value: %s } } } } ] } ]
%s
`, envoy.AdminAddress, dynamic, listeners, host, port, clusters)
}

// everything is the bootstrap of an Envoy that takes all its configuration from the feed.
func everything(f *feed, apiType string) string {
	return bootstrap(f.address, fmt.Sprintf(`
dynamic_resources:
  ads_config: { api_type: %s, transport_api_version: V3, grpc_services: [ { envoy_grpc: { cluster_name: xds } } ] }
  cds_config: { ads: {}, resource_api_version: V3 }
  lds_config: { ads: {}, resource_api_version: V3 }`, apiType), "[]", "")
}

// ownListener is a listener of the Envoy's own, for its cluster own-name.
const ownListener = `
  - name: api
    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: api
          route_config:
            validate_clusters: false
            virtual_hosts: [ { name: all, domains: ["*"], routes: [ { match: { prefix: "/" }, route: { cluster: own-name } } ] } ]
          http_filters: [ { name: envoy.filters.http.router, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } } ]`

// ownStream is the source of endpoints that come from the feed on a stream of their own.
func ownStream(apiType string) string {
	return fmt.Sprintf(`{ resource_api_version: V3, api_config_source: { api_type: %s, transport_api_version: V3, grpc_services: [ { envoy_grpc: { cluster_name: xds } } ] } }`, apiType)
}

// endpointsOnly is the bootstrap of one that takes only the endpoints of its cluster
// from there.
func endpointsOnly(f *feed, apiType string) string {
	return bootstrap(f.address, "", ownListener, fmt.Sprintf(`
  - name: own-name
    type: EDS
    connect_timeout: 1s
    eds_cluster_config: { service_name: api, eds_config: %s }`, ownStream(apiType)))
}

func TestAnEnvoyThatGetsEverythingFromUsFollowsVerdicts(t *testing.T) {
	envoy.Find(t)
	for name, apiType := range map[string]string{"SotW": "GRPC", "delta": "DELTA_GRPC"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, backends := newFeed(t), httpBackends(t, 4)
			c := resource.Cluster{Name: "api"}
			l := resource.Listener{Name: "api", Address: netip.MustParseAddrPort("127.0.0.1:0"), Route: "api"}
			r := resource.Route{Name: "api", Hosts: []resource.VirtualHost{{Name: "api", Domains: []string{"*"}, Cluster: "api", Timeout: patience}}}
			f.set(resource.Envoy, c, l, r)
			f.publish(backends)
			f.Ready()
			p := envoy.Start(t, everything(f, apiType))
			requests := throughEnvoy(t, p, "api")
			verdicts(f, requests, backends)
			trials(f, requests, backends)

			// A cluster that changes stays warming until it hears its endpoints again,
			// also when they are the same.
			c.ConnectTimeout = 2 * time.Second
			f.set(resource.Envoy, c, l, r)
			eventually(t, "the changed cluster is in use", func() bool {
				return stat(t, p, "cluster_manager.cluster_modified") == "1" && stat(t, p, "cluster_manager.warming_clusters") == "0"
			})
			requests.reaches(backends...)

			// A cluster goes after the route that named it: no request falls between.
			next := resource.Cluster{Name: "api-v2", Service: "api"}
			r.Hosts[0].Cluster = "api-v2"
			v := resource.View{Kind: resource.Envoy}
			f.set(resource.Envoy, next, l, r)
			if err := f.Apply(server.Change{View: v, TypeURL: resource.TypeCluster, Name: "api"}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the old cluster is gone", func() bool {
				requests.send(5)
				return stat(t, p, "cluster_manager.cluster_removed") == "1"
			})
			requests.reaches(backends...)
			f.publish(backends, ejected)
			requests.leaves(backends[0])
		})
	}
}

func stat(t *testing.T, p *envoy.Process, name string) string {
	t.Helper()
	text, err := p.Get("/stats?filter=" + name)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("Envoy has no statistic %s", name)
	return ""
}

// The Envoy has listeners, routes and clusters of its own, or of another control
// plane; only endpoints come from here, on a stream of their own.
func TestAnEnvoyThatGetsOnlyEndpointsFromUsFollowsVerdicts(t *testing.T) {
	envoy.Find(t)
	for name, apiType := range map[string]string{"SotW": "GRPC", "delta": "DELTA_GRPC"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, backends := newFeed(t), httpBackends(t, 4)
			f.publish(backends)
			f.Ready()
			p := envoy.Start(t, endpointsOnly(f, apiType))
			requests := throughEnvoy(t, p, "api")
			verdicts(f, requests, backends)
			trials(f, requests, backends)
		})
	}
}

// gRPC.

// healthServer is a gRPC service that everybody knows and that counts.
type healthServer struct {
	healthpb.UnimplementedHealthServer
	b *backend
}

func (s healthServer) Check(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	s.b.n.Add(1)
	return &healthpb.HealthCheckResponse{}, nil
}

func TestAGRPCClientFollowsVerdicts(t *testing.T) {
	f := newFeed(t)
	var backends []*backend
	for range 4 {
		b := new(backend)
		ln := listen(t)
		b.address = ln.Addr().(*net.TCPAddr).AddrPort()
		g := grpc.NewServer()
		healthpb.RegisterHealthServer(g, healthServer{b: b})
		go func() { _ = g.Serve(ln) }()
		t.Cleanup(g.Stop)
		backends = append(backends, b)
	}
	f.set(resource.GRPC,
		resource.Cluster{Name: "api", Policy: resource.Policy{Protocol: resource.GRPCWire}},
		resource.Listener{Name: "api.mesh", Route: "api"},
		resource.Route{Name: "api", Hosts: []resource.VirtualHost{{Name: "api", Domains: []string{"*"}, Cluster: "api"}}})
	f.publish(backends)
	f.Ready()

	resolver, err := xds.NewXDSResolverWithConfigForTesting(fmt.Appendf(nil, `{
		"xds_servers": [ { "server_uri": %q, "channel_creds": [ { "type": "insecure" } ], "server_features": [ "xds_v3" ] } ],
		"node": { "id": "grpc-1", "locality": { "zone": "z" } } }`, f.address))
	if err != nil {
		t.Fatal(err)
	}
	cc, err := grpc.NewClient("xds:///api.mesh", grpc.WithResolvers(resolver), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	c := healthpb.NewHealthClient(cc)
	calls := traffic{t: t, request: func(ctx context.Context) error {
		_, err := c.Check(ctx, &healthpb.HealthCheckRequest{})
		return err
	}}
	verdicts(f, calls, backends)
	trials(f, calls, backends)
	if got := f.Clients(); len(got) != 1 || got[0].Kind != "grpc" || got[0].Zone != "z" {
		t.Errorf("clients %+v: want one of gRPC in zone z", got)
	}
}
