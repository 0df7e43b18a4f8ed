package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"testing"
)

func TestRulesAndEndpointsSeeTheSamePath(t *testing.T) {
	const file = `
outbound:
  - {name: web, address: "127.0.0.1:1001", protocol: auto, paths: %s, routes: [{prefix: /public, cluster: %s}, {prefix: /, respond: {status: 403}}]}
clusters:
  - {name: old, endpoints: [{address: "10.0.1.1:80"}]}
  - {name: new, protocol: http2, endpoints: [{address: "10.0.1.1:80"}]}
`
	for _, test := range []struct {
		paths, path string
		status      int
		asked       string // by the endpoint; "": nothing
	}{
		{"{}", "/public/../admin?x", 403, ""},
		{"{}", "/public/%2e%2e/admin", 403, ""},
		{"{}", "/x/../public/a?../b", 200, "/public/a?../b"},
		{"{}", "/public/a%2fb//c", 200, "/public/a%2fb//c"},
		{"{merge_slashes: true}", "/public//a", 200, "/public/a"},
		{"{escaped_slashes: unescape}", "/public%2f..%2fadmin", 403, ""},
		{"{escaped_slashes: reject}", "/public/a%2Fb", 400, ""},
		{"{escaped_slashes: redirect}", "/public%2fa?%2f", 307, ""},
		{"{escaped_slashes: redirect}", "/public/a?%2f", 200, "/public/a?%2f"},
		{"{normalize: false}", "/public/../a", 200, "/public/../a"},
	} {
		for _, to := range []string{"old", "new"} {
			t.Run(test.paths+" "+test.path+" "+to, func(t *testing.T) {
				inPod(t, fmt.Sprintf(file, test.paths, to), func(p *pod) {
					w := p.witness(1, nil)
					want := []string(nil)
					if test.asked != "" {
						want = []string{fmt.Sprintf("GET a%s \"\" for 127.0.0.1, 0 cookies", test.asked)}
					}
					if got := p.raw1(test.path); got != test.status {
						p.t.Errorf("HTTP/1.1: got %d, want %d", got, test.status)
					}
					if got := w.all(); fmt.Sprint(got) != fmt.Sprint(want) {
						p.t.Errorf("HTTP/1.1: the endpoint was asked for %q, want %q", got, want)
					}
					if got := p.raw2(test.path); got != test.status {
						p.t.Errorf("HTTP/2: got %d, want %d", got, test.status)
					}
					if got, want := w.all(), append(want, want...); fmt.Sprint(got) != fmt.Sprint(want) {
						p.t.Errorf("HTTP/2: the endpoint was asked for %q, want %q", got, want)
					}
				})
			})
		}
	}
}

// raw1 asks for a path as it is written here.
func (p *pod) raw1(path string) int {
	p.t.Helper()
	c, err := p.host.Dial(p.t.Context(), "tcp", "127.0.0.1:1001")
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); err != nil {
		p.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

// raw2 is raw1 over HTTP/2.
func (p *pod) raw2(path string) int {
	p.t.Helper()
	transport := &http.Transport{Protocols: only2(), DialContext: p.host.Dial}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, "http://127.0.0.1:1001", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Host, req.URL.Opaque = "a", path
	res, err := transport.RoundTrip(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode
}
