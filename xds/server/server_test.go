package server_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservicev3 "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/xds/resource"
	"github.com/overhear-mesh/overhear/xds/server"
)

const (
	cds = resource.TypeCluster
	eds = resource.TypeEndpoints
	lds = resource.TypeListener
	rds = resource.TypeRoute
)

func TestNothingIsAnsweredBeforeTheStateIsLoaded(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		c := h.open(node("n", envoyView), delta)
		c.subscribe(cds)
		c.subscribe(eds, "api")
		h.apply(cluster("api", 1))
		c.quiet("not ready")
		h.apply(assignment("api", 1))
		c.quiet("still not ready")
		h.Ready()
		synctest.Wait()
		c.want("clusters[api]")
		c.want("endpoints[api]")
		c.quiet("all is said")
	})
}

func TestAnEmptyWorldIsSaidToWhoAsksForEverything(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(cds)
		c.want("clusters[]") // else an Envoy waits 15 s for it
		c.quiet("said once")
	})
}

func TestARequestWithoutNamesIsAWildcardOnlyWhereThereIsOne(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(cluster("api", 1), assignment("api", 1), listener(), route("api"))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		for _, url := range []string{cds, eds, lds, rds} {
			if delta {
				c.sendDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: url})
			} else {
				c.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: url})
			}
		}
		c.want("clusters[api]")
		c.want("listeners[l]")
		c.quiet("endpoints and routes are asked for by name")
	})
}

func TestAChangeIsPushedToThoseWhoWatchIt(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(assignment("a", 1), assignment("b", 1), assignment("c", 1))
		h.Ready()
		one, other := h.open(node("one", envoyView), delta), h.open(node("other", envoyView), delta)
		one.subscribe(eds, "a", "b")
		other.subscribe(eds, "c")
		one.want("endpoints[a b]")
		other.want("endpoints[c]")

		h.apply(assignment("b", 2))
		one.want("endpoints[b]") // and not a: also in state of the world
		other.quiet("b is not watched")
		h.apply(assignment("b", 2))
		one.quiet("the same content again")
		h.apply(assignment("b", 3), assignment("b", 2))
		one.quiet("there and back in one batch")
		h.apply(assignment("a", 2), assignment("b", 3), assignment("c", 2))
		one.want("endpoints[a b]")
		other.want("endpoints[c]")
	})
}

func TestClustersAndListenersAreSentWholeInStateOfTheWorld(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(cluster("a", 1), cluster("b", 1))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(cds)
		c.want("clusters[a b]")
		h.apply(cluster("b", 2))
		if delta {
			c.want("clusters[b]")
		} else {
			c.want("clusters[a b]") // what is missing is deleted
		}
		h.apply(without(cluster("a", 1)))
		if delta {
			c.want("clusters[-a]")
		} else {
			c.want("clusters[b]")
		}
		h.apply(without(cluster("b", 1)))
		if delta {
			c.want("clusters[-b]")
		} else {
			c.want("clusters[]")
		}
	})
}

func TestDeltaSaysOfAnUnknownNameThatItDoesNotExist(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.Ready()
		c := h.open(node("n", envoyView), true)
		c.subscribe(eds, "api")
		c.want("endpoints[-api]")
		h.apply(assignment("api", 1))
		c.want("endpoints[api]")
		h.apply(without(assignment("api", 1)))
		c.want("endpoints[-api]")
		c.subscribe(eds, "api")
		c.want("endpoints[-api]")
	})
}

func TestStateOfTheWorldIsSilentAboutAnUnknownName(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.Ready()
		c := h.open(node("n", envoyView), false)
		c.subscribe(eds, "api")
		c.quiet("there is no word for it")
		h.apply(assignment("api", 1))
		c.want("endpoints[api]")
		h.apply(without(assignment("api", 1)))
		c.quiet("endpoints go with their cluster")
		h.apply(assignment("api", 1))
		c.want("endpoints[api]")
	})
}

