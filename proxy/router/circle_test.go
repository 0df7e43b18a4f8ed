package router_test

import (
	"strings"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/router"
)

// redirect is a rule that sends clients on.
func redirect(to router.Redirect, change func(*router.Rule)) router.Rule {
	return rule("", func(r *router.Rule) {
		r.Cluster, r.Redirect = "", &to
		if change != nil {
			change(r)
		}
	})
}

func TestARedirectThatLeadsInACircleIsRefused(t *testing.T) {
	prefix := func(p string) func(*router.Rule) { return func(r *router.Rule) { r.Prefix = p } }
	hosts := func(names ...string) func(*router.Rule) { return func(r *router.Rule) { r.Hosts = names } }
	for _, tt := range []struct {
		name   string
		rules  []router.Rule
		circle string // what the error names; "": none
	}{
		{"nowhere else", []router.Rule{redirect(router.Redirect{}, nil)}, "routes[0].redirect"},
		{"only without its query", []router.Rule{redirect(router.Redirect{StripQuery: true}, nil)}, "routes[0].redirect"},
		{"to the scheme that it has", []router.Rule{redirect(router.Redirect{Scheme: "http"}, nil)}, "routes[0].redirect"},
		{"to https", []router.Rule{redirect(router.Redirect{Scheme: "https"}, nil)}, ""},
		{"to another host", []router.Rule{redirect(router.Redirect{Host: "other"}, nil)}, ""},
		{"to another port", []router.Rule{redirect(router.Redirect{Host: "a:81"}, hosts("a"))}, ""},
		{"to its own host", []router.Rule{redirect(router.Redirect{Host: "A"}, hosts("a"))}, "routes[0].redirect"},
		{"to a host below its own", []router.Rule{redirect(router.Redirect{Host: "x.a"}, hosts("*.a"))}, "routes[0].redirect"},
		{"to the host of another rule", []router.Rule{redirect(router.Redirect{Host: "b"}, hosts("a")), rule("", hosts("b"))}, ""},
		{"to a path for which there is no rule", []router.Rule{redirect(router.Redirect{Path: "/new"}, prefix("/old"))}, ""},
		{"to its own path", []router.Rule{redirect(router.Redirect{Path: "/a"}, func(r *router.Rule) { r.Path = "/a" })}, "routes[0].redirect"},
		{"below its own prefix", []router.Rule{redirect(router.Redirect{Prefix: "/a/b"}, prefix("/a"))}, "routes[0].redirect"},
		{"to a page below it", []router.Rule{redirect(router.Redirect{Path: "/a/login"}, prefix("/a"))}, "routes[0].redirect"},
		{"to a page that has a rule", []router.Rule{rule("", prefix("/a/login")), redirect(router.Redirect{Path: "/a/login"}, prefix("/a"))}, ""},
		{"to a page whose rule comes too late", []router.Rule{redirect(router.Redirect{Path: "/a/login"}, prefix("/a")), rule("", prefix("/a/login"))}, "routes[0].redirect"},
		{"all under a prefix", []router.Rule{rule("", prefix("/v2")), redirect(router.Redirect{Prefix: "/v2"}, nil)}, ""},
		{"all under a prefix, which is not served", []router.Rule{redirect(router.Redirect{Prefix: "/v2"}, nil)}, "routes[0].redirect"},
		{"out of its prefix", []router.Rule{redirect(router.Redirect{Prefix: "/"}, prefix("/v1"))}, ""},
		{"to and fro", []router.Rule{rule("", prefix("/c")), redirect(router.Redirect{Path: "/b"}, prefix("/a")), redirect(router.Redirect{Path: "/a"}, prefix("/b"))}, "routes[1].redirect"},
		{"behind a split", []router.Rule{rule("", func(r *router.Rule) {
			r.Prefix, r.Cluster, r.Clusters = "/c", "", []router.Share{{Cluster: "x", Weight: 1}, {Cluster: "y", Weight: 1}}
		}), redirect(router.Redirect{}, nil)}, "routes[1].redirect"},
		{"once only, by its query", []router.Rule{redirect(router.Redirect{StripQuery: true}, func(r *router.Rule) {
			r.Query = []router.Text{{Name: "old", Present: true}}
		})}, ""},
		{"once only, by its method", []router.Rule{redirect(router.Redirect{Status: 303}, func(r *router.Rule) { r.Methods = []string{"POST"} })}, ""},
		{"whatever its fields", []router.Rule{redirect(router.Redirect{}, func(r *router.Rule) {
			r.Headers = []router.Text{{Name: "x", Exact: "1"}}
		})}, "routes[0].redirect"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := router.Check(tt.rules)
			switch {
			case tt.circle == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.circle != "" && (err == nil || !strings.Contains(err.Error(), tt.circle)):
				t.Errorf("got %v, want %s refused", err, tt.circle)
			}
		})
	}
}

func TestWhatARuleThatAsksNoClusterCannotHave(t *testing.T) {
	r := redirect(router.Redirect{Scheme: "https"}, func(r *router.Rule) {
		r.Rewrite.Host, r.Hash, r.Timeout, r.PerTryTimeout, r.IdleTimeout = "h", []router.Hash{{Source: true}}, time.Minute, time.Second, time.Second
		r.Fault, r.Retry.MaxAttempts = &router.Fault{Abort: &router.Abort{Status: 503, Share: 1}}, 2
	})
	err := strictyaml.Validate(&r)
	if err == nil {
		t.Fatal("got no error")
	}
	for _, field := range []string{"rewrite", "hash", "fault", "timeout", "per_try_timeout", "idle_timeout", "retry"} {
		if !strings.Contains(err.Error(), field+": without effect") {
			t.Errorf("got %v, want it to name %s", err, field)
		}
	}
	for _, change := range []func(*router.Rule){nil, func(r *router.Rule) { r.Timeout = 0 }} {
		if r := redirect(router.Redirect{Scheme: "https"}, change); strictyaml.Validate(&r) != nil {
			t.Errorf("refused: %v", strictyaml.Validate(&r))
		}
	}
}

func TestARateGoesOnOverAReload(t *testing.T) {
	limited := func(name string, rate float64) router.Rule {
		return rule(name, func(r *router.Rule) { r.RateLimit = &resilience.RateConfig{Rate: rate, Burst: 1} })
	}
	before := table(t, limited("same", 1), rule("free", nil), limited("other", 1))
	for r := range before.Routes() {
		r.Rate.Allow(0)
	}
	after := table(t, limited("new", 1), limited("same", 1), limited("other", 2), limited("free", 1))
	after.Inherit(before)
	for r := range after.Routes() {
		if got, want := r.Rate.Allow(0), r.Name != "same"; got != want {
			t.Errorf("%s: allowed %v, want %v", r.Name, got, want)
		}
	}
	first := table(t, limited("same", 1))
	first.Inherit(nil)
	for r := range first.Routes() {
		if !r.Rate.Allow(0) {
			t.Error("a first table is used up")
		}
	}
}
