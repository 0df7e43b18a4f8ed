package resource_test

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/xds/resource"
)

func addr(host int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(host)}), 8080)
}

// pair is a service of one healthy endpoint and e: with the healthy one beside it,
// e is told as it is.
func pair(e resource.Endpoint) resource.Endpoints {
	e.Address = addr(2)
	return resource.Endpoints{Service: "api", Endpoints: []resource.Endpoint{{Address: addr(1), Weight: 1}, e}}
}

func lbEndpoints(m *endpointv3.ClusterLoadAssignment) (all []*endpointv3.LbEndpoint) {
	for _, l := range m.GetEndpoints() {
		all = append(all, l.GetLbEndpoints()...)
	}
	return all
}

// The product of both weights is what counts on a ring: by zones, an endpoint of three
// would get three times what one alone gets.
func TestOnARingOfGRPCEachEndpointHasItsOwnWeight(t *testing.T) {
	e := resource.Endpoints{Service: "api", Ring: true}
	for i, zone := range []string{"a", "a", "a", "b"} {
		e.Endpoints = append(e.Endpoints, resource.Endpoint{
			Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 80), Zone: zone, Weight: uint32(i + 1),
		})
	}
	e.Endpoints[0].Verdict = outlier.Verdict{State: outlier.Probation}
	e.Endpoints[0].Trial = 0.1
	all := resource.EncodeEndpoints(e, resource.GRPC).GetEndpoints()
	if len(all) != 1 || all[0].GetLoadBalancingWeight().GetValue() != 1 {
		t.Fatalf("got %v, want one locality of weight 1", all)
	}
	var weights []uint32
	for _, one := range all[0].GetLbEndpoints() {
		weights = append(weights, one.GetLoadBalancingWeight().GetValue())
	}
	if diff := cmp.Diff([]uint32{10, 200, 300, 400}, weights); diff != "" {
		t.Errorf("weights (-want +got):\n%s", diff)
	}
	if n := len(resource.EncodeEndpoints(e, resource.Envoy).GetEndpoints()); n != 2 {
		t.Errorf("an Envoy gets %d localities, want both", n)
	}
}

func TestEachKindOfClientIsToldAVerdictInItsOwnTerms(t *testing.T) {
	const (
		healthy   = corev3.HealthStatus_HEALTHY
		unhealthy = corev3.HealthStatus_UNHEALTHY
		draining  = corev3.HealthStatus_DRAINING
	)
	for _, tc := range []struct {
		state                 outlier.State
		overhear, envoy, grpc corev3.HealthStatus
	}{
		{outlier.In, healthy, healthy, healthy},
		{outlier.Suspended, unhealthy, draining, unhealthy},
		{outlier.Ejected, unhealthy, draining, unhealthy},
		{outlier.Probing, unhealthy, draining, unhealthy},
		{outlier.Probation, unhealthy, draining, unhealthy},
		{outlier.Ramp, healthy, healthy, healthy},
		{outlier.Draining, draining, draining, draining},
	} {
		for kind, want := range map[resource.Kind]corev3.HealthStatus{resource.Overhear: tc.overhear, resource.Envoy: tc.envoy, resource.GRPC: tc.grpc} {
			m := resource.EncodeEndpoints(pair(resource.Endpoint{Verdict: outlier.Verdict{State: tc.state}}), kind)
			if got := lbEndpoints(m)[1].GetHealthStatus(); got != want {
				t.Errorf("%s told to %s: got %s, want %s", tc.state, kind, got, want)
			}
		}
	}
	m := resource.EncodeEndpoints(pair(resource.Endpoint{Draining: true}), resource.GRPC)
	if got := lbEndpoints(m)[1].GetHealthStatus(); got != draining {
		t.Errorf("draining by the registry: got %s, want DRAINING", got)
	}
}

