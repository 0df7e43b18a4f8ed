package router_test

import (
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/router"
)

// headers are the header fields of a request.
type headers map[string]string

func (f headers) Field(name string) ([]byte, bool) {
	v, ok := f[name]
	return []byte(v), ok
}

func TestConditionsOnHeadersAndQuery(t *testing.T) {
	with := func(header, query router.Text) *router.Table {
		return table(t, rule("yes", func(r *router.Rule) {
			if header != (router.Text{}) {
				header.Name = "X-User"
				r.Headers = []router.Text{header}
			}
			if query != (router.Text{}) {
				query.Name = "v"
				r.Query = []router.Text{query}
			}
		}))
	}
	type text = router.Text
	for _, tt := range []struct {
		header, query text
		have          headers
		path          string
		want          bool
	}{
		{text{Exact: "ann"}, text{}, headers{"x-user": "ann"}, "/", true},
		{text{Exact: "ann"}, text{}, headers{"x-user": "Ann"}, "/", false},
		{text{Exact: "ann"}, text{}, nil, "/", false},
		{text{Exact: "ann", Not: true}, text{}, nil, "/", true},
		{text{Exact: "ann", Not: true}, text{}, headers{"x-user": "bob"}, "/", true},
		{text{Exact: "ann", Not: true}, text{}, headers{"x-user": "ann"}, "/", false},
		{text{Prefix: "an"}, text{}, headers{"x-user": "ann"}, "/", true},
		{text{Suffix: "nn"}, text{}, headers{"x-user": "ann"}, "/", true},
		{text{Contains: "n"}, text{}, headers{"x-user": "ann"}, "/", true},
		{text{Contains: "z"}, text{}, headers{"x-user": "ann"}, "/", false},
		{text{Regex: "a[n]+"}, text{}, headers{"x-user": "ann"}, "/", true},
		{text{Regex: "a"}, text{}, headers{"x-user": "ann"}, "/", false},
		{text{Present: true}, text{}, headers{"x-user": ""}, "/", true},
		{text{Present: true}, text{}, nil, "/", false},
		{text{Present: true, Not: true}, text{}, nil, "/", true},

		{text{}, text{Exact: "2"}, nil, "/?v=2", true},
		{text{}, text{Exact: "2"}, nil, "/?a=1&v=2&b=3", true},
		{text{}, text{Exact: "2"}, nil, "/?v=1&v=2", false},
		{text{}, text{Exact: "2"}, nil, "/?vv=2", false},
		{text{}, text{Exact: "2"}, nil, "/v=2", false},
		{text{}, text{Present: true}, nil, "/?v", true},
		{text{}, text{Present: true}, nil, "/?", false},
		{text{Exact: "ann"}, text{Exact: "2"}, headers{"x-user": "ann"}, "/?v=3", false},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			q := request("h", "GET", tt.path)
			if tt.have != nil {
				q.Fields = tt.have
			}
			if got := with(tt.header, tt.query).Match(q, 0) != nil; got != tt.want {
				t.Errorf("matched: %v, want %v", got, tt.want)
			}
		})
	}
}

func TestARuleForGRPC(t *testing.T) {
	tab := table(t, rule("grpc", func(r *router.Rule) { r.GRPC = true }), rule("rest", nil))
	for grpc, want := range map[bool]string{true: "grpc", false: "rest"} {
		q := request("h", "POST", "/pkg.Greeter/Hello")
		q.GRPC = grpc
		if got := tab.Match(q, 0).Name; got != want {
			t.Errorf("gRPC %v goes to %s, want %s", grpc, got, want)
		}
	}
}

