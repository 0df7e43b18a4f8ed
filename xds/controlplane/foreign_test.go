package controlplane_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	statusv3 "github.com/envoyproxy/go-control-plane/envoy/service/status/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/xds"

	"github.com/overhear-mesh/overhear/test/envoy"
	"github.com/overhear-mesh/overhear/test/plane"
	"github.com/overhear-mesh/overhear/xds/controlplane"
	"github.com/overhear-mesh/overhear/xds/registry"
)

// real is a control plane on loopback sockets, for clients that are processes or
// that open their own connections.
type real struct {
	t        *testing.T
	xds, api string
	registry *registry.Registry
}

func runReal(t *testing.T, services ...registry.Service) *real {
	t.Helper()
	cfg := controlplane.DefaultConfig()
	cfg.APIToken = token
	p, err := plane.Start(cfg, controlplane.Options{}, services...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return &real{t: t, xds: p.XDS, api: p.HTTP, registry: p.Registry}
}

func (r *real) order(verb, endpoint string) {
	r.t.Helper()
	body := fmt.Sprintf(`{"endpoint":%q,"reason":"test"}`, endpoint)
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, "http://"+r.api+"/api/v1/"+verb, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		r.t.Fatalf("%s %s: %s %s", verb, endpoint, resp.Status, text)
	}
}

func service(name string, protocol registry.Protocol, addresses ...string) registry.Service {
	s := registry.NewService(name)
	s.Protocol = protocol
	for i, a := range addresses {
		s.Endpoints = append(s.Endpoints, registry.Endpoint{
			Address: netip.MustParseAddrPort(a), Instance: fmt.Sprintf("%s-%d", name, i+1), Zone: "a", Weight: 1,
		})
	}
	return s
}

// obeys checks that a client, which request makes send one request, spreads over
// three backends, leaves the second when it is ejected, comes back when it is
// pinned, and fails no request all the while.
func (r *real) obeys(name string, counts []*atomic.Int64, request func() error) {
	r.t.Helper()
	send := func(n int) {
		r.t.Helper()
		for range n {
			if err := request(); err != nil {
				r.t.Fatalf("a request failed: %v", err)
			}
		}
	}
	// How long a push takes is the machine's business: the test waits for the
	// effect, and a client that never shows it runs into the deadline.
	until := func(what string, effect func() bool) {
		r.t.Helper()
		for deadline := time.Now().Add(time.Minute); !effect(); {
			if time.Now().After(deadline) {
				r.t.Fatalf("the client did not %s; requests by backend: %d %d %d", what, counts[0].Load(), counts[1].Load(), counts[2].Load())
			}
		}
	}
	until("use all backends", func() bool {
		send(10)
		return counts[0].Load() > 0 && counts[1].Load() > 0 && counts[2].Load() > 0
	})
	r.order("eject", name+"-2")
	until("leave the ejected backend", func() bool {
		before := counts[1].Load()
		send(100)
		return counts[1].Load() == before
	})
	r.order("pin", name+"-2")
	until("come back to the backend", func() bool {
		before := counts[1].Load()
		send(10)
		return counts[1].Load() > before
	})
}

// together checks that requests with one key go to one backend, and those with many keys to
// several, and that reloads take the key away and give it back without a failed request.
func (r *real) together(counts []*atomic.Int64, request func(key string) error) {
	r.t.Helper()
	reached := func(keys ...string) (n int) {
		r.t.Helper()
		var before [3]int64
		for i := range counts {
			before[i] = counts[i].Load()
		}
		for _, key := range keys {
			if err := request(key); err != nil {
				r.t.Fatalf("a request failed: %v", err)
			}
		}
		for i := range counts {
			if counts[i].Load() > before[i] {
				n++
			}
		}
		return n
	}
	var many []string
	for i := range 30 {
		many = append(many, fmt.Sprint("user-", i))
	}
	one := slices.Repeat([]string{"user-1"}, 30)
	if n := reached(one...); n != 1 {
		r.t.Errorf("requests of one user reached %d backends, want 1", n)
	}
	if n := reached(many...); n < 2 {
		r.t.Errorf("requests of 30 users reached %d backend, want 2 or more", n)
	}
	keyed := r.registry.Current()
	round := &registry.Mesh{Services: slices.Clone(keyed.Services)}
	round.Services[0].Balancer, round.Services[0].Hash = registry.Balancer{Policy: registry.RoundRobin}, nil
	for _, step := range []struct {
		mesh *registry.Mesh
		want int
	}{{round, 3}, {keyed, 1}} {
		r.registry.Set(step.mesh)
		for deadline := time.Now().Add(time.Minute); reached(one...) != step.want; {
			if time.Now().After(deadline) {
				r.t.Fatalf("after a reload, requests of one user do not reach %d backends", step.want)
			}
		}
	}
}