func TestANameThatIsSubscribedAgainIsSentAgain(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.apply(assignment("api", 1))
		h.Ready()
		c := h.open(node("n", envoyView), true)
		c.subscribe(eds, "api")
		c.want("endpoints[api]")
		c.subscribe(eds, "api")
		c.want("endpoints[api]")
	})
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(assignment("api", 1), assignment("web", 1))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(eds, "web", "api")
		c.want("endpoints[api web]")
		c.unsubscribe(eds, "api")
		c.quiet("unsubscribed")
		h.apply(assignment("api", 2))
		c.quiet("not watched any more")
		c.subscribe(eds, "api")
		c.want("endpoints[api]")
	})
}

func TestANameUnsubscribedUnderAWildcardIsSaidOnceMore(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.apply(cluster("a", 1), cluster("b", 1))
		h.Ready()
		c := h.open(node("n", envoyView), true)
		c.subscribe(cds, "*", "a", "nobody")
		c.want("clusters[a b -nobody]")
		c.unsubscribe(cds, "a")
		c.want("clusters[a]")
		c.unsubscribe(cds, "nobody")
		c.want("clusters[-nobody]")
		h.apply(cluster("a", 2))
		c.want("clusters[a]") // the wildcard still covers it
		c.unsubscribe(cds, "*")
		h.apply(cluster("a", 3))
		c.quiet("nothing is subscribed")
	})
}

func TestADeltaClientThatReconnectsIsSentOnlyWhatDiffers(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.apply(cluster("same", 1), cluster("changed", 1), cluster("gone", 1), assignment("same", 1), assignment("changed", 1), assignment("gone", 1))
		h.Ready()
		c := h.open(node("n", envoyView), true)
		c.subscribe(cds)
		clusters := c.want("clusters[changed gone same]")
		c.subscribe(eds, "same", "changed", "gone")
		endpoints := c.want("endpoints[changed gone same]")
		c.close()

		h.apply(cluster("changed", 2), without(cluster("gone", 1)), cluster("new", 1), assignment("changed", 2), without(assignment("gone", 1)), assignment("new", 1))
		c = h.open(node("n", envoyView), true)
		c.resume(clusters)
		c.resume(endpoints, "same", "changed", "gone", "new")
		got := c.next()
		if got.names() != "clusters[changed new -gone]" {
			t.Errorf("got %s", got.names())
		}
		if got := c.next(); got.names() != "endpoints[changed new -gone]" {
			t.Errorf("got %s", got.names())
		}
		c.ack(got)
		if !h.Sent("n", "same") {
			t.Error("what a client holds after a reconnect counts as sent to it")
		}
	})
}

// A server that has just been started is asked while it still fills.
func TestWhatIsThereWhenTheGateOpensIsNotGone(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		c := h.open(node("n", envoyView), true)
		c.sendDelta(&discoveryv3.DeltaDiscoveryRequest{
			TypeUrl: cds, ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: map[string]string{"a": "v", "gone": "v"},
		})
		synctest.Wait()
		h.apply(cluster("a", 1))
		h.Ready()
		synctest.Wait()
		c.want("clusters[a -gone]")
	})
}

func TestADeltaClientThatHoldsEverythingGetsASignOfLife(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.apply(cluster("a", 1))
		h.Ready()
		c := h.open(node("n", envoyView), true)
		c.subscribe(cds)
		held := c.want("clusters[a]")
		c.close()
		c = h.open(node("n", envoyView), true)
		c.resume(held)
		c.want("clusters[]")
		h.apply(without(cluster("a", 1)))
		c.want("clusters[-a]")
	})
}

// One that wants all is; one that names what it wants may have dropped some of it.
func TestAStateOfTheWorldClientThatHoldsEverythingIsSentNoClusters(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.apply(cluster("a", 1), assignment("a", 1), assignment("b", 1))
		h.Ready()
		c := h.open(node("n", envoyView), false)
		c.subscribe(cds)
		clusters := c.want("clusters[a]")
		c.subscribe(eds, "a", "b")
		c.want("endpoints[a b]")
		h.apply(assignment("b", 2))
		endpoints := c.want("endpoints[b]")
		c.close()

		again := func() *stream {
			c := h.open(node("n", envoyView), false)
			c.resume(clusters)
			c.resume(endpoints, "a", "b")
			return c
		}
		c = again()
		c.want("endpoints[a b]")
		c.quiet("it holds the clusters")
		h.apply(cluster("a", 2))
		c.close()

		c = again() // with the versions of before
		c.want("clusters[a]")
		c.want("endpoints[a b]")
	})
}