func TestForeignClientsGetMetadataThatNeverChanges(t *testing.T) {
	var before map[resource.Kind]string
	for epoch, state := range []outlier.State{outlier.In, outlier.Ejected, outlier.Probation, outlier.Ramp} {
		got := map[resource.Kind]string{}
		for _, kind := range []resource.Kind{resource.Envoy, resource.GRPC} {
			e := resource.Endpoint{
				Instance: "api-2", Node: "n1", Inbound: true, Labels: map[string]string{"version": "v2"},
				Verdict: outlier.Verdict{State: state, Epoch: uint64(epoch), Rule: outlier.RuleFast, Reason: "9 of 17"},
			}
			m := lbEndpoints(resource.EncodeEndpoints(pair(e), kind))[1].GetMetadata()
			got[kind] = prototext.Format(m)
			want := map[string]any{"instance": "api-2"}
			if diff := cmp.Diff(want, m.GetFilterMetadata()[resource.MetadataKey].AsMap()); diff != "" {
				t.Errorf("metadata for %s (-want +got):\n%s", kind, diff)
			}
		}
		if before != nil && !cmp.Equal(before, got) {
			t.Errorf("metadata changed with the verdict %s: %s", state, cmp.Diff(before, got))
		}
		before = got
	}
}

func TestAForeignClientIsNeverToldThatNobodyIsHealthy(t *testing.T) {
	at := func(host int, v outlier.Verdict) resource.Endpoint {
		return resource.Endpoint{Address: addr(host), Verdict: v}
	}
	hard := outlier.Verdict{State: outlier.Ejected, Rule: outlier.RuleHard}
	soft := outlier.Verdict{State: outlier.Ejected, Rule: outlier.RuleFast}
	suspended := outlier.Verdict{State: outlier.Suspended, Rule: outlier.RuleStalled}
	draining := outlier.Verdict{State: outlier.Draining}
	for name, tc := range map[string]struct {
		endpoints []resource.Endpoint
		want      string // healthy ones by position
	}{
		"one in":                     {[]resource.Endpoint{at(1, hard), at(2, outlier.Verdict{})}, "[1]"},
		"suspended before ejected":   {[]resource.Endpoint{at(1, hard), at(2, suspended), at(3, soft)}, "[1]"},
		"failing before dead":        {[]resource.Endpoint{at(1, hard), at(2, soft), at(3, soft)}, "[1 2]"},
		"leaving before dead":        {[]resource.Endpoint{at(1, hard), at(2, draining)}, "[1]"},
		"failing before leaving":     {[]resource.Endpoint{at(1, draining), at(2, soft)}, "[1]"},
		"all dead: all":              {[]resource.Endpoint{at(1, hard), at(2, hard)}, "[0 1]"},
		"one alone":                  {[]resource.Endpoint{at(1, hard)}, "[0]"},
		"none at all stays none":     {nil, "[]"},
		"ramp counts as one that is": {[]resource.Endpoint{at(1, soft), at(2, outlier.Verdict{State: outlier.Ramp})}, "[1]"},
	} {
		for _, kind := range []resource.Kind{resource.GRPC, resource.Envoy} {
			healthy := []int{}
			for i, e := range lbEndpoints(resource.EncodeEndpoints(resource.Endpoints{Service: "api", Endpoints: tc.endpoints}, kind)) {
				if e.GetHealthStatus() == corev3.HealthStatus_HEALTHY {
					healthy = append(healthy, i)
				}
			}
			if got := fmt.Sprint(healthy); got != tc.want {
				t.Errorf("%s, for %s: healthy are %s, want %s", name, kind, got, tc.want)
			}
		}
	}
	// A sidecar decides that by itself, and must hear the truth.
	for _, e := range lbEndpoints(resource.EncodeEndpoints(resource.Endpoints{Service: "api", Endpoints: []resource.Endpoint{at(1, hard)}}, resource.Overhear)) {
		if e.GetHealthStatus() != corev3.HealthStatus_UNHEALTHY {
			t.Errorf("a sidecar is told %s of a dead endpoint, want UNHEALTHY", e.GetHealthStatus())
		}
	}
}

func TestAnEnvoyAloneIsToldTheWeightOfASlowEndpoint(t *testing.T) {
	half := outlier.Verdict{State: outlier.Ramp, RampFrom: 0.5}
	for _, tc := range []struct {
		share   float64
		verdict outlier.Verdict
		kind    resource.Kind
		want    uint32
	}{
		{0, outlier.Verdict{}, resource.Envoy, 200},
		{1, outlier.Verdict{}, resource.Envoy, 200},
		{0.25, outlier.Verdict{}, resource.Envoy, 50},
		{0.001, outlier.Verdict{}, resource.Envoy, 1},
		{0.25, half, resource.Envoy, 25},
		{0.25, outlier.Verdict{}, resource.GRPC, 200},
		{0.25, outlier.Verdict{}, resource.Overhear, 200},
	} {
		told := lbEndpoints(resource.EncodeEndpoints(pair(resource.Endpoint{Weight: 2, Share: tc.share, Verdict: tc.verdict}), tc.kind))
		if got := told[1].GetLoadBalancingWeight().GetValue(); got != tc.want {
			t.Errorf("share %v, %s, to %s: weight %d, want %d", tc.share, tc.verdict.State, tc.kind, got, tc.want)
		}
	}
}

