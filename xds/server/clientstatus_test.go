package server_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	statusv3 "github.com/envoyproxy/go-control-plane/envoy/service/status/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/xds/resource"
	"github.com/overhear-mesh/overhear/xds/server"
)

// withStatus runs a test with CSDS beside xDS, which answers as long as refused is nil.
func withStatus(t *testing.T, f func(t *testing.T, h *harness, delta bool, refused *error)) {
	t.Helper()
	both(t, func(t *testing.T, _ *harness, delta bool) {
		var refused error
		g := grpc.NewServer(server.Options()...)
		h := newHarnessWith(t, server.DefaultConfig(), g, func(s *server.Server) {
			s.RegisterStatus(g, func(context.Context) error { return refused })
		})
		f(t, h, delta, &refused)
	})
}

func (h *harness) fetch(r *statusv3.ClientStatusRequest) (*statusv3.ClientStatusResponse, error) {
	return statusv3.NewClientStatusDiscoveryServiceClient(h.cc).FetchClientStatus(h.t.Context(), r)
}

// statuses is what CSDS says of all clients.
func (h *harness) statuses(matchers ...*matcherv3.NodeMatcher) string {
	h.t.Helper()
	all, err := h.fetch(&statusv3.ClientStatusRequest{NodeMatchers: matchers})
	if err != nil {
		h.t.Fatal(err)
	}
	var lines []string
	for _, c := range all.GetConfig() {
		line := c.GetNode().GetId() + ":"
		for _, r := range c.GetGenericXdsConfigs() {
			line += fmt.Sprintf(" %s/%s %s", short(r.GetTypeUrl()), r.GetName(), r.GetConfigStatus())
			if e := r.GetErrorState(); e != nil {
				line += fmt.Sprintf("(%s)", e.GetDetails())
			}
			if sent := r.GetConfigStatus() != statusv3.ConfigStatus_NOT_SENT; sent != (r.GetVersionInfo() != "") || sent != (r.GetXdsConfig() != nil) {
				h.t.Errorf("%s: version %q, content %v", r.GetName(), r.GetVersionInfo(), r.GetXdsConfig())
			}
			if r.GetXdsConfig() != nil && nameOf(h.t, r.GetXdsConfig()) != r.GetName() {
				h.t.Errorf("%s has the content of %s", r.GetName(), nameOf(h.t, r.GetXdsConfig()))
			}
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func TestClientStatusFollowsWhatAClientSaysToEachResource(t *testing.T) {
	withStatus(t, func(t *testing.T, h *harness, delta bool, _ *error) {
		want := func(when, want string) {
			t.Helper()
			if got := h.statuses(); got != want {
				t.Errorf("%s: got %q, want %q", when, got, want)
			}
		}
		h.apply(assignment("a", 1), assignment("b", 1))
		c := h.open(node("n", envoyView), delta)
		c.subscribe(eds, "a", "b", "z")
		want("not ready", "n: endpoints/a NOT_SENT endpoints/b NOT_SENT endpoints/z NOT_SENT")
		h.Ready()
		h.apply() // waits
		first := c.next()
		want("sent", "n: endpoints/a STALE endpoints/b STALE endpoints/z NOT_SENT")
		c.ack(first)
		want("acknowledged", "n: endpoints/a SYNCED endpoints/b SYNCED endpoints/z NOT_SENT")
		h.apply(assignment("a", 2))
		c.nack(c.next(), "is silly")
		want("refused", "n: endpoints/a ERROR(is silly) endpoints/b SYNCED endpoints/z NOT_SENT")
		h.apply(assignment("b", 2))
		c.want("endpoints[b]")
		want("another is acknowledged", "n: endpoints/a ERROR(is silly) endpoints/b SYNCED endpoints/z NOT_SENT")
		h.apply(assignment("a", 3))
		better := c.next()
		want("a better one is sent", "n: endpoints/a STALE endpoints/b SYNCED endpoints/z NOT_SENT")
		c.ack(better)
		want("and accepted", "n: endpoints/a SYNCED endpoints/b SYNCED endpoints/z NOT_SENT")
		h.apply(assignment("a", 2))
		c.want("endpoints[a]")
		want("what was refused before is accepted", "n: endpoints/a SYNCED endpoints/b SYNCED endpoints/z NOT_SENT")
		c.unsubscribe(eds, "z")
		want("one less", "n: endpoints/a SYNCED endpoints/b SYNCED")
		c.close()
		want("gone", "")
	})
}

func TestClientStatusTellsWhichVersionWasRefused(t *testing.T) {
	withStatus(t, func(t *testing.T, h *harness, delta bool, _ *error) {
		h.apply(cluster("a", 1))
		h.Ready()
		c := h.open(node("n", resource.View{Kind: resource.Envoy, Zone: "z"}), delta)
		c.subscribe(cds)
		c.nack(c.next(), "no")
		all, err := h.fetch(&statusv3.ClientStatusRequest{ExcludeResourceContents: true})
		if err != nil {
			t.Fatal(err)
		}
		n, r := all.GetConfig()[0].GetNode(), all.GetConfig()[0].GetGenericXdsConfigs()[0]
		if n.GetLocality().GetZone() != "z" {
			t.Errorf("node %v, want zone z", n)
		}
		if r.GetXdsConfig() != nil {
			t.Error("has the content, which was not wanted")
		}
		if e := r.GetErrorState(); e.GetVersionInfo() != r.GetVersionInfo() || e.GetLastUpdateAttempt() == nil {
			t.Errorf("error %v, want version %s and an instant", e, r.GetVersionInfo())
		}
	})
}

func TestClientStatusIsOneForTheStreamsOfAConnection(t *testing.T) {
	withStatus(t, func(t *testing.T, h *harness, delta bool, _ *error) {
		h.apply(cluster("a", 1), assignment("a", 1))
		h.Ready()
		endpoints, clusters := h.openType(node("n", envoyView), delta, eds), h.openType(node("n", envoyView), delta, cds)
		endpoints.subscribe(eds, "a")
		endpoints.want("endpoints[a]")
		clusters.subscribe(cds)
		clusters.want("clusters[a]")
		endpoints.want("endpoints[a]")
		namesake := h.elsewhere().open(node("n", envoyView), delta)
		namesake.subscribe(eds, "a")
		namesake.want("endpoints[a]")
		got := strings.Split(h.statuses(), "\n")
		slices.Sort(got)
		if want := []string{"n: clusters/a SYNCED endpoints/a SYNCED", "n: endpoints/a SYNCED"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func byID(m *matcherv3.StringMatcher) *matcherv3.NodeMatcher {
	return &matcherv3.NodeMatcher{NodeId: m}
}

func TestClientStatusIsOfTheNodesThatMatch(t *testing.T) {
	exact := &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: "web-1"}}
	prefix := &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "WEB-"}, IgnoreCase: true}
	suffix := &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: "-1"}}
	contains := &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: "eb-2"}}
	regex := func(text string) *matcherv3.StringMatcher {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: text}}}
	}
	withStatus(t, func(t *testing.T, h *harness, delta bool, _ *error) {
		h.apply(assignment("a", 1))
		h.Ready()
		for _, id := range []string{"api-1", "web-1", "web-2"} {
			c := h.open(node(id, envoyView), delta)
			c.subscribe(eds, "a")
			c.want("endpoints[a]")
		}
		for _, tc := range []struct {
			name string
			by   []*matcherv3.NodeMatcher
			want string
		}{
			{"none", nil, "api-1 web-1 web-2"},
			{"an empty one", []*matcherv3.NodeMatcher{{}}, "api-1 web-1 web-2"},
			{"exact", []*matcherv3.NodeMatcher{byID(exact)}, "web-1"},
			{"prefix, whatever its case", []*matcherv3.NodeMatcher{byID(prefix)}, "web-1 web-2"},
			{"suffix", []*matcherv3.NodeMatcher{byID(suffix)}, "api-1 web-1"},
			{"contains", []*matcherv3.NodeMatcher{byID(contains)}, "web-2"},
			{"either", []*matcherv3.NodeMatcher{byID(contains), byID(exact)}, "web-1 web-2"},
			{"a regex of all of it", []*matcherv3.NodeMatcher{byID(regex("web-[0-9]"))}, "web-1 web-2"},
			{"a regex of a part of it", []*matcherv3.NodeMatcher{byID(regex("eb-|api"))}, ""},
		} {
			var got []string
			for line := range strings.SplitSeq(h.statuses(tc.by...), "\n") {
				id, _, _ := strings.Cut(line, ":")
				got = append(got, id)
			}
			if got := strings.Join(got, " "); got != tc.want {
				t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
			}
		}
		for _, tc := range []struct {
			name string
			by   *matcherv3.NodeMatcher
			want codes.Code
		}{
			{"metadata", &matcherv3.NodeMatcher{NodeMetadatas: []*matcherv3.StructMatcher{{}}}, codes.Unimplemented},
			{"no regex", byID(regex("(")), codes.InvalidArgument},
			{"no pattern", byID(&matcherv3.StringMatcher{}), codes.InvalidArgument},
			{"a regex that is absurdly long", byID(regex(strings.Repeat("x", 4000))), codes.InvalidArgument},
		} {
			_, err := h.fetch(&statusv3.ClientStatusRequest{NodeMatchers: []*matcherv3.NodeMatcher{byID(exact), tc.by}})
			if got := status.Code(err); got != tc.want || !strings.Contains(err.Error(), "node_matchers[1]") {
				t.Errorf("%s: got %v, want %s that names the matcher", tc.name, err, tc.want)
			}
		}
		if _, err := h.fetch(&statusv3.ClientStatusRequest{NodeMatchers: make([]*matcherv3.NodeMatcher, 1000)}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("a thousand matchers: got %v, want InvalidArgument", err)
		}
	})
}

