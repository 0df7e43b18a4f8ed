package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/config"
)

func TestProtocolsAreReadByTheNamesThatPeopleUse(t *testing.T) {
	for name, want := range map[string]config.Protocol{
		"http1": config.HTTP1, "http": config.HTTP1, "http2": config.HTTP2, "h2c": config.HTTP2, "grpc": config.HTTP2, "auto": config.Auto, "tcp": config.TCP,
	} {
		var got config.Protocol
		if err := got.UnmarshalText([]byte(name)); err != nil || got != want {
			t.Errorf("%s: got %v, %v; want %v", name, got, err, want)
		}
	}
}

func TestAFileThatSpeaksHTTP2(t *testing.T) {
	got, err := config.Decode("sidecar.yaml", []byte(`
http2: {max_streams: 500, stream_window: 1MiB}
outbound:
  - {address: "127.0.0.1:1", protocol: auto, cluster: api}
inbound:
  - {address: "127.0.0.1:2", protocol: grpc, application: "127.0.0.1:3", application_protocol: http1}
  - {address: "127.0.0.1:4", protocol: auto, detect_timeout: 1s, application: "127.0.0.1:5"}
clusters:
  - {name: api, protocol: http2, endpoints: [{address: "10.0.0.1:80"}]}
`), none)
	if err != nil {
		t.Fatal(err)
	}
	if got.HTTP2.MaxStreams != 500 || got.HTTP2.StreamWindow != 1<<20 || got.HTTP2.MaxFields != 100 {
		t.Errorf("http2: got %+v", got.HTTP2)
	}
	if o := got.Outbound[0]; o.Protocol != config.Auto || o.DetectTimeout != 3*time.Second {
		t.Errorf("outbound: got %v, %v", o.Protocol, o.DetectTimeout)
	}
	if in := got.Inbound[1]; in.Protocol != config.Auto || in.DetectTimeout != time.Second {
		t.Errorf("inbound: got %v, %v", in.Protocol, in.DetectTimeout)
	}
	if in := got.Inbound[0]; in.Protocol != config.HTTP2 || in.DetectTimeout != 3*time.Second || in.ApplicationProtocol != config.OnlyHTTP1 {
		t.Errorf("inbound: got %v, %v, %v", in.Protocol, in.DetectTimeout, in.ApplicationProtocol)
	}
	if got.Clusters[0].Protocol != cluster.HTTP2 {
		t.Errorf("cluster: got %v", got.Clusters[0].Protocol)
	}
}

func TestWhatIsWrongAboutProtocolsIsSaid(t *testing.T) {
	_, err := config.Decode("sidecar.yaml", []byte(`
http2: {max_streams: 0, stream_window: 1KiB}
outbound:
  - {address: "127.0.0.1:1", protocol: auto, detect_timeout: 1ms, cluster: api}
inbound:
  - {address: "127.0.0.1:2", protocol: tcp, application: "127.0.0.1:3", application_protocol: http2}
clusters:
  - {name: api, protocol: http2, ping: {kind: http}, endpoints: [{address: "10.0.0.1:80"}]}
`), none)
	if err == nil {
		t.Fatal("got no error")
	}
	want := []string{
		"sidecar.yaml:2:9: http2.max_streams: 0: want 1 to 10000",
		"sidecar.yaml:2:25: http2.stream_window: 1024 bytes: want 16KiB to 16MiB",
		"sidecar.yaml:4:46: outbound[0].detect_timeout: is 1ms: want 10ms to 1m",
		`sidecar.yaml:6:73: inbound[0].application_protocol: is http2: tcp carries whatever comes unread`,
		`sidecar.yaml:8:34: clusters[0].ping: an http ping needs protocol http1`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("problems differ (-want +got):\n%s", diff)
	}
}