func TestForeignClientsTryAnEndpointByASmallShare(t *testing.T) {
	for _, tc := range []struct {
		state  outlier.State
		kind   resource.Kind
		trial  float64
		health corev3.HealthStatus
		weight uint32
	}{
		{outlier.Probation, resource.Envoy, 0.04, corev3.HealthStatus_HEALTHY, 4},
		{outlier.Suspended, resource.Envoy, 0.001, corev3.HealthStatus_HEALTHY, 1},
		{outlier.Probation, resource.Envoy, 0, corev3.HealthStatus_DRAINING, 100},
		{outlier.Ejected, resource.Envoy, 0.04, corev3.HealthStatus_DRAINING, 100},
		{outlier.Probation, resource.GRPC, 0.04, corev3.HealthStatus_HEALTHY, 4},
		{outlier.Probation, resource.GRPC, 0, corev3.HealthStatus_UNHEALTHY, 100},
		{outlier.Probation, resource.Overhear, 0.04, corev3.HealthStatus_UNHEALTHY, 100},
	} {
		m := resource.EncodeEndpoints(resource.Endpoints{Service: "api", Endpoints: []resource.Endpoint{
			{Address: addr(1), Trial: tc.trial, Verdict: outlier.Verdict{State: tc.state}},
			{Address: addr(2)},
		}}, tc.kind)
		e := m.Endpoints[0].LbEndpoints[0]
		if e.HealthStatus != tc.health || e.LoadBalancingWeight.GetValue() != tc.weight {
			t.Errorf("%s, trial %v, to %s: %s with weight %d, want %s with %d", tc.state, tc.trial, tc.kind, e.HealthStatus, e.LoadBalancingWeight.GetValue(), tc.health, tc.weight)
		}
	}
}