func TestARealEnvoyLeavesAnEjectedEndpoint(t *testing.T) {
	for protocol, balancer := range map[string]registry.Balancer{
		"GRPC":       {Policy: registry.P2C},
		"DELTA_GRPC": {Policy: registry.Maglev, BoundedLoad: 1.25}, // without a key: at random
	} {
		t.Run(protocol, func(t *testing.T) {
			envoy.Find(t)
			counts := []*atomic.Int64{{}, {}, {}}
			var addresses []string
			for _, n := range counts {
				backend := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { n.Add(1) }))
				t.Cleanup(backend.Close)
				addresses = append(addresses, backend.Listener.Addr().String())
			}
			lis, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			entry := lis.Addr().String()
			lis.Close() // for Envoy to take
			web := service("web", registry.HTTP1, addresses...)
			web.Listen, web.Balancer = netip.MustParseAddrPort(entry), balancer
			web.Hash = []registry.Hash{{Header: "x-user"}}
			r := runReal(t, web)
			host, port, _ := net.SplitHostPort(r.xds)
			envoy.Start(t, fmt.Sprintf(`
node: { id: envoy-1, cluster: test, locality: { zone: a } }
admin: { address: %s }
dynamic_resources:
  ads_config:
    api_type: %s
    transport_api_version: V3
    grpc_services: [{ envoy_grpc: { cluster_name: xds } }]
  cds_config: { resource_api_version: V3, ads: {} }
  lds_config: { resource_api_version: V3, ads: {} }
static_resources:
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
      endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: %q, port_value: %s } } } }] }]
`, envoy.AdminAddress, protocol, host, port))
			as := func(user string) error {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+entry+"/", nil)
				if err != nil {
					return err
				}
				if user != "" {
					req.Header.Set("x-user", user)
				}
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					return fmt.Errorf("status %s", resp.Status)
				}
				_, err = io.Copy(io.Discard, resp.Body)
				return err
			}
			get := func() error { return as("") }
			for deadline := time.Now().Add(time.Minute); get() != nil && time.Now().Before(deadline); {
				<-time.After(50 * time.Millisecond) // until Envoy has its listener
			}
			r.obeys("web", counts, get)
			if balancer.Policy.Hashes() {
				r.together(counts, as)
			}
		})
	}
}

func TestARealGRPCClientLeavesAnEjectedEndpoint(t *testing.T) {
	for _, policy := range []registry.BalancerPolicy{registry.P2C, registry.LeastRequest, registry.RingHash, registry.Maglev} {
		t.Run(string(policy), func(t *testing.T) { realGRPCClientLeavesAnEjectedEndpoint(t, policy) })
	}
}

func realGRPCClientLeavesAnEjectedEndpoint(t *testing.T, policy registry.BalancerPolicy) {
	t.Helper()
	counts := []*atomic.Int64{{}, {}, {}}
	var addresses []string
	for _, n := range counts {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			n.Add(1)
			return next(ctx, req)
		}))
		grpc_health_v1.RegisterHealthServer(s, health.NewServer())
		go func() { _ = s.Serve(lis) }() // ends with Stop
		t.Cleanup(s.Stop)
		addresses = append(addresses, lis.Addr().String())
	}
	greeters := service("greeter", registry.GRPC, addresses...)
	greeters.Balancer.Policy, greeters.Hash = policy, []registry.Hash{{Header: "x-user"}}
	r := runReal(t, greeters)
	resolver, err := xds.NewXDSResolverWithConfigForTesting([]byte(fmt.Sprintf(`{
		"xds_servers": [{"server_uri": %q, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
		"node": {"id": "grpc-1", "locality": {"zone": "a"}}
	}`, r.xds)))
	if err != nil {
		t.Fatal(err)
	}
	cc, err := grpc.NewClient("xds:///greeter", grpc.WithResolvers(resolver), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	greeter := grpc_health_v1.NewHealthClient(cc)
	as := func(user string) error {
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "x-user", user), 30*time.Second)
		defer cancel()
		_, err := greeter.Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true))
		return err
	}
	users := 0
	r.obeys("greeter", counts, func() error {
		users++
		return as(fmt.Sprint("user-", users))
	})
	if policy.Hashes() {
		r.together(counts, as)
	}
	r.says("grpc-1", 4) // listener, route, cluster, endpoints
}

// says checks that CSDS tells to this machine that a client has accepted so many
// resources, and nothing else of it.
func (r *real) says(id string, accepted int) {
	r.t.Helper()
	cc, err := grpc.NewClient(r.xds, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	defer cc.Close()
	only := &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: id}}
	want := &statusv3.ClientStatusRequest{NodeMatchers: []*matcherv3.NodeMatcher{{NodeId: only}}}
	var all *statusv3.ClientStatusResponse
	// The ACK of the last push may be on its way.
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if all, err = statusv3.NewClientStatusDiscoveryServiceClient(cc).FetchClientStatus(r.t.Context(), want); err != nil {
			r.t.Fatal(err)
		}
		if len(all.GetConfig()) == 1 && len(all.GetConfig()[0].GetGenericXdsConfigs()) == accepted &&
			!slices.ContainsFunc(all.GetConfig()[0].GetGenericXdsConfigs(), func(c *statusv3.ClientConfig_GenericXdsConfig) bool {
				return c.GetConfigStatus() != statusv3.ConfigStatus_SYNCED
			}) {
			return
		}
	}
	r.t.Errorf("got %v, want %d resources of %s, all SYNCED", all, accepted, id)
}
