// Package hdsmodel is an Envoy's side of health discovery, for tests in virtual time.
//
// It does what a running Envoy 1.40 was seen to do: a specifier replaces the checks, and
// those of a name that stays go on; a check begins when it is told of and is made once; the
// interval counts from a specifier that changes it, and from no other; what has not ended
// is reported UNHEALTHY.
package hdsmodel

import (
	"context"
	"net/netip"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	healthv3 "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"
)

// Outcome is what a check meets.
type Outcome struct {
	After  time.Duration // beyond its timeout: nothing
	Well   bool
	Status int // of HTTP; 0: there was no response
}

// Envoy makes the checks that it is told of.
type Envoy struct {
	Node *corev3.Node
	// Meet is what a check of an address meets.
	Meet func(at netip.AddrPort, how *corev3.HealthCheck) Outcome
	// Seen, if set, is called with each specifier.
	Seen func(*healthv3.HealthCheckSpecifier)
}

type check struct {
	endpoint *endpointv3.Endpoint
	began    time.Time
	timeout  time.Duration
	outcome  Outcome
}

// Run asks what to check and tells how it stands until ctx ends or the stream does.
func (e *Envoy) Run(ctx context.Context, cc grpc.ClientConnInterface) error {
	stream, err := healthv3.NewHealthDiscoveryServiceClient(cc).StreamHealthCheck(ctx, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	first := &healthv3.HealthCheckRequest{Node: e.Node, Capability: &healthv3.Capability{
		HealthCheckProtocols: []healthv3.Capability_Protocol{healthv3.Capability_HTTP, healthv3.Capability_TCP},
	}}
	if err := stream.Send(&healthv3.HealthCheckRequestOrEndpointHealthResponse{
		RequestType: &healthv3.HealthCheckRequestOrEndpointHealthResponse_HealthCheckRequest{HealthCheckRequest: first},
	}); err != nil {
		return err
	}
	told, ended := make(chan *healthv3.HealthCheckSpecifier), make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case told <- m:
			case <-stream.Context().Done():
			}
		}
	}()
	checks := map[string]check{}
	every := time.Duration(0)
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case m := <-told:
			if e.Seen != nil {
				e.Seen(m)
			}
			checks = e.replace(checks, m)
			if d := m.GetInterval().AsDuration(); d != every {
				every = d
				due.Reset(every)
			}
		case <-due.C:
			if err := stream.Send(&healthv3.HealthCheckRequestOrEndpointHealthResponse{
				RequestType: &healthv3.HealthCheckRequestOrEndpointHealthResponse_EndpointHealthResponse{EndpointHealthResponse: report(checks)},
			}); err != nil {
				return <-ended
			}
			due.Reset(every)
		}
	}
}

func (e *Envoy) replace(have map[string]check, m *healthv3.HealthCheckSpecifier) map[string]check {
	checks := map[string]check{}
	for _, c := range m.GetClusterHealthChecks() {
		if old, stays := have[c.GetClusterName()]; stays {
			checks[c.GetClusterName()] = old
			continue
		}
		endpoint, how := c.GetLocalityEndpoints()[0].GetEndpoints()[0], c.GetHealthChecks()[0]
		at := endpoint.GetAddress().GetSocketAddress()
		checks[c.GetClusterName()] = check{
			endpoint: endpoint, began: time.Now(), timeout: how.GetTimeout().AsDuration(),
			outcome: e.Meet(netip.AddrPortFrom(netip.MustParseAddr(at.GetAddress()), uint16(at.GetPortValue())), how),
		}
	}
	return checks
}

func report(checks map[string]check) *healthv3.EndpointHealthResponse {
	all := &healthv3.EndpointHealthResponse{}
	for name, c := range checks {
		health := &healthv3.EndpointHealth{Endpoint: c.endpoint, HealthStatus: corev3.HealthStatus_UNHEALTHY}
		age := time.Since(c.began)
		switch {
		case c.outcome.After < c.timeout && age >= c.outcome.After:
			if c.outcome.Well {
				health.HealthStatus = corev3.HealthStatus_HEALTHY
			}
			if c.outcome.Status != 0 {
				health.HealthMetadata = &structpb.Struct{Fields: map[string]*structpb.Value{"http_status_code": structpb.NewNumberValue(float64(c.outcome.Status))}}
			}
		case age >= c.timeout:
			health.HealthStatus = corev3.HealthStatus_TIMEOUT
		}
		all.ClusterEndpointsHealth = append(all.ClusterEndpointsHealth, &healthv3.ClusterEndpointsHealth{
			ClusterName: name, LocalityEndpointsHealth: []*healthv3.LocalityEndpointsHealth{{EndpointsHealth: []*healthv3.EndpointHealth{health}}},
		})
	}
	return all
}