func TestOneBatchComesInTheOrderOfReference(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(rds, "r")
		c.subscribe(lds)
		c.subscribe(eds, "api")
		c.subscribe(cds)
		for range 4 { // what there is to say of nothing
			select {
			case a := <-c.got:
				c.ack(a)
			default:
			}
		}
		h.apply(route("api"), listener(), assignment("api", 1), cluster("api", 1))
		c.want("clusters[api]")
		c.want("endpoints[api]")
		c.want("listeners[l]")
		c.want("routes[r]")
	})
}

func TestARouteComesOnlyWhenItsClusterIsWarm(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(cluster("a", 1), assignment("a", 1), route("a"))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(cds)
		c.want("clusters[a]")
		c.subscribe(eds, "a")
		c.want("endpoints[a]")
		c.subscribe(rds, "r")
		c.want("routes[r]")
		h.apply(cluster("b", 1), assignment("b", 1), route("b"))
		warming := c.next()
		c.quiet("the new cluster is not acknowledged: it has no endpoints yet")
		c.subscribe(eds, "b")
		c.want("endpoints[b]")
		c.quiet("it is still not acknowledged")
		c.ack(warming)
		c.want("routes[r]")
		h.apply(cluster("c", 1), route("a"))
		c.nack(c.next(), "no") // an answer too: the rest must not wait for ever
		c.want("routes[r]")
	})
}

func TestAClusterGoesOnlyWhenNoRouteCanNameIt(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(cluster("old", 1), route("old"))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(cds)
		c.want("clusters[old]")
		c.subscribe(rds, "r")
		c.want("routes[r]")

		h.apply(cluster("new", 1), without(cluster("old", 1)), route("new"))
		if delta {
			c.want("clusters[new]")
		} else {
			c.want("clusters[new old]") // still with the old one
		}
		r := c.next()
		if r.names() != "routes[r]" {
			t.Fatalf("got %s, want routes[r]", r.names())
		}
		c.quiet("the route is not acknowledged")
		c.ack(r)
		if delta {
			c.want("clusters[-old]")
		} else {
			c.want("clusters[new]")
		}
		c.quiet("all is said")
	})
}

func TestAClusterDoesNotWaitForARouteThatIsWhatItWas(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(cluster("old", 1), cluster("new", 1), route("new"))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(cds)
		c.want("clusters[new old]")
		c.subscribe(rds, "r")
		c.want("routes[r]")
		h.apply(without(cluster("old", 1)), route("elsewhere"), route("new"))
		if delta {
			c.want("clusters[-old]")
		} else {
			c.want("clusters[new]")
		}
	})
}

func TestAnEnvoyHearsTheEndpointsOfAChangedClusterAgain(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(cluster("a", 1), cluster("b", 1), assignment("a", 1), assignment("b", 1))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(cds)
		c.want("clusters[a b]")
		c.subscribe(eds, "a", "b")
		c.want("endpoints[a b]")
		c.quiet("endpoints came after the clusters: nothing to say again")

		// An Envoy acknowledges a cluster only when it has heard its endpoints.
		h.apply(cluster("a", 2))
		changed := c.next()
		c.want("endpoints[a]") // and not b
		c.ack(changed)
		c.quiet("once")

		h.apply(cluster("a", 3), assignment("a", 2))
		changed = c.next()
		if got := c.want("endpoints[a]"); got.nonce <= changed.nonce {
			t.Errorf("endpoints (%s) before their cluster (%s)", got.nonce, changed.nonce)
		}
		c.ack(changed)
		c.quiet("they came after the cluster already")
	})
}

// An Envoy whose clusters come from another control plane subscribes anew to the endpoints
// of one that changes, beside the old cluster that has them: it names what it named before,
// and answers nothing.
func TestAnEnvoyThatAsksAgainIsSentEndpointsAgain(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.apply(assignment("a", 1), assignment("b", 1))
		h.Ready()
		c := h.open(node("n", envoyView), false)
		c.subscribe(eds, "a", "b", "nobody's")
		held := c.want("endpoints[a b]")
		c.quiet("an ACK asks for nothing")
		c.ack(held)
		again := c.next()
		if got := again.names(); got != "endpoints[a b]" || again.version != held.version {
			t.Errorf("got %s at version %s, want endpoints[a b] at %s", got, again.version, held.version)
		}
		for range 1000 {
			c.ack(held)
		}
		c.quiet("what it asks for is on its way")
		if n := h.Stats().Ignored[server.StaleNonce]; n != 1000 {
			t.Errorf("%d requests ignored, want 1000: names without end were looked at in each", n)
		}
		c.ack(again)
		c.quiet("the ACK of what was sent again asks for nothing")
		slices.Reverse(c.names[eds]) // Envoy names first what it wanted last
		c.ack(again)
		c.want("endpoints[a b]")
		c.quiet("once")
	})
}

