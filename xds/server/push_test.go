package server

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// queue is a server whose pushes are made one by one, and its clients, which
// acknowledge at once.
type queue struct {
	t *testing.T
	*Server
	clients []*stream
}

// newQueue has n clients, n0 and so on, that hold the first version of a.
func newQueue(t *testing.T, n int) *queue {
	t.Helper()
	q := &queue{t: t, Server: New(DefaultConfig(), slog.New(slog.DiscardHandler))}
	q.pending.going = true // nobody else pushes
	q.apply(1)
	q.Ready()
	for i := range n {
		q.clients = append(q.clients, q.open(newPipe(t), true, ""))
		q.ask(i, &discoveryv3.DeltaDiscoveryRequest{
			Node: &corev3.Node{Id: fmt.Sprint("n", i), UserAgentName: "overhear"}, TypeUrl: resource.TypeEndpoints, ResourceNamesSubscribe: []string{"a"},
		})
		if got := q.told(); got != fmt.Sprintf("n%d=1", i) {
			t.Fatalf("told %q at first, want a of the client that has come", got)
		}
	}
	return q
}

func (q *queue) apply(version byte, first ...string) {
	q.t.Helper()
	if err := q.ApplyFirst(first, assigned(resource.View{Kind: resource.Overhear}, "a", version)); err != nil {
		q.t.Fatal(err)
	}
}

func (q *queue) ask(i int, r *discoveryv3.DeltaDiscoveryRequest) {
	q.t.Helper()
	if err := q.changeAsked(q.clients[i], r); err != nil {
		q.t.Fatal(err)
	}
}

// told lists who has been told of which version since it was last asked.
func (q *queue) told() string {
	q.t.Helper()
	var all []string
	for i, st := range q.clients {
		var m discoveryv3.DeltaDiscoveryResponse
		if !sent(q.t, st, &m) {
			continue
		}
		var a endpointv3.ClusterLoadAssignment
		if err := m.GetResources()[0].GetResource().UnmarshalTo(&a); err != nil {
			q.t.Fatal(err)
		}
		host := a.GetEndpoints()[0].GetLbEndpoints()[0].GetEndpoint().GetAddress().GetSocketAddress().GetAddress()
		all = append(all, fmt.Sprintf("n%d=%s", i, strings.TrimPrefix(host, "10.0.0.")))
		q.ask(i, &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeEndpoints, ResponseNonce: m.GetNonce()})
	}
	return strings.Join(all, " ")
}

// push makes n pushes and says who was told, in order.
func (q *queue) push(n int) []string {
	q.t.Helper()
	var all []string
	for range n {
		if !q.pushOne() {
			return append(all, "end")
		}
		if told := q.told(); told != "" {
			all = append(all, told)
		}
	}
	return all
}

func TestThoseWhoUseAnEndpointHearOfItFirst(t *testing.T) {
	q := newQueue(t, 20)
	q.apply(2, "n7", "nobody", "n3", "n7")
	got := q.push(2)
	if want := []string{"n7=2", "n3=2"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	if got := len(q.push(100)); got != 18+1 {
		t.Errorf("told %d more and the end, want the other 18", got)
	}
}

func TestWhatConcernsThemPassesAPushThatIsUnderWay(t *testing.T) {
	q := newQueue(t, 20)
	q.apply(2)
	q.push(5)
	q.apply(3, "n11")
	if got := q.push(1); !slices.Equal(got, []string{"n11=3"}) {
		t.Errorf("told %q next, want the newest to n11", got)
	}
}

func TestWhoWaitsForItsTurnIsToldTheNewestAlone(t *testing.T) {
	q := newQueue(t, 3)
	q.apply(2)
	early := q.push(1)
	q.apply(3)
	got := q.push(100)
	if len(early) != 1 || !strings.HasSuffix(early[0], "=2") {
		t.Fatalf("told %q, want the second version to one", early)
	}
	slices.Sort(got)
	if want := []string{"end", "n0=3", "n1=3", "n2=3"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestWhoLeavesBeforeItsTurnHoldsNobodyUp(t *testing.T) {
	q := newQueue(t, 3)
	q.apply(2, "n1")
	q.close(q.clients[1])
	got := q.push(100)
	slices.Sort(got)
	if want := []string{"end", "n0=2", "n2=2"}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	for l, lane := range q.pending.lanes {
		if lane != nil {
			t.Errorf("lane %d holds on to %d streams after the push", l, len(lane))
		}
	}
}

func TestStreamsOfOneConnectionAreToldOneAfterTheOther(t *testing.T) {
	const connections = 5
	q := newQueue(t, 40)
	for i, st := range q.clients {
		st.peer = fmt.Sprint("10.0.0.1:", i%connections)
	}
	q.apply(2)
	var order []string // the connection of each stream that was told, once for each run of equal ones
	for range q.clients {
		var i, version int
		told := strings.Join(q.push(1), " ")
		if _, err := fmt.Sscanf(told, "n%d=%d", &i, &version); err != nil {
			t.Fatalf("told %q: %v", told, err)
		}
		order = append(order, q.clients[i].peer)
	}
	if order = slices.Compact(order); len(order) != connections {
		t.Errorf("the connections had their turns in the order %q, want each to have one", order)
	}
}
