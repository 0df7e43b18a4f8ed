package server

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"unsafe"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	spb "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// An Envoy that leaves its clusters unacknowledged is sent no routes, and one that comes
// before the state is loaded is sent nothing. What such a client asked for and wants no
// more must not be kept for it.
func TestAClientThatChangesItsMindWhileItMustWaitMakesNothingGrow(t *testing.T) {
	for _, loaded := range []bool{false, true} {
		t.Run(fmt.Sprint("loaded ", loaded), func(t *testing.T) {
			s := New(DefaultConfig(), slog.New(slog.DiscardHandler))
			if loaded {
				s.Ready()
			}
			st := s.open(newPipe(t), true, "")
			ask := func(r *discoveryv3.DeltaDiscoveryRequest) {
				t.Helper()
				r.Node = &corev3.Node{Id: "n", UserAgentName: "envoy"}
				if err := s.changeAsked(st, r); err != nil {
					t.Fatal(err)
				}
			}
			ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeCluster})
			for i := range 1000 {
				name := []string{fmt.Sprint("r", i)}
				ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeRoute, ResourceNamesSubscribe: name})
				ask(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeRoute, ResourceNamesUnsubscribe: name})
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if got := len(st.subs[routes].moving); got != 0 {
				t.Errorf("%d routes wait to be told to who wants none, want 0", got)
			}
		})
	}
}

// A text that is kept must not keep the message that it was a part of.
func TestAShortenedRefusalDoesNotKeepAllOfIt(t *testing.T) {
	said := strings.Repeat("no ", 1<<16)
	kept := refusalOf(&spb.Status{Message: said})
	if len(kept) != maxRefusal || !strings.HasPrefix(said, kept) {
		t.Fatalf("%d bytes are kept, want the first %d", len(kept), maxRefusal)
	}
	if unsafe.StringData(kept) == unsafe.StringData(said) {
		t.Errorf("it holds on to all %d bytes", len(said))
	}
}

// The client has the first version when the second comes and goes, and so holds what
// there is: nothing need be kept of that.
func TestContentThatComesBackBeforeItWasToldIsAtRest(t *testing.T) {
	q := newQueue(t, 1)
	sub := q.clients[0].subs[endpoints]
	q.apply(2)
	q.apply(1)
	if got := len(sub.moving); got != 1 {
		t.Fatalf("%d entries wait for the push, want 1", got)
	}
	if got := q.push(1); got != nil {
		t.Errorf("told %q, want nothing", got)
	}
	if e, _ := sub.entry(sub.table.topics["a"]); len(sub.moving) != 0 || e.sent != sub.table.topics["a"].fleet || !e.acked {
		t.Errorf("%d entries are written out, want the client to hold what there is, and to have accepted it", len(sub.moving))
	}
}
