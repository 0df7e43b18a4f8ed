package server

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/overhear-mesh/overhear/xds/resource"
)

func assigned(v resource.View, name string, host byte) Change {
	e := resource.Endpoints{Service: name, Endpoints: []resource.Endpoint{{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, host}), 80)}}}
	return Change{View: v, TypeURL: resource.TypeEndpoints, Name: name, Message: resource.EncodeEndpoints(e, v.Kind)}
}

// pipe is the wire of a stream without gRPC: what is written is there to be taken.
type pipe struct {
	ctx context.Context //nolint:containedctx // gRPC's streams have it
	got chan *response
}

func newPipe(t testing.TB) *pipe { return &pipe{t.Context(), make(chan *response, 10)} }

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) SendMsg(m any) error {
	p.got <- m.(*response)
	return nil
}

func (p *pipe) RecvMsg(any) error { return io.EOF }

// sent is what has been written of it, decoded.
func sent[M proto.Message](t testing.TB, st *stream, m M) bool {
	t.Helper()
	st.out.writers.Wait()
	select {
	case r := <-st.wire.(*pipe).got:
		all, err := newCodec().Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal(all.Materialize(), m); err != nil {
			t.Fatal(err)
		}
		return true
	default:
		return false
	}
}

func TestZonesShareWhatIsEqual(t *testing.T) {
	zone := func(z string) resource.View { return resource.View{Kind: resource.Envoy, Zone: z} }
	s := New(DefaultConfig(), slog.New(slog.DiscardHandler))
	if err := s.Apply(assigned(zone(""), "a", 1), assigned(zone("x"), "a", 1), assigned(zone("y"), "a", 2), assigned(zone("z"), "a", 2)); err != nil {
		t.Fatal(err)
	}
	topic := s.tables[resource.Envoy][endpoints].topics["a"]
	if topic.in("x") != topic.in("nowhere") || topic.in("y") != topic.in("z") || topic.in("x") == topic.in("y") {
		t.Errorf("x %p, fleet %p, y %p, z %p: want equal content to be one object", topic.in("x"), topic.in(""), topic.in("y"), topic.in("z"))
	}
}

func TestWhoLeavesLeavesNothingBehind(t *testing.T) {
	envoys := resource.View{Kind: resource.Envoy}
	s := New(DefaultConfig(), slog.New(slog.DiscardHandler))
	if err := s.Apply(assigned(envoys, "a", 1)); err != nil {
		t.Fatal(err)
	}
	s.Ready()
	wire := newPipe(t)
	wire.ctx = peer.NewContext(wire.ctx, &peer.Peer{Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("10.0.0.9:5000"))})
	st := s.open(wire, false, "")
	if err := s.worldAsked(st, &discoveryv3.DiscoveryRequest{
		Node: &corev3.Node{Id: "n", UserAgentName: "envoy"}, TypeUrl: resource.TypeEndpoints, ResourceNames: []string{"a", "nobody", "knows"},
	}); err != nil {
		t.Fatal(err)
	}
	table := &s.tables[resource.Envoy][endpoints]
	if got := len(table.topics); got != 3 {
		t.Fatalf("%d topics, want 3", got)
	}
	if got, want := s.unknown["10.0.0.9"], 2*topicSize+len("nobody")+len("knows"); got != want {
		t.Errorf("%d bytes are charged for names that do not exist, want %d", got, want)
	}
	s.close(st)
	if len(s.streams) != 0 || len(s.byNode) != 0 || len(s.byConn) != 0 || len(table.wildcards) != 0 || len(table.topics["a"].interested) != 0 || len(table.topics) != 1 {
		t.Errorf("left: %d streams, %d nodes, %d topics with %d interested; want the topic of a alone",
			len(s.streams), len(s.byNode), len(table.topics), len(table.topics["a"].interested))
	}
	if err := s.Apply(Change{View: envoys, TypeURL: resource.TypeEndpoints, Name: "a"}, Change{View: envoys, TypeURL: resource.TypeEndpoints, Name: "b"}); err != nil {
		t.Fatal(err)
	}
	if len(table.topics) != 0 {
		t.Errorf("%d topics without content, want none", len(table.topics))
	}
	if len(s.unknown) != 0 {
		t.Errorf("%v are charged for names that nobody wants", s.unknown)
	}
}

// subscribed is a subscription of an Envoy's delta stream.
func subscribed(typ typeIndex) *subscription {
	tb := newTable(unknown{})
	return &subscription{stream: &stream{delta: true, view: resource.View{Kind: resource.Envoy}}, typ: typ, table: &tb}
}

// A client that subscribes again and again and never answers.
func TestUnansweredResponsesAreBounded(t *testing.T) {
	sub := subscribed(clusters)
	for range 1000 {
		sub.sent(&batch{}, "n")
	}
	if got := len(sub.inFlight); got != maxUnanswered {
		t.Errorf("%d are remembered, want %d", got, maxUnanswered)
	}
}

