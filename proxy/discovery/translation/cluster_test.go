package translation_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/balancer"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/discovery/translation"
	"github.com/overhear-mesh/overhear/proxy/ping"
	"github.com/overhear-mesh/overhear/xds/resource"
)

func api(name string) resource.Cluster {
	return resource.Cluster{Name: name, Service: name + ".eds", Policy: resource.DefaultPolicy()}
}

// read is the policy of a cluster as our own control plane tells of it.
func read(c resource.Cluster) (cluster.Config, error) {
	got, err := translation.Cluster(resource.EncodeCluster(c, resource.Overhear))
	return got.Config, err
}

func TestAClusterOfHTTP2OrGRPCSpeaksHTTP2(t *testing.T) {
	for _, protocol := range []resource.Protocol{resource.HTTP2, resource.GRPCWire} {
		c := api("api")
		c.Policy.Protocol = protocol
		if got, err := read(c); err != nil || got.Protocol != cluster.HTTP2 {
			t.Errorf("%s: got %v, %v; want http2", protocol, got.Protocol, err)
		}
	}
}

func TestAPolicyReachesItsCluster(t *testing.T) {
	c := api("api")
	c.Policy.Protocol = resource.TCP
	c.Policy.Ping = resource.Ping{Kind: resource.PingGRPC, Path: "/up", Host: "up.internal", Service: "greeter"}
	c.Policy.Balancer = resource.Balancer{Policy: resource.RingHash, BoundedLoad: 1.25}
	c.Policy.Outlier.MaxOut = 0.3
	got, err := read(c)
	if err != nil {
		t.Fatal(err)
	}
	want := cluster.DefaultConfig()
	want.Name, want.Service, want.Protocol = "api", "api.eds", cluster.TCP
	want.Ping.Kind, want.Ping.Path, want.Ping.Host, want.Ping.Service = ping.GRPC, "/up", "up.internal", "greeter"
	want.Balancer.Policy, want.Balancer.BoundedLoad = balancer.RingHash, 1.25
	want.Outlier.MaxOut = 0.3
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

func TestARuleOfOurOwnControlPlaneHasTheSameNameInTheFile(t *testing.T) {
	for _, rule := range []resource.Balancing{resource.P2C, resource.LeastRequest, resource.RoundRobin, resource.Random, resource.RingHash, resource.Maglev} {
		c := api("api")
		c.Policy.Balancer.Policy = rule
		if got, err := read(c); err != nil || got.Balancer.Policy.String() != string(rule) {
			t.Errorf("%s: got %v, %v", rule, got.Balancer.Policy, err)
		}
	}
	c := api("api")
	c.Policy.Balancer.BoundedLoad = 1.25
	if _, err := read(c); err == nil || !strings.Contains(err.Error(), "bounded_load: goes with ring_hash and maglev only") {
		t.Errorf("a bound without hashing: got %v, want it refused by name", err)
	}
}

func TestAnEndpointIsTakenOverWhole(t *testing.T) {
	verdict := outlier.Verdict{State: outlier.Ejected, Epoch: 3, Rule: outlier.RuleHard, Reason: "3 witnesses"}
	got := translation.Specs(resource.Endpoints{Service: "api", Endpoints: []resource.Endpoint{{
		Instance: "api-1", Address: netip.MustParseAddrPort("10.0.0.1:80"), Region: "eu", Zone: "a", Node: "n1",
		Priority: 2, Weight: 5, Inbound: true, Draining: true, Labels: map[string]string{"version": "v2"}, Verdict: verdict,
	}, {Address: netip.MustParseAddrPort("[::1]:80")}}})
	want := []cluster.Spec{{
		ID: "api-1", Address: "10.0.0.1:80", Zone: "a", Node: "n1", Priority: 2, Weight: 5,
		Inbound: true, Draining: true, Labels: map[string]string{"version": "v2"}, Verdict: verdict,
	}, {ID: "[::1]:80", Address: "[::1]:80"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("specs (-want +got):\n%s", diff)
	}
}