func TestClustersShareByWeight(t *testing.T) {
	r := rule("split", func(r *router.Rule) {
		r.Cluster, r.Clusters = "", []router.Share{{"a", 1}, {"b", 2}, {"c", 97}}
	})
	tab := table(t, r)
	const n = 100_000
	got := map[string]int{}
	ids := map[uint16]bool{}
	for i := range n {
		route := tab.Match(request("h", "GET", "/"), uint32(uint64(i)<<32/n))
		got[route.ClusterName]++
		ids[route.ID] = true
	}
	for name, want := range map[string]int{"a": n / 100, "b": n / 50, "c": n / 100 * 97} {
		if math.Abs(float64(got[name]-want)) > 1 {
			t.Errorf("%s got %d of %d requests, want %d", name, got[name], n, want)
		}
	}
	if len(ids) != 3 {
		t.Errorf("%d route ids, want one for each cluster", len(ids))
	}
	if got := tab.Match(request("h", "GET", "/"), math.MaxUint32).ClusterName; got != "c" {
		t.Errorf("the last of all dice go to %q, want c", got)
	}
}

func TestWhatAnEndpointIsAskedFor(t *testing.T) {
	for _, tt := range []struct {
		edit       func(*router.Rule)
		path, want string
	}{
		{func(r *router.Rule) { r.Prefix, r.Rewrite.Prefix = "/api", "/" }, "/api/users?x=1", "/users?x=1"},
		{func(r *router.Rule) { r.Prefix, r.Rewrite.Prefix = "/api", "/" }, "/api", "/"},
		{func(r *router.Rule) { r.Prefix, r.Rewrite.Prefix = "/api", "/" }, "/api?x", "/?x"},
		{func(r *router.Rule) { r.Prefix, r.Rewrite.Prefix = "/api/", "/v2" }, "/api/users", "/v2/users"},
		{func(r *router.Rule) { r.Prefix, r.Rewrite.Prefix = "/api", "/v2/" }, "/api/users", "/v2/users"},
		{func(r *router.Rule) { r.Path, r.Rewrite.Prefix = "/old", "/new" }, "/old?x", "/new?x"},
		{func(r *router.Rule) { r.Rewrite.Regex, r.Rewrite.Substitution = `^/u/([^/]+)/(.*)$`, `/\2/of/\1` }, "/u/ann/mail?x=/u/", "/mail/of/ann?x=/u/"},
		{func(r *router.Rule) { r.Rewrite.Regex, r.Rewrite.Substitution = `b+`, `$1` }, "/abba", "/a$1a"},
		// What the client wrote must not become a target of another form.
		{func(r *router.Rule) { r.Rewrite.Regex, r.Rewrite.Substitution = `^/api(.*)$`, `\1` }, "/apihttp://inner/x", "/http://inner/x"},
		{func(r *router.Rule) { r.Rewrite.Regex, r.Rewrite.Substitution = `^/api/(.*)$`, `\1` }, "/api/users?x", "/users?x"},
		{func(r *router.Rule) { r.Rewrite.Regex, r.Rewrite.Substitution = `^/api(.*)$`, `\1` }, "/api?x", "/?x"},
		{func(r *router.Rule) { r.Rewrite.Regex, r.Rewrite.Substitution = `^/api(.*)$`, `\1` }, "/api*", "/*"},
		{nil, "/as/it/is?x", "/as/it/is?x"},
	} {
		t.Run(tt.path, func(t *testing.T) {
			route := table(t, rule("r", tt.edit)).Match(request("h", "GET", tt.path), 0)
			if route == nil {
				t.Fatal("no route")
			}
			if got := string(route.AppendPath(nil, []byte(tt.path))); got != tt.want {
				t.Errorf("asked for %s, want %s", got, tt.want)
			}
		})
	}
}

func TestWhereARedirectLeads(t *testing.T) {
	for _, tt := range []struct {
		redirect   router.Redirect
		prefix     string
		path, want string
		status     int
	}{
		{router.Redirect{Scheme: "https"}, "", "/a?b", "https://h/a?b", 301},
		{router.Redirect{Host: "other:81", Status: 302}, "", "/a?b", "http://other:81/a?b", 302},
		{router.Redirect{Path: "/login", StripQuery: true}, "/a", "/a?b", "http://h/login", 301},
		{router.Redirect{Prefix: "/v2"}, "/v1", "/v1/users?x", "http://h/v2/users?x", 301},
		{router.Redirect{Prefix: "/"}, "/v1", "/v1", "http://h/", 301},
	} {
		tab := table(t, rule("r", func(r *router.Rule) { r.Cluster, r.Prefix, r.Redirect = "", tt.prefix, &tt.redirect }))
		q := request("h", "GET", tt.path)
		route := tab.Match(q, 0)
		if got := route.Location("http", q); got != tt.want || route.Redirect.Status != tt.status {
			t.Errorf("%+v: %d %s, want %d %s", tt.redirect, route.Redirect.Status, got, tt.status, tt.want)
		}
	}
}

