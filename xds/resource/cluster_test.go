package resource_test

import (
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/xds/policypb"
	"github.com/overhear-mesh/overhear/xds/resource"
)

// odd is a policy in which no field has its default.
func odd(t testing.TB) resource.Policy {
	t.Helper()
	p := resource.Policy{
		Protocol: resource.TCP,
		Ping:     resource.Ping{Kind: resource.PingHTTP, Path: "/healthz", Host: "api.example", Service: "grpc.Service"},
		Balancer: resource.Balancer{Policy: resource.Maglev, BoundedLoad: 1.25},
		Outlier:  outlier.DefaultConfig(),
	}
	v := reflect.ValueOf(&p.Outlier).Elem()
	for i := range v.NumField() {
		field, name := v.Field(i), v.Type().Field(i).Name
		switch {
		case name == "Timeout": // the sidecar's own
		case field.Kind() == reflect.Float64:
			field.SetFloat(field.Float() * 0.99)
		case field.Type() == reflect.TypeFor[time.Duration]():
			field.SetInt(field.Int() + int64(-time.Millisecond))
			if field.Int() < 0 {
				field.SetInt(int64(time.Second))
			}
		case field.Kind() == reflect.Bool:
			field.SetBool(!field.Bool())
		case field.Kind() == reflect.Int:
			field.SetInt(field.Int() + 1)
		case name == "Mode":
			field.SetString(string(outlier.Shadow))
		case name == "Latency":
			field.SetString(string(outlier.LatencyOff))
		default:
			t.Fatalf("outlier.Config.%s has a kind that this test does not know", name)
		}
	}
	if err := p.Outlier.Validate(); err != nil {
		t.Fatalf("the odd policy is not valid: %v", err)
	}
	return p
}

func TestASidecarGetsTheWholePolicy(t *testing.T) {
	want := resource.Cluster{Name: "api", Service: "api-v2", ConnectTimeout: 250 * time.Millisecond, Policy: odd(t)}
	got, err := resource.DecodeCluster(resource.EncodeCluster(want, resource.Overhear))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after the wire (-want +got):\n%s", diff)
	}
	fields := (&policypb.Outlier{}).ProtoReflect().Descriptor().Fields()
	if v := reflect.TypeFor[outlier.Config](); fields.Len() != v.NumField()-1 { // all but Timeout
		t.Errorf("policy.proto has %d fields for the %d of outlier.Config", fields.Len(), v.NumField()-1)
	}
}

func TestForeignClientsGetNoPolicy(t *testing.T) {
	for _, kind := range []resource.Kind{resource.Envoy, resource.GRPC} {
		m := resource.EncodeCluster(resource.Cluster{Name: "api", Policy: odd(t)}, kind)
		if m.GetMetadata() != nil || m.GetOutlierDetection() != nil {
			t.Errorf("%s gets metadata %v and outlier detection %v, want neither", kind, m.GetMetadata(), m.GetOutlierDetection())
		}
	}
}

