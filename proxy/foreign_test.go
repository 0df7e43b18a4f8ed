package proxy_test

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/proxy/admin"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/xds/resource"
	"github.com/overhear-mesh/overhear/xds/server"
)

// A control plane that knows Envoys and nothing of us sends what it sends to Envoys.
// Its outlier_detection is what endpoints are judged by here, beside our own tests.
func TestASidecarUsesTheOutlierDetectionOfAnotherControlPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t)
		foreign := server.New(server.DefaultConfig(), slog.New(slog.DiscardHandler))
		listener := grpc.NewServer(server.Options()...)
		foreign.Register(listener)
		ln, err := p.net.Host("10.0.0.9").Listen(t.Context(), "tcp", ":15010")
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = listener.Serve(ln) }() // ends with the test
		defer listener.Stop()
		view := resource.View{Kind: resource.Overhear}
		publish := func(detection string) {
			t.Helper()
			c := resource.EncodeCluster(resource.Cluster{Name: "api"}, resource.Envoy)
			c.OutlierDetection = &clusterv3.OutlierDetection{}
			if err := prototext.Unmarshal([]byte(detection), c.OutlierDetection); err != nil {
				t.Fatal(err)
			}
			if err := foreign.SetResources(view, resource.TypeCluster, map[string]proto.Message{"api": c}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			time.Sleep(time.Second)
		}
		endpoint := func(n byte) resource.Endpoint {
			return resource.Endpoint{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, n}), 80), Weight: 1}
		}
		endpoints := resource.Endpoints{Service: "api"}
		for i := range 4 {
			p.backend(i+1, time.Millisecond)
			endpoints.Endpoints = append(endpoints.Endpoints, endpoint(byte(i+1)))
		}
		sick := p.backend(5, time.Millisecond)
		endpoints.Endpoints = append(endpoints.Endpoints, endpoint(5))
		if err := foreign.SetResources(view, resource.TypeEndpoints, map[string]proto.Message{"api": resource.EncodeEndpoints(endpoints, resource.Envoy)}); err != nil {
			t.Fatal(err)
		}
		foreign.Ready()
		publish("consecutive_5xx{value:3} base_ejection_time{seconds:20} max_ejection_time{seconds:40} max_ejection_percent{value:10} interval{seconds:10}")
		p.start("outbound: [{address: \"127.0.0.1:15001\", cluster: api}]\ncontrol_plane: {addresses: [\"10.0.0.9:15010\"], insecure: true}\n")
		time.Sleep(time.Second)

		dump := p.get(15000, "/config_dump").body
		for _, want := range []string{"control_plane_clusters:", "run_any: 3", "hold_base: 20s", "hold_max: 40s", "max_out: 0.1", "always_eject_one: true", "- outlier_detection.interval"} {
			if !strings.Contains(dump, want) {
				t.Errorf("/config_dump has no %q:\n%s", want, dump)
			}
		}

		if err := sick.Set(fakeupstream.Errors(1)); err != nil {
			t.Fatal(err)
		}
		failed := 0
		for range 100 {
			if got := p.get(15001, "/"); got.status >= 500 {
				failed++
			}
			time.Sleep(10 * time.Millisecond)
		}
		var shown admin.Clusters
		if err := json.Unmarshal([]byte(p.get(15000, "/clusters").body), &shown); err != nil {
			t.Fatal(err)
		}
		var ejected *admin.Change
		for _, e := range shown.Clusters[0].Endpoints {
			if e.ID == "10.0.1.5:80" {
				ejected = e.Change
			}
		}
		switch {
		case ejected == nil || ejected.Rule.String() != "run" || ejected.To.String() != "ejected":
			t.Errorf("the endpoint that fails is %+v after %d failures, want ejected by rule run", ejected, failed)
		case failed > 3:
			t.Errorf("%d requests failed, want no more than the run", failed)
		case ejected.Why.Hold < 16*time.Second || ejected.Why.Hold > 24*time.Second:
			t.Errorf("held off for %v, want 20s and a fifth more or less", ejected.Why.Hold)
		}

		publish("base_ejection_time{seconds:30} max_ejection_time{seconds:10}")
		var refusal string
		for _, c := range foreign.Clients() {
			for _, typ := range c.Types {
				if typ.TypeURL == resource.TypeCluster {
					refusal = typ.LastNACK
				}
			}
		}
		if want := "outlier_detection.base_ejection_time: is 30s, more than max_ejection_time, which is 10s"; !strings.Contains(refusal, want) {
			t.Errorf("nonsense is answered with %q, want %q", refusal, want)
		}
		if dump := p.get(15000, "/config_dump").body; !strings.Contains(dump, "run_any: 3") {
			t.Errorf("what was refused has taken the place of what held:\n%s", dump)
		}
		p.end()
	})
}
