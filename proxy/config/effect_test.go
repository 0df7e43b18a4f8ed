package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/proxy/config"
)

func TestWhatIsSetInVainIsRefused(t *testing.T) {
	_, err := config.Decode("sidecar.yaml", []byte(`
outbound:
  - {address: "127.0.0.1:1", protocol: tcp, cluster: db, upgrades: [connect], tunnel_idle_timeout: 1m, paths: {merge_slashes: true}, trusted_hops: 1, max_connection_duration: 1h, max_requests_per_connection: 9}
  - {address: "127.0.0.1:2", protocol: http1, cluster: db, detect_timeout: 1s}
  - {address: "127.0.0.1:3", protocol: http1, cluster: db, detect_timeout: 1s, transparent: true}
  - {address: "127.0.0.1:4", protocol: auto, cluster: db, detect_timeout: 1s, upgrades: [], trusted_hops: 99, max_connection_duration: 1ms, max_requests_per_connection: -1}
inbound:
  - {address: "127.0.0.1:5", protocol: tcp, application: "127.0.0.1:6", upgrades: [], detect_timeout: 1s}
clusters:
  - {name: db, protocol: tcp, ping: {service: db, path: /health}, endpoints: [{address: "10.0.0.1:80"}]}
  - {name: api, ping: {kind: http, service: api, path: /health}, endpoints: [{address: "10.0.0.1:80"}]}
  - {name: mail, protocol: tcp, max_connection_duration: 1h, max_requests_per_connection: 1, endpoints: [{address: "10.0.0.1:80"}]}
  - {name: web, ping: {path: /health}, endpoints: [{address: "10.0.0.1:80"}]}
`), none)
	if err == nil {
		t.Fatal("got no error")
	}
	want := []string{
		"sidecar.yaml:3:58: outbound[0].upgrades: without effect: tcp carries whatever comes unread",
		"sidecar.yaml:3:79: outbound[0].tunnel_idle_timeout: without effect: tcp carries whatever comes unread; see tcp.idle_timeout",
		"sidecar.yaml:3:104: outbound[0].paths: without effect: tcp carries whatever comes unread",
		"sidecar.yaml:3:134: outbound[0].trusted_hops: without effect: tcp carries whatever comes unread; see proxy_protocol",
		"sidecar.yaml:3:151: outbound[0].max_connection_duration: without effect: tcp carries whatever comes unread",
		"sidecar.yaml:3:180: outbound[0].max_requests_per_connection: without effect: tcp carries whatever comes unread",
		"sidecar.yaml:4:60: outbound[1].detect_timeout: without effect: only with protocol auto the first bytes are waited for",
		"sidecar.yaml:6:93: outbound[3].trusted_hops: is 99: want 0 to 32",
		"sidecar.yaml:6:111: outbound[3].max_connection_duration: is 1ms: want 1s to 720h, or 0 for no limit",
		"sidecar.yaml:6:141: outbound[3].max_requests_per_connection: is -1: want 0 (no limit) to 1073741824",
		"sidecar.yaml:8:73: inbound[0].upgrades: without effect: tcp carries whatever comes unread",
		"sidecar.yaml:8:87: inbound[0].detect_timeout: without effect: only with protocol auto the first bytes are waited for",
		`sidecar.yaml:10:38: clusters[0].ping.service: without effect: want kind grpc`,
		`sidecar.yaml:10:51: clusters[0].ping.path: without effect: endpoints of protocol tcp are asked for none`,
		`sidecar.yaml:11:36: clusters[1].ping.service: without effect: want kind grpc`,
		"sidecar.yaml:12:33: clusters[2].max_connection_duration: without effect: tcp carries whatever comes unread",
		"sidecar.yaml:12:62: clusters[2].max_requests_per_connection: without effect: tcp carries whatever comes unread",
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("problems differ (-want +got):\n%s", diff)
	}
}
