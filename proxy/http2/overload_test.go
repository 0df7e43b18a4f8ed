package http2

import (
	"io"
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/router"
)

// An endpoint that asks for a pause is no broken one, and costs as long as it says.
func TestAnEndpointMayAskForAPause(t *testing.T) {
	for _, tt := range []struct {
		name, value, class string
		cost               time.Duration
	}{
		{"without the field", "", "server", 0},
		{"seconds", "7", "overload", 7 * time.Second},
		{"a date", "Sat, 01 Jan 2000 00:10:00 GMT", "overload", 0},
		{"longer than anybody believes", "99999999999", "overload", 5 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				r.check(r.get(), 503, "busy", "-", "10.0.1.1 "+tt.class)
				err := r.cluster.Ask(r.t.Context(), func(d *outlier.Detector, now time.Duration) {
					got, want := d.Endpoint(r.backends[0].host.Addr().String()+":80").Cost(now), tt.cost.Seconds()
					if math.Abs(got-want) > 0.01*want+0.01 {
						t.Errorf("cost: got %.3fs, want %.3fs", got, want)
					}
				})
				if err != nil {
					t.Error(err)
				}
			}, speaks(func(w http.ResponseWriter, _ *http.Request) {
				if tt.value != "" {
					w.Header().Set("Retry-After", tt.value)
				}
				w.WriteHeader(http.StatusServiceUnavailable)
				_, _ = io.WriteString(w, "busy")
			}))
		})
	}
}

func TestARetryWaitsForItsBackoff(t *testing.T) {
	const ceiling, n = 10 * time.Second, 20
	inRig(t, func(o *options) {
		o.rule.AttemptCount = true
		o.rule.Retry.On, o.rule.Retry.MaxAttempts = []resilience.Condition{resilience.GatewayError}, 2
		o.rule.Retry.BackoffBase, o.rule.Retry.BackoffMax = ceiling, ceiling
		o.cluster.Outlier.Mode = outlier.Shadow
	}, func(r *rig) {
		begun := r.clock.Now()
		for range n {
			from := r.clock.Now()
			r.check(r.get(), 200, "ok", "-", "10.0.1.1 server", "10.0.1.1 ok")
			if took := r.clock.Now() - from; took > ceiling+time.Second {
				t.Errorf("took %v, want at most %v", took, ceiling)
			}
		}
		// The mean is half the ceiling; less than a tenth of that is no chance.
		if took := r.clock.Now() - begun; took < n*ceiling/20 {
			t.Errorf("%d retries took %v, want about %v", n, took, n*ceiling/2)
		}
	}, speaks(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get(router.AttemptCount) == "1" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, "ok")
	}))
}
