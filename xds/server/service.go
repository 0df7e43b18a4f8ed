package server

import (
	"context"
	"time"

	clusterservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	listenerservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	routeservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	xdslog "github.com/envoyproxy/go-control-plane/pkg/log"
	"github.com/envoyproxy/go-control-plane/pkg/server/config"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// Register adds ADS and the streams of each type to a gRPC server. The streams end
// with that server. xDS over REST answers Unimplemented.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	// Endpoints and routes have no wildcard: a request without names there asks for
	// nothing.
	noWildcard := config.DeactivateLegacyWildcardForTypes([]string{resource.TypeEndpoints, resource.TypeRoute})
	// At its Info level go-control-plane formats the whole map of subscriptions.
	silent := xdslog.LoggerFuncs{}
	// The contexts are those of servers that are never asked to end: a stream ends
	// with its own context, which is the gRPC server's.
	v := services{
		// Ordered, because otherwise it picks at random from the types that are ready.
		sotw:  sotw.NewServer(context.Background(), front{s}, front{s}, sotw.WithOrderedADS(), sotw.WithLogger(silent), noWildcard),
		delta: delta.NewServer(context.Background(), front{s}, front{s}, delta.WithLogger(silent), noWildcard),
	}
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(r, v)
	clusterservicev3.RegisterClusterDiscoveryServiceServer(r, v)
	endpointservicev3.RegisterEndpointDiscoveryServiceServer(r, v)
	listenerservicev3.RegisterListenerDiscoveryServiceServer(r, v)
	routeservicev3.RegisterRouteDiscoveryServiceServer(r, v)
}

// services hands the streams of the gRPC services to go-control-plane. Its own
// collection of them would link the types of a dozen services that are not served.
type services struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	clusterservicev3.UnimplementedClusterDiscoveryServiceServer
	endpointservicev3.UnimplementedEndpointDiscoveryServiceServer
	listenerservicev3.UnimplementedListenerDiscoveryServiceServer
	routeservicev3.UnimplementedRouteDiscoveryServiceServer

	sotw  sotw.Server
	delta delta.Server
}

func (v services) StreamAggregatedResources(st discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return v.sotw.StreamHandler(st, "")
}

func (v services) DeltaAggregatedResources(st discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return v.delta.DeltaStreamHandler(st, "")
}

func (v services) StreamClusters(st clusterservicev3.ClusterDiscoveryService_StreamClustersServer) error {
	return v.sotw.StreamHandler(st, resource.TypeCluster)
}

func (v services) DeltaClusters(st clusterservicev3.ClusterDiscoveryService_DeltaClustersServer) error {
	return v.delta.DeltaStreamHandler(st, resource.TypeCluster)
}

func (v services) StreamEndpoints(st endpointservicev3.EndpointDiscoveryService_StreamEndpointsServer) error {
	return v.sotw.StreamHandler(st, resource.TypeEndpoints)
}

func (v services) DeltaEndpoints(st endpointservicev3.EndpointDiscoveryService_DeltaEndpointsServer) error {
	return v.delta.DeltaStreamHandler(st, resource.TypeEndpoints)
}

func (v services) StreamListeners(st listenerservicev3.ListenerDiscoveryService_StreamListenersServer) error {
	return v.sotw.StreamHandler(st, resource.TypeListener)
}

func (v services) DeltaListeners(st listenerservicev3.ListenerDiscoveryService_DeltaListenersServer) error {
	return v.delta.DeltaStreamHandler(st, resource.TypeListener)
}

func (v services) StreamRoutes(st routeservicev3.RouteDiscoveryService_StreamRoutesServer) error {
	return v.sotw.StreamHandler(st, resource.TypeRoute)
}

func (v services) DeltaRoutes(st routeservicev3.RouteDiscoveryService_DeltaRoutesServer) error {
	return v.delta.DeltaStreamHandler(st, resource.TypeRoute)
}

// window is how much a client may send before it is read: a subscription of many
// names, a report.
const window = 256 << 10

// Options are what a gRPC server that serves xDS is made with. Sidecars ask every
// 30 s whether the connection lives, also when no stream is open; by default a gRPC
// server hangs up on who asks more than once in five minutes. It asks as well: a
// client that is gone without a word must not hold its subscriptions for ever.
func Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		// With windows that grow, gRPC pings a client after each of its messages to
		// measure the way: two more packets for each ACK of a push.
		grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window),
	}
}
