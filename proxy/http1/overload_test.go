package http1

import (
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
		name, field, class string
		cost               time.Duration
	}{
		{"without the field", "", "server", 0},
		{"seconds", "Retry-After: 7\r\n", "overload", 7 * time.Second},
		{"a date", "retry-after: Sat, 01 Jan 2000 00:10:00 GMT\r\n", "overload", 0},
		{"longer than anybody believes", "Retry-After: 99999999999\r\n", "overload", 5 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				r.check(r.dial().do(get), 503, "busy", "-", "10.0.1.1 "+tt.class)
				err := r.cluster.Ask(r.t.Context(), func(d *outlier.Detector, now time.Duration) {
					got, want := d.Endpoint(r.backends[0].host.Addr().String()+":80").Cost(now), tt.cost.Seconds()
					if math.Abs(got-want) > 0.01*want+0.01 {
						t.Errorf("cost: got %.3fs, want %.3fs", got, want)
					}
				})
				if err != nil {
					t.Error(err)
				}
			}, say("HTTP/1.1 503 Busy\r\n"+tt.field+"Content-Length: 4\r\n\r\nbusy"))
		})
	}
}

// secondTry answers a first attempt with 503, and a second one after a while.
func secondTry(wait time.Duration) func(*http.Request) string {
	return func(req *http.Request) string {
		if req.Header.Get(router.AttemptCount) == "1" {
			return "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
		}
		time.Sleep(wait)
		return ok
	}
}

// retries repeats what was answered with 503, as often as the budget is asked.
func retries(o *options) {
	o.rule.AttemptCount = true
	o.rule.Retry.On, o.rule.Retry.MaxAttempts = []resilience.Condition{resilience.GatewayError}, 2
	o.cluster.Budget.MinPerSecond = 1000
	o.cluster.Outlier.Mode = outlier.Shadow
}

// many asks as often at the same time, and counts the statuses.
func (r *rig) many(n int) map[int]int {
	r.t.Helper()
	done := make(chan int, n)
	for range n {
		c := r.dial()
		go func() { done <- c.do(get).StatusCode }()
	}
	got := map[int]int{}
	for range n {
		got[<-done]++
	}
	return got
}

func TestNoMoreRetriesRunThanTheLimitAllows(t *testing.T) {
	inRig(t, func(o *options) {
		retries(o)
		o.cluster.Limits.Retries = 2
	}, func(r *rig) {
		for round := range 2 { // in the second, the first has given back what it held
			if got := r.many(5); got[200] != 2 || got[503] != 3 {
				t.Errorf("round %d: got %v, want 2 retried and 3 not", round, got)
			}
		}
		if n := r.cluster.Limits().Retries.Held(); n != 0 {
			t.Errorf("retries held: got %d, want 0", n)
		}
	}, talk(secondTry(time.Second)))
}

func TestARetryWaitsForItsBackoff(t *testing.T) {
	const ceiling, n = 10 * time.Second, 20
	inRig(t, func(o *options) {
		retries(o)
		o.rule.Retry.BackoffBase, o.rule.Retry.BackoffMax = ceiling, ceiling
	}, func(r *rig) {
		c, begun := r.dial(), r.clock.Now()
		for range n {
			from := r.clock.Now()
			r.check(c.do(get), 200, "ok", "-", "10.0.1.1 server", "10.0.1.1 ok")
			if took := r.clock.Now() - from; took > ceiling+time.Second {
				t.Errorf("took %v, want at most %v", took, ceiling)
			}
		}
		// The mean is half the ceiling; less than a tenth of that is no chance.
		if took := r.clock.Now() - begun; took < n*ceiling/20 {
			t.Errorf("%d retries took %v, want about %v", n, took, n*ceiling/2)
		}
	}, talk(secondTry(0)))
}

func TestTooManyWaitForAConnection(t *testing.T) {
	inRig(t, func(o *options) {
		o.cluster.Limits.Pending = 3
		o.cluster.ConnectTimeout = 5 * time.Second
		o.rule.Timeout = 2 * time.Second
	}, func(r *rig) {
		r.net.Cut("10.0.0.1", "10.0.1.1")
		if got := r.many(10); got[503] != 7 || got[504] != 3 {
			t.Errorf("got %v, want 7 refused for the limit and 3 timed out", got)
		}
		r.net.Heal("10.0.0.1", "10.0.1.1")
		time.Sleep(10 * time.Second)
		r.check(r.dial().do(get), 200, "ok", "-", "10.0.1.1 ok")
	}, say(ok))
}