func TestAClusterIsWhatItsKindOfClientNeeds(t *testing.T) {
	for _, kind := range []resource.Kind{resource.Overhear, resource.Envoy, resource.GRPC} {
		m := resource.EncodeCluster(resource.Cluster{Name: "api", Service: "svc"}, kind)
		if err := m.ValidateAll(); err != nil {
			t.Errorf("%s: protoc-gen-validate: %v", kind, err)
		}
		if m.GetType() != clusterv3.Cluster_EDS || m.GetEdsClusterConfig().GetEdsConfig().GetAds() == nil || m.GetEdsClusterConfig().GetServiceName() != "svc" {
			t.Errorf("%s: got %v: want EDS over ADS for svc", kind, m)
		}
		if got := m.GetConnectTimeout().AsDuration(); got != resource.DefaultConnectTimeout {
			t.Errorf("%s: connect timeout %v, want %v", kind, got, resource.DefaultConnectTimeout)
		}
	}
	envoy := resource.EncodeCluster(resource.Cluster{Name: "api"}, resource.Envoy)
	lb := envoy.GetCommonLbConfig()
	if lb.GetHealthyPanicThreshold().GetValue() != 1 {
		t.Errorf("panic threshold %v, want 1 %%: only when nothing is left", lb.GetHealthyPanicThreshold())
	}
	if w := lb.GetUpdateMergeWindow(); w == nil || w.AsDuration() != 0 {
		t.Errorf("update_merge_window %v, want an explicit 0", w)
	}
	if !envoy.GetIgnoreHealthOnHostRemoval() {
		t.Error("an Envoy would keep endpoints that left the registry while their health checks pass")
	}
	if p := resource.EncodeCluster(resource.Cluster{Name: "api"}, resource.GRPC).GetLbPolicy(); p != clusterv3.Cluster_ROUND_ROBIN {
		t.Errorf("lb policy for gRPC %s: it refuses most others", p)
	}
	for protocol, http2 := range map[resource.Protocol]bool{resource.HTTP1: false, resource.TCP: false, resource.HTTP2: true, resource.GRPCWire: true} {
		c := resource.Cluster{Name: "api", Policy: resource.Policy{Protocol: protocol}}
		if got := len(resource.EncodeCluster(c, resource.Envoy).GetTypedExtensionProtocolOptions()) == 1; got != http2 {
			t.Errorf("protocol %s: HTTP/2 options %t, want %t", protocol, got, http2)
		}
	}
}

func TestEachKindOfClientBalancesAsNearAsItCan(t *testing.T) {
	for _, tc := range []struct {
		balancer resource.Balancer
		envoy    clusterv3.Cluster_LbPolicy
		factor   uint32
		grpc     bool // is asked for least request
	}{
		{resource.Balancer{}, clusterv3.Cluster_LEAST_REQUEST, 0, false},
		{resource.Balancer{Policy: resource.P2C}, clusterv3.Cluster_LEAST_REQUEST, 0, false},
		{resource.Balancer{Policy: resource.LeastRequest}, clusterv3.Cluster_LEAST_REQUEST, 0, true},
		{resource.Balancer{Policy: resource.RoundRobin}, clusterv3.Cluster_ROUND_ROBIN, 0, false},
		{resource.Balancer{Policy: resource.Random}, clusterv3.Cluster_ROUND_ROBIN, 0, false},
		{resource.Balancer{Policy: resource.RingHash, BoundedLoad: 1.005}, clusterv3.Cluster_RING_HASH, 100, false},
		{resource.Balancer{Policy: resource.Maglev, BoundedLoad: 1.25}, clusterv3.Cluster_MAGLEV, 125, false},
	} {
		c := resource.Cluster{Name: "api", Policy: resource.Policy{Balancer: tc.balancer}}
		envoy := resource.EncodeCluster(c, resource.Envoy)
		if got, want := envoy.GetLbPolicy(), tc.envoy; got != want {
			t.Errorf("%+v: an Envoy gets %s, want %s", tc.balancer, got, want)
		}
		if got, want := envoy.GetCommonLbConfig().GetConsistentHashingLbConfig().GetHashBalanceFactor().GetValue(), tc.factor; got != want {
			t.Errorf("%+v: an Envoy gets hash_balance_factor %d, want %d", tc.balancer, got, want)
		}
		grpc := resource.EncodeCluster(c, resource.GRPC)
		if got := grpc.GetLbPolicy(); got != clusterv3.Cluster_ROUND_ROBIN {
			t.Errorf("%+v: lb_policy for gRPC is %s, which those of before gRFC A52 go by: want ROUND_ROBIN", tc.balancer, got)
		}
		if got, want := grpc.GetLoadBalancingPolicy() != nil, tc.grpc; got != want {
			t.Errorf("%+v: gRPC gets a list of policies: %t, want %t", tc.balancer, got, want)
		}
		for kind, m := range map[resource.Kind]*clusterv3.Cluster{resource.Envoy: envoy, resource.GRPC: grpc} {
			if err := m.ValidateAll(); err != nil {
				t.Errorf("%+v, %s: protoc-gen-validate: %v", tc.balancer, kind, err)
			}
		}
	}
}

