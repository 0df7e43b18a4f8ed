package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	xdslog "github.com/envoyproxy/go-control-plane/pkg/log"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"google.golang.org/grpc"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/xds/resource"
	"github.com/overhear-mesh/overhear/xds/server"
)

// assignments are what a server is to serve.
type assignments map[string]*endpointv3.ClusterLoadAssignment

// feed is a server that is measured.
type feed struct {
	name string
	// start registers it, filled, with a gRPC server; what it returns publishes one
	// assignment, to these nodes first if it knows how to.
	start func(*grpc.Server, assignments) (publish, error)
}

type publish func(m *endpointv3.ClusterLoadAssignment, first []string) error

// running is a server that runs.
type running struct {
	address string
	publish publish
	stop    func() error
}

// serve runs the server, filled.
func (f feed) serve(all assignments) (*running, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := grpc.NewServer(server.Options()...) // the same for all
	publish, err := f.start(g, all)
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(ln) }()
	return &running{address: ln.Addr().String(), publish: publish, stop: func() error { g.Stop(); return <-served }}, nil
}

var feeds = []feed{{"overhear", overhear}, {"go-control-plane", linear}}

func overhear(g *grpc.Server, all assignments) (publish, error) {
	s := server.New(server.DefaultConfig(), slog.New(slog.DiscardHandler))
	s.Register(g)
	changes := make([]server.Change, 0, len(all))
	change := func(m *endpointv3.ClusterLoadAssignment) server.Change {
		return server.Change{View: resource.View{Kind: resource.Overhear}, TypeURL: resource.TypeEndpoints, Name: m.GetClusterName(), Message: m}
	}
	for _, m := range all {
		changes = append(changes, change(m))
	}
	if err := s.Apply(changes...); err != nil {
		return nil, err
	}
	s.Ready()
	return func(m *endpointv3.ClusterLoadAssignment, first []string) error {
		return s.ApplyFirst(first, change(m))
	}, nil
}

// linear is go-control-plane as its documentation puts it together for deltas of
// endpoints: a LinearCache of the type behind a MuxCache.
func linear(g *grpc.Server, all assignments) (publish, error) {
	resources := make(map[string]types.Resource, len(all))
	for name, m := range all {
		resources[name] = m
	}
	silent := xdslog.LoggerFuncs{} // the default one formats all subscriptions, under the lock
	l := cache.NewLinearCache(resource.TypeEndpoints, cache.WithInitialResources(resources), cache.WithLogger(silent))
	mux := &cache.MuxCache{
		Classify:      func(r *cache.Request) string { return r.GetTypeUrl() },
		ClassifyDelta: func(r *cache.DeltaRequest) string { return r.GetTypeUrl() },
		Caches:        map[string]cache.Cache{resource.TypeEndpoints: l},
	}
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, ads{delta: delta.NewServer(context.Background(), mux, nil, delta.WithLogger(silent))})
	return func(m *endpointv3.ClusterLoadAssignment, _ []string) error {
		return l.UpdateResource(m.GetClusterName(), m)
	}, nil
}

type ads struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	delta delta.Server
}

func (a ads) DeltaAggregatedResources(st discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return a.delta.DeltaStreamHandler(st, "")
}

func clusterName(i int) string { return fmt.Sprintf("service-%04d", i) }

// marker stands in the first endpoint of an assignment that changes, so that a client
// finds the number of the verdict without decoding all of it.
const (
	marker       = "verdict="
	markerDigits = 10
)

// initial is what is there before the first verdict.
func initial(s setting) assignments {
	all := assignments{}
	for i := range s.Clusters {
		var m *endpointv3.ClusterLoadAssignment
		if i < hot {
			m = assignment(s, i, i)
		} else {
			m = resource.EncodeEndpoints(resource.Endpoints{Service: clusterName(i), Endpoints: []resource.Endpoint{endpoint(0)}}, resource.Overhear)
		}
		all[m.GetClusterName()] = m
	}
	return all
}

// assignment is the assignment of a cluster after a verdict; those up to hot are what
// there was at first.
func assignment(s setting, cluster, verdict int) *endpointv3.ClusterLoadAssignment {
	e := resource.Endpoints{Service: clusterName(cluster)}
	for i := range s.Endpoints {
		e.Endpoints = append(e.Endpoints, endpoint(i))
	}
	if verdict/hot%2 == 1 {
		e.Endpoints[1].Verdict.State = outlier.Ejected
	}
	m := resource.EncodeEndpoints(e, resource.Overhear)
	m.GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().Hostname = fmt.Sprintf("%s%0*d", marker, markerDigits, verdict)
	return m
}

func endpoint(i int) resource.Endpoint {
	return resource.Endpoint{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 8080), Weight: 1}
}