// What an endpoint weighs among others means nothing to gRPC's round_robin.
func TestGRPCGivesAPartOfItsShareToAnEndpointByItsLocality(t *testing.T) {
	probation := resource.Endpoint{Trial: 0.04, Zone: "z", Verdict: outlier.Verdict{State: outlier.Probation}}
	ramp := resource.Endpoint{Zone: "z", Verdict: outlier.Verdict{State: outlier.Ramp, RampFrom: 0.1}}
	in, ejected := resource.Endpoint{Zone: "z"}, resource.Endpoint{Zone: "z", Verdict: outlier.Verdict{State: outlier.Ejected}}
	for _, tc := range []struct {
		name      string
		kind      resource.Kind
		endpoints []resource.Endpoint
		want      map[string]uint32 // weight of each locality, by its sub_zone
	}{
		{"probation", resource.GRPC, []resource.Endpoint{probation, in, in}, map[string]uint32{"": 200, "part/10.0.0.1:8080": 4}},
		{"ramp", resource.GRPC, []resource.Endpoint{in, ramp}, map[string]uint32{"": 100, "part/10.0.0.2:8080": 10}},
		{"both", resource.GRPC, []resource.Endpoint{ramp, in, probation, in}, map[string]uint32{"": 200, "part/10.0.0.1:8080": 10, "part/10.0.0.3:8080": 4}},
		{"all rise together", resource.GRPC, []resource.Endpoint{ramp, ramp, ejected}, map[string]uint32{"": 20}},
		{"nobody else is usable", resource.GRPC, []resource.Endpoint{ramp, ejected}, map[string]uint32{"": 10}},
		{"an Envoy", resource.Envoy, []resource.Endpoint{probation, in, in}, map[string]uint32{"": 204}},
		{"a sidecar", resource.Overhear, []resource.Endpoint{ramp, in, in}, map[string]uint32{"": 300}},
	} {
		for i := range tc.endpoints {
			tc.endpoints[i].Address = addr(i + 1)
		}
		got := map[string]uint32{}
		for _, l := range resource.EncodeEndpoints(resource.Endpoints{Service: "api", Endpoints: tc.endpoints}, tc.kind).Endpoints {
			got[l.GetLocality().GetSubZone()] = l.GetLoadBalancingWeight().GetValue()
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: weights of localities (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestWhoIsTriedIsNotEnoughToSendEverythingTo(t *testing.T) {
	m := resource.EncodeEndpoints(resource.Endpoints{Service: "api", Endpoints: []resource.Endpoint{
		{Address: addr(1), Trial: 0.04, Verdict: outlier.Verdict{State: outlier.Probation}},
		{Address: addr(2), Verdict: outlier.Verdict{State: outlier.Suspended}},
	}}, resource.Envoy)
	if h := m.Endpoints[0].LbEndpoints[1].HealthStatus; h != corev3.HealthStatus_HEALTHY {
		t.Errorf("with one on trial and nobody well the other is %s, want HEALTHY: it is as good", h)
	}
}

func TestForeignClientsSeeARampInFiveSteps(t *testing.T) {
	const ramp = 10 * time.Second
	weight := func(age time.Duration, kind resource.Kind) uint32 {
		e := pair(resource.Endpoint{Weight: 2, Verdict: outlier.Verdict{State: outlier.Ramp, RampFrom: 0.1, RampAge: age}})
		e.Ramp = ramp
		return lbEndpoints(resource.EncodeEndpoints(e, kind))[1].GetLoadBalancingWeight().GetValue()
	}
	for _, tc := range []struct {
		age  time.Duration
		want uint32
	}{{0, 20}, {1999 * time.Millisecond, 20}, {2 * time.Second, 56}, {4 * time.Second, 92}, {6 * time.Second, 128}, {8 * time.Second, 164}, {ramp, 200}, {time.Hour, 200}} {
		for _, kind := range []resource.Kind{resource.Envoy, resource.GRPC} {
			if got := weight(tc.age, kind); got != tc.want {
				t.Errorf("weight for %s after %v: got %d, want %d", kind, tc.age, got, tc.want)
			}
		}
		if got := weight(tc.age, resource.Overhear); got != 200 {
			t.Errorf("a sidecar computes the ramp itself: after %v it is told weight %d, want 200", tc.age, got)
		}
	}
	// At the instants that RampSteps names, and only there, what is told changes.
	last := weight(0, resource.Envoy)
	for _, at := range resource.RampSteps(ramp) {
		if before := weight(at-1, resource.Envoy); before != last {
			t.Errorf("just before %v the weight is %d, want still %d", at, before, last)
		}
		if last = weight(at, resource.Envoy); last == weight(at-1, resource.Envoy) {
			t.Errorf("at %v nothing changes", at)
		}
	}
	if last != 200 {
		t.Errorf("after the last step the weight is %d, want the full 200", last)
	}
}

// The rules of gRPC that Envoy does not have, over shapes that break each of them.
func TestAnAssignmentHasNothingThatGRPCRefuses(t *testing.T) {
	cases := map[string]resource.Endpoints{
		"weight 0":          {Endpoints: []resource.Endpoint{{Address: addr(1)}}},
		"huge weights":      {Endpoints: []resource.Endpoint{{Address: addr(1), Weight: math.MaxUint32}, {Address: addr(2), Weight: math.MaxUint32}, {Address: addr(3), Weight: 1}}},
		"address twice":     {Endpoints: []resource.Endpoint{{Address: addr(1), Instance: "a"}, {Address: addr(1), Instance: "b", Zone: "z"}}},
		"no zone":           {Endpoints: []resource.Endpoint{{Address: addr(1)}}},
		"zone comes back":   {Endpoints: []resource.Endpoint{{Address: addr(1), Zone: "a"}, {Address: addr(2), Zone: "b"}, {Address: addr(3), Zone: "a"}}},
		"priority gap":      {Endpoints: []resource.Endpoint{{Address: addr(1), Priority: 7}, {Address: addr(2), Priority: 3}}},
		"zone without life": {Endpoints: []resource.Endpoint{{Address: addr(1), Zone: "a"}, {Address: addr(2), Zone: "b", Verdict: outlier.Verdict{State: outlier.Ejected}}}},
		"nothing":           {},
	}
	for name, e := range cases {
		e.Service = "api"
		m := resource.EncodeEndpoints(e, resource.GRPC)
		if err := m.ValidateAll(); err != nil {
			t.Errorf("%s: protoc-gen-validate: %v", name, err)
		}
		addresses, places, priorities := map[string]bool{}, map[string]bool{}, map[uint32]bool{}
		sums := map[uint32]uint64{}
		for _, l := range m.GetEndpoints() {
			if l.GetLocality() == nil {
				t.Errorf("%s: a locality is missing", name)
			}
			if l.GetLoadBalancingWeight().GetValue() == 0 {
				t.Errorf("%s: a locality without weight, which gRPC ignores", name)
			}
			place := fmt.Sprint(l.GetPriority(), l.GetLocality())
			if places[place] {
				t.Errorf("%s: locality %s twice", name, place)
			}
			places[place], priorities[l.GetPriority()] = true, true
			sums[l.GetPriority()] += uint64(l.GetLoadBalancingWeight().GetValue())
			var sum uint64
			for _, lb := range l.GetLbEndpoints() {
				w := lb.GetLoadBalancingWeight().GetValue()
				if w == 0 {
					t.Errorf("%s: an endpoint has weight 0", name)
				}
				sum += uint64(w)
				a := lb.GetEndpoint().GetAddress().GetSocketAddress().String()
				if addresses[a] {
					t.Errorf("%s: address %s twice", name, a)
				}
				addresses[a] = true
			}
			if sum > math.MaxUint32 {
				t.Errorf("%s: weights sum up to %d", name, sum)
			}
		}
		for p, sum := range sums {
			if sum > math.MaxUint32 {
				t.Errorf("%s: weights of the localities of priority %d sum up to %d", name, p, sum)
			}
		}
		for p := range len(priorities) {
			if !priorities[uint32(p)] {
				t.Errorf("%s: priority %d is missing", name, p)
			}
		}
	}
}

func TestTheWeightOfALocalityFollowsWhatIsUsableInIt(t *testing.T) {
	m := resource.EncodeEndpoints(resource.Endpoints{Service: "api", Endpoints: []resource.Endpoint{
		{Address: addr(1), Zone: "a", Weight: 1}, {Address: addr(2), Zone: "a", Weight: 3, Verdict: outlier.Verdict{State: outlier.Ejected}},
		{Address: addr(3), Zone: "b", Weight: 2},
	}}, resource.GRPC)
	got := map[string]uint32{}
	for _, l := range m.GetEndpoints() {
		got[l.GetLocality().GetZone()] = l.GetLoadBalancingWeight().GetValue()
	}
	if diff := cmp.Diff(map[string]uint32{"a": 100, "b": 200}, got); diff != "" {
		t.Errorf("locality weights (-want +got):\n%s", diff)
	}
}

func full() resource.Endpoints {
	return resource.Endpoints{Service: "api", Endpoints: []resource.Endpoint{
		{Instance: "a", Address: addr(1), Region: "r", Zone: "z1", Node: "n1", Weight: 1, Inbound: true, Labels: map[string]string{"version": "v1"}},
		{Address: addr(2), Region: "r", Zone: "z2", Weight: 3, Verdict: outlier.Verdict{State: outlier.Ejected, Epoch: 7, Rule: outlier.RuleHard, Reason: "3 witnesses"}},
		{Instance: "c", Address: netip.MustParseAddrPort("[2001:db8::1]:443"), Zone: "z3", Weight: 1, Verdict: outlier.Verdict{State: outlier.Ramp, Epoch: 8, RampFrom: 0.25, RampAge: 1500 * time.Millisecond}},
		{Instance: "d", Address: addr(4), Zone: "z4", Weight: 2, Draining: true},
		{Instance: "e", Address: addr(5), Zone: "z5", Weight: 1, Priority: 1, Verdict: outlier.Verdict{State: outlier.Suspended, Epoch: 1 << 50, Rule: outlier.RuleStalled}},
	}}
}

func TestASidecarReadsWhatTheControlPlaneKnows(t *testing.T) {
	want := full()
	got, err := resource.DecodeEndpoints(resource.EncodeEndpoints(want, resource.Overhear))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("after the wire (-want +got):\n%s", diff)
	}
}

func TestEqualKnowledgeHasEqualBytes(t *testing.T) {
	for _, kind := range []resource.Kind{resource.GRPC, resource.Envoy, resource.Overhear} {
		first, err := proto.MarshalOptions{Deterministic: true}.Marshal(resource.EncodeEndpoints(full(), kind))
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			again, err := proto.MarshalOptions{Deterministic: true}.Marshal(resource.EncodeEndpoints(full(), kind))
			if err != nil {
				t.Fatal(err)
			}
			if string(first) != string(again) {
				t.Fatalf("two encodings for %s differ", kind)
			}
		}
	}
}

func foreign(lb ...*endpointv3.LbEndpoint) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{ClusterName: "api", Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: lb}}}
}

