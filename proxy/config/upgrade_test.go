package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/proxy/config"
	"github.com/overhear-mesh/overhear/proxy/exchange"
)

func TestListenersSayWhatClientsMayChangeTo(t *testing.T) {
	got, err := config.Decode("sidecar.yaml", []byte(`
outbound:
  - {address: "127.0.0.1:1", cluster: api}
  - {address: "127.0.0.1:2", cluster: api, upgrades: [websocket, spdy/3.1, connect], tunnel_idle_timeout: 0s}
inbound:
  - {address: "127.0.0.1:3", application: "127.0.0.1:4", upgrades: []}
clusters:
  - {name: api, endpoints: [{address: "10.0.0.1:80"}]}
`), none)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name      string
		got, want exchange.Upgrades
	}{
		{"by default", got.Outbound[0].Upgrades, exchange.Upgrades{Protocols: []string{"websocket"}, TunnelIdle: time.Hour}},
		{"a list", got.Outbound[1].Upgrades, exchange.Upgrades{Protocols: []string{"websocket", "spdy/3.1", "connect"}}},
		{"none", got.Inbound[0].Upgrades, exchange.Upgrades{Protocols: []string{}, TunnelIdle: time.Hour}},
	} {
		if diff := cmp.Diff(tt.want, tt.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestAnUpgradeThatWouldHideRequestsIsRefused(t *testing.T) {
	_, err := config.Decode("sidecar.yaml", []byte(`
outbound:
  - {address: "127.0.0.1:1", cluster: api, upgrades: [h2c], tunnel_idle_timeout: 1ms}
  - {address: "127.0.0.1:2", cluster: api, upgrades: [WebSocket, "a b"]}
inbound:
  - {address: "127.0.0.1:3", application: "127.0.0.1:4", upgrades: ["web socket"]}
clusters:
  - {name: api, endpoints: [{address: "10.0.0.1:80"}]}
`), none)
	if err == nil {
		t.Fatal("got no error")
	}
	want := []string{
		`sidecar.yaml:3:44: outbound[0].upgrades: "h2c" would carry requests past this sidecar; HTTP/2 needs no upgrade here`,
		`sidecar.yaml:3:61: outbound[0].tunnel_idle_timeout: 1ms: want 0s (never) or at least 1s`,
		`sidecar.yaml:4:44: outbound[1].upgrades: "WebSocket": want it in lower case`,
		`sidecar.yaml:4:44: outbound[1].upgrades: "a b": want names of protocols, such as websocket, or connect`,
		`sidecar.yaml:6:58: inbound[0].upgrades: "web socket": want names of protocols, such as websocket, or connect`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("problems differ (-want +got):\n%s", diff)
	}
}
