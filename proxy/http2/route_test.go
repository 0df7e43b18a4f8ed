package http2

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/overhear-mesh/overhear/proxy/balancer"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/router"
)

// echoes answers with what the endpoint was asked, and with the fields named.
func echoes(fields ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Server", "app")
		said := []string{q.Host, q.URL.String()}
		for _, f := range fields {
			said = append(said, fmt.Sprint(q.Header[f]))
		}
		_, _ = io.WriteString(w, strings.Join(said, " "))
	}
}

// askWith makes a request with header fields.
func (r *rig) askWith(path string, fields ...string) *http.Response {
	r.t.Helper()
	q, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, "http://api"+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		q.Header.Add(fields[i], fields[i+1])
	}
	r.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := r.client.Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	return res
}

func text(t *testing.T, res *http.Response) string {
	t.Helper()
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestARuleChangesWhatTheEndpointGets: also if the endpoint speaks HTTP/1.1 only.
func TestARuleChangesWhatTheEndpointGets(t *testing.T) {
	for _, protocol := range []cluster.Protocol{cluster.HTTP2, cluster.HTTP1} {
		t.Run(protocol.String(), func(t *testing.T) {
			edit := func(o *options) {
				o.cluster.Protocol = protocol
				o.rule.Prefix, o.rule.Rewrite = "/api", router.Rewrite{Prefix: "/v2", Host: "inner.local"}
				o.rule.RequestHeaders = router.Edit{Set: map[string]string{"X-Team": "blue"}, Remove: []string{"x-secret"}}
				o.rule.ResponseHeaders = router.Edit{Add: map[string]string{"x-via": "mesh"}, Remove: []string{"server"}}
			}
			backend := speaks(echoes("X-Team", "X-Secret", "Accept"))
			if protocol == cluster.HTTP1 {
				backend = served(echoes("X-Team", "X-Secret", "Accept"))
			}
			inRig(t, edit, func(r *rig) {
				res := r.askWith("/api/users?x=1", "X-Secret", "s", "X-Team", "red", "Accept", "*/*")
				if got, want := text(t, res), "inner.local /v2/users?x=1 [blue] [] [*/*]"; got != want {
					t.Errorf("the endpoint was asked %q, want %q", got, want)
				}
				if res.Header.Get("x-via") != "mesh" || res.Header["Server"] != nil {
					t.Errorf("answer with %v, want x-via and no server", res.Header)
				}
				if line := r.last(); line.Path != "/api/users?x=1" {
					t.Errorf("the log says %s, want the path as it came", line.Path)
				}
			}, backend)
		})
	}
}

func TestWhatARuleAnswersItself(t *testing.T) {
	for _, tt := range []struct {
		name     string
		edit     func(*router.Rule)
		status   int
		location string
		body     string
	}{
		{"redirect", func(r *router.Rule) { r.Redirect = &router.Redirect{Scheme: "https", Status: 308} }, 308, "https://api/a?b", ""},
		{"text", func(r *router.Rule) { r.Respond = &router.Respond{Status: 200, Body: "alive"} }, 200, "", "alive"},
		{"nothing", func(r *router.Rule) { r.Respond = &router.Respond{Status: 204} }, 204, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, func(o *options) { o.rule.Cluster = ""; tt.edit(&o.rule) }, func(r *rig) {
				for range 2 {
					res := r.askWith("/a?b")
					if got := text(t, res); res.StatusCode != tt.status || res.Header.Get("location") != tt.location || got != tt.body {
						t.Errorf("got %d to %q with %q, want %d to %q with %q", res.StatusCode, res.Header.Get("location"), got, tt.status, tt.location, tt.body)
					}
				}
			}, says("x"))
		})
	}
}

// TestADirectResponseToGRPCIsOneMessage: the text of a rule may have several lines.
func TestADirectResponseToGRPCIsOneMessage(t *testing.T) {
	edit := func(o *options) {
		o.rule.Cluster, o.rule.Respond = "", &router.Respond{Status: 503, Body: "one\r\n100 %\n"}
	}
	inRig(t, edit, func(r *rig) {
		res := r.askWith("/s/m", "Content-Type", "application/grpc")
		text(t, res)
		if got, want := res.Header.Get("grpc-message"), "overhear: one%0D%0A100 %25%0A"; got != want {
			t.Errorf("got message %q, want %q", got, want)
		}
	}, says("x"))
}

