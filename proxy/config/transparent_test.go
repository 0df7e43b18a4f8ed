package config_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/overhear-mesh/overhear/proxy/config"
)

func TestWrongRedirectionNamesTheField(t *testing.T) {
	const clusters = "\nclusters: [{name: db, endpoints: [{address: \"10.0.0.1:5432\"}]}]\n"
	for _, tt := range []struct{ name, outbound, want string }{
		{"right", `{address: "127.0.0.1:1", protocol: tcp, transparent: true, destinations: [{network: 10.96.0.1, port: 5432, cluster: db}]}`, ""},
		{"nothing but transparent", `{address: "127.0.0.1:1", transparent: true, unknown_destinations: close}`, ""},
		{"no network", `{address: "127.0.0.1:1", transparent: true, destinations: [{network: db.local, cluster: db}]}`, `destinations[0].network: is "db.local"`},
		{"no cluster", `{address: "127.0.0.1:1", transparent: true, destinations: [{network: 10.0.0.1}]}`, `destinations[0].cluster: is empty`},
		{"a cluster that is not there", `{address: "127.0.0.1:1", transparent: true, destinations: [{network: 10.0.0.1, cluster: bd}]}`, `destinations[0].cluster: no cluster "bd" here`},
		{"not transparent", `{address: "127.0.0.1:1", cluster: db, destinations: [{network: 10.0.0.1, cluster: db}]}`, `destinations: are for transparent listeners`},
		{"not transparent, and unknown ones", `{address: "127.0.0.1:1", cluster: db, unknown_destinations: close}`, `unknown_destinations: is for transparent listeners`},
		{"no such choice", `{address: "127.0.0.1:1", transparent: true, unknown_destinations: drop}`, `unknown_destinations`},
		{"behind a load balancer", `{address: "127.0.0.1:1", transparent: true, proxy_protocol: true}`, `proxy_protocol: does not go with transparent`},
		{"impatient", `{address: "127.0.0.1:1", transparent: true, detect_timeout: 1ms}`, `detect_timeout`},
		{"neither", `{address: "127.0.0.1:1"}`, `nowhere to send requests`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.Decode("sidecar.yaml", []byte("outbound: ["+tt.outbound+"]"+clusters), func(string) (string, bool) { return "", false })
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v, want no error", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestADestinationHoldsItsNetworkAndPort(t *testing.T) {
	for _, tt := range []struct {
		network string
		port    uint16
		to      string
		want    bool
	}{
		{"10.96.0.0/16", 80, "10.96.200.1:80", true},
		{"10.96.0.0/16", 80, "10.96.200.1:81", false},
		{"10.96.5.1/16", 0, "10.96.200.1:81", true}, // what is behind the prefix does not matter
		{"10.96.0.0/16", 0, "10.97.0.1:80", false},
		{"10.0.0.1", 0, "10.0.0.1:80", true},
		{"10.0.0.1", 0, "10.0.0.2:80", false},
		{"::ffff:10.0.0.1", 0, "10.0.0.1:80", true},
		{"fd00::/64", 443, "[fd00::1]:443", true},
		{"fd00::/64", 443, "10.0.0.1:443", false},
	} {
		d := config.Destination{Network: tt.network, Port: tt.port, Cluster: "x"}
		if got := d.Holds()(netip.MustParseAddrPort(tt.to)); got != tt.want {
			t.Errorf("%s port %d holds %s: got %t, want %t", tt.network, tt.port, tt.to, got, tt.want)
		}
	}
}
