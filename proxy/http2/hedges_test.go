package http2

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/http1"
	"github.com/overhear-mesh/overhear/proxy/resilience"
)

// moody answers with the path, or breaks, or hangs, or sends an answer that is none to
// keep. Now and then it loses a connection with all that is on it.
func moody(seed uint64) (h http.HandlerFunc, breaks func(net.Conn)) {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 1))
	dice := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return rng.IntN(n)
	}
	wait := func(ctx context.Context, d time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	h = func(w http.ResponseWriter, q *http.Request) {
		if dice(8) > 4 {
			wait(q.Context(), time.Duration(dice(3000))*time.Millisecond)
		}
		switch dice(12) {
		case 0:
			panic(http.ErrAbortHandler)
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		case 2:
			_, _ = io.WriteString(w, "/")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case 3:
			wait(q.Context(), time.Hour)
		}
		_, _ = io.WriteString(w, q.URL.Path)
	}
	breaks = func(c net.Conn) {
		if dice(3) == 0 {
			time.AfterFunc(time.Duration(dice(20000))*time.Millisecond, func() { _ = c.Close() })
		}
	}
	return h, breaks
}

// Each request gets its own answer, and everything is told once and given back, whatever
// two endpoints do and clients give up, and whatever versions both speak.
func TestHedgesLeaveNothingBehind(t *testing.T) {
	serve := func(serve func(http.HandlerFunc) func(net.Conn, int), seed uint64) func(net.Conn, int) {
		h, breaks := moody(seed)
		run := serve(h)
		return func(c net.Conn, n int) { breaks(c); run(c, n) }
	}
	for _, tt := range []struct {
		name  string
		edit  func(*options)
		serve func(http.HandlerFunc) func(net.Conn, int)
		older bool // the clients speak HTTP/1.1
	}{
		{"to HTTP/2", func(*options) {}, speaks, false},
		{"to HTTP/1.1", older, served, false},
		{"from HTTP/1.1 to HTTP/2", func(*options) {}, speaks, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var hedges, won uint64
			for seed := range uint64(3) {
				inRig(t, func(o *options) {
					tt.edit(o)
					o.rule.Timeout, o.rule.PerTryTimeout = 8*time.Second, 5*time.Second
					o.rule.Retry.On = append(o.rule.Retry.On, resilience.GatewayError, resilience.PerTryTimeout)
					o.cluster.Outlier.Mode = outlier.Shadow
				}, func(r *rig) {
					if tt.older {
						r.olderClient()
					}
					var wg sync.WaitGroup
					for i := range 8 {
						wg.Go(func() { r.ask(seed, i) })
					}
					wg.Wait()
					time.Sleep(time.Minute)
					r.settled()
					hedges += r.metrics.Hedges.Load()
					won += r.metrics.HedgesWon.Load()
				}, serve(tt.serve, seed), serve(tt.serve, seed+100))
			}
			if hedges == 0 || won == 0 || won == hedges {
				t.Errorf("%d hedges of which %d won: want some of each", hedges, won)
			}
		})
	}
}

// olderClient makes the rig's client one of HTTP/1.1.
func (r *rig) olderClient() {
	var served sync.WaitGroup
	server := http1.NewServer(http1.DefaultConfig(), r.deps)
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		served.Go(func() { server.ServeConn(r.t.Context(), there) })
		return here, nil
	}}
	r.client = &http.Client{Transport: transport}
	r.ends = append(r.ends, func() { transport.CloseIdleConnections(); served.Wait() })
}

// ask makes requests one after the other, and gives some up.
func (r *rig) ask(seed uint64, i int) {
	rng := rand.New(rand.NewPCG(seed, uint64(i)))
	for n := range 40 {
		ctx, cancel := context.WithCancel(r.t.Context())
		if rng.IntN(5) == 0 {
			time.AfterFunc(time.Duration(rng.IntN(4000))*time.Millisecond, cancel)
		}
		want := fmt.Sprintf("/%d/%d", i, n)
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://api"+want, nil)
		if err != nil {
			r.t.Error(err)
		}
		if got := r.send(q); got.err == nil && got.StatusCode == http.StatusOK && got.body != want {
			r.t.Errorf("got %q, want %q", got.body, want)
		}
		cancel()
	}
}

// settled checks that nothing is left of the requests so far.
func (r *rig) settled() {
	r.t.Helper()
	inflight := 0
	if err := r.cluster.Ask(r.t.Context(), func(d *outlier.Detector, _ time.Duration) {
		for _, b := range r.backends {
			inflight += d.Endpoint(b.host.Addr().String() + ":80").Inflight()
		}
	}); err != nil {
		r.t.Fatal(err)
	}
	l := r.cluster.Limits()
	if inflight+l.Requests.Held()+l.Pending.Held()+l.Retries.Held() != 0 {
		r.t.Errorf("left over: %d attempts, %d requests, %d that wait, %d retries", inflight, l.Requests.Held(), l.Pending.Held(), l.Retries.Held())
	}
}
