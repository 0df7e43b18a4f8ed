package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/overhear-mesh/overhear/xds/resource"
	"github.com/overhear-mesh/overhear/xds/server"
)

// large is an assignment that fills the window of a stream.
func large(name string, generation int) server.Change {
	e := resource.Endpoints{Service: name}
	for i := range 3000 {
		e.Endpoints = append(e.Endpoints, resource.Endpoint{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(generation), byte(i >> 8), byte(i)}), 80)})
	}
	return server.Change{View: envoyView, TypeURL: resource.TypeEndpoints, Name: name, Message: resource.EncodeEndpoints(e, resource.Envoy)}
}

func TestAClientThatNeverReadsHoldsNobodyUp(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(large("a", 1), cluster("a", 1), listener())
		h.Ready()
		deaf := h.openDeaf(delta)
		good := h.open(node("good", envoyView), delta)
		good.subscribe(eds, "a")
		good.want("endpoints[a]")
		for generation := range 5 {
			h.apply(large("a", 2+generation), cluster("a", 2+generation))
			good.want("endpoints[a]")
		}
		for _, c := range h.Clients() {
			if c.Node != "deaf" {
				continue
			}
			for _, of := range c.Types {
				if of.Waiting > 1 {
					t.Errorf("%d changes of %s wait, want the newest of one", of.Waiting, short(of.TypeURL))
				}
			}
		}
		if got := h.Stats().Responses[eds]; got != 1+6 {
			t.Errorf("%d responses of endpoints, want one to who never reads and 6 to the other", got)
		}
		deaf()
		if got := len(h.Clients()); got != 1 {
			t.Errorf("%d clients, want the one that reads", got)
		}
	})
}

// openDeaf opens a stream that asks for endpoints, clusters and listeners, and reads
// nothing.
func (h *harness) openDeaf(delta bool) (end func()) {
	h.t.Helper()
	ctx, cancel := context.WithCancel(h.t.Context())
	ads := discoveryv3.NewAggregatedDiscoveryServiceClient(h.cc)
	var st grpc.ClientStream
	var err error
	if delta {
		st, err = ads.DeltaAggregatedResources(ctx)
	} else {
		st, err = ads.StreamAggregatedResources(ctx)
	}
	for i, url := range []string{eds, cds, lds} {
		if err != nil {
			h.t.Fatal(err)
		}
		n := node("deaf", envoyView)
		names := []string{[]string{"a", "*", "*"}[i]}
		if delta {
			err = st.SendMsg(&discoveryv3.DeltaDiscoveryRequest{Node: n, TypeUrl: url, ResourceNamesSubscribe: names})
		} else {
			err = st.SendMsg(&discoveryv3.DiscoveryRequest{Node: n, TypeUrl: url, ResourceNames: names})
		}
	}
	if err != nil {
		h.t.Fatal(err)
	}
	synctest.Wait()
	return func() { cancel(); synctest.Wait() }
}

func TestAServerThatStopsWaitsForNobodyWhoNeverReads(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(large("a", 1), cluster("a", 1), listener())
		h.Ready()
		defer h.openDeaf(delta)()
		good := h.open(node("good", envoyView), delta)
		good.subscribe(eds, "a")
		good.want("endpoints[a]")
		h.grpc.Stop()
		good.wantEnd(codes.Unavailable)
		if got := h.Stats().Streams; got != 0 {
			t.Errorf("%d streams are left after the end, want none", got)
		}
		h.apply(assignment("a", 2)) // nobody is there any more
	})
}

func TestAClientThatSaysNoMoreIsSentWhatIsOnItsWayAndLetGo(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(large("a", 1))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.free = true
		c.subscribe(eds, "a")
		half := func() error { return c.sotw.CloseSend() }
		if delta {
			half = func() error { return c.incr.CloseSend() }
		}
		if err := half(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := (<-c.got).names(); got != "endpoints[a]" {
			t.Errorf("got %s, want endpoints[a]", got)
		}
		if err := <-c.ended; !errors.Is(err, io.EOF) {
			t.Errorf("the stream ended with %v, want OK", err)
		}
		if got := len(h.Clients()); got != 0 {
			t.Errorf("%d clients are left, want none", got)
		}
	})
}

