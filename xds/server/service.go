package server

import (
	"time"

	clusterservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	listenerservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	routeservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// Register adds ADS and the streams of each type to a gRPC server that was made with
// [Options]: with another codec every stream ends with Internal at its first response.
// The streams end with that server. xDS over REST answers Unimplemented.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	v := services{server: s}
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(r, v)
	clusterservicev3.RegisterClusterDiscoveryServiceServer(r, v)
	endpointservicev3.RegisterEndpointDiscoveryServiceServer(r, v)
	listenerservicev3.RegisterListenerDiscoveryServiceServer(r, v)
	routeservicev3.RegisterRouteDiscoveryServiceServer(r, v)
}

// services hands the streams of the gRPC services to the server.
type services struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	clusterservicev3.UnimplementedClusterDiscoveryServiceServer
	endpointservicev3.UnimplementedEndpointDiscoveryServiceServer
	listenerservicev3.UnimplementedListenerDiscoveryServiceServer
	routeservicev3.UnimplementedRouteDiscoveryServiceServer

	server *Server
}

func (v services) StreamAggregatedResources(st discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return v.server.serve(st, false, "")
}

func (v services) DeltaAggregatedResources(st discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return v.server.serve(st, true, "")
}

func (v services) StreamClusters(st clusterservicev3.ClusterDiscoveryService_StreamClustersServer) error {
	return v.server.serve(st, false, resource.TypeCluster)
}

func (v services) DeltaClusters(st clusterservicev3.ClusterDiscoveryService_DeltaClustersServer) error {
	return v.server.serve(st, true, resource.TypeCluster)
}

func (v services) StreamEndpoints(st endpointservicev3.EndpointDiscoveryService_StreamEndpointsServer) error {
	return v.server.serve(st, false, resource.TypeEndpoints)
}

func (v services) DeltaEndpoints(st endpointservicev3.EndpointDiscoveryService_DeltaEndpointsServer) error {
	return v.server.serve(st, true, resource.TypeEndpoints)
}

func (v services) StreamListeners(st listenerservicev3.ListenerDiscoveryService_StreamListenersServer) error {
	return v.server.serve(st, false, resource.TypeListener)
}

func (v services) DeltaListeners(st listenerservicev3.ListenerDiscoveryService_DeltaListenersServer) error {
	return v.server.serve(st, true, resource.TypeListener)
}

func (v services) StreamRoutes(st routeservicev3.RouteDiscoveryService_StreamRoutesServer) error {
	return v.server.serve(st, false, resource.TypeRoute)
}

func (v services) DeltaRoutes(st routeservicev3.RouteDiscoveryService_DeltaRoutesServer) error {
	return v.server.serve(st, true, resource.TypeRoute)
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
		grpc.ForceServerCodecV2(newCodec()),
	}
}