func socket(ip string, port uint32) *endpointv3.LbEndpoint {
	return &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
		Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
		}}},
	}}}
}

func metadata(fields map[string]any) *corev3.Metadata {
	s, err := structpb.NewStruct(fields)
	if err != nil {
		panic(err)
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{resource.MetadataKey: s}}
}

func TestHealthOfAForeignControlPlaneBecomesAVerdict(t *testing.T) {
	for health, want := range map[corev3.HealthStatus]resource.Endpoint{
		corev3.HealthStatus_UNKNOWN:   {},
		corev3.HealthStatus_HEALTHY:   {},
		corev3.HealthStatus_DEGRADED:  {},
		corev3.HealthStatus_DRAINING:  {Draining: true},
		corev3.HealthStatus_UNHEALTHY: {Verdict: outlier.Verdict{State: outlier.Ejected, Reason: "the control plane says UNHEALTHY"}},
		corev3.HealthStatus_TIMEOUT:   {Verdict: outlier.Verdict{State: outlier.Ejected, Reason: "the control plane says TIMEOUT"}},
	} {
		lb := socket("10.0.0.1", 80)
		lb.HealthStatus = health
		lb.LoadBalancingWeight = wrapperspb.UInt32(7)
		e, err := resource.DecodeEndpoints(foreign(lb))
		if err != nil {
			t.Errorf("%s: %v", health, err)
			continue
		}
		want.Address, want.Weight = netip.MustParseAddrPort("10.0.0.1:80"), 7 // not ours: not scaled
		if diff := cmp.Diff(want, e.Endpoints[0], cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", health, diff)
		}
	}
}