func TestWhatAnEnvoyAsksForAgainComesAfterAResponseWithoutIt(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.apply(assignment("a", 1), assignment("b", 1), assignment("c", 1))
		h.Ready()
		c := h.open(node("n", envoyView), false)
		c.subscribe(eds, "a", "b", "c")
		held := c.want("endpoints[a b c]")
		h.apply(assignment("b", 2)) // crosses the request
		c.ack(held)
		c.want("endpoints[b]")
		c.want("endpoints[a c]")
		c.quiet("once")
		if n := h.Stats().Ignored[server.StaleNonce]; n != 0 {
			t.Errorf("%d requests ignored, want none: it was heard", n)
		}
	})
}

func TestNobodyElseIsSentEndpointsAgain(t *testing.T) {
	for name, test := range map[string]struct {
		view   resource.View
		before func(c *stream)
		again  func(c *stream, held answer)
	}{
		"gRPC warms nothing":                     {view: grpcView},
		"clusters of ours bring their endpoints": {view: envoyView, before: func(c *stream) { c.subscribe(cds); c.want("clusters[a]") }},
		"a refusal, twice":                       {view: envoyView, again: func(c *stream, held answer) { c.nack(held, "no") }},
		"names that are not those of before": {view: envoyView, again: func(c *stream, held answer) {
			c.names[eds] = []string{"a", "nobody's"}
			c.ack(held)
		}},
		"a nonce of another life": {view: envoyView, again: func(c *stream, held answer) {
			held.nonce = "of another life"
			c.ack(held)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, h *harness) {
				h.apply(in(test.view, cluster("a", 1)), in(test.view, assignment("a", 1)), in(test.view, assignment("b", 1)))
				h.Ready()
				c := h.open(node("n", test.view), false)
				if test.before != nil {
					test.before(c)
				}
				c.subscribe(eds, "a", "b")
				held := c.want("endpoints[a b]")
				if test.again == nil {
					test.again = (*stream).ack
				}
				test.again(c, held)
				c.quiet("it asks for nothing that it was not sent")
			})
		})
	}
}

func TestAnEnvoyThatReconnectsToChangedClustersHearsTheirEndpoints(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(cluster("a", 1), assignment("a", 1), assignment("b", 1))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(cds)
		c.want("clusters[a]")
		c.subscribe(eds, "a", "b")
		held := c.want("endpoints[a b]")
		c.close()
		h.apply(cluster("a", 2))

		c = h.open(node("n", envoyView), delta)
		c.subscribe(cds)
		c.next() // of cluster a; not acknowledged while it is warming
		c.resume(held, "a", "b")
		if delta {
			c.want("endpoints[a]")
		} else {
			c.want("endpoints[a b]")
		}
		c.quiet("b is held")
	})
}

func TestEndpointsAreSaidAgainOnAStreamOfTheirOwn(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(cluster("a", 1), assignment("a", 1))
		h.Ready()
		clusters, endpoints := h.openType(node("n", envoyView), delta, cds), h.openType(node("n", envoyView), delta, eds)
		another := h.openType(node("another", envoyView), delta, eds)
		clusters.subscribe(cds)
		clusters.want("clusters[a]")
		endpoints.subscribe(eds, "a")
		endpoints.want("endpoints[a]")
		another.subscribe(eds, "a")
		another.want("endpoints[a]")
		h.apply(cluster("a", 2))
		changed := clusters.next()
		endpoints.quiet("they could be there before the cluster")
		clusters.ack(changed)
		endpoints.want("endpoints[a]")
		another.quiet("it was not told of the cluster")
	})
}

