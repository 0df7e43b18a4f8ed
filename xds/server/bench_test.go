package server

import (
	"fmt"
	"log/slog"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	gcp "github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"

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
			f := front{s}
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
			chans := make([]chan cache.DeltaResponse, streams)
			subs := make([]gcp.Subscription, streams)
			// turn is what go-control-plane does with a response and the ACK for it.
			turn := func(i, nonce int) {
				r := <-chans[i]
				m, err := r.GetDeltaDiscoveryResponse()
				if err != nil {
					b.Fatal(err)
				}
				m.Nonce = fmt.Sprint(nonce)
				f.OnStreamDeltaResponse(int64(i), r.GetDeltaRequest(), m)
				ack := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeEndpoints, ResponseNonce: m.GetNonce()}
				if err := f.OnStreamDeltaRequest(int64(i), ack); err != nil {
					b.Fatal(err)
				}
				if _, err := f.CreateDeltaWatch(ack, &subs[i], chans[i]); err != nil {
					b.Fatal(err)
				}
			}
			for i := range streams {
				if err := f.OnDeltaStreamOpen(b.Context(), int64(i), ""); err != nil {
					b.Fatal(err)
				}
				r := &discoveryv3.DeltaDiscoveryRequest{
					Node: &corev3.Node{Id: fmt.Sprint("n", i), UserAgentName: "overhear"}, TypeUrl: resource.TypeEndpoints, ResourceNamesSubscribe: subscribed,
				}
				if err := f.OnStreamDeltaRequest(int64(i), r); err != nil {
					b.Fatal(err)
				}
				chans[i] = make(chan cache.DeltaResponse, 1)
				subs[i] = gcp.NewDeltaSubscription(subscribed, nil, nil, false)
				if _, err := f.CreateDeltaWatch(r, &subs[i], chans[i]); err != nil {
					b.Fatal(err)
				}
				turn(i, 0)
			}
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				n++
				if err := s.Apply(assigned(view, "service-3", byte(1+n%2))); err != nil {
					b.Fatal(err)
				}
				for i := range streams {
					turn(i, n)
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
			f := front{s}
			s.Ready()
			if err := f.OnStreamOpen(b.Context(), 1, ""); err != nil {
				b.Fatal(err)
			}
			r := &discoveryv3.DiscoveryRequest{Node: &corev3.Node{Id: "n", UserAgentName: "envoy"}, TypeUrl: resource.TypeEndpoints}
			for i := range n {
				r.ResourceNames = append(r.ResourceNames, fmt.Sprint("service-", i))
			}
			want, ch := gcp.NewSotwSubscription(r.GetResourceNames(), false), make(chan cache.Response, 1)
			b.ReportAllocs()
			for b.Loop() {
				if err := f.OnStreamRequest(1, r); err != nil {
					b.Fatal(err)
				}
				if _, err := f.CreateWatch(r, want, ch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
