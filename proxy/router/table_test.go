package router_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/router"
)

// rule is a rule with a name; its cluster is of no interest.
func rule(name string, change func(*router.Rule)) router.Rule {
	r := router.DefaultRule()
	r.Name, r.Cluster = name, "c"
	if change != nil {
		change(&r)
	}
	return r
}

func none(string) *cluster.Cluster { return nil }

func table(t testing.TB, rules ...router.Rule) *router.Table {
	t.Helper()
	table, err := router.New(rules, none, new(router.IDs))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func request(host, method, path string) *router.Request {
	return &router.Request{Host: []byte(host), Method: []byte(method), Path: []byte(path)}
}

func TestWhichRouteARequestTakes(t *testing.T) {
	hosts := func(names ...string) func(*router.Rule) {
		return func(r *router.Rule) { r.Hosts = names }
	}
	byHost := []router.Rule{
		rule("any", nil),
		rule("below", hosts("*.example.com")),
		rule("deep", hosts("*.a.example.com")),
		rule("exact", hosts("www.example.com", "Other.Example.ORG")),
		rule("v6", hosts("[::1]")),
	}
	byPath := []router.Rule{
		rule("exact", func(r *router.Rule) { r.Path = "/v1/users" }),
		rule("prefix", func(r *router.Rule) { r.Prefix = "/v1" }),
		rule("slash", func(r *router.Rule) { r.Prefix = "/v2/" }),
		rule("regex", func(r *router.Rule) { r.Regex = "/item/[0-9]+" }),
		rule("start", func(r *router.Rule) { r.StartsWith = "/v3" }),
	}
	byMethod := []router.Rule{
		rule("read", func(r *router.Rule) { r.Methods = []string{"GET", "HEAD"} }),
		rule("write", func(r *router.Rule) { r.Methods = []string{"POST"}; r.Prefix = "/in" }),
	}
	both := []router.Rule{
		rule("of the host", func(r *router.Rule) { r.Hosts = []string{"a"}; r.Prefix = "/x" }),
		rule("of all", nil),
	}
	tests := []struct {
		rules              []router.Rule
		host, method, path string
		want               string
	}{
		{byHost, "www.example.com", "GET", "/", "exact"},
		{byHost, "WWW.Example.COM", "GET", "/", "exact"},
		{byHost, "www.example.com:8080", "GET", "/", "exact"},
		{byHost, "www.example.com.", "GET", "/", "exact"},
		{byHost, "other.example.org", "GET", "/", "exact"},
		{byHost, "b.example.com", "GET", "/", "below"},
		{byHost, "x.b.example.com", "GET", "/", "below"},
		{byHost, "x.a.example.com", "GET", "/", "deep"},
		{byHost, "a.example.com", "GET", "/", "below"},
		{byHost, "example.com", "GET", "/", "any"},
		{byHost, "notexample.com", "GET", "/", "any"},
		{byHost, "[::1]:8080", "GET", "/", "v6"},
		{byHost, "[::1]", "GET", "/", "v6"},
		{byHost, "", "GET", "/", "any"},
		{byHost, strings.Repeat("x", 300) + ".example.com", "GET", "/", "any"},

		{byPath, "h", "GET", "/v1/users", "exact"},
		{byPath, "h", "GET", "/v1/users?page=2", "exact"},
		{byPath, "h", "GET", "/v1/users/", "prefix"},
		{byPath, "h", "GET", "/v1", "prefix"},
		{byPath, "h", "GET", "/v3", "start"},
		{byPath, "h", "GET", "/v30/x?y", "start"},
		{byPath, "h", "GET", "/x/v3", ""},
		{byPath, "h", "GET", "/v1?x", "prefix"},
		{byPath, "h", "GET", "/v10", ""},
		{byPath, "h", "GET", "/V1", ""},
		{byPath, "h", "GET", "/v2", ""},
		{byPath, "h", "GET", "/v2/x", "slash"},
		{byPath, "h", "GET", "/item/42", "regex"},
		{byPath, "h", "GET", "/item/42/x", ""},
		{byPath, "h", "GET", "/x/item/42", ""},
		{byPath, "h", "GET", "", ""},

		{byMethod, "h", "HEAD", "/in", "read"},
		{byMethod, "h", "POST", "/in/x", "write"},
		{byMethod, "h", "POST", "/out", ""},
		{byMethod, "h", "get", "/in", ""},

		// A host that has rules is not looked for among those of all hosts.
		{both, "a", "GET", "/x", "of the host"},
		{both, "a", "GET", "/y", ""},
		{both, "b", "GET", "/y", "of all"},

		{nil, "h", "GET", "/", ""},
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%.40s %s %s", test.host, test.method, test.path), func(t *testing.T) {
			got := ""
			if r := table(t, test.rules...).Match(request(test.host, test.method, test.path), 0); r != nil {
				got = r.Name
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestARouteCarriesItsPolicy(t *testing.T) {
	c := cluster.New(cluster.DefaultConfig(), cluster.Deps{})
	r := router.DefaultRule()
	r.Cluster, r.Prefix, r.PerTryTimeout, r.Retry.MaxAttempts = "api", "/v1", time.Second, 2
	missing := router.DefaultRule()
	missing.Cluster = "gone"
	table, err := router.New([]router.Rule{r, missing}, func(name string) *cluster.Cluster {
		if name == "api" {
			return c
		}
		return nil
	}, new(router.IDs))
	if err != nil {
		t.Fatal(err)
	}
	got := table.Match(request("h", "GET", "/v1"), 0)
	if got.Cluster != c || got.Name != "api /v1" || got.Timeout != 15*time.Second || got.PerTryTimeout != time.Second || got.Retry.MaxAttempts != 2 {
		t.Errorf("got %+v, retry %+v; want the rule's policy", got, got.Retry)
	}
	if got := table.Match(request("h", "GET", "/"), 0); got.Cluster != nil || got.ClusterName != "gone" {
		t.Errorf("got %+v; want a route to a cluster that is not there", got)
	}
}

func TestARouteKeepsItsNumberWithItsName(t *testing.T) {
	ids := new(router.IDs)
	numbers := func(rules ...router.Rule) map[string]uint16 {
		t.Helper()
		table, err := router.New(rules, none, ids)
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]uint16{}
		for r := range table.Routes() {
			m[r.Name] = r.ID
		}
		return m
	}
	unnamed := rule("", nil)
	got := numbers(rule("a", nil), rule("b", nil), rule("a", nil), unnamed)
	if diff := cmp.Diff(map[string]uint16{"a": 1, "b": 2, "a#2": 3, "c": 4}, got); diff != "" {
		t.Errorf("first table (-want +got):\n%s", diff)
	}
	got = numbers(rule("new", nil), rule("b", nil))
	if diff := cmp.Diff(map[string]uint16{"new": 5, "b": 2}, got); diff != "" {
		t.Errorf("second table (-want +got):\n%s", diff)
	}
	// Its counts would be shown under the cluster that it led to before.
	elsewhere := rule("b", nil)
	elsewhere.Cluster = "other"
	if got := numbers(elsewhere); got["b"] == 2 {
		t.Error("a route that leads to another cluster kept its number")
	}
}

func TestWrongRulesNameTheField(t *testing.T) {
	tests := []struct {
		name   string
		change func(*router.Rule)
		want   []string
	}{
		{"nothing", func(*router.Rule) {}, nil},
		{"no cluster", func(r *router.Rule) { r.Cluster = "" }, []string{"cluster"}},
		{"hosts", func(r *router.Rule) {
			r.Hosts = []string{"*", "*.a", "a.b", "[::1]", "", "*.", "a*", "a.*.b", "http://a", "a:80", "a/b", strings.Repeat("a", 256)}
		}, []string{"hosts[4]", "hosts[5]", "hosts[6]", "hosts[7]", "hosts[8]", "hosts[9]", "hosts[10]", "hosts[11]"}},
		{"methods", func(r *router.Rule) { r.Methods = []string{"GET", "", "PO ST"} }, []string{"methods[1]", "methods[2]"}},
		{"two paths", func(r *router.Rule) { r.Path, r.Prefix = "/a", "/b" }, []string{"prefix"}},
		{"no slash", func(r *router.Rule) { r.Prefix = "a" }, []string{"prefix"}},
		{"regex", func(r *router.Rule) { r.Regex = "(" }, []string{"regex"}},
		{"negative", func(r *router.Rule) { r.Timeout, r.PerTryTimeout, r.IdleTimeout = -1, -1, -1 }, []string{"timeout", "per_try_timeout", "idle_timeout"}},
		{"retries", func(r *router.Rule) { r.Retry.MaxAttempts = 0 }, []string{"retry.max_attempts"}},
		{"per try beyond all", func(r *router.Rule) { r.PerTryTimeout = time.Minute }, []string{"per_try_timeout"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := rule("r", test.change)
			err := strictyaml.Validate(r)
			if diff := cmp.Diff(test.want, fields(err)); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
			if _, got := router.New([]router.Rule{r}, none, new(router.IDs)); (got == nil) != (err == nil) {
				t.Errorf("a table of it: got error %v, want one: %v", got, err != nil)
			}
		})
	}
}

// fields lists the fields that an error speaks of.
func fields(err error) []string {
	var names []string
	problems, _ := errors.AsType[strictyaml.Problems](err)
	for _, p := range problems {
		names = append(names, p.Field)
	}
	return names
}

// A second implementation, as slow and plain as can be, must agree.
func TestMatchAgreesWithAPlainOne(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	pick := func(s ...string) string { return s[rng.IntN(len(s))] }
	labels := []string{"a", "b", "c.a", "b.a", "a.b.a"}
	paths := []string{"", "/", "/a", "/a/", "/a/b", "/ab", "/a?x=/b", "/b/a"}
	matched := 0
	for range 500 {
		rules := make([]router.Rule, rng.IntN(6))
		for i := range rules {
			rules[i] = rule(fmt.Sprint(i), func(r *router.Rule) {
				for range rng.IntN(3) {
					r.Hosts = append(r.Hosts, pick("", "*.")+pick(labels...))
				}
				switch rng.IntN(4) {
				case 0:
					r.Path = pick(paths[1:6]...)
				case 1:
					r.Prefix = pick(paths[1:6]...)
				case 2:
					r.Regex = pick("/a.*", "/[ab]", "a")
				}
				if rng.IntN(3) == 0 {
					r.Methods = []string{pick("GET", "POST")}
				}
			})
		}
		table := table(t, rules...)
		for range 20 {
			host, method, path := pick(labels...), pick("GET", "POST"), pick(paths...)
			want := plain(rules, host, method, path)
			got := ""
			if r := table.Match(request(host, method, path), 0); r != nil {
				got = r.Name
				matched++
			}
			if got != want {
				t.Fatalf("%s %s%s: got rule %q, want %q of %+v", method, host, path, got, want, rules)
			}
		}
	}
	if matched < 1000 {
		t.Errorf("only %d requests matched: the test did not see the interesting part", matched)
	}
}

func plain(rules []router.Rule, host, method, path string) string {
	path, _, _ = strings.Cut(path, "?")
	score := func(pattern string) int {
		switch below, wild := strings.CutPrefix(pattern, "*"); {
		case pattern == "*":
			return 1
		case !wild && pattern == host:
			return 10000
		case wild && strings.HasSuffix(host, below) && len(host) > len(below):
			return 1 + len(below)
		}
		return 0
	}
	patterns := func(r router.Rule) []string {
		if len(r.Hosts) == 0 {
			return []string{"*"}
		}
		return r.Hosts
	}
	best := 1
	for _, r := range rules {
		for _, p := range patterns(r) {
			best = max(best, score(p))
		}
	}
	for _, r := range rules {
		ok := slices.ContainsFunc(patterns(r), func(p string) bool { return score(p) == best })
		ok = ok && (len(r.Methods) == 0 || slices.Contains(r.Methods, method))
		ok = ok && (r.Path == "" || path == r.Path)
		ok = ok && (r.Prefix == "" || path == r.Prefix || strings.HasPrefix(path, strings.TrimSuffix(r.Prefix, "/")+"/"))
		switch r.Regex {
		case "/a.*":
			ok = ok && strings.HasPrefix(path, "/a")
		case "/[ab]":
			ok = ok && (path == "/a" || path == "/b")
		case "a":
			ok = ok && path == "a"
		}
		if ok {
			return r.Name
		}
	}
	return ""
}

func FuzzMatch(f *testing.F) {
	table := table(f,
		rule("a", func(r *router.Rule) { r.Hosts = []string{"a.example.com"}; r.Path = "/x" }),
		rule("b", func(r *router.Rule) { r.Hosts = []string{"*.example.com", "[::1]"}; r.Regex = "/[a-z]*" }),
		rule("c", func(r *router.Rule) { r.Prefix = "/y"; r.Methods = []string{"GET"} }),
	)
	f.Add([]byte("a.example.com:80"), []byte("GET"), []byte("/x?y"))
	f.Add([]byte("[::1]:"), []byte(""), []byte("?"))
	f.Add([]byte(":"), []byte("GET"), []byte("/y/"))
	f.Fuzz(func(t *testing.T, host, method, path []byte) {
		before := slices.Concat(host, method, path)
		table.Match(&router.Request{Host: host, Method: method, Path: path}, 0)
		if !slices.Equal(before, slices.Concat(host, method, path)) {
			t.Error("matching changed the request")
		}
	})
}

func TestMatchDoesNotAllocate(t *testing.T) {
	table := table(t, many(100)...)
	host, method, path := []byte("Host99.Example.com:8080"), []byte("GET"), []byte("/v1/users?x=1")
	allocs := testing.AllocsPerRun(100, func() {
		if table.Match(&router.Request{Host: host, Method: method, Path: path}, 0) == nil {
			t.Fatal("no route")
		}
	})
	if allocs != 0 {
		t.Errorf("got %v allocations, want 0", allocs)
	}
}

// many is a table as a mesh of n services has.
func many(n int) []router.Rule {
	var rules []router.Rule
	for i := range n {
		rules = append(rules, rule(fmt.Sprint(i), func(r *router.Rule) {
			r.Hosts = []string{fmt.Sprintf("host%d.example.com", i)}
			r.Prefix = "/v1"
		}))
	}
	return rules
}

func BenchmarkMatch(b *testing.B) {
	table := table(b, many(100)...)
	host, method, path := []byte("host99.example.com"), []byte("GET"), []byte("/v1/users?x=1")
	for b.Loop() {
		if table.Match(&router.Request{Host: host, Method: method, Path: path}, 0) == nil {
			b.Fatal("no route")
		}
	}
}
