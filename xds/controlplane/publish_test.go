package controlplane

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/registry"
	"github.com/overhear-mesh/overhear/xds/resource"
	"github.com/overhear-mesh/overhear/xds/server"
)

func TestTheSevererVerdictHolds(t *testing.T) {
	k := merge.Key{Service: "api", Instance: "api-1"}
	for _, tc := range []struct {
		name        string
		fleet, zone outlier.State
		want        outlier.State // for the zone
	}{
		{"nothing", outlier.In, outlier.In, outlier.In},
		{"only the fleet's", outlier.Ejected, outlier.In, outlier.Ejected},
		{"only the zone's", outlier.In, outlier.Ejected, outlier.Ejected},
		{"the zone's is severer", outlier.Ramp, outlier.Ejected, outlier.Ejected},
		{"the fleet's is severer", outlier.Ejected, outlier.Probation, outlier.Ejected},
		{"a suspension is milder than a test", outlier.Suspended, outlier.Probation, outlier.Probation},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := beliefs{}
			b.note(merge.Verdict{Key: k, State: tc.fleet}, 0)
			b.note(merge.Verdict{Key: k, Scope: "a", State: tc.zone}, 0)
			if got, _ := b.in(k, "a"); got.State != tc.want {
				t.Errorf("in zone a: got %v, want %v", got.State, tc.want)
			}
			if got, _ := b.in(k, "b"); got.State != tc.fleet {
				t.Errorf("in zone b: got %v, want the fleet's %v", got.State, tc.fleet)
			}
			b.note(merge.Verdict{Key: k, State: outlier.In}, 0)
			b.note(merge.Verdict{Key: k, Scope: "a", State: outlier.In}, 0)
			if len(b) != 0 {
				t.Errorf("after both have ended: got %v, want nothing kept", b)
			}
		})
	}
}

func TestEachStateHasASeverity(t *testing.T) {
	seen := map[int]outlier.State{}
	for s := outlier.In; s <= outlier.Draining; s++ {
		n := severity(s)
		if other, ok := seen[n]; n < 0 || ok {
			t.Errorf("severity of %v is %d, as that of %v", s, n, other)
		}
		seen[n] = s
	}
}

// places are the changes as "view type name", those that remove with a minus.
func places(changes []server.Change) []string {
	short := map[string]string{resource.TypeCluster: "CDS", resource.TypeEndpoints: "EDS", resource.TypeListener: "LDS", resource.TypeRoute: "RDS"}
	var all []string
	for _, c := range changes {
		sign := ""
		if c.Message == nil {
			sign = "-"
		}
		all = append(all, fmt.Sprintf("%s%s %s %s", sign, c.View, short[c.TypeURL], c.Name))
	}
	slices.Sort(all)
	return all
}

func TestEachKindOfClientGetsWhatItNeeds(t *testing.T) {
	api := registry.NewService("api")
	api.Hosts = []string{"api.internal"}
	api.Listen = netip.MustParseAddrPort("127.0.0.1:10000")
	cache := registry.NewService("cache")
	cache.Protocol = registry.TCP
	cache.Listen = netip.MustParseAddrPort("127.0.0.1:10001")
	quiet := registry.NewService("quiet")
	for _, tc := range []struct {
		service registry.Service
		want    []string
	}{
		{api, []string{
			"envoy CDS api", "envoy LDS api", "envoy RDS api",
			"grpc CDS api", "grpc LDS api", "grpc LDS api.internal", "grpc RDS api", "overhear CDS api",
		}},
		{cache, []string{
			"envoy CDS cache", "envoy LDS cache",
			"grpc CDS cache", "grpc LDS cache", "grpc RDS cache", "overhear CDS cache",
		}},
		{quiet, []string{
			"envoy CDS quiet", "grpc CDS quiet", "grpc LDS quiet", "grpc RDS quiet", "overhear CDS quiet",
		}},
	} {
		if diff := cmp.Diff(tc.want, places(clusters(&tc.service))); diff != "" {
			t.Errorf("%s: resources differ (-want +got):\n%s", tc.service.Name, diff)
		}
	}
}

func TestASidecarIsToldWhatTheMeshFileSaysOfAService(t *testing.T) {
	for _, balancer := range []registry.Balancer{
		{Policy: registry.P2C}, {Policy: registry.LeastRequest}, {Policy: registry.RoundRobin}, {Policy: registry.Random},
		{Policy: registry.RingHash}, {Policy: registry.Maglev, BoundedLoad: 1.25},
	} {
		s := registry.NewService("api")
		s.Protocol, s.Balancer = registry.HTTP2, balancer
		s.Ping = registry.Ping{Kind: merge.PingGRPC, Path: "/up", Host: "api.internal", Service: "greeter"}
		s.Detection.Outlier.MaxOut = 0.3
		want := resource.DefaultPolicy()
		want.Protocol = resource.HTTP2
		want.Ping = resource.Ping{Kind: resource.PingGRPC, Path: "/up", Host: "api.internal", Service: "greeter"}
		want.Balancer = resource.Balancer{Policy: resource.Balancing(balancer.Policy), BoundedLoad: balancer.BoundedLoad}
		want.Outlier.MaxOut = 0.3
		for _, c := range clusters(&s) {
			if c.View.Kind != resource.Overhear {
				continue
			}
			got, err := resource.DecodeCluster(c.Message.(*clusterv3.Cluster))
			if diff := cmp.Diff(want, got.Policy); err != nil || diff != "" {
				t.Errorf("%+v: %v (-want +got):\n%s", balancer, err, diff)
			}
		}
	}
}

func fullShare(merge.Key) float64 { return 1 }

func TestAViewOfAZoneIsTakenAwayWithItsVerdict(t *testing.T) {
	s := registry.NewService("api")
	s.Endpoints = []registry.Endpoint{{Address: netip.MustParseAddrPort("10.0.0.1:80"), Instance: "api-1", Weight: 1}}
	k := merge.Key{Service: "api", Instance: "api-1"}
	b, p := beliefs{}, placed{}
	kinds := []resource.Kind{resource.Overhear}
	eds := func(at slot) bool { return at.typeURL == resource.TypeEndpoints }

	b.note(merge.Verdict{Key: k, Scope: "a", State: outlier.Ejected}, time.Second)
	got := places(p.replace("api", b.assignments(&s, kinds, fullShare, time.Second), eds))
	if diff := cmp.Diff([]string{"overhear EDS api", "overhear/a EDS api"}, got); diff != "" {
		t.Errorf("with a verdict for zone a (-want +got):\n%s", diff)
	}
	b.note(merge.Verdict{Key: k, Scope: "a", State: outlier.In}, time.Second)
	got = places(p.replace("api", b.assignments(&s, kinds, fullShare, time.Second), eds))
	if diff := cmp.Diff([]string{"-overhear/a EDS api", "overhear EDS api"}, got); diff != "" {
		t.Errorf("without it (-want +got):\n%s", diff)
	}
	got = places(p.replace("api", nil, eds))
	if diff := cmp.Diff([]string{"-overhear EDS api"}, got); diff != "" {
		t.Errorf("when the service is gone (-want +got):\n%s", diff)
	}
	if len(p) != 0 {
		t.Errorf("what is placed after all was taken away: got %v, want nothing", p)
	}
}
