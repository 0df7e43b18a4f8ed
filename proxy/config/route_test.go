package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/proxy/config"
	"github.com/overhear-mesh/overhear/proxy/router"
)

func TestAFaultOfARouteHitsEveryRequestUnlessItSaysWhichShare(t *testing.T) {
	c, err := config.Decode("sidecar.yaml", []byte(`
outbound:
  - address: 127.0.0.1:15001
    routes:
      - {cluster: api, fault: {delay: {duration: 2s}, abort: {grpc_status: 14, share: 10%}}, retry: {hedge_on_overdue: false}}
clusters: [{name: api}]
`), none)
	if err != nil {
		t.Fatal(err)
	}
	rule := c.Outbound[0].Routes[0]
	want := &router.Fault{
		Delay: &router.Delay{Duration: 2 * time.Second, Share: 1},
		Abort: &router.Abort{Status: 503, GRPCStatus: 14, Share: 0.1},
	}
	if diff := cmp.Diff(want, rule.Fault); diff != "" {
		t.Errorf("fault differs (-want +got):\n%s", diff)
	}
	if rule.Retry.HedgeOnOverdue {
		t.Error("hedges, want none")
	}
}

func TestWhatIsWrongWithARouteIsSaidWhenItIsLoaded(t *testing.T) {
	_, err := config.Decode("sidecar.yaml", []byte(`
outbound:
  - address: 127.0.0.1:15001
    routes:
      - {prefix: /old, redirect: {prefix: /old/new}}
  - address: 127.0.0.1:15002
    routes:
      - {prefix: /a, respond: {status: 200}, timeout: 3s, rewrite: {host: b}}
      - {cluster: api, rate_limit: {rate: 0.0000001}}
      - {cluster: api, mirror: {cluster: apj}}
clusters: [{name: api}]
`), none)
	if err == nil {
		t.Fatal("got no error")
	}
	want := []string{
		`sidecar.yaml:5:24: outbound[0].routes[0].redirect: leads a client that asks for /old to redirects without an end: want another scheme, host, path or prefix, or a rule for it before this one`,
		`sidecar.yaml:8:46: outbound[1].routes[0].timeout: without effect: the rule asks no cluster`,
		`sidecar.yaml:8:59: outbound[1].routes[0].rewrite: without effect: the rule asks no cluster`,
		`sidecar.yaml:9:37: outbound[1].routes[1].rate_limit.rate: is 1e-07: want 0.001 to 1000000 a second`,
		`sidecar.yaml:10:33: outbound[1].routes[2].mirror.cluster: no cluster "apj" here, and no control plane to bring one: did you mean "api"?`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("problems differ (-want +got):\n%s", diff)
	}
}