// Fleets in which all proxies have one node id are not rare. What one of a thousand
// acknowledges must not be a push to the others.
func TestNamesakesAreNotToldWhatOneOfThemAcknowledges(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(cluster("a", 1), assignment("a", 1))
		h.Ready()
		one, other := h.open(node("n", envoyView), delta), h.open(node("n", envoyView), delta)
		for _, c := range []*stream{one, other} {
			c.subscribe(cds)
			c.want("clusters[a]")
			c.subscribe(eds, "a")
			c.want("endpoints[a]")
		}
		h.apply(assignment("a", 2))
		late := other.next()
		one.want("endpoints[a]")
		h.apply(cluster("a", 2))
		changed := other.next()
		one.want("clusters[a]")
		one.want("endpoints[a]")
		other.ack(changed)
		one.quiet("it heard the endpoints behind its own clusters")
		other.ack(late)
		other.want("endpoints[a]")
	})
}

// The same of those who have a stream for each type: they are told apart by connection.
func TestNamesakesWithAStreamForEachTypeAreNotToldWhatOneOfThemAcknowledges(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(cluster("a", 1), assignment("a", 1))
		h.Ready()
		const namesakes = 10
		var clusters, endpoints [namesakes]*stream
		for i := range namesakes {
			at := h.elsewhere()
			clusters[i], endpoints[i] = at.openType(node("n", envoyView), delta, cds), at.openType(node("n", envoyView), delta, eds)
			clusters[i].subscribe(cds)
			clusters[i].want("clusters[a]")
			endpoints[i].subscribe(eds, "a")
			endpoints[i].want("endpoints[a]")
		}
		h.apply(cluster("a", 2))
		for i := range namesakes {
			clusters[i].want("clusters[a]")
			endpoints[i].want("endpoints[a]")
			for _, other := range endpoints {
				other.quiet("its own clusters are not acknowledged, or it has heard")
			}
		}
		if got := h.Stats().Responses[eds]; got != 2*namesakes {
			t.Errorf("%d responses of endpoints, want two for each of %d", got, namesakes)
		}
	})
}

// A client may also have a connection for each type.
func TestEndpointsAreSaidAgainOnAnotherConnectionOfTheNode(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(cluster("a", 1), assignment("a", 1))
		h.Ready()
		clusters, endpoints := h.openType(node("n", envoyView), delta, cds), h.elsewhere().openType(node("n", envoyView), delta, eds)
		aggregated := h.elsewhere().open(node("n", envoyView), delta)
		clusters.subscribe(cds)
		clusters.want("clusters[a]")
		endpoints.subscribe(eds, "a")
		endpoints.want("endpoints[a]")
		aggregated.subscribe(cds)
		aggregated.want("clusters[a]")
		aggregated.subscribe(eds, "a")
		aggregated.want("endpoints[a]")
		h.apply(cluster("a", 2))
		aggregated.want("clusters[a]")
		aggregated.want("endpoints[a]")
		clusters.want("clusters[a]")
		endpoints.want("endpoints[a]")
		aggregated.quiet("it has clusters of its own")
	})
}

func TestAGRPCClientIsSentNoEndpointsThatDidNotChange(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.apply(in(grpcView, cluster("a", 1)), in(grpcView, assignment("a", 1)))
		h.Ready()
		c := h.open(node("n", grpcView), false)
		c.subscribe(cds, "a")
		c.want("clusters[a]")
		c.subscribe(eds, "a")
		c.want("endpoints[a]")
		h.apply(in(grpcView, cluster("a", 2)))
		c.want("clusters[a]")
		c.quiet("the endpoints are the same")
	})
}

func TestAServiceCountsAsSentWhenItWasAcknowledged(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(assignment("a", 1), assignment("b", 1))
		h.Ready()
		sent := func() string { return fmt.Sprint(h.Sent("n", "a"), h.Sent("n", "b"), h.Sent("nobody", "a")) }
		c := h.open(node("n", envoyView), delta)
		c.subscribe(eds, "a")
		a := c.next()
		if got := sent(); got != "false false false" {
			t.Errorf("before the ACK: %s", got)
		}
		c.ack(a)
		if got := sent(); got != "true false false" {
			t.Errorf("after the ACK: %s", got)
		}
		c.subscribe(eds, "b")
		c.nack(c.next(), "no")
		if got := sent(); got != "true false false" {
			t.Errorf("after a NACK of b: %s", got)
		}
		h.apply(assignment("a", 2))
		c.nack(c.next(), "no")
		if got := sent(); got != "true false false" {
			t.Errorf("after a NACK of a newer a: %s: the older one is still held", got)
		}
		c.close()
		if got := sent(); got != "false false false" {
			t.Errorf("after the stream: %s", got)
		}
	})
}

