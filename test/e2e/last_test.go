package e2e_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/test/envoy"
)

// witness is an endpoint that knows when it had its last request, and whether that came
// from a user for whom it was out.
type witness struct {
	n, wrong atomic.Int64
	last     atomic.Pointer[time.Time]
}

// of serves the endpoint with that number. A path tells how many are out, the first ones.
func (w *witness) of(number int) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		w.last.Store(new(time.Now()))
		w.n.Add(1)
		var out int
		if _, err := fmt.Sscanf(r.URL.Path, "/%d", &out); err != nil || number < out {
			w.wrong.Add(1)
		}
	}
}

// One endpoint after the other is ejected while users make requests. Envoy acknowledges a
// verdict when its worker has been told, and before it has listened: a request that a user
// begins when one that began after the ACK is over on the same connection is the first that
// must know. How long the last took is printed, and is not asserted: it is the machine's.
func TestNoRequestReachesAnEndpointThatEnvoyKnowsIsOut(t *testing.T) {
	envoy.Find(t)
	const endpoints, users, verdicts = 8, 8, 6
	for name, apiType := range map[string]string{"SotW": "GRPC", "delta": "DELTA_GRPC"} {
		t.Run(name, func(t *testing.T) {
			f := newFeed(t)
			var witnesses [endpoints]witness
			var backends []*backend
			for i := range witnesses {
				ln := listen(t)
				s := &http.Server{Handler: witnesses[i].of(i)}
				go func() { _ = s.Serve(ln) }()
				t.Cleanup(func() { _ = s.Close() })
				backends = append(backends, &backend{address: netip.MustParseAddrPort(ln.Addr().(*net.TCPAddr).String())})
			}
			f.publish(backends)
			f.Ready()
			address := entry(t, envoy.Start(t, endpointsOnly(f, apiType)), "api")

			var out atomic.Int64 // how many are out by verdicts that Envoy has acknowledged
			var sure [users]atomic.Int64
			stop := make(chan struct{})
			var running sync.WaitGroup
			t.Cleanup(func() { close(stop); running.Wait() })
			for i := range users {
				running.Go(func() {
					client := &http.Client{Timeout: patience, Transport: &http.Transport{}} // one connection
					defer client.CloseIdleConnections()
					for knows := int64(0); ; sure[i].Store(knows) {
						select {
						case <-stop:
							return
						default:
						}
						begun := out.Load()
						res, err := client.Get(fmt.Sprintf("http://%s/%d", address, knows))
						if err != nil {
							t.Errorf("a request failed: %v", err)
							return
						}
						_, _ = io.Copy(io.Discard, res.Body)
						_ = res.Body.Close()
						if res.StatusCode != http.StatusOK {
							t.Errorf("a request failed: %s", res.Status)
							return
						}
						knows = begun
					}
				})
			}
			all := func(what string, holds func(i int) bool, n int) {
				t.Helper()
				eventually(t, what, func() bool {
					for i := range n {
						if !holds(i) {
							return false
						}
					}
					return true
				})
			}
			all("requests at each endpoint", func(i int) bool { return witnesses[i].n.Load() > 10 }, endpoints)
			var beliefs []outlier.Verdict
			for i := range verdicts {
				beliefs = append(beliefs, ejected)
				begun := time.Now()
				f.publish(backends, beliefs...)
				out.Store(int64(i + 1))
				all("a request of each user that must know", func(u int) bool { return sure[u].Load() == int64(i+1) }, users)
				before := witnesses[endpoints-1].n.Load()
				eventually(t, "requests elsewhere", func() bool { return witnesses[endpoints-1].n.Load() > before+20 })
				t.Logf("verdict %d: last request to the endpoint after %v", i+1, max(0, witnesses[i].last.Load().Sub(begun)))
			}
			for i := range verdicts {
				if n := witnesses[i].wrong.Load(); n > 0 {
					t.Errorf("endpoint %d had %d requests that began when Envoy knew that it is out, want none", i, n)
				}
			}
		})
	}
}