func TestARedirectWithoutAHostStaysWhereTheClientIs(t *testing.T) {
	for _, tt := range []struct {
		path     string
		redirect router.Redirect
		want     string
	}{
		{"/a/x?y", router.Redirect{Prefix: "/b"}, "/b/x?y"},
		{"/a//evil.example/", router.Redirect{Prefix: "/b"}, "/b//evil.example/"},
		{"//evil.example/", router.Redirect{Scheme: "https"}, "/.//evil.example/"},
		{"/a", router.Redirect{Host: "h"}, "http://h/a"},
	} {
		tab := table(t, rule("r", func(r *router.Rule) {
			r.Cluster, r.Redirect = "", &tt.redirect
			if tt.redirect.Prefix != "" {
				r.Prefix = "/a"
			}
		}))
		q := request("", "GET", tt.path)
		if got := tab.Match(q, 0).Location("http", q); got != tt.want {
			t.Errorf("%s by %+v: got %q, want %q", tt.path, tt.redirect, got, tt.want)
		}
	}
}

func TestAnEditRemovesThenSetsThenAdds(t *testing.T) {
	route := table(t, rule("r", func(r *router.Rule) {
		r.RequestHeaders = router.Edit{Set: map[string]string{"X-B": "1", "x-a": "2"}, Add: map[string]string{"X-C": "3"}, Remove: []string{"Cookie"}}
	})).Match(request("h", "GET", "/"), 0)
	if diff := cmp.Diff([]router.Pair{{"x-a", "2"}, {"x-b", "1"}, {"x-c", "3"}}, route.Request.Writes()); diff != "" {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	for name, want := range map[string]bool{"COOKIE": true, "x-b": true, "X-A": true, "x-c": false, "accept": false} {
		if got := route.Request.Drops([]byte(name)); got != want {
			t.Errorf("%s is dropped: %v, want %v", name, got, want)
		}
	}
	if route.Response.Drops([]byte("cookie")) || len(route.Response.Writes()) != 0 {
		t.Error("no edit changes something")
	}
}

func TestByWhatRequestsAreKeptTogether(t *testing.T) {
	route := table(t, rule("r", func(r *router.Rule) {
		r.Hash = []router.Hash{{Header: "X-User"}, {Cookie: "session"}, {Query: "id"}, {Source: true}}
	})).Match(request("h", "GET", "/"), 0)
	key := func(f headers, path string, client net.Addr) uint64 {
		t.Helper()
		q := request("h", "GET", path)
		q.Fields = f
		k, ok := route.Key(q, client)
		if !ok {
			t.Fatalf("%v %s %v has no key", f, path, client)
		}
		return k
	}
	one, two := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1}, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 2}
	if key(nil, "/", one) != key(nil, "/", two) {
		t.Error("the client's port counts, want its host only")
	}
	keys := map[uint64]bool{
		key(headers{"x-user": "ann"}, "/", nil):                  true,
		key(headers{"x-user": "bob"}, "/", nil):                  true,
		key(headers{"cookie": "a=b; session=ann1; c"}, "/", nil): true,
		key(headers{"cookie": "a=b; session=ann2"}, "/", nil):    true,
		key(nil, "/?id=ann3", nil):                               true,
		key(headers{"x-user": "ann"}, "/?id=ann3", nil):          true,
		key(headers{"x-user": "ann", "cookie": "x=1"}, "/", one): true,
		key(nil, "/", one):                                       true,
		key(nil, "/", &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2)}):   true,
	}
	if len(keys) != 9 {
		t.Errorf("%d different keys of nine different requests", len(keys))
	}
	if _, ok := route.Key(request("h", "GET", "/"), nil); ok {
		t.Error("a request without any of the sources has a key")
	}
}

