package registry_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/registry"
)

const full = `
services:
  - name: api
    protocol: http1
    connect_timeout: 250ms
    listen: 127.0.0.1:10000
    hosts: [api, api.internal]
    envoy_weights: false
    ping: {kind: http, path: /healthz, host: api.internal}
    balancer: {policy: maglev, bounded_load: 1.25}
    hash: [{header: x-user}, {source: true}]
    detection:
      leave_out: 2
    endpoints:
      - address: 10.0.0.1:8080
        instance: api-1
        region: r1
        zone: a
        node: n1
        sidecar: api-1-sidecar
        weight: 3
        inbound: true
        labels: {version: v2}
      - {address: "10.0.0.2:8080", draining: true, priority: 1}
      - {address: "[fd00::1]:8080"}
  - name: cache
    protocol: tcp
detection:
  h_slow: 25
  outlier: {max_out: 30%}
`

func TestAFullMeshFile(t *testing.T) {
	got, err := decode("mesh.yaml", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	base := merge.DefaultPolicy()
	base.HSlow = 25
	base.Outlier.MaxOut = 0.3
	api := base
	api.LeaveOut = 2
	want := &registry.Mesh{
		Detection: &base,
		Services: []registry.Service{{
			Name: "api", Protocol: registry.HTTP1, ConnectTimeout: 250 * time.Millisecond,
			Listen: netip.MustParseAddrPort("127.0.0.1:10000"), Hosts: []string{"api", "api.internal"},
			Ping:     registry.Ping{Kind: merge.PingHTTP, Path: "/healthz", Host: "api.internal"},
			Balancer: registry.Balancer{Policy: registry.Maglev, BoundedLoad: 1.25}, EnvoyWeights: new(false),
			Hash:      []registry.Hash{{Header: "x-user"}, {Source: true}},
			Detection: api,
			Endpoints: []registry.Endpoint{
				{Address: netip.MustParseAddrPort("10.0.0.1:8080"), Instance: "api-1", Region: "r1", Zone: "a", Node: "n1",
					Sidecar: "api-1-sidecar", Weight: 3, Inbound: true, Labels: map[string]string{"version": "v2"}},
				{Address: netip.MustParseAddrPort("10.0.0.2:8080"), Weight: 1, Priority: 1, Draining: true},
				{Address: netip.MustParseAddrPort("[fd00::1]:8080"), Weight: 1},
			},
		}, {
			Name: "cache", Protocol: registry.TCP, ConnectTimeout: time.Second,
			Ping: registry.Ping{Kind: merge.PingTCP, Path: "/"}, Balancer: registry.Balancer{Policy: registry.P2C}, Detection: base,
		}},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("mesh differs (-want +got):\n%s", diff)
	}
	if got, want := got.Services[0].Policy().Ping, merge.PingHTTP; got != want {
		t.Errorf("ping kind of the policy: got %q, want the service's own %q", got, want)
	}
	if got, want := got.Services[0].Endpoints[0].ID(), "api-1"; got != want {
		t.Errorf("identity: got %q, want the instance %q", got, want)
	}
	if got, want := got.Services[0].Endpoints[1].ID(), "10.0.0.2:8080"; got != want {
		t.Errorf("identity without an instance: got %q, want the address %q", got, want)
	}
}

// The example in the package's documentation must be one that works.
func TestTheDocumentedFileIsValid(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	var example strings.Builder
	for line := range strings.Lines(string(doc)) {
		if text, ok := strings.CutPrefix(line, "//\t"); ok {
			example.WriteString(text)
		}
	}
	m, err := decode("doc.go", []byte(example.String()))
	if err != nil || len(m.Services) != 1 || len(m.Services[0].Endpoints) != 2 {
		t.Errorf("got %+v, %v; want one service with two endpoints", m, err)
	}
}

func TestEveryMistakeInAMeshFileIsNamedWithItsPlace(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     []string
	}{
		{"unknown and mistyped fields", `
services:
  - namme: api
    endpoints:
      - address: localhost:80
        wieght: 3
      - {address: "10.0.0.1:80", weight: -1}
`, []string{
			`m:3:5: services[0].namme: unknown field: did you mean "name"?`,
			`m:5:18: services[0].endpoints[0].address: "localhost:80" is no IP address with a port, such as 10.0.0.1:8080`,
			`m:6:9: services[0].endpoints[0].wieght: unknown field: did you mean "weight"?`,
			`m:7:42: services[0].endpoints[1].weight: "-1" is no whole number from 0 to 4294967295`,
		}},
		{"what a service cannot be", `
services:
  - name: my api
    protocol: htpt1
    connect_timeout: 0s
    hosts: ["a b"]
    ping: {kind: udp, path: healthz, host: "a b"}
  - protocol: grpc
    ping: {kind: grpc}
  - {name: greet, ping: {kind: grpc, service: "a b"}}
  - {name: bytes, protocol: tcp, ping: {kind: http}}
  - {name: streams, protocol: http2, ping: {kind: http}}
`, []string{
			`m:3:5: services[0].name: "my api" has blanks or control characters`,
			`m:4:5: services[0].protocol: "htpt1" is no protocol: want http1, http2, grpc or tcp`,
			`m:5:5: services[0].connect_timeout: 0s is not between 1ms and 1m`,
			`m:6:13: services[0].hosts[0]: "a b" has blanks or control characters`,
			`m:7:12: services[0].ping.kind: "udp" is no kind of ping: want off, tcp, http or grpc`,
			`m:7:23: services[0].ping.path: "healthz" is no path: want one that begins with / and has no blanks`,
			`m:7:38: services[0].ping.host: "a b" has blanks`,
			`m:8:5: services[1].name: is missing`,
			`m:10:26: services[2].ping.kind: grpc pings do not go with protocol http1`,
			`m:10:38: services[2].ping.service: "a b" has blanks`,
			`m:11:41: services[3].ping.kind: http pings need protocol http1`,
			`m:12:45: services[4].ping.kind: http pings need protocol http1`,
		}},
		{"what a balancer cannot be", `
services:
  - {name: a, balancer: {policy: round_robbin}}
  - {name: b, balancer: {policy: fastest, prefer_zone: true}}
  - {name: c, balancer: {bounded_load: 1.25}}
  - name: d
    balancer:
      policy: ring_hash
      bounded_load: 50%
  - {name: e, balancer: round_robin}
  - {name: f, hash: [{header: x-user}]}
  - {name: g, balancer: {policy: maglev}, hash: [{header: x-user, source: true}, {}, {cookie: "a b"}]}
  - {name: h, protocol: tcp, balancer: {policy: maglev}, hash: [{source: true}]}
  - {name: i, balancer: {policy: maglev}, hash: [{heeder: x}]}
`, []string{
			`m:3:26: services[0].balancer.policy: "round_robbin" is no policy: did you mean "round_robin"?`,
			`m:4:26: services[1].balancer.policy: "fastest" is no policy: want one of p2c, least_request, round_robin, random, ring_hash, maglev`,
			`m:4:43: services[1].balancer.prefer_zone: unknown field: known here are bounded_load, policy`,
			`m:5:26: services[2].balancer.bounded_load: goes with ring_hash and maglev only, not with p2c`,
			`m:9:7: services[3].balancer.bounded_load: is 0.5: want 1 to 10, or 0 for none`,
			`m:10:25: services[4].balancer: "round_robin" is a single value: want mapping`,
			`m:11:15: services[5].hash: goes with a balancer of ring_hash or maglev only`,
			`m:12:50: services[6].hash[0]: want one of header, cookie, query and source`,
			`m:12:82: services[6].hash[1]: want one of header, cookie, query and source`,
			`m:12:86: services[6].hash[2]: "a b" has blanks or control characters`,
			`m:13:58: services[7].hash: does not go with protocol tcp, which has no routes`,
			`m:14:51: services[8].hash[0].heeder: unknown field: did you mean "header"?`,
		}},
		{"endpoints that clash", `
services:
  - name: api
    endpoints:
      - {address: "10.0.0.1:80", instance: x}
      - {address: "10.0.0.1:80", instance: y}
      - {address: "10.0.0.2:80", instance: x}
      - {instance: z}
      - {address: "0.0.0.0:80"}
      - {address: "10.0.0.3:0", weight: 0}
      - {address: "10.0.0.4:80", priority: 2, zone: "a\tb"}
      - {address: "10.0.0.5:80", weight: 1001}
`, []string{
			`m:6:10: services[0].endpoints[1].address: 10.0.0.1:80 is the address of endpoints[0] already`,
			`m:7:34: services[0].endpoints[2].instance: "x" is the instance of endpoints[0] already`,
			`m:8:9: services[0].endpoints[3].address: is missing: want an IP address and a port, such as 10.0.0.1:8080`,
			`m:9:10: services[0].endpoints[4].address: 0.0.0.0:80 is nothing that can be dialled`,
			`m:10:10: services[0].endpoints[5].address: 10.0.0.3:0 is nothing that can be dialled`,
			`m:10:33: services[0].endpoints[5].weight: 0 is not between 1 and 1000: to take an endpoint out of use, set draining`,
			`m:11:34: services[0].endpoints[6].priority: is 2, and no endpoint has 1: want priorities without a gap`,
			`m:11:47: services[0].endpoints[6].zone: "a\tb" has blanks or control characters`,
			`m:12:34: services[0].endpoints[7].weight: 1001 is not between 1 and 1000: to take an endpoint out of use, set draining`,
		}},
		{"services that clash", `
services:
  - {name: api, listen: "127.0.0.1:1"}
  - {name: api, listen: "127.0.0.1:1"}
`, []string{
			`m:4:6: services[1].name: "api" names services[0] already`,
			`m:4:17: services[1].listen: 127.0.0.1:1 is where services[0] listens already`,
		}},
		{"names that a gRPC client could not tell apart", `
services:
  - {name: api, hosts: [api, api.internal]}
  - {name: cache, hosts: [api.internal, api]}
`, []string{
			`m:4:27: services[1].hosts[0]: "api.internal" names services[0] already`,
			`m:4:41: services[1].hosts[1]: "api" names services[0] already`,
		}},
		{"nothing", "", []string{"m: services: are missing: want a list, which may be empty"}},
		{"a policy out of bounds", `
detection: {leave_out: 9}
services:
  - name: api
    detection: {outlier: {max_out: 200%}, storm: 2}
`, []string{
			`m:2:13: detection.leave_out: is 9, want 0 to 5`,
			`m:5:5: services[0].detection.leave_out: is 9, want 0 to 5`, // inherited
			`m:5:27: services[0].detection.outlier.max_out: is 2, want 0 to 1`,
			`m:5:43: services[0].detection.storm: is 2, want 0 to 1`,
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := decode("m", []byte(tc.in))
			if err == nil {
				t.Fatal("got no error")
			}
			if diff := cmp.Diff(tc.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("problems differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEnvoysThatHashAreToldNoWeightsUnlessTheFileAsks(t *testing.T) {
	for policy, want := range map[registry.BalancerPolicy]bool{
		registry.P2C: true, registry.LeastRequest: true, registry.RoundRobin: true, registry.Random: true, registry.RingHash: false, registry.Maglev: false,
	} {
		s := registry.NewService("api")
		s.Balancer.Policy = policy
		if got := s.WeighsEnvoys(); got != want {
			t.Errorf("%s: Envoys are told weights: %t, want %t", policy, got, want)
		}
		if s.EnvoyWeights = new(!want); s.WeighsEnvoys() == want {
			t.Errorf("%s: what the file says of weights makes no difference", policy)
		}
	}
}

func TestTheKindOfPingHasOnePlace(t *testing.T) {
	_, err := decode("m", []byte("services: [{name: api, detection: {ping: tcp}}]"))
	if want := "m:1:36: services[0].detection.ping: unknown field"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func FuzzAMeshThatIsAcceptedCanBePublished(f *testing.F) {
	f.Add(full)
	f.Add("services: [{name: a, endpoints: [{address: '1.2.3.4:5', weight: 7}]}]")
	f.Add("detection: {}\nservices: []\n")
	f.Add("services:\n  - name: a\n    hosts: [b]\n    listen: 1.2.3.4:5\n")
	f.Fuzz(func(t *testing.T, in string) {
		m, err := decode("m", []byte(in))
		if err != nil {
			return
		}
		// What gRPC refuses, and what identity means, must not depend on the file.
		for _, s := range m.Services {
			ids := map[string]bool{}
			for _, e := range s.Endpoints {
				if ids[e.ID()] {
					t.Errorf("%s: two endpoints with the identity %s", s.Name, e.ID())
				}
				ids[e.ID()] = true
				if e.Weight == 0 || !e.Address.IsValid() {
					t.Errorf("%s: endpoint %+v cannot be published", s.Name, e)
				}
			}
		}
	})
}

// decode decodes a file that holds nothing but a mesh.
func decode(name string, data []byte) (*registry.Mesh, error) {
	m := new(registry.Mesh)
	return m, registry.DecodeInto(name, data, m)
}
