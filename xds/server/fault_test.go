package server_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"

	"github.com/overhear-mesh/overhear/xds/resource"
	"github.com/overhear-mesh/overhear/xds/server"
)

const sds = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// one are counts of which that of one fault is n, and all others none.
func one(all map[server.Fault]uint64, f server.Fault, n uint64) map[server.Fault]uint64 {
	want := map[server.Fault]uint64{}
	for f := range all {
		want[f] = 0
	}
	want[f] = n
	return want
}

func (h *harness) wantLine(parts ...string) {
	h.t.Helper()
	lines := strings.Split(strings.TrimSuffix(h.log.String(), "\n"), "\n")
	if len(lines) != 1 {
		h.t.Errorf("%d log lines, want one: %q", len(lines), lines)
	}
	for _, part := range parts {
		if !strings.Contains(lines[0], part) {
			h.t.Errorf("the log says %q, want %q in it", lines[0], part)
		}
	}
}

func TestAStreamThatIsEndedForItsClientsFaultIsCountedAndExplained(t *testing.T) {
	long := strings.Repeat("x", 4000)
	zone := resource.View{Kind: resource.Envoy, Zone: long}
	ask := func(url string, names ...string) func(*stream) { return func(c *stream) { c.subscribe(url, names...) } }
	for _, tc := range []struct {
		fault server.Fault
		node  string
		view  resource.View
		ask   func(*stream)
		code  codes.Code
		says  string
	}{
		{server.NoNode, "", envoyView, ask(eds, "a"), codes.InvalidArgument, "must have a node with an id"},
		{server.NoType, "n", envoyView, ask("", "a"), codes.InvalidArgument, "type_url: is empty"},
		{server.TooLong, long, envoyView, ask(eds, "a"), codes.InvalidArgument, "node.id is longer"},
		{server.TooLong, "n", zone, ask(eds, "a"), codes.InvalidArgument, "zone is longer"},
		{server.TooLong, "n", envoyView, ask(long, "a"), codes.InvalidArgument, "type_url is longer"},
		{server.TooLong, "n", envoyView, ask(eds, long), codes.InvalidArgument, "a resource name is longer"},
		{server.TooManyNames, "n", envoyView, ask(eds, "a", "b", "c", "d"), codes.ResourceExhausted, "4 names of " + eds + ": at most 3"},
		{server.TooManyNames, "n", envoyView, func(c *stream) {
			c.subscribe(eds, "a", "b", "c")
			c.subscribe(eds, "d")
		}, codes.ResourceExhausted, "4 names of " + eds + ": at most 3"},
		{server.TooManyUnknown, "n", envoyView, ask(eds, long[:2000], "a"), codes.ResourceExhausted, "at most 2000"},
		{server.Unreadable, "n", envoyView, func(c *stream) {
			c.free = true
			c.subscribe(eds, strings.Repeat(long, 2000))
		}, codes.ResourceExhausted, "larger than max"},
	} {
		for _, delta := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %s delta=%v", tc.fault, tc.says, delta), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := newHarness(t, server.Config{MaxNames: 3, MaxUnknown: 2000})
					h.Ready()
					c := h.open(node(tc.node, tc.view), delta)
					tc.ask(c)
					c.wantEnd(tc.code)
					if got := h.Stats().Refused; !maps.Equal(got, one(got, tc.fault, 1)) {
						t.Errorf("refused %v, want one for %s", got, tc.fault)
					}
					h.wantLine("level=WARN", "a client's stream was ended", "reason="+string(tc.fault), "peer=127.0.0.1:", "code="+tc.code.String(), tc.says)
					if said := strings.Contains(h.log.String(), "node=n kind=envoy"); said != (tc.node == "n" && len(tc.view.Zone) == 0 && tc.fault != server.Unreadable) {
						t.Errorf("the log names the client: %v: %s", said, h.log)
					}
				})
			})
		}
	}
}

func TestAStreamMayAskForSoManyTypesThatAreNotServed(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(assignment("a", 1))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		for i := range 2 * 32 {
			c.subscribe(fmt.Sprint("type.googleapis.com/none.", i%32), "a")
		}
		c.subscribe(eds, "a")
		c.want("endpoints[a]")
		c.subscribe("type.googleapis.com/none.32", "a")
		c.wantEnd(codes.ResourceExhausted)
		st := h.Stats()
		if !maps.Equal(st.Refused, one(st.Refused, server.TooManyTypes, 1)) || !maps.Equal(st.Ignored, one(st.Ignored, server.TypeNotServed, 65)) {
			t.Errorf("refused %v, ignored %v, want a stream, and 65 requests", st.Refused, st.Ignored)
		}
		if got := h.log.String(); strings.Count(got, "\n") != 33 || !strings.Contains(got, "more than 32 types") {
			t.Errorf("got %q, want a line for each type, and one for the end", got)
		}
	})
}

func TestAStreamThatEndsInOrderIsNobodysFault(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(assignment("a", 1))
		h.Ready()
		for _, end := range []func(*stream){
			func(c *stream) { c.close() },
			func(c *stream) {
				if delta {
					_ = c.incr.CloseSend()
				} else {
					_ = c.sotw.CloseSend()
				}
			},
			func(*stream) { h.grpc.Stop() },
		} {
			c := h.open(node("n", envoyView), delta)
			c.subscribe(eds, "a")
			c.want("endpoints[a]")
			end(c)
			synctest.Wait()
		}
		if st := h.Stats(); st.Streams != 0 || !maps.Equal(st.Refused, one(st.Refused, server.NoNode, 0)) || h.log.Len() > 0 {
			t.Errorf("%d streams, refused %v, log %q, want none", st.Streams, st.Refused, h.log)
		}
	})
}