func TestAGRPCClientHashesWhereItHasAKey(t *testing.T) {
	c := resource.Cluster{Name: "api", Ring: true, Policy: resource.Policy{Balancer: resource.Balancer{Policy: resource.Maglev}}}
	if got := resource.EncodeCluster(c, resource.GRPC).GetLbPolicy(); got != clusterv3.Cluster_RING_HASH {
		t.Errorf("gRPC gets %s, want RING_HASH, the only one that it has", got)
	}
	r := resource.Route{Name: "r", Hosts: []resource.VirtualHost{{Name: "h", Domains: []string{"*"}, Cluster: "c",
		Hash: []resource.Hash{{Header: "x-user"}, {Cookie: "session"}, {Query: "id"}, {Source: true}}}}}
	for _, kind := range []resource.Kind{resource.Envoy, resource.GRPC} {
		m := resource.EncodeRoute(r, kind)
		if err := m.ValidateAll(); err != nil {
			t.Errorf("%s: protoc-gen-validate: %v", kind, err)
		}
		for _, route := range m.GetVirtualHosts()[0].GetRoutes() {
			by := route.GetRoute().GetHashPolicy()
			if len(by) != 4 || by[0].GetHeader().GetHeaderName() != "x-user" || by[1].GetCookie().GetName() != "session" ||
				by[2].GetQueryParameter().GetName() != "id" || !by[3].GetConnectionProperties().GetSourceIp() {
				t.Errorf("%s: hash policies %v: want header, cookie, parameter, source", kind, by)
			}
		}
	}
}

// What a newer control plane tells a sidecar of today, and so what the one of today
// tells older ones: fields that they do not know are not there.
func TestAFieldThatTheSidecarDoesNotKnowIsNotThere(t *testing.T) {
	m := &policypb.Policy{Protocol: new("tcp")}
	m.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 1))
	c, err := resource.DecodeCluster(withPolicy(m))
	if err != nil || c.Policy.Protocol != resource.TCP {
		t.Errorf("got %+v, %v; want protocol tcp", c.Policy, err)
	}
}

func withPolicy(m proto.Message) *clusterv3.Cluster {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	c := resource.EncodeCluster(resource.Cluster{Name: "api"}, resource.Envoy)
	c.Metadata = &corev3.Metadata{TypedFilterMetadata: map[string]*anypb.Any{resource.MetadataKey: a}}
	return c
}

func TestAFieldThatTheControlPlaneDoesNotKnowHasItsDefault(t *testing.T) {
	c, err := resource.DecodeCluster(withPolicy(&policypb.Policy{Outlier: &policypb.Outlier{MaxOut: new(0.25)}}))
	if err != nil {
		t.Fatal(err)
	}
	want := resource.DefaultPolicy()
	want.Outlier.MaxOut = 0.25
	if diff := cmp.Diff(want, c.Policy); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
	foreign, err := resource.DecodeCluster(resource.EncodeCluster(resource.Cluster{Name: "api"}, resource.Envoy))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(resource.DefaultPolicy(), foreign.Policy); diff != "" {
		t.Errorf("policy of a foreign cluster (-want +got):\n%s", diff)
	}
}