func TestWrongActionsNameTheField(t *testing.T) {
	for _, tt := range []struct {
		edit func(*router.Rule)
		want string
	}{
		{func(r *router.Rule) { r.Clusters = []router.Share{{"a", 1}} }, "cluster: cluster, clusters, redirect and respond exclude each other: want one of them"},
		{func(r *router.Rule) { r.Cluster = "" }, "cluster: missing: want one of cluster, clusters, redirect and respond"},
		{func(r *router.Rule) { r.Cluster, r.Clusters = "", []router.Share{{"", 0}} }, "clusters[0].weight: 0: want 1 to 65536"},
		{func(r *router.Rule) { r.Headers = []router.Text{{Name: "a b", Exact: "x"}} }, `headers[0].name: "a b": want a name`},
		{func(r *router.Rule) { r.Headers = []router.Text{{Name: "a", Exact: "x", Prefix: "y"}} }, "headers[0]: want one of"},
		{func(r *router.Rule) { r.Query = []router.Text{{Name: "a", Regex: "("}} }, "query[0].regex: "},
		{func(r *router.Rule) { r.Cluster, r.Redirect = "", &router.Redirect{Status: 200} }, "redirect.status: 200: want 301"},
		{func(r *router.Rule) { r.Cluster, r.Redirect = "", &router.Redirect{Path: "x"} }, `redirect.path: "x": want a path`},
		{func(r *router.Rule) { r.Cluster, r.Respond = "", &router.Respond{Status: 100} }, "respond.status: 100: want 200 to 599"},
		{func(r *router.Rule) { r.Rewrite.Prefix = "/x" }, "rewrite.prefix: takes the place of the rule's prefix or path, and it has none"},
		{func(r *router.Rule) { r.Rewrite.Host = "a b" }, `rewrite.host: "a b": want a host`},
		{func(r *router.Rule) { r.RequestHeaders.Set = map[string]string{"Content-Length": "1"} }, "request_headers.set.Content-Length: Content-Length is not for a rule to change"},
		{func(r *router.Rule) { r.RequestHeaders.Remove = []string{"x:y"} }, `request_headers.remove[0]: "x:y": want the name of a header field`},
		{func(r *router.Rule) { r.ResponseHeaders.Add = map[string]string{"x": "a\r\nb: c"} }, "response_headers.add.x: "},
		{func(r *router.Rule) { r.ResponseHeaders.Set = map[string]string{"x": "a "} }, "response_headers.set.x: "},
		{func(r *router.Rule) { r.Rewrite.Host = "a/b" }, `rewrite.host: "a/b": want a host`},
		{func(r *router.Rule) { r.Cluster, r.Redirect = "", &router.Redirect{Host: "http://a"} }, `redirect.host: "http://a": want a host`},
		{func(r *router.Rule) { r.Prefix, r.Rewrite.Prefix = "/a", "/b#c" }, `rewrite.prefix: "/b#c": want a path`},
		{func(r *router.Rule) { r.Regex = `\Qa` }, "regex: "},
		{func(r *router.Rule) { r.Headers = []router.Text{{Name: "a", Regex: `\Qa`}} }, "headers[0].regex: "},
		{func(r *router.Rule) { r.Hash = []router.Hash{{}} }, "hash[0]: want one of header, cookie, query and source"},
	} {
		r := rule("r", tt.edit)
		err := strictyaml.Validate(&r)
		if err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(tt.want, "cluster: ")) {
			t.Errorf("got %v, want %s", err, tt.want)
		}
		if name, _, _ := strings.Cut(tt.want, ": "); !slices.Contains(fields(err), name) {
			t.Errorf("error %v names %v, want %s", err, fields(err), name)
		}
	}
}