// Responses are written by a codec of our own. Where it was forgotten, every client is
// told, and no stream hangs.
func TestAGRPCServerWithoutTheOptionsTellsItsClients(t *testing.T) {
	for _, delta := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := newHarnessOn(t, server.DefaultConfig(), grpc.NewServer())
			h.apply(assignment("a", 1))
			h.Ready()
			c := h.open(node("n", envoyView), delta)
			c.subscribe(eds, "a")
			c.wantEnd(codes.Internal)
			if got := h.Stats().Streams; got != 0 {
				t.Errorf("%d streams are left, want none", got)
			}
		})
	}
}

func TestAClientThatNeverAnswersIsSentOneResponseOfAType(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(cluster("a", 1), assignment("a", 1))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(cds)
		c.subscribe(eds, "a")
		c.next()
		c.next()
		for generation := range 30 {
			h.apply(cluster("a", 2+generation), assignment("a", 2+generation))
		}
		c.quiet("nothing is acknowledged")
		for _, of := range h.Clients()[0].Types {
			if of.Waiting != 1 {
				t.Errorf("%d changes of %s wait, want the newest", of.Waiting, short(of.TypeURL))
			}
		}
	})
}

func TestAClientThatAsksAgainAndAgainIsHeardWhenItHasRead(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.apply(large("a", 1))
		h.Ready()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		st, err := discoveryv3.NewAggregatedDiscoveryServiceClient(h.cc).DeltaAggregatedResources(ctx)
		if err != nil {
			t.Fatal(err)
		}
		const times = 60
		for range times {
			if err := st.Send(&discoveryv3.DeltaDiscoveryRequest{Node: node("n", envoyView), TypeUrl: eds, ResourceNamesSubscribe: []string{"a"}}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got := h.Stats().Responses[eds]; got < 2 || got > 20 {
			t.Errorf("%d responses are on their way to who reads none, want a few", got)
		}
		for range times {
			if _, err := st.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got := h.Stats().Responses[eds]; got != times {
			t.Errorf("%d responses, want one for each of %d requests", got, times)
		}
	})
}

// A name that does not exist is remembered for as long as somebody wants it. However many
// streams and types an address has, that takes no more than one bound.
func TestNamesThatDoNotExistAreBoundedForAnAddress(t *testing.T) {
	for _, delta := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			cfg := server.DefaultConfig()
			cfg.MaxUnknown = 10_000
			h := newHarness(t, cfg)
			h.Ready()
			good := h.open(node("good", envoyView), delta)
			var early []string
			var all []server.Change
			for i := range 30 {
				early = append(early, fmt.Sprint("early", i))
				all = append(all, assignment(early[i], 1), assignment(fmt.Sprint("known", i), 1))
			}
			good.subscribe(eds, early...)
			if delta {
				good.ack(good.next()) // that they do not exist
			}
			h.apply(all...) // and now they do: they cost nothing any more
			if got := len(good.next().resources); got != len(early) {
				t.Errorf("got %d resources, want the %d asked for early", got, len(early))
			}
			long := func(i int) string { return fmt.Sprint(strings.Repeat("x", 1000), i) }
			first := h.open(node("first", envoyView), delta)
			first.subscribe(eds, long(0), long(1), long(2))
			second := h.open(node("second", envoyView), delta)
			second.subscribe(rds, long(0), long(1), long(2))
			again := h.open(node("again", envoyView), delta)
			again.subscribe(eds, long(0), long(1), long(2)) // somebody has asked for them already
			third := h.elsewhere().open(node("third", envoyView), delta)
			third.subscribe(cds, long(0), long(1), long(2))
			third.wantEnd(codes.ResourceExhausted)

			first.close()
			again.close()
			fourth := h.open(node("fourth", envoyView), delta)
			fourth.subscribe(cds, long(0), long(1), long(2)) // there is room again
			if got := len(h.Clients()); got != 3 {
				t.Errorf("%d clients, want good, second and fourth", got)
			}
		})
	}
}