// TestARuleChangesWhatItAnswersItself: also the fields of its own answers.
func TestARuleChangesWhatItAnswersItself(t *testing.T) {
	edit := func(o *options) {
		o.rule.Cluster, o.rule.Respond = "", &router.Respond{Status: 200, Body: "{}"}
		o.rule.ResponseHeaders.Set = map[string]string{"Content-Type": "application/json", "x-a": "b"}
	}
	inRig(t, edit, func(r *rig) {
		res := r.askWith("/")
		text(t, res)
		if got := res.Header["Content-Type"]; len(got) != 1 || got[0] != "application/json" || res.Header.Get("x-a") != "b" {
			t.Errorf("got %v, want content-type: application/json and x-a: b", res.Header)
		}
	}, says("x"))
}

// TestCrumbsAreOneCookie: a client may send each pair by itself (RFC 9113, section
// 8.2.3), and conditions and keys see what HTTP/1.1 would have had.
func TestCrumbsAreOneCookie(t *testing.T) {
	edit := func(o *options) { o.rule.Headers = []router.Text{{Name: "cookie", Exact: "a=1; user=ann; b=2"}} }
	inRig(t, edit, func(r *rig) {
		a := r.attacker()
		if err := a.open(1, true, a.head("GET", "cookie", "a=1", "x", "y", "cookie", "user=ann", "cookie", "b=2")); err != nil {
			t.Fatal(err)
		}
		if got := a.until(verdict); got != "HEADERS 1 200" {
			t.Errorf("got %s, want HEADERS 1 200", got)
		}
	}, says("x"))
}

func TestRulesSeeHeaderFields(t *testing.T) {
	edit := func(o *options) { o.rule.Headers = []router.Text{{Name: "X-Beta", Exact: "1"}} }
	inRig(t, edit, func(r *rig) {
		for value, want := range map[string]int{"1": 200, "2": 404} {
			res := r.askWith("/", "X-Beta", value)
			if text(t, res); res.StatusCode != want {
				t.Errorf("x-beta %s: got %d, want %d", value, res.StatusCode, want)
			}
		}
	}, says("x"))
}

func TestARateLimitAnswers429(t *testing.T) {
	edit := func(o *options) { o.rule.RateLimit = &resilience.RateConfig{Rate: 1, Burst: 3} }
	inRig(t, edit, func(r *rig) {
		got := map[int]int{}
		for range 5 {
			res := r.askWith("/")
			text(t, res)
			got[res.StatusCode]++
		}
		if got[200] != 3 || got[429] != 2 {
			t.Errorf("statuses %v, want three times 200 and twice 429", got)
		}
	}, says("x"))
}

func TestRequestsOfOneKeyStayTogether(t *testing.T) {
	edit := func(o *options) {
		o.cluster.Balancer.Policy = balancer.RingHash
		o.rule.Hash = []router.Hash{{Header: "x-user"}}
	}
	inRig(t, edit, func(r *rig) {
		seen := map[string]bool{}
		for _, user := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			own := map[string]bool{}
			for range 5 {
				own[text(t, r.askWith("/", "X-User", user))] = true //nolint:bodyclose // text closes it
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
	}, says("one"), says("two"), says("three"))
}

// TestASplitBetweenTheVersionsIsDrawnOnce: a request that the draw has sent to HTTP/1.1
// goes there, and is not drawn again.
func TestASplitBetweenTheVersionsIsDrawnOnce(t *testing.T) {
	inRig(t, func(o *options) { o.split = true }, func(r *rig) {
		const n = 800
		got := map[string]int{}
		for range n {
			got[r.get().body]++
		}
		// Drawn twice it would be a quarter: seven standard deviations either way.
		if older := got["older"]; older < 3*n/8 || older > 5*n/8 || older+got["newer"] != n {
			t.Errorf("got %v of %d, want about as many of both", got, n)
		}
	}, says("newer"), served(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "older") }))
}