func TestWhatIsWrongWithAClusterIsNamed(t *testing.T) {
	edit := func(f func(*clusterv3.Cluster)) *clusterv3.Cluster {
		c := resource.EncodeCluster(resource.Cluster{Name: "api"}, resource.Envoy)
		f(c)
		return c
	}
	for name, tc := range map[string]struct {
		m     *clusterv3.Cluster
		field string
	}{
		"no name": {edit(func(c *clusterv3.Cluster) { c.Name = "" }), "name"},
		"static": {edit(func(c *clusterv3.Cluster) {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		}), "type"},
		"no type":         {edit(func(c *clusterv3.Cluster) { c.ClusterDiscoveryType = nil }), "type"},
		"EDS from a file": {edit(func(c *clusterv3.Cluster) { c.EdsClusterConfig.EdsConfig = &corev3.ConfigSource{} }), "eds_cluster_config.eds_config"},
		"no time":         {edit(func(c *clusterv3.Cluster) { c.ConnectTimeout = durationpb.New(0) }), "connect_timeout"},
		"no duration":     {edit(func(c *clusterv3.Cluster) { c.ConnectTimeout = &durationpb.Duration{Nanos: math.MaxInt32} }), "connect_timeout"},
		"another message": {withPolicy(&structpb.Struct{}), "metadata.overhear"},
		"protocol":        {withPolicy(&policypb.Policy{Protocol: new("gopher")}), "metadata.overhear.protocol"},
		"ping":            {withPolicy(&policypb.Policy{Ping: &policypb.Ping{Kind: new("icmp")}}), "metadata.overhear.ping.kind"},
		"balancer":        {withPolicy(&policypb.Policy{Balancer: &policypb.Balancer{Policy: new("fastest")}}), "metadata.overhear.balancer.policy"},
		"share":           {withPolicy(&policypb.Policy{Outlier: &policypb.Outlier{MaxOut: new(1.5)}}), "metadata.overhear.outlier.max_out"},
		"not a number":    {withPolicy(&policypb.Policy{Outlier: &policypb.Outlier{Panic: new(math.NaN())}}), "metadata.overhear.outlier.panic"},
		"mode":            {withPolicy(&policypb.Policy{Outlier: &policypb.Outlier{Mode: new("maybe")}}), "metadata.overhear.outlier.mode"},
		"ramp": {withPolicy(&policypb.Policy{Outlier: &policypb.Outlier{Ramp: &durationpb.Duration{Seconds: math.MaxInt64}}}),
			"metadata.overhear.outlier.ramp"},
	} {
		_, err := resource.DecodeCluster(tc.m)
		wrong, ok := errors.AsType[*resource.FieldError](err)
		if !ok || wrong.Field != tc.field || !strings.HasPrefix(wrong.Resource, "cluster ") || wrong.Problem == "" {
			t.Errorf("%s: got %v, want a problem with %s", name, err, tc.field)
		}
	}
}

func TestStringsThatAreNoTextDoNotBreakAnEncoder(t *testing.T) {
	const bad = "\xff\xfe"
	c := resource.Cluster{Name: "api", Policy: odd(t)}
	c.Policy.Ping = resource.Ping{Kind: resource.PingHTTP, Path: bad, Host: bad, Service: bad}
	got, err := resource.DecodeCluster(resource.EncodeCluster(c, resource.Overhear))
	if err != nil || got.Policy.Ping.Path != "\uFFFD" {
		t.Errorf("got path %q, %v: want one replacement character", got.Policy.Ping.Path, err)
	}
	resource.EncodeListener(resource.Listener{Name: bad, Route: bad, Cluster: bad}, resource.Envoy)
	resource.EncodeListener(resource.Listener{Name: bad, Route: bad}, resource.GRPC)
}

func FuzzDecodeCluster(f *testing.F) {
	for _, kind := range []resource.Kind{resource.Overhear, resource.Envoy, resource.GRPC} {
		b, err := proto.Marshal(resource.EncodeCluster(resource.Cluster{Name: "api", Policy: odd(f)}, kind))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(clusterv3.Cluster)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		c, err := resource.DecodeCluster(m)
		if err != nil {
			return
		}
		again, err := resource.DecodeCluster(resource.EncodeCluster(c, resource.Overhear))
		if err != nil {
			t.Fatalf("what was accepted is refused after the wire: %v", err)
		}
		if diff := cmp.Diff(c, again); diff != "" {
			t.Fatalf("what was accepted changes on the wire:\n%s", diff)
		}
	})
}