// What an earlier cluster response announced is not forgotten when only the later
// one is acknowledged.
func TestAnAnswerStandsForTheResponsesBefore(t *testing.T) {
	sub := subscribed(clusters)
	for _, name := range []string{"a", "b"} {
		sub.sent(&batch{items: []item{{topic: sub.table.topic(name), sent: &encoded{eds: name}}}}, name)
	}
	b := sub.answered("b", "", time.Time{})
	var announced []string
	for name := range b.announced {
		announced = append(announced, name)
	}
	slices.Sort(announced)
	if !slices.Equal(announced, []string{"a", "b"}) || len(sub.inFlight) != 0 {
		t.Errorf("announced %q with %d in flight, want a and b with none", announced, len(sub.inFlight))
	}
}

// The bytes that are shared are written by hand.
func TestTheSharedBytesAreResources(t *testing.T) {
	for _, name := range []string{"a", strings.Repeat("long", 100)} {
		e := resource.Endpoints{Service: name}
		for i := range 300 {
			e.Endpoints = append(e.Endpoints, resource.Endpoint{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80)})
		}
		m := resource.EncodeEndpoints(e, resource.Envoy)
		shared, err := encode(endpoints, name, m)
		if err != nil {
			t.Fatal(err)
		}
		content, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		var delta discoveryv3.DeltaDiscoveryResponse
		if err := proto.Unmarshal(shared.delta.ReadOnlyData(), &delta); err != nil {
			t.Fatal(err)
		}
		wantDelta := &discoveryv3.DeltaDiscoveryResponse{Resources: []*discoveryv3.Resource{{Name: name, Version: shared.version, Resource: content}}}
		if !proto.Equal(&delta, wantDelta) {
			t.Errorf("in delta got %v, want %v", &delta, wantDelta)
		}
		var world discoveryv3.DiscoveryResponse
		if err := proto.Unmarshal(shared.sotw.ReadOnlyData(), &world); err != nil {
			t.Fatal(err)
		}
		if want := (&discoveryv3.DiscoveryResponse{Resources: []*anypb.Any{content}}); !proto.Equal(&world, want) {
			t.Errorf("in state of the world got %v, want %v", &world, want)
		}
	}
}

func TestAContentIsEncodedOnceForAllWhoAreSentIt(t *testing.T) {
	view := resource.View{Kind: resource.Envoy}
	s := New(DefaultConfig(), slog.New(slog.DiscardHandler))
	if err := s.Apply(assigned(view, "a", 1)); err != nil {
		t.Fatal(err)
	}
	s.Ready()
	content := s.tables[resource.Envoy][endpoints].topics["a"].fleet.sotw.ReadOnlyData()
	for _, delta := range []bool{false, true} {
		st := s.open(newPipe(t), delta, "")
		n := &corev3.Node{Id: "n", UserAgentName: "envoy"}
		ask := func() error {
			return s.worldAsked(st, &discoveryv3.DiscoveryRequest{Node: n, TypeUrl: resource.TypeEndpoints, ResourceNames: []string{"a"}})
		}
		if delta {
			ask = func() error {
				return s.changeAsked(st, &discoveryv3.DeltaDiscoveryRequest{Node: n, TypeUrl: resource.TypeEndpoints, ResourceNamesSubscribe: []string{"a"}})
			}
		}
		if err := ask(); err != nil {
			t.Fatal(err)
		}
		written, err := newCodec().Marshal(<-st.wire.(*pipe).got)
		if err != nil {
			t.Fatal(err)
		}
		last := written[len(written)-1].ReadOnlyData()
		if &last[len(last)-1] != &content[len(content)-1] {
			t.Errorf("delta %t: the response has its own copy of the content", delta)
		}
		s.close(st)
	}
}

func TestBitsAreASetOfNumbers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var got bits
	want := map[uint32]bool{}
	for range 20_000 {
		n, in := rng.Uint32N(3000), rng.IntN(3) > 0
		got.put(n, in)
		if want[n] = in; !in {
			delete(want, n)
		}
		if got.has(n) != in {
			t.Fatalf("%d is a member: %t, want %t", n, !in, in)
		}
	}
	if all := slices.Collect(got.all()); !slices.Equal(all, slices.Sorted(maps.Keys(want))) || got.len() != len(want) {
		t.Errorf("got %d numbers %v, want %d", got.len(), all, len(want))
	}
	for n := range want {
		got.put(n, false)
	}
	if len(got) != 0 {
		t.Errorf("%d words are left of an empty set", len(got))
	}
}

// An answer may come when the topic it speaks of is gone, and its number is another's.
func TestANumberTakesNothingOverFromWhoHadItBefore(t *testing.T) {
	sub := subscribed(endpoints)
	old := sub.name("old")
	sub.sent(&batch{items: []item{{topic: old, sent: &encoded{name: "old"}}}}, "1")
	sub.unname(old)
	other := sub.name("other")
	if other.id != old.id {
		t.Fatalf("other has number %d, want that of old, %d", other.id, old.id)
	}
	sub.answered("1", "", time.Time{})
	if e, _ := sub.entry(other); e.acked {
		t.Error("the ACK of old counts for other")
	}
	if _, known := sub.entry(old); known {
		t.Error("old is still known")
	}
}