func TestWordsOfANewerControlPlaneDoNotRefuseAnAssignment(t *testing.T) {
	lb := socket("10.0.0.1", 80)
	lb.HealthStatus = corev3.HealthStatus_UNHEALTHY
	lb.Metadata = metadata(map[string]any{"state": "meditating", "rule": "astrology", "moon": "full", "epoch": 3})
	e, err := resource.DecodeEndpoints(foreign(lb))
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Endpoints[0].Verdict; got.State != outlier.Ejected || got.Rule != outlier.RuleNone || got.Epoch != 3 {
		t.Errorf("got %+v: want ejected, as its health says, without a rule, epoch 3", got)
	}
}

func TestWhatIsWrongWithAnAssignmentIsNamed(t *testing.T) {
	with := func(lb *endpointv3.LbEndpoint, m map[string]any) *endpointv3.LbEndpoint {
		lb.Metadata = metadata(m)
		return lb
	}
	pipe := &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
		Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: "/s"}}},
	}}}
	udp := socket("10.0.0.1", 53)
	udp.GetEndpoint().GetAddress().GetSocketAddress().Protocol = corev3.SocketAddress_UDP
	good := func() *endpointv3.LbEndpoint { return socket("10.0.0.1", 80) }
	for name, tc := range map[string]struct {
		m     *endpointv3.ClusterLoadAssignment
		field string
	}{
		"no name":         {&endpointv3.ClusterLoadAssignment{}, "cluster_name"},
		"a host name":     {foreign(socket("db.example.com", 80)), "endpoints[0].lb_endpoints[0].endpoint.address.address"},
		"no port":         {foreign(socket("10.0.0.1", 0)), "endpoints[0].lb_endpoints[0].endpoint.address.port_value"},
		"port too big":    {foreign(good(), socket("10.0.0.2", 65536)), "endpoints[0].lb_endpoints[1].endpoint.address.port_value"},
		"a pipe":          {foreign(pipe), "endpoints[0].lb_endpoints[0].endpoint.address"},
		"UDP":             {foreign(udp), "endpoints[0].lb_endpoints[0].endpoint.address.protocol"},
		"no address":      {foreign(&endpointv3.LbEndpoint{}), "endpoints[0].lb_endpoints[0].endpoint.address"},
		"address twice":   {foreign(good(), good()), "endpoints[0].lb_endpoints[1]"},
		"instance twice":  {foreign(with(socket("10.0.0.1", 80), map[string]any{"instance": "a"}), with(socket("10.0.0.2", 80), map[string]any{"instance": "a"})), "endpoints[0].lb_endpoints[1]"},
		"epoch a string":  {foreign(with(good(), map[string]any{"epoch": "3"})), "endpoints[0].lb_endpoints[0].metadata.overhear.epoch"},
		"epoch a half":    {foreign(with(good(), map[string]any{"epoch": 0.5})), "endpoints[0].lb_endpoints[0].metadata.overhear.epoch"},
		"epoch below 0":   {foreign(with(good(), map[string]any{"epoch": -1})), "endpoints[0].lb_endpoints[0].metadata.overhear.epoch"},
		"ramp beyond 1":   {foreign(with(good(), map[string]any{"ramp_from": 1.5})), "endpoints[0].lb_endpoints[0].metadata.overhear.ramp_from"},
		"ramp NaN":        {foreign(with(good(), map[string]any{"ramp_from": math.NaN()})), "endpoints[0].lb_endpoints[0].metadata.overhear.ramp_from"},
		"inbound a word":  {foreign(with(good(), map[string]any{"inbound": "yes"})), "endpoints[0].lb_endpoints[0].metadata.overhear.inbound"},
		"labels a list":   {foreign(with(good(), map[string]any{"labels": []any{}})), "endpoints[0].lb_endpoints[0].metadata.overhear.labels"},
		"label a number":  {foreign(with(good(), map[string]any{"labels": map[string]any{"v": 1}})), "endpoints[0].lb_endpoints[0].metadata.overhear.labels.v"},
		"instance a bool": {foreign(with(good(), map[string]any{"instance": true})), "endpoints[0].lb_endpoints[0].metadata.overhear.instance"},
	} {
		_, err := resource.DecodeEndpoints(tc.m)
		wrong, ok := errors.AsType[*resource.FieldError](err)
		if !ok || wrong.Field != tc.field || !strings.HasPrefix(wrong.Resource, "endpoints ") || wrong.Problem == "" {
			t.Errorf("%s: got %v, want a problem with %s", name, err, tc.field)
		}
	}
}