func TestAClientThatComesBackInALoopDoesNotFillTheLog(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		for range 500 {
			c := h.open(nil, true)
			c.subscribe(eds, "a")
			c.wantEnd(codes.InvalidArgument)
			time.Sleep(30 * time.Millisecond)
		}
		if got := h.Stats().Refused[server.NoNode]; got != 500 {
			t.Errorf("%d streams refused, want 500", got)
		}
		if got := h.log.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "left_out=333") {
			t.Errorf("got %q, want a line each ten seconds that counts those left out", got)
		}
	})
}

func TestAClientThatComesBackAndRefusesTheSameDoesNotFillTheLog(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.apply(assignment("a", 1))
		h.Ready()
		for range 50 {
			c := h.open(node("n", envoyView), delta)
			c.subscribe(eds, "a")
			c.nack(c.next(), "is silly")
			c.close()
		}
		h.wantLine("level=WARN", "a client refused resources", "node=n", "kind=envoy", "type="+eds, "version=", `reason="is silly"`)
		c := h.open(node("n", envoyView), delta)
		c.subscribe(eds, "a")
		c.nack(c.next(), "another reason")
		if got := h.log.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "another reason") {
			t.Errorf("got %q, want a line for each reason", got)
		}
	})
}

func TestWhatIsIgnoredOfAClientIsCounted(t *testing.T) {
	other := resource.View{Kind: resource.Envoy, Zone: "elsewhere"}
	both(t, func(t *testing.T, h *harness, delta bool) {
		ignored := func(when string, f server.Fault, n uint64) {
			t.Helper()
			if got := h.Stats().Ignored[f]; got != n {
				t.Errorf("%s: %d ignored for %s, want %d", when, got, f, n)
			}
		}
		h.apply(assignment("a", 1), assignment("b", 1))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(eds, "a")
		first := c.want("endpoints[a]")
		c.subscribe(eds, "b") // state of the world says the nonce once more
		c.want("endpoints[b]")
		ignored("an honest client", server.StaleNonce, 0)
		c.ack(first)
		ignored("an answer that was given", server.StaleNonce, 1)
		c.node = node("n", envoyView)
		c.subscribe(sds, "cert")
		c.subscribe(sds, "another")
		ignored("the same node again", server.NodeChanged, 0)
		ignored("a type that is not served, twice", server.TypeNotServed, 2)
		h.wantLine("level=WARN", "a client asks for a type that is not served", "type="+sds, "node=n", "kind=envoy")
		h.log.Reset()
		c.node = new(corev3.Node)
		c.subscribe(eds, "a")
		ignored("a node that says nothing", server.NodeChanged, 0)
		for range 2 {
			c.node = node("n", other)
			c.subscribe(eds, "a")
			time.Sleep(time.Minute)
		}
		ignored("another zone, twice", server.NodeChanged, 2)
		h.wantLine("level=WARN", "a client changed its node in mid-stream", "node=n", "changed_to=n")
	})
}

func TestTwoThingsThatAreWrongWithARequestAreBothTold(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(eds, "a")
		c.node = node("another", envoyView)
		c.subscribe(sds, "cert")
		for _, part := range []string{"a client changed its node in mid-stream", "changed_to=another", "a client asks for a type that is not served"} {
			if got := h.log.String(); strings.Count(got, part) != 1 || strings.Count(got, "\n") != 2 {
				t.Errorf("got %q, want two lines, and %q in one", got, part)
			}
		}
	})
}

// Whoever leaves the nonce out says so in each request that it has not heard a response.
func TestAClientThatNeverSaysANonceIsCounted(t *testing.T) {
	bubble(t, func(t *testing.T, h *harness) {
		h.apply(assignment("a", 1))
		h.Ready()
		c := h.open(node("n", envoyView), false)
		for range 3 {
			c.sendSotw(&discoveryv3.DiscoveryRequest{TypeUrl: eds, ResourceNames: []string{"a"}})
		}
		if got := h.Stats().Ignored[server.StaleNonce]; got != 2 {
			t.Errorf("%d ignored, want all but the first", got)
		}
	})
}

func TestANameThatDoesNotExistIsShownToTheOperator(t *testing.T) {
	both(t, func(t *testing.T, h *harness, delta bool) {
		missing := func(when string, n int, names ...string) {
			t.Helper()
			got := h.Clients()[0].Types[0]
			if got.Missing != n || !slices.Equal(got.MissingNames, names) {
				t.Errorf("%s: %d missing, %q, want %d, %q", when, got.Missing, got.MissingNames, n, names)
			}
		}
		h.apply(assignment("api", 1))
		c := h.open(node("n", envoyView), delta)
		c.subscribe(eds, "api", "aip")
		missing("nothing is known yet", 0)
		h.Ready()
		synctest.Wait()
		c.ack(c.next())
		missing("one is misspelt", 1, "aip")
		h.apply(without(assignment("api", 1)))
		missing("the other is removed", 2, "aip", "api")
		if delta {
			c.want("endpoints[-api]")
		}
		h.apply(assignment("aip", 1), assignment("api", 1))
		c.want("endpoints[aip api]")
		missing("both are there", 0)
		var many []string
		for i := range 30 {
			many = append(many, fmt.Sprintf("x%02d", 29-i))
		}
		c.subscribe(eds, many...)
		missing("many", 30, "x00", "x01", "x02", "x03", "x04", "x05", "x06", "x07", "x08", "x09")
	})
}
