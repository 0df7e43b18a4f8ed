package http2

import (
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/router"
)

func TestAnEndpointIsToldWhichAttemptItGets(t *testing.T) {
	for _, tt := range []struct {
		counts bool
		want   []string
	}{{true, []string{"1", "2"}}, {false, []string{"9", "9"}}} {
		var mu sync.Mutex
		var got []string
		refuse := speaks(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, r.Header.Values(router.AttemptCount)...)
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		edit := func(o *options) {
			o.rule.AttemptCount = tt.counts
			o.rule.Retry.On, o.rule.Retry.MaxAttempts = []resilience.Condition{resilience.GatewayError}, 2
		}
		inRig(t, edit, func(r *rig) {
			text(t, r.askWith("/", router.AttemptCount, "9")) //nolint:bodyclose // text closes it
		}, refuse, refuse)
		if !slices.Equal(got, tt.want) {
			t.Errorf("counts %v: got %q, want %q", tt.counts, got, tt.want)
		}
	}
}