// What a delta client says of its subscriptions may carry any nonce: it is heard, and
// counts as no answer.
func TestAWrongNonceInDeltaIsNoAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.apply(assignment("a", 1), assignment("b", 1))
		h.Ready()
		c := h.open(node("n", envoyView), true)
		c.sendDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: eds, ResourceNamesSubscribe: []string{"a"}, ResponseNonce: "of another stream"})
		a := c.next()
		c.sendDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: eds, ResourceNamesSubscribe: []string{"b"}, ResponseNonce: a.nonce + "0"})
		if got := c.next().names(); got != "endpoints[b]" {
			t.Errorf("got %s, want endpoints[b]", got)
		}
		if s := h.Stats(); s.ACKs[eds] != 0 || s.NACKs[eds] != 0 || h.Sent("n", "a") {
			t.Errorf("%d ACKs, %d NACKs, want no answer counted", s.ACKs[eds], s.NACKs[eds])
		}
	})
}

// Versions are hashes of content: it does not matter which of several servers a client
// has from.
func TestAClientThatMovesToAnotherServerIsSentNothingThatItHolds(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		other := newHarness(t, server.DefaultConfig())
		h.apply(cluster("a", 1), cluster("b", 1), assignment("a", 1), assignment("b", 1))
		other.apply(assignment("b", 1), assignment("a", 2), cluster("b", 1))
		other.apply(assignment("a", 1), cluster("a", 1)) // the same in the end, by another way
		h.Ready()
		other.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(cds)
		clusters := c.want("clusters[a b]")
		c.subscribe(eds, "a", "b")
		endpoints := c.want("endpoints[a b]")
		c.close()

		c = other.open(node("n", envoyView), delta)
		c.resume(clusters)
		if delta {
			c.want("clusters[]")
		}
		c.resume(endpoints, "a", "b")
		if !delta {
			c.want("endpoints[a b]") // names that it may have dropped meanwhile
		}
		c.quiet("it holds everything")
		other.apply(assignment("b", 2))
		c.want("endpoints[b]")
	})
}

func TestAClientOfFiveNamesHearsOfFive(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		var all []server.Change
		for i := range 1000 {
			all = append(all, assignment(fmt.Sprint("s", i), 1))
		}
		h.apply(all...)
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(eds, "s0", "s1", "s2", "s3")
		c.want("endpoints[s0 s1 s2 s3]")
		c.subscribe(eds, "s4") // on demand
		c.want("endpoints[s4]")
		for i := range all {
			all[i] = assignment(fmt.Sprint("s", i), 2)
		}
		h.apply(all...)
		c.want("endpoints[s0 s1 s2 s3 s4]")
		c.quiet("the rest is nothing to it")
		if got := h.Clients()[0].Types[0].Resources; got != 5 {
			t.Errorf("the server remembers %d resources of it, want 5", got)
		}
	})
}

func TestEachTypeHasStreamsOfItsOwn(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(cluster("a", 1), assignment("a", 1), listener(), route("a"))
		h.Ready()
		for url, want := range map[string]string{cds: "clusters[a]", eds: "endpoints[a]", lds: "listeners[l]", rds: "routes[r]"} {
			c := h.openType(node("n", envoyView), delta, url)
			name := map[string]string{cds: "*", eds: "a", lds: "*", rds: "r"}[url]
			// The type need not be said: it is the stream's.
			if delta {
				c.sendDelta(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{name}})
			} else {
				c.names[url] = []string{name}
				c.sendSotw(&discoveryv3.DiscoveryRequest{ResourceNames: c.names[url]})
			}
			got := c.next()
			if got.names() != want {
				t.Fatalf("got %s, want %s", got.names(), want)
			}
			no := &spb.Status{Message: "no"}
			if delta {
				c.sendDelta(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: got.nonce, ErrorDetail: no})
			} else {
				c.sendSotw(&discoveryv3.DiscoveryRequest{ResourceNames: c.names[url], ResponseNonce: got.nonce, ErrorDetail: no})
			}
			if !strings.Contains(h.log.String(), "type="+url) {
				t.Errorf("the log does not name the type of what was refused: %s", h.log)
			}
		}
	})
}