func TestARefusalIsRememberedAndNotAnsweredWithTheSame(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(assignment("a", 1))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(eds, "a")
		first := c.want("endpoints[a]")
		h.apply(assignment("a", 2))
		c.nack(c.next(), "endpoints[0]: is silly")
		c.quiet("the same would be refused again")
		types := h.Clients()[0].Types
		if len(types) != 1 {
			t.Fatalf("got %d types, want one", len(types))
		}
		got := types[0]
		if got.NACKs != 1 || got.LastNACK != "endpoints[0]: is silly" || got.Acked != first.version || got.Version == first.version || got.NACKedAt.IsZero() {
			t.Errorf("got %+v: want one NACK with its text, acked %s", got, first.version)
		}
		if !strings.Contains(h.log.String(), "is silly") || strings.Count(h.log.String(), "\n") != 1 {
			t.Errorf("want one log line with the reason, got %q", h.log)
		}
		h.apply(assignment("a", 3))
		c.nack(c.next(), "endpoints[0]: is silly")
		if strings.Count(h.log.String(), "\n") != 1 {
			t.Errorf("the same reason again is no news, got %q", h.log)
		}
		h.apply(assignment("a", 4))
		c.want("endpoints[a]")
		if st := h.Stats(); st.NACKs[eds] != 2 || st.ACKs[eds] != 2 || st.Responses[eds] != 4 || st.Streams != 1 || st.Opened != 1 {
			t.Errorf("stats %+v: want 2 NACKs, 2 ACKs, 4 responses, 1 stream", st)
		}
	})
}

func TestAClientThatDoesNotAcknowledgeGetsOneResponseWithTheNewest(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(assignment("a", 1), assignment("b", 1))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(eds, "a", "b")
		first := c.next()
		for generation := range 50 {
			h.apply(assignment("a", 2+generation), assignment("b", 2+generation%2))
		}
		c.quiet("the first is not acknowledged")
		if got := h.Clients()[0].Types[0].Waiting; got != 2 {
			t.Errorf("%d changes wait, want 2: the newest of each", got)
		}
		c.ack(first)
		got := c.want("endpoints[a b]")
		if !strings.Contains(string(got.resources["a"].GetValue()), "10.0.0.51") {
			t.Errorf("got %q, want the newest", got.resources["a"].GetValue())
		}
		c.quiet("one response")
	})
}

func TestAStaleNonceIsIgnored(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.apply(assignment("a", 1))
		h.Ready()
		c := h.open(node("n", envoyView), false)
		c.subscribe(eds, "a")
		first := c.want("endpoints[a]")
		h.apply(assignment("a", 2))
		second := c.next()
		c.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: eds, ResourceNames: []string{"a"}, ResponseNonce: first.nonce, VersionInfo: first.version})
		c.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: eds, ResourceNames: []string{"a"}, ResponseNonce: "of another life"})
		c.quiet("both are stale")
		c.ack(second)
		h.apply(assignment("a", 3))
		c.want("endpoints[a]")
	})
}

func TestATypeThatIsNotServedIsIgnored(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(assignment("a", 1))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "cert")
		c.quiet("nothing to say")
		c.subscribe(eds, "a")
		c.want("endpoints[a]")
		for i := range 40 { // more than the server should be made to remember
			if c.delta {
				_ = c.incr.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: fmt.Sprint("type/", i)})
			} else {
				_ = c.sotw.Send(&discoveryv3.DiscoveryRequest{TypeUrl: fmt.Sprint("type/", i)})
			}
		}
		c.wantEnd(codes.ResourceExhausted)
	})
}

func (c *stream) wantEnd(want codes.Code) {
	c.t.Helper()
	synctest.Wait()
	select {
	case err := <-c.ended:
		if got := status.Code(err); got != want {
			c.t.Errorf("the stream ended with %v, want %s", err, want)
		}
	default:
		c.t.Errorf("the stream lives, want it ended with %s", want)
	}
}

