package proxy_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

func TestTheLogNamesTheClientThatTrustedProxiesName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t)
		p.start(fmt.Sprintf(`
access_log: {path: %q}
outbound:
  - {name: none, address: "127.0.0.1:1001", protocol: auto, cluster: api}
  - {name: one, address: "127.0.0.1:1002", protocol: auto, cluster: api, trusted_hops: 1}
  - {name: two, address: "127.0.0.1:1003", protocol: auto, cluster: api, trusted_hops: 2}
clusters:
  - {name: api, endpoints: [{address: "10.0.1.1:80"}]}
`, path))
		p.backend(1, 0)
		for _, transport := range []*http.Transport{{DialContext: p.host.Dial}, {DialContext: p.host.Dial, Protocols: only2()}} {
			for port := 1001; port <= 1003; port++ {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header["X-Forwarded-For"] = []string{"192.0.2.66", "192.0.2.2, 192.0.2.1"}
				res, err := transport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				_ = res.Body.Close()
				synctest.Wait() // until it has been logged
			}
			transport.CloseIdleConnections()
		}
		p.end()
		var got []string
		for _, l := range logged[struct{ Listener, Protocol, Client string }](t, path) {
			host, _, _ := strings.Cut(l.Client, ":")
			got = append(got, l.Listener+" "+l.Protocol+" "+host)
		}
		want := []string{
			"none HTTP/1.1 127.0.0.1", "one HTTP/1.1 192.0.2.1", "two HTTP/1.1 192.0.2.2",
			"none HTTP/2 127.0.0.1", "one HTTP/2 192.0.2.1", "two HTTP/2 192.0.2.2",
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