func TestAnAggregatedStreamMustSayTheType(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe("", "a")
		c.wantEnd(codes.InvalidArgument)
	})
}

// All of a fleet come back at once when a server returns. Nobody has to be asked twice,
// and there is nothing to send to who holds everything.
func TestAFleetThatReconnectsAtOnceIsServed(t *testing.T) {
	const clients = 200
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, server.DefaultConfig())
		var all []server.Change
		var names []string
		for i := range 20 {
			names = append(names, fmt.Sprint("s", i))
			all = append(all, assignment(names[i], 1))
		}
		h.apply(all...)
		streams := make([]*stream, clients)
		come := func(versions map[string]string) {
			t.Helper()
			for i := range streams {
				c := h.open(node(fmt.Sprint("n", i), envoyView), true)
				c.free = true
				c.sendDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: eds, ResourceNamesSubscribe: names, InitialResourceVersions: versions})
				streams[i] = c
			}
			synctest.Wait()
		}
		come(nil)
		h.Ready() // they have come while it filled
		synctest.Wait()
		var held map[string]string
		for _, c := range streams {
			a := c.next()
			if len(a.resources) != len(names) {
				t.Fatalf("got %s, want all of %d", a.names(), len(names))
			}
			c.ack(a)
			held = a.versions
		}
		synctest.Wait()
		for _, c := range streams {
			c.close()
		}
		if got := h.Stats().Streams; got != 0 {
			t.Fatalf("%d streams are left of those who have gone", got)
		}
		come(held)
		for _, c := range streams {
			c.quiet("it holds everything")
		}
		h.apply(assignment("s3", 2))
		for _, c := range streams {
			if got := c.next().names(); got != "endpoints[s3]" {
				t.Fatalf("got %s, want endpoints[s3]", got)
			}
		}
		if got, want := h.Stats().Responses[eds], uint64(2*clients); got != want {
			t.Errorf("%d responses, want %d", got, want)
		}
	})
}

// All of a fleet come back within a second of a restart, before the new server knows what
// there is. It must not send everything to everybody for that.
func TestAClientThatComesWhileTheServerFillsIsSentNothingThatItHolds(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		all := []server.Change{cluster("a", 1), cluster("b", 1), assignment("a", 1), assignment("b", 1)}
		h.apply(all...)
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(cds)
		clusters := c.want("clusters[a b]")
		c.subscribe(eds, "a", "b")
		endpoints := c.want("endpoints[a b]")
		c.close()

		restarted := newHarness(t, server.DefaultConfig())
		again := func(id string) *stream {
			c := restarted.open(node(id, envoyView), delta)
			c.resume(clusters)
			c.resume(endpoints, "a", "b")
			return c
		}
		c = again("n")
		forgetful := again("forgetful") // loses a while it waits, and asks once more
		forgetful.unsubscribe(eds, "a")
		forgetful.subscribe(eds, "a")
		restarted.apply(all...)
		restarted.Ready()
		synctest.Wait()
		if delta {
			c.want("clusters[]")
			forgetful.want("clusters[]")
			forgetful.want("endpoints[a]")
		} else {
			c.want("endpoints[a b]")
			forgetful.want("endpoints[a b]")
		}
		c.quiet("it holds everything")
		forgetful.quiet("it holds the rest")
		restarted.apply(assignment("b", 2))
		c.want("endpoints[b]")
	})
}
