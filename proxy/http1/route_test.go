package http1

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/overhear-mesh/overhear/proxy/balancer"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/router"
)

func TestARuleChangesWhatTheEndpointGets(t *testing.T) {
	var got []*http.Request
	edit := func(o *options) {
		o.rule.Prefix, o.rule.Rewrite = "/api", router.Rewrite{Prefix: "/v2", Host: "inner.local"}
		o.rule.RequestHeaders = router.Edit{Set: map[string]string{"X-Team": "blue"}, Remove: []string{"Cookie"}}
		o.rule.ResponseHeaders = router.Edit{Add: map[string]string{"x-via": "mesh"}, Remove: []string{"server"}}
	}
	inRig(t, edit, func(r *rig) {
		res := r.dial().do("GET /api/users?x=1 HTTP/1.1\r\nHost: a\r\nCookie: secret\r\nx-team: red\r\nAccept: */*\r\n\r\n")
		if res.StatusCode != http.StatusOK || res.Header.Get("x-via") != "mesh" || res.Header["Server"] != nil {
			t.Errorf("got %d %v, want 200 with x-via and without server", res.StatusCode, res.Header)
		}
		if line := r.last(); line.Path != "/api/users?x=1" {
			t.Errorf("the log says %s, want the path as it came", line.Path)
		}
	}, talk(func(r *http.Request) string {
		got = append(got, r)
		return "HTTP/1.1 200 OK\r\nServer: app\r\nContent-Length: 2\r\n\r\nok"
	}))
	h := got[0].Header
	if got[0].RequestURI != "/v2/users?x=1" || got[0].Host != "inner.local" {
		t.Errorf("asked for %s at %s, want /v2/users?x=1 at inner.local", got[0].RequestURI, got[0].Host)
	}
	if len(h["X-Team"]) != 1 || h.Get("x-team") != "blue" || h["Cookie"] != nil || h.Get("accept") != "*/*" {
		t.Errorf("fields %v, want x-team: blue, accept and no cookie", h)
	}
}

func TestARedirectIsAnsweredHere(t *testing.T) {
	edit := func(o *options) { o.rule.Cluster, o.rule.Redirect = "", &router.Redirect{Scheme: "https", Status: 308} }
	inRig(t, edit, func(r *rig) {
		c := r.dial()
		for range 2 { // the connection stays
			res := c.do("GET /a?b HTTP/1.1\r\nHost: h:80\r\n\r\n")
			if res.StatusCode != http.StatusPermanentRedirect || res.Header.Get("location") != "https://h:80/a?b" || res.body != "" {
				t.Errorf("got %d to %s with %q, want 308 to https://h:80/a?b", res.StatusCode, res.Header.Get("location"), res.body)
			}
		}
	}, say(ok))
}

func TestADirectResponseIsWhatTheRuleSays(t *testing.T) {
	for _, tt := range []struct {
		respond router.Respond
		body    string
	}{
		{router.Respond{Status: 200, Body: "alive"}, "alive"},
		{router.Respond{Status: 404}, "Not Found"},
		{router.Respond{Status: 204, Body: "x"}, ""},
		{router.Respond{Status: 299, Body: "?"}, "?"},
	} {
		inRig(t, func(o *options) { o.rule.Cluster, o.rule.Respond = "", &tt.respond }, func(r *rig) {
			c := r.dial()
			for range 2 {
				want := fmt.Sprintf("%d %s", tt.respond.Status, http.StatusText(tt.respond.Status))
				if res := c.do("GET / HTTP/1.1\r\nHost: a\r\n\r\n"); res.Status != want || res.body != tt.body {
					t.Errorf("got %q %q, want %q %q", res.Status, res.body, want, tt.body)
				}
			}
			if line := r.last(); line.Flags != "-" {
				t.Errorf("flags %s, want none", line.Flags)
			}
		}, say(ok))
	}
}