func TestAListenerIsWhatItsKindOfClientNeeds(t *testing.T) {
	l := resource.Listener{Name: "api.mesh:80", Address: addr(1), Route: "api"}

	m := resource.EncodeListener(l, resource.GRPC)
	hcm := new(hcmv3.HttpConnectionManager)
	if err := m.GetApiListener().GetApiListener().UnmarshalTo(hcm); err != nil {
		t.Fatalf("a gRPC client gets no ApiListener: %v", err)
	}
	if m.GetAddress() != nil || hcm.GetRds().GetRouteConfigName() != "api" || hcm.GetRds().GetConfigSource().GetAds() == nil {
		t.Errorf("got %v: want no address, and routes over ADS", m)
	}
	if n := len(hcm.GetHttpFilters()); n == 0 || hcm.GetHttpFilters()[n-1].GetName() != "envoy.filters.http.router" {
		t.Errorf("the last HTTP filter must be the router: %v", hcm.GetHttpFilters())
	}

	m = resource.EncodeListener(l, resource.Envoy)
	if err := m.ValidateAll(); err != nil {
		t.Errorf("protoc-gen-validate: %v", err)
	}
	if got := m.GetAddress().GetSocketAddress(); got.GetAddress() != "10.0.0.1" || got.GetPortValue() != 8080 {
		t.Errorf("an Envoy listens on %v", got)
	}
	l.Cluster = "db"
	m = resource.EncodeListener(l, resource.Envoy)
	if got := m.GetFilterChains()[0].GetFilters()[0].GetName(); got != "envoy.filters.network.tcp_proxy" {
		t.Errorf("opaque TCP goes through %s", got)
	}
}

func TestARouteRetriesOnlyWhatIsSafe(t *testing.T) {
	r := resource.Route{Name: "api", Hosts: []resource.VirtualHost{{Name: "api", Domains: []string{"*"}, Cluster: "api", Timeout: time.Second}}}
	m := resource.EncodeRoute(r, resource.Envoy)
	if err := m.ValidateAll(); err != nil {
		t.Errorf("protoc-gen-validate: %v", err)
	}
	for _, route := range m.GetVirtualHosts()[0].GetRoutes() {
		conditions := strings.Split(route.GetRoute().GetRetryPolicy().GetRetryOn(), ",")
		safe := len(route.GetMatch().GetHeaders()) == 1
		for _, c := range conditions {
			if c == "reset" && !safe {
				t.Error("a request of any method is retried after a reset")
			}
		}
		if got := route.GetRoute().GetTimeout().AsDuration(); got != time.Second {
			t.Errorf("timeout %v, want 1s", got)
		}
	}
	var last *routev3.Route
	for _, last = range m.GetVirtualHosts()[0].GetRoutes() {
	}
	if len(last.GetMatch().GetHeaders()) != 0 {
		t.Error("the last route must take what is left")
	}
	grpc := resource.EncodeRoute(r, resource.GRPC).GetVirtualHosts()[0].GetRoutes()
	if len(grpc) != 1 || grpc[0].GetRoute().GetRetryPolicy() != nil {
		t.Errorf("gRPC retries by itself what no server has seen: got %v", grpc)
	}
}

func TestAClientIsWhatItSaysAndOtherwiseTheStrictest(t *testing.T) {
	said := func(kind string) *structpb.Struct {
		s, err := structpb.NewStruct(map[string]any{resource.MetadataKey: map[string]any{"kind": kind}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, tc := range []struct {
		node *corev3.Node
		want resource.Kind
	}{
		{&corev3.Node{UserAgentName: "overhear"}, resource.Overhear},
		{&corev3.Node{UserAgentName: "envoy"}, resource.Envoy},
		{&corev3.Node{UserAgentName: "gRPC Go"}, resource.GRPC},
		{&corev3.Node{UserAgentName: "curl"}, resource.GRPC},
		{nil, resource.GRPC},
		{&corev3.Node{UserAgentName: "gRPC Go", Metadata: said("envoy")}, resource.Envoy},
		{&corev3.Node{UserAgentName: "envoy", Metadata: said("grpc")}, resource.GRPC},
		{&corev3.Node{UserAgentName: "envoy", Metadata: said("toaster")}, resource.Envoy},
	} {
		if got := resource.KindOf(tc.node); got != tc.want {
			t.Errorf("%v: got %s, want %s", tc.node, got, tc.want)
		}
	}
	n := &corev3.Node{UserAgentName: "envoy", Locality: &corev3.Locality{Zone: "z"}}
	if got := resource.ViewOf(n); got.String() != "envoy/z" {
		t.Errorf("view %s, want envoy/z", got)
	}
}