func TestAClientMustSayWhoItIs(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.Ready()
		for _, n := range []string{"", strings.Repeat("x", 4000)} {
			c := h.open(node(n, envoyView), delta)
			c.subscribe(cds)
			c.wantEnd(codes.InvalidArgument)
		}
		c := h.open(nil, delta)
		c.subscribe(cds)
		c.wantEnd(codes.InvalidArgument)
		c = h.open(node("n", resource.View{Kind: resource.Envoy, Zone: strings.Repeat("x", 4000)}), delta)
		c.subscribe(cds)
		c.wantEnd(codes.InvalidArgument)
	})
}

func TestANodeThatChangesInMidStreamIsIgnored(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(cluster("a", 1), assignment("a", 1), in(grpcView, assignment("a", 2)))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(cds)
		c.want("clusters[a]")
		c.node = node("somebody else", grpcView)
		c.subscribe(eds, "a")
		if got := c.want("endpoints[a]"); !strings.Contains(string(got.resources["a"].GetValue()), "10.0.0.1") {
			t.Error("the content is that of another kind of client")
		}
		if got := h.Clients(); len(got) != 1 || got[0].Node != "n" || got[0].Kind != "envoy" {
			t.Errorf("clients %+v, want n, an envoy", got)
		}
	})
}

func TestTooManyNamesEndAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := server.DefaultConfig()
		cfg.MaxNames = 3
		h := newHarness(t, cfg)
		h.Ready()
		for _, delta := range []bool{false, true} {
			c := h.open(node("n", envoyView), delta)
			c.subscribe(eds, "a", "b", "c")
			c.subscribe(eds, "d")
			c.wantEnd(codes.ResourceExhausted)
		}
	})
}

func TestANameThatIsAbsurdlyLongEndsAStream(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.Ready()
		long := strings.Repeat("x", 4000)
		c := h.open(node("n", envoyView), delta)
		c.subscribe(eds, long)
		c.wantEnd(codes.InvalidArgument)
		c = h.open(node("n", envoyView), delta)
		c.subscribe(long)
		c.wantEnd(codes.InvalidArgument)
	})
}

func TestAWildcardThatComesLaterIsAnsweredToo(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(cluster("a", 1))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(cds, "a")
		c.want("clusters[a]")
		c.subscribe(cds, "*")
		if delta {
			c.want("clusters[]") // nothing more than it has
		} else {
			c.want("clusters[a]")
		}
		h.apply(cluster("b", 1))
		if delta {
			c.want("clusters[b]")
		} else {
			c.want("clusters[a b]")
		}
	})
}

// A request without names was one for everything; that can be taken back as if it had
// been said.
func TestAWildcardThatWasNotSpelledOutCanBeTakenBack(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.apply(cluster("a", 1))
		h.Ready()
		c := h.open(node("n", envoyView), true)
		c.sendDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: cds})
		c.want("clusters[a]")
		c.unsubscribe(cds, "*")
		h.apply(cluster("b", 1))
		c.quiet("it wants nothing")
		c.subscribe(cds, "b")
		c.want("clusters[b]")
	})
}

func TestAZoneSeesWhatIsItsOwnElseWhatTheFleetSees(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		za, zb := resource.View{Kind: resource.Envoy, Zone: "a"}, resource.View{Kind: resource.Envoy, Zone: "b"}
		h.apply(assignment("api", 1), assignment("web", 1), in(grpcView, assignment("api", 9)))
		h.Ready()
		a, b, nowhere := h.open(node("a", za), delta), h.open(node("b", zb), delta), h.open(node("c", envoyView), delta)
		all := []*stream{a, b, nowhere}
		for _, c := range all {
			c.subscribe(eds, "api", "web")
			c.want("endpoints[api web]")
		}
		holds := func(c *stream, generation int) {
			t.Helper()
			if got := c.want("endpoints[api]").resources["api"].GetValue(); !strings.Contains(string(got), fmt.Sprintf("10.0.0.%d", generation)) {
				t.Errorf("got %q, want generation %d", got, generation)
			}
		}
		quiet := func(when string, cs ...*stream) {
			t.Helper()
			for _, c := range cs {
				c.quiet(when)
			}
		}
		h.apply(in(za, assignment("api", 2))) // zone a cannot reach what the others can
		holds(a, 2)
		quiet("it concerns zone a", b, nowhere)
		h.apply(assignment("api", 3))
		holds(b, 3)
		holds(nowhere, 3)
		quiet("zone a has its own", a)
		h.apply(in(zb, assignment("api", 3)))
		quiet("what zone b has of its own is what it had", all...)
		h.apply(assignment("api", 4))
		holds(nowhere, 4)
		quiet("both zones have their own", a, b)
		h.apply(without(in(za, assignment("api", 2))), without(in(zb, assignment("api", 3))))
		holds(a, 4)
		holds(b, 4)
		quiet("it has that", nowhere)
	})
}