// TestADirectResponseToGRPCIsOneMessage: the text of a rule may have several lines.
func TestADirectResponseToGRPCIsOneMessage(t *testing.T) {
	edit := func(o *options) {
		o.rule.Cluster, o.rule.Respond = "", &router.Respond{Status: 503, Body: "one\r\n\r\nHTTP/1.1 200 OK\nx: 100 %\n"}
	}
	inRig(t, edit, func(r *rig) {
		c := r.dial()
		for range 2 {
			res := c.do("POST /s/m HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n")
			want := "overhear: one%0D%0A%0D%0AHTTP/1.1 200 OK%0Ax: 100 %25%0A"
			if got := res.Header.Get("grpc-message"); got != want || res.Header["X"] != nil || res.body != "" {
				t.Errorf("got message %q, fields %v and body %q; want %q", got, res.Header, res.body, want)
			}
		}
	}, say(ok))
}

// TestARuleChangesWhatItAnswersItself: also the fields of its own answers.
func TestARuleChangesWhatItAnswersItself(t *testing.T) {
	for _, answer := range []func(*router.Rule){
		func(r *router.Rule) { r.Respond = &router.Respond{Status: 200, Body: "{}"} },
		func(r *router.Rule) { r.Redirect = &router.Redirect{Scheme: "https"} },
	} {
		edit := func(o *options) {
			o.rule.Cluster = ""
			o.rule.ResponseHeaders.Set = map[string]string{"Content-Type": "application/json", "x-a": "b"}
			answer(&o.rule)
		}
		inRig(t, edit, func(r *rig) {
			res := r.dial().do(get)
			if got := res.Header["Content-Type"]; len(got) != 1 || got[0] != "application/json" || res.Header.Get("x-a") != "b" {
				t.Errorf("got %v, want content-type: application/json and x-a: b", res.Header)
			}
		}, say(ok))
	}
}

func TestRulesSeeHeaderFields(t *testing.T) {
	edit := func(o *options) {
		o.rule.Headers = []router.Text{{Name: "X-Beta", Exact: "1"}}
	}
	inRig(t, edit, func(r *rig) {
		for request, want := range map[string]int{
			"GET / HTTP/1.1\r\nHost: a\r\nx-beta: 1\r\n\r\n": 200,
			"GET / HTTP/1.1\r\nHost: a\r\n\r\n":              404,
		} {
			if got := r.dial().do(request).StatusCode; got != want {
				t.Errorf("%q: got %d, want %d", request, got, want)
			}
		}
	}, say(ok))
}

func TestRequestsOfOneKeyStayTogether(t *testing.T) {
	edit := func(o *options) {
		o.cluster.Balancer.Policy = balancer.Maglev
		o.rule.Hash = []router.Hash{{Header: "x-user"}}
	}
	inRig(t, edit, func(r *rig) {
		seen := map[string]bool{}
		for _, user := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			own := map[string]bool{}
			for range 5 {
				r.dial().do("GET / HTTP/1.1\r\nHost: a\r\nX-User: " + user + "\r\n\r\n")
				own[r.last().Attempts[0]] = true
			}
			if len(own) != 1 {
				t.Errorf("the requests of %s went to %v, want one endpoint", user, own)
			}
			for e := range own {
				seen[e] = true
			}
		}
		if len(seen) < 2 {
			t.Errorf("eight users are all with %v", seen)
		}
	}, say(ok), say(ok), say(ok))
}

func TestARateLimitAnswers429(t *testing.T) {
	edit := func(o *options) { o.rule.RateLimit = &resilience.RateConfig{Rate: 1, Burst: 3} }
	inRig(t, edit, func(r *rig) {
		c, got := r.dial(), map[int]int{}
		for range 5 {
			got[c.do(get).StatusCode]++
		}
		if got[200] != 3 || got[429] != 2 || r.last().Flags != "RL" {
			t.Errorf("statuses %v with flags %s, want three times 200 and twice 429 with RL", got, r.last().Flags)
		}
	}, say(ok))
}
