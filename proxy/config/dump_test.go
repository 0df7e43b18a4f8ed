package config_test

import (
	"strings"
	"testing"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/config"
)

func TestADumpNamesTheProtocolAsFilesDo(t *testing.T) {
	for protocol, want := range map[config.Protocol]string{config.HTTP1: "protocol: http1", config.TCP: "protocol: tcp", config.HTTP2: "protocol: http2", config.Auto: "protocol: auto"} {
		got, err := strictyaml.Encode(config.Outbound{Protocol: protocol})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(got), want) {
			t.Errorf("got\n%swant %q in it", got, want)
		}
	}
}
