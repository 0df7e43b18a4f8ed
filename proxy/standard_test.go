package proxy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/proxy/admin"
)

// standard is a control plane that knows nothing of us: go-control-plane's, with its
// snapshots.
type standard struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	p       *pod
	cache   cache.SnapshotCache
	version int
	grpc    *grpc.Server
	sotw    sotw.Server
	delta   delta.Server // nil: it is of the time before the delta protocol

	mu    sync.Mutex // guards nacks
	nacks []string   // what the sidecar said to what it refused
}

func (s *standard) StreamAggregatedResources(st discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return s.sotw.StreamHandler(st, "")
}

func (s *standard) DeltaAggregatedResources(st discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	if s.delta == nil {
		return status.Error(codes.Unimplemented, "what is delta")
	}
	return s.delta.DeltaStreamHandler(st, "")
}

// The callbacks of both servers.

func (s *standard) OnStreamOpen(context.Context, int64, string) error      { return nil }
func (s *standard) OnStreamClosed(int64, *corev3.Node)                     {}
func (s *standard) OnDeltaStreamOpen(context.Context, int64, string) error { return nil }
func (s *standard) OnDeltaStreamClosed(int64, *corev3.Node)                {}

func (s *standard) OnStreamResponse(context.Context, int64, *discoveryv3.DiscoveryRequest, *discoveryv3.DiscoveryResponse) {
}

func (s *standard) OnStreamDeltaResponse(int64, *discoveryv3.DeltaDiscoveryRequest, *discoveryv3.DeltaDiscoveryResponse) {
}

func (s *standard) OnStreamRequest(_ int64, r *discoveryv3.DiscoveryRequest) error {
	s.refused(r.GetErrorDetail().GetMessage())
	return nil
}

func (s *standard) OnStreamDeltaRequest(_ int64, r *discoveryv3.DeltaDiscoveryRequest) error {
	s.refused(r.GetErrorDetail().GetMessage())
	return nil
}

func (s *standard) refused(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if reason != "" {
		s.nacks = append(s.nacks, reason)
	}
}

// heard are the refusals since the last call.
func (s *standard) heard() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	nacks := s.nacks
	s.nacks = nil
	return nacks
}

func (p *pod) standard(knowsDelta bool) *standard {
	p.t.Helper()
	s := &standard{p: p, cache: cache.NewSnapshotCache(true, cache.IDHash{}, nil), grpc: grpc.NewServer()}
	s.sotw = sotw.NewServer(context.Background(), s.cache, s, sotw.WithOrderedADS())
	if knowsDelta {
		s.delta = delta.NewServer(context.Background(), s.cache, s)
	}
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s.grpc, s)
	ln, err := p.net.Host("10.0.0.9").Listen(p.t.Context(), "tcp", ":15010")
	if err != nil {
		p.t.Fatal(err)
	}
	go func() { _ = s.grpc.Serve(ln) }() // ends with Stop
	return s
}

const told = "control_plane: {addresses: [\"10.0.0.9:15010\"], insecure: true, listeners: [\"*\"]}\n"

// publish sets all resources, in JSON by their type, and lets them arrive. The node is
// the host's name.
func (s *standard) publish(resources map[string][]string) {
	s.p.t.Helper()
	s.version++
	all := map[resource.Type][]types.Resource{}
	for url, texts := range resources {
		for _, text := range texts {
			m := map[string]proto.Message{
				resource.ListenerType: new(listenerv3.Listener), resource.RouteType: new(routev3.RouteConfiguration),
				resource.ClusterType: new(clusterv3.Cluster), resource.EndpointType: new(endpointv3.ClusterLoadAssignment),
			}[url]
			if err := protojson.Unmarshal([]byte(text), m); err != nil {
				s.p.t.Fatalf("%s: %v", text, err)
			}
			all[url] = append(all[url], m)
		}
	}
	snapshot, err := cache.NewSnapshot(fmt.Sprint(s.version), all)
	if err != nil {
		s.p.t.Fatal(err)
	}
	if err := s.cache.SetSnapshot(context.Background(), "sidecar-1", snapshot); err != nil {
		s.p.t.Fatal(err)
	}
	s.p.settle()
}

// settle lets what is under way arrive.
func (p *pod) settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}

const routerFilter = `"http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]`

// httpListener has the listener "in" on a port, with the routes of that name.
func httpListener(port int, routes string) string {
	return fmt.Sprintf(`{"name": "in", "address": {"socket_address": {"address": "127.0.0.1", "port_value": %d}}, "filter_chains": [{"filters": [{"name": "hcm", "typed_config": {
		"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix": "in", "codec_type": "HTTP1", "rds": {"config_source": {"ads": {}}, "route_config_name": %q}, %s}}]}]}`, port, routes, routerFilter)
}

func routesTo(name, cluster string) string {
	return fmt.Sprintf(`{"name": %q, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": %q}}]}]}`, name, cluster)
}

func edsCluster(name string) string {
	return fmt.Sprintf(`{"name": %q, "type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}}}, "connect_timeout": "1s"}`, name)
}

func endpointsOf(name string, n int) string {
	return fmt.Sprintf(`{"cluster_name": %q, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "10.0.1.%d", "port_value": 80}}}}]}]}`, name, n)
}

// oneWorld is a whole world: a listener, its routes, a cluster at backend n.
func oneWorld(cluster string, n int) map[string][]string {
	return map[string][]string{
		resource.ListenerType: {httpListener(15001, "r")},
		resource.RouteType:    {routesTo("r", cluster)},
		resource.ClusterType:  {edsCluster(cluster)},
		resource.EndpointType: {endpointsOf(cluster, n)},
	}
}

// toldBy runs body beside a sidecar that is told of everything, by either protocol.
func toldBy(t *testing.T, body func(t *testing.T, p *pod, s *standard)) {
	for _, delta := range []bool{true, false} {
		t.Run(fmt.Sprintf("delta %t", delta), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPod(t)
				s := p.standard(delta)
				defer s.grpc.Stop()
				p.start("node: {id: sidecar-1}\n" + told)
				body(t, p, s)
				p.end()
			})
		})
	}
}

func (p *pod) wantAnswer(port int, path, want string) {
	p.t.Helper()
	if got := p.get(port, path); got.String() != want {
		p.t.Errorf("%s answers %v, want %s", path, got, want)
	}
}

// standing is how the sidecar says that it stands with its control plane.
func (p *pod) standing() *admin.ControlPlane {
	p.t.Helper()
	var c admin.Clusters
	if err := json.Unmarshal([]byte(p.get(15000, "/clusters").body), &c); err != nil {
		p.t.Fatal(err)
	}
	return c.Sidecar.ControlPlane
}
