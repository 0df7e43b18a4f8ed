package client

import (
	"fmt"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/overhear-mesh/overhear/xds/resource"
)

func packed(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// clusters is a response with clusters of these names.
func clusters(t testing.TB, version string, names ...string) *discoveryv3.DiscoveryResponse {
	m := &discoveryv3.DiscoveryResponse{TypeUrl: resource.TypeCluster, VersionInfo: version, Nonce: "n" + version}
	for _, name := range names {
		m.Resources = append(m.Resources, packed(t, &clusterv3.Cluster{Name: name}))
	}
	return m
}

// told is what a response says in the words of delta.
func told(m *discoveryv3.DeltaDiscoveryResponse) string {
	var names []string
	for _, r := range m.GetResources() {
		names = append(names, r.GetName()+"@"+r.GetVersion())
	}
	return fmt.Sprint(names, " -", m.GetRemovedResources())
}

func asked(r *discoveryv3.DiscoveryRequest) string {
	text := fmt.Sprint(r.GetResourceNames(), " version ", r.GetVersionInfo(), " nonce ", r.GetResponseNonce())
	if r.GetErrorDetail() != nil {
		text += " refused"
	}
	return text
}

func TestAStateOfTheWorldSaysWhatIsGone(t *testing.T) {
	s := newSotW(nil)
	s.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeCluster, ResourceNamesSubscribe: []string{wildcard}, InitialResourceVersions: map[string]string{"old": "0"}})
	for _, tc := range []struct {
		m    *discoveryv3.DiscoveryResponse
		want string
	}{
		{clusters(t, "1", "a", "b"), "[a@1 b@1] -[old]"},
		{clusters(t, "2", "b", "c"), "[b@2 c@2] -[a]"},
		{&discoveryv3.DiscoveryResponse{TypeUrl: resource.TypeCluster, VersionInfo: "3", Resources: []*anypb.Any{{TypeUrl: resource.TypeCluster, Value: []byte{0xff}}}}, "[@3] -[]"}, // it may be one of those
		{clusters(t, "4"), "[] -[b c]"},
	} {
		if got := told(s.response(tc.m)); got != tc.want {
			t.Errorf("version %s says %s, want %s", tc.m.GetVersionInfo(), got, tc.want)
		}
	}
}

func TestEndpointsThatAreNotInAResponseAreNotGone(t *testing.T) {
	s := newSotW(nil)
	s.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeEndpoints, ResourceNamesSubscribe: []string{"a", "b"}})
	wrapped := &discoveryv3.Resource{Name: "a", Resource: packed(t, &endpointv3.ClusterLoadAssignment{ClusterName: "a"})}
	got := told(s.response(&discoveryv3.DiscoveryResponse{TypeUrl: resource.TypeEndpoints, VersionInfo: "1", Resources: []*anypb.Any{packed(t, wrapped)}}))
	if want := "[a@1] -[]"; got != want {
		t.Errorf("says %s, want %s", got, want)
	}
}

func TestAClusterThatWasAskedForByNameAndIsNotThereIsGone(t *testing.T) {
	s := newSotW(nil)
	s.request(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeCluster, ResourceNamesSubscribe: []string{"a", "b"}})
	if got, want := told(s.response(clusters(t, "1", "a"))), "[a@1] -[b]"; got != want {
		t.Errorf("says %s, want %s", got, want)
	}
}

func TestRequestsNameAllThatIsWantedAndTheVersionThatWasAccepted(t *testing.T) {
	s := newSotW(nil)
	send := func(r *discoveryv3.DeltaDiscoveryRequest, want string) {
		t.Helper()
		if got := asked(s.request(r)); got != want {
			t.Errorf("asks %s, want %s", got, want)
		}
	}
	send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeCluster, ResourceNamesSubscribe: []string{"*"}}, "[] version  nonce ")
	s.response(clusters(t, "1", "a"))
	send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeCluster, ResponseNonce: "n1"}, "[] version 1 nonce n1")
	s.response(clusters(t, "2", "a"))
	send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeCluster, ResponseNonce: "n2", ErrorDetail: &spb.Status{Message: "no"}}, "[] version 1 nonce n2 refused")

	send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeEndpoints, ResourceNamesSubscribe: []string{"b", "a"}}, "[a b] version  nonce ")
	s.response(&discoveryv3.DiscoveryResponse{TypeUrl: resource.TypeEndpoints, VersionInfo: "7", Nonce: "x"})
	send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeEndpoints, ResourceNamesSubscribe: []string{"c"}, ResourceNamesUnsubscribe: []string{"a"}}, "[b c] version  nonce x")
	send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeEndpoints, ResponseNonce: "x"}, "[b c] version 7 nonce x")
}

func TestRefusalsInARowAreSaidMoreAndMoreSlowly(t *testing.T) {
	c := New(nil, DefaultConfig(), struct{ Handler }{}, nil)
	c.plain = true
	answer := func(refused bool) time.Duration {
		r := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeCluster, ResponseNonce: "n"}
		if refused {
			r.ErrorDetail = &spb.Status{}
		}
		return c.pace(r)
	}
	if first, second, third := answer(true), answer(true), answer(true); first != 0 || second <= 0 || third <= second {
		t.Errorf("waits %v, %v, %v, want none and then more and more", first, second, third)
	}
	for range 100 {
		answer(true)
	}
	if got := answer(true); got != c.cfg.BackoffMax {
		t.Errorf("waits %v after many, want %v", got, c.cfg.BackoffMax)
	}
	if accepted, next := answer(false), answer(true); accepted != 0 || next != 0 {
		t.Errorf("waits %v and %v around one that was accepted, want none", accepted, next)
	}
	c.plain = false
	if got := answer(true) + answer(true); got != 0 {
		t.Errorf("waits %v with a server that does not repeat, want none", got)
	}
}

func TestHeldAnswersGoInTheOrderOfTheirTimes(t *testing.T) {
	now := time.Now()
	var all []held
	for _, after := range []int{3, 1, 2, 1} {
		all = hold(all, nil, now.Add(time.Duration(after)))
	}
	for i, want := range []int{1, 1, 2, 3} {
		if got := int(all[i].until.Sub(now)); got != want {
			t.Errorf("number %d goes after %d, want %d", i, got, want)
		}
	}
}

// Whatever the bytes: no panic, and the name is the one that decoding finds.
func FuzzNameIn(f *testing.F) {
	b, err := proto.Marshal(&clusterv3.Cluster{Name: "a", AltStatName: "b"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		got := nameIn(&anypb.Any{Value: b})
		if m := new(clusterv3.Cluster); proto.Unmarshal(b, m) == nil && m.GetName() != got {
			t.Errorf("%q, want %q", got, m.GetName())
		}
	})
}