func TestTenThousandProblemsMakeAShortText(t *testing.T) {
	var lb []*endpointv3.LbEndpoint
	for range 10_000 {
		lb = append(lb, socket(strings.Repeat("x", 1000), 80))
	}
	_, err := resource.DecodeEndpoints(foreign(lb...))
	if err == nil || len(err.Error()) > 4096 || !strings.Contains(err.Error(), "and 9992 more") {
		t.Errorf("got %d bytes, want a few problems and how many more", len(fmt.Sprint(err)))
	}
}

// Whatever the bytes: no panic, and what is accepted survives the way back.
func FuzzDecodeEndpoints(f *testing.F) {
	for _, kind := range []resource.Kind{resource.Overhear, resource.Envoy, resource.GRPC} {
		b, err := proto.Marshal(resource.EncodeEndpoints(full(), kind))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(endpointv3.ClusterLoadAssignment)
		if proto.Unmarshal(b, m) != nil {
			return
		}
		e, err := resource.DecodeEndpoints(m)
		if err != nil {
			return
		}
		for _, kind := range []resource.Kind{resource.Overhear, resource.Envoy, resource.GRPC} {
			again, err := resource.DecodeEndpoints(resource.EncodeEndpoints(e, kind))
			if err != nil {
				t.Fatalf("told to %s, what was accepted is refused: %v", kind, err)
			}
			if len(again.Endpoints) > len(e.Endpoints) {
				t.Fatalf("told to %s, %d endpoints became %d", kind, len(e.Endpoints), len(again.Endpoints))
			}
		}
	})
}
