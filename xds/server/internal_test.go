package server

import (
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	gcp "github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"

	"github.com/overhear-mesh/overhear/xds/resource"
)

func assigned(v resource.View, name string, host byte) Change {
	e := resource.Endpoints{Service: name, Endpoints: []resource.Endpoint{{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, host}), 80)}}}
	return Change{View: v, TypeURL: resource.TypeEndpoints, Name: name, Message: resource.EncodeEndpoints(e, v.Kind)}
}

// opened is a server with one state-of-the-world stream, without go-control-plane.
func opened(t *testing.T, changes ...Change) (*Server, front) {
	t.Helper()
	s := New(DefaultConfig(), slog.New(slog.DiscardHandler))
	f := front{s}
	if err := s.Apply(changes...); err != nil {
		t.Fatal(err)
	}
	s.Ready()
	if err := f.OnStreamOpen(t.Context(), 1, ""); err != nil {
		t.Fatal(err)
	}
	return s, f
}

func ask(t *testing.T, f front, ch chan cache.Response, names ...string) (cancel func()) {
	t.Helper()
	r := &discoveryv3.DiscoveryRequest{Node: &corev3.Node{Id: "n", UserAgentName: "envoy"}, TypeUrl: resource.TypeEndpoints, ResourceNames: names}
	if err := f.OnStreamRequest(1, r); err != nil {
		t.Fatal(err)
	}
	cancel, err := f.CreateWatch(r, gcp.NewSotwSubscription(names, false), ch)
	if err != nil {
		t.Fatal(err)
	}
	return cancel
}

func received(t *testing.T, ch chan cache.Response) int {
	t.Helper()
	select {
	case r := <-ch:
		m, err := r.GetDiscoveryResponse()
		if err != nil {
			t.Fatal(err)
		}
		return len(m.GetResources())
	default:
		return 0
	}
}

// go-control-plane throws a response away when the next request of the same type
// is there before it was sent.
func TestAResponseThatWasThrownAwayIsMadeAgain(t *testing.T) {
	envoys := resource.View{Kind: resource.Envoy}
	_, f := opened(t, assigned(envoys, "a", 1), assigned(envoys, "b", 1))
	ch := make(chan cache.Response, 1)
	ask(t, f, ch, "a")
	if got := received(t, ch); got != 1 {
		t.Fatalf("got %d resources, want a", got)
	}
	// It was never sent: no OnStreamResponse.
	ask(t, f, ch, "a", "b")
	if got := received(t, ch); got != 2 {
		t.Errorf("got %d resources, want a again, and b", got)
	}
}

func TestAFullChannelLosesNothingAndStopsNobody(t *testing.T) {
	envoys := resource.View{Kind: resource.Envoy}
	synctest.Test(t, func(t *testing.T) {
		s, f := opened(t, assigned(envoys, "a", 1))
		full := make(chan cache.Response)
		cancel := ask(t, f, full, "a")
		if err := s.Apply(assigned(envoys, "a", 2)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cancel()
		ch := make(chan cache.Response, 1)
		ask(t, f, ch, "a")
		if got := received(t, ch); got != 1 {
			t.Errorf("got %d resources, want a", got)
		}
	})
}

func TestACancelledWatchIsSentNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := opened(t)
		ch := make(chan cache.Response, 1)
		ask(t, f, ch, "a")()
		if err := s.Apply(assigned(resource.View{Kind: resource.Envoy}, "a", 1)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := received(t, ch); got != 0 {
			t.Errorf("got %d resources, want none", got)
		}
	})
}

func TestZonesShareWhatIsEqual(t *testing.T) {
	zone := func(z string) resource.View { return resource.View{Kind: resource.Envoy, Zone: z} }
	s, _ := opened(t, assigned(zone(""), "a", 1), assigned(zone("x"), "a", 1), assigned(zone("y"), "a", 2), assigned(zone("z"), "a", 2))
	topic := s.tables[resource.Envoy][endpoints].topics["a"]
	if topic.in("x") != topic.in("nowhere") || topic.in("y") != topic.in("z") || topic.in("x") == topic.in("y") {
		t.Errorf("x %p, fleet %p, y %p, z %p: want equal content to be one object", topic.in("x"), topic.in(""), topic.in("y"), topic.in("z"))
	}
}

func TestWhoLeavesLeavesNothingBehind(t *testing.T) {
	envoys := resource.View{Kind: resource.Envoy}
	s, f := opened(t, assigned(envoys, "a", 1))
	ask(t, f, make(chan cache.Response, 1), "a", "nobody", "knows")
	table := &s.tables[resource.Envoy][endpoints]
	if got := len(table.topics); got != 3 {
		t.Fatalf("%d topics, want 3", got)
	}
	f.OnStreamClosed(1, nil)
	if len(s.streams) != 0 || len(s.byID) != 0 || len(s.byNode) != 0 || len(table.wildcards) != 0 || len(table.topics["a"].interested) != 0 || len(table.topics) != 1 {
		t.Errorf("left: %d streams, %d ids, %d nodes, %d topics with %d interested; want the topic of a alone",
			len(s.streams), len(s.byID), len(s.byNode), len(table.topics), len(table.topics["a"].interested))
	}
	if err := s.Apply(Change{View: envoys, TypeURL: resource.TypeEndpoints, Name: "a"}, Change{View: envoys, TypeURL: resource.TypeEndpoints, Name: "b"}); err != nil {
		t.Fatal(err)
	}
	if len(table.topics) != 0 {
		t.Errorf("%d topics without content, want none", len(table.topics))
	}
}

// A client that subscribes again and again and never answers.
func TestUnansweredResponsesAreBounded(t *testing.T) {
	st := &stream{delta: true, view: resource.View{Kind: resource.Envoy}}
	sub := &subscription{stream: st, typ: clusters, table: &table{topics: map[string]*topic{}, wildcards: map[*subscription]struct{}{}}, entries: map[*topic]entry{}}
	for range 1000 {
		sub.queued = &batch{}
		sub.sent("n")
	}
	if got := len(sub.inFlight); got != maxUnanswered {
		t.Errorf("%d are remembered, want %d", got, maxUnanswered)
	}
}

// What an earlier cluster response announced is not forgotten when only the later
// one is acknowledged.
func TestAnAnswerStandsForTheResponsesBefore(t *testing.T) {
	st := &stream{delta: true, view: resource.View{Kind: resource.Envoy}}
	tb := &table{topics: map[string]*topic{}, wildcards: map[*subscription]struct{}{}}
	sub := &subscription{stream: st, typ: clusters, table: tb, entries: map[*topic]entry{}}
	for _, name := range []string{"a", "b"} {
		sub.queued = &batch{items: []item{{topic: tb.topic(name), sent: &encoded{eds: name}}}}
		sub.sent(name)
	}
	b := sub.answered("b", "", st.since)
	var announced []string
	for name := range b.announced {
		announced = append(announced, name)
	}
	slices.Sort(announced)
	if !slices.Equal(announced, []string{"a", "b"}) || len(sub.inFlight) != 0 {
		t.Errorf("announced %q with %d in flight, want a and b with none", announced, len(sub.inFlight))
	}
}
