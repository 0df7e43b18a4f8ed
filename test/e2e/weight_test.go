package e2e_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/overhear-mesh/overhear/test/envoy"
	"github.com/overhear-mesh/overhear/xds/resource"
)

// share is the part of n requests that reaches a backend.
func (r traffic) share(b *backend, n int) float64 {
	r.t.Helper()
	before := b.n.Load()
	r.send(n)
	return float64(b.n.Load()-before) / float64(n)
}

// gets waits until a backend gets a part of the requests within wide bounds: a client
// has heard of a weight a moment before its workers go by it.
func (r traffic) gets(b *backend, low, high float64) {
	r.t.Helper()
	var got float64
	defer func() { r.t.Logf("of the last requests %.3f reached it", got) }()
	eventually(r.t, fmt.Sprintf("a share of %.2f to %.2f of the requests", low, high), func() bool {
		got = r.share(b, 400)
		return got >= low && got <= high
	})
}

// Of four endpoints one is slow and has an eighth of its weight: 0.04 of the requests
// instead of 0.25.
func TestTheTrafficOfAnEnvoyFollowsTheWeightOfASlowEndpoint(t *testing.T) {
	envoy.Find(t)
	for name, start := range map[string]func(*feed, string) string{
		"its cluster from us, least request": everything,
		"endpoints only, round robin":        endpointsOnly,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, backends := newFeed(t), httpBackends(t, 4)
			f.set(resource.Envoy, resource.Cluster{Name: "api"},
				resource.Listener{Name: "api", Address: netip.MustParseAddrPort("127.0.0.1:0"), Route: "api"},
				resource.Route{Name: "api", Hosts: []resource.VirtualHost{{Name: "api", Domains: []string{"*"}, Cluster: "api", Timeout: patience}}})
			f.publish(backends)
			f.Ready()
			requests := throughEnvoy(t, envoy.Start(t, start(f, "DELTA_GRPC")), "api")
			requests.reaches(backends...)
			requests.gets(backends[2], 0.15, 0.4)
			f.slow(backends, 2, 0.125)
			requests.gets(backends[2], 0.01, 0.1)
			f.slow(backends, 2, 1)
			requests.gets(backends[2], 0.15, 0.4)
		})
	}
}