func TestSetResourcesIsExactlyWhatIsThere(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.Ready()
		set := func(v resource.View, cs ...server.Change) {
			t.Helper()
			all := map[string]proto.Message{}
			for _, c := range cs {
				all[c.Name] = c.Message
			}
			if err := h.SetResources(v, eds, all); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		za := resource.View{Kind: resource.Envoy, Zone: "a"}
		set(envoyView, assignment("x", 1), assignment("y", 1))
		c := h.open(node("n", za), true)
		c.subscribe(eds, "x", "y", "z")
		c.want("endpoints[x y -z]")
		set(envoyView, assignment("y", 2), assignment("z", 1))
		c.want("endpoints[y z -x]")
		set(za, assignment("x", 5), assignment("y", 5))
		c.want("endpoints[x y]")
		set(za, assignment("y", 5))
		c.want("endpoints[-x]")
		set(za)
		c.want("endpoints[y]")
		if err := h.SetEndpoints(envoyView, "z", nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c.want("endpoints[-z]")
	})
}

func TestABatchWithAMistakeChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.Ready()
		c := h.open(node("n", envoyView), true)
		c.subscribe(cds)
		c.want("clusters[]")
		misnamed := cluster("a", 1)
		misnamed.Name = "b"
		mistyped := cluster("a", 1)
		mistyped.TypeURL = eds
		unserved := cluster("a", 1)
		unserved.TypeURL = "type/x"
		notUTF8 := cluster("\xff", 1)
		for name, bad := range map[string]server.Change{"misnamed": misnamed, "mistyped": mistyped, "unserved": unserved, "not UTF-8": notUTF8} {
			if err := h.Apply(cluster("good", 1), bad); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		synctest.Wait()
		c.quiet("nothing was applied")
	})
}

func TestXDSOverRESTIsNotServed(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.Ready()
		_, err := endpointservicev3.NewEndpointDiscoveryServiceClient(h.cc).FetchEndpoints(t.Context(), &discoveryv3.DiscoveryRequest{Node: node("n", envoyView)})
		if got := status.Code(err); got != codes.Unimplemented {
			t.Errorf("got %v, want Unimplemented", err)
		}
	})
}

func TestAnOperatorSeesWhoIsConnected(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.apply(cluster("a", 1), assignment("a", 1))
		h.Ready()
		two, one := h.open(node("two", resource.View{Kind: resource.GRPC, Zone: "z"}), false), h.open(node("one", envoyView), true)
		two.subscribe(eds, "a")
		one.subscribe(cds)
		one.want("clusters[a]")
		got := h.Clients()
		if len(got) != 2 || got[0].Node != "one" || got[1].Node != "two" {
			t.Fatalf("got %+v: want one and two", got)
		}
		if c := got[0]; c.Kind != "envoy" || !c.Delta || c.Peer == "" || len(c.Types) != 1 || !c.Types[0].Wildcard || c.Types[0].Resources != 1 || c.Types[0].Acked != c.Types[0].Version {
			t.Errorf("one: got %+v", c)
		}
		if c := got[1]; c.Kind != "grpc" || c.Zone != "z" || c.Delta || c.Types[0].Names != 1 || c.Types[0].Resources != 0 {
			t.Errorf("two: got %+v", c)
		}
		one.close()
		if got := h.Clients(); len(got) != 1 {
			t.Errorf("%d clients after one left, want 1", len(got))
		}
	})
}
