package http2

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"
)

// relay is that of the only request under way.
func (r *rig) relay() *relay {
	r.t.Helper()
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	for c := range r.server.conns {
		for _, id := range c.link.open() {
			if _, p := c.link.find(id); p != nil {
				return p.(*relay)
			}
		}
	}
	r.t.Fatal("no request is under way")
	return nil
}

// A reader may have looked up who stands behind a stream at the moment at which the first
// attempt ends, and the stream of the second becomes the relay's.
func TestNewsOfAHedgeOnItsWayWhileItTakesOverIsNotLost(t *testing.T) {
	for _, tt := range []struct {
		name    string
		tell    func(h *hedge, b *batch, at place)
		status  int
		classes []string
	}{
		{"an answer", func(h *hedge, b *batch, at place) {
			h.onHeaders(b, &h.up, at, []hpack.HeaderField{{Name: ":status", Value: "404"}}, false)
			h.onData(b, &h.up, at, nil, true)
		}, http.StatusNotFound, []string{"server", "ok"}},
		{"a reset", func(h *hedge, b *batch, at place) { h.onReset(b, &h.up, at, codeInternal) }, http.StatusServiceUnavailable, []string{"server", "server"}},
		{"the connection's end", func(h *hedge, b *batch, at place) {
			h.onLost(b, &h.up, at, &loss{cause: causeFault})
		}, http.StatusBadGateway, []string{"server", "server"}},
		{"a frame that ends it", func(h *hedge, b *batch, at place) {
			_ = at.link.streamFault(b, at.id, errLength)
		}, http.StatusBadGateway, []string{"server", "server"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &duel{t: t, does: [2]func(*raw, uint32){breaks(6 * time.Second), hangs}}
			inRig(t, func(o *options) { o.rule.Retry.MaxAttempts = 2 }, func(r *rig) {
				done := make(chan reply, 1)
				go func() { done <- r.get() }()
				time.Sleep(r.cluster.Overdue() + 100*time.Millisecond)
				x := r.relay()
				x.mu.Lock()
				h, at := &x.second, x.second.up.place
				x.mu.Unlock()
				if at.id == 0 {
					r.t.Fatal("no hedge is under way")
				}
				time.Sleep(6 * time.Second)
				b := &batch{now: r.clock.Now()}
				tt.tell(h, b, at)
				b.flush()
				got := <-done
				var classes []string
				for _, a := range r.last().Attempts {
					_, class, _ := strings.Cut(a, " ")
					classes = append(classes, class)
				}
				if got.StatusCode != tt.status || !slices.Equal(classes, tt.classes) {
					t.Errorf("got %d, attempts %v; want %d, %v", got.StatusCode, classes, tt.status, tt.classes)
				}
			}, d.serve, d.serve)
		})
	}
}