func TestAClientStatusThatNoClientTakesIsRefused(t *testing.T) {
	withStatus(t, func(t *testing.T, h *harness, delta bool, _ *error) {
		h.Ready()
		h.apply(large("a", 1), large("b", 1))
		for i := range 30 {
			c := h.open(node(fmt.Sprint("n", i), envoyView), delta)
			c.subscribe(eds, "a", "b")
			c.want("endpoints[a b]")
		}
		_, err := h.fetch(&statusv3.ClientStatusRequest{})
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "node_matchers") {
			t.Errorf("got %v, want ResourceExhausted that says how to ask for less", err)
		}
		all, err := h.fetch(&statusv3.ClientStatusRequest{ExcludeResourceContents: true})
		if err != nil || len(all.GetConfig()) != 30 {
			t.Errorf("without contents: got %d clients, %v, want 30", len(all.GetConfig()), err)
		}
	})
}

func TestClientStatusIsForThoseWhoMay(t *testing.T) {
	withStatus(t, func(t *testing.T, h *harness, delta bool, refused *error) {
		h.apply(assignment("a", 1))
		h.Ready()
		c := h.open(node("n", envoyView), delta)
		c.subscribe(eds, "a")
		c.want("endpoints[a]")
		csds := statusv3.NewClientStatusDiscoveryServiceClient(h.cc)
		st, err := csds.StreamClientStatus(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var answers [2]*statusv3.ClientStatusResponse
		for i := range answers {
			if err := st.Send(&statusv3.ClientStatusRequest{}); err != nil {
				t.Fatal(err)
			}
			if answers[i], err = st.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		if len(answers[0].GetConfig()) != 1 || !proto.Equal(answers[0], answers[1]) {
			t.Errorf("got %v and %v on one stream, want the same client twice", answers[0], answers[1])
		}
		if err := st.CloseSend(); err != nil {
			t.Fatal(err)
		}
		*refused = status.Error(codes.Unauthenticated, "no")
		if _, err := h.fetch(&statusv3.ClientStatusRequest{}); status.Code(err) != codes.Unauthenticated {
			t.Errorf("fetch: got %v, want Unauthenticated", err)
		}
		if st, err = csds.StreamClientStatus(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := st.Recv(); status.Code(err) != codes.Unauthenticated {
			t.Errorf("stream: got %v, want Unauthenticated", err)
		}
	})
}
