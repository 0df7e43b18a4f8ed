package server

import (
	"fmt"
	"log/slog"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// One assignment flips, and every stream watches it: what the cache itself costs for
// each client, from Apply to the handled ACK, without gRPC. It must not grow with
// the number of names that a client subscribes to.
func BenchmarkFlip(b *testing.B) {
	const streams = 1000
	for _, names := range []int{10, 1000} {
		b.Run(fmt.Sprintf("names=%d", names), func(b *testing.B) {
			s := New(DefaultConfig(), slog.New(slog.DiscardHandler))
			view := resource.View{Kind: resource.Overhear}
			var subscribed []string
			for i := range names {
				name := fmt.Sprint("service-", i)
				subscribed = append(subscribed, name)
				if err := s.Apply(assigned(view, name, 1)); err != nil {
					b.Fatal(err)
				}
			}
			s.Ready()
			clients := make([]*stream, streams)
			// turn takes a response, and acknowledges it.
			turn := func(st *stream) {
				r := <-st.wire.(*pipe).got
				ack := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeEndpoints, ResponseNonce: r.own.(*discoveryv3.DeltaDiscoveryResponse).GetNonce()}
				if err := s.changeAsked(st, ack); err != nil {
					b.Fatal(err)
				}
			}
			for i := range streams {
				clients[i] = s.open(newPipe(b), true, "")
				if err := s.changeAsked(clients[i], &discoveryv3.DeltaDiscoveryRequest{
					Node: &corev3.Node{Id: fmt.Sprint("n", i), UserAgentName: "overhear"}, TypeUrl: resource.TypeEndpoints, ResourceNamesSubscribe: subscribed,
				}); err != nil {
					b.Fatal(err)
				}
				turn(clients[i])
			}
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				n++
				if err := s.Apply(assigned(view, "service-3", byte(1+n%2))); err != nil {
					b.Fatal(err)
				}
				for _, st := range clients {
					turn(st)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*streams), "ns/client")
		})
	}
}

// A state-of-the-world client repeats all names with each ACK: what that costs here,
// in the lock that all streams share.
func BenchmarkAck(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprintf("names=%d", n), func(b *testing.B) {
			s := New(DefaultConfig(), slog.New(slog.DiscardHandler))
			s.Ready()
			st := s.open(newPipe(b), false, "")
			r := &discoveryv3.DiscoveryRequest{Node: &corev3.Node{Id: "n", UserAgentName: "envoy"}, TypeUrl: resource.TypeEndpoints}
			for i := range n {
				r.ResourceNames = append(r.ResourceNames, fmt.Sprint("service-", i))
			}
			b.ReportAllocs()
			for b.Loop() {
				if err := s.worldAsked(st, r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
