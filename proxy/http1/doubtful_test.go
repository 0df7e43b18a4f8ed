package http1

import (
	"net/http"
	"testing"

	"github.com/overhear-mesh/overhear/proxy/resilience"
)

// A route may list any status of an error, also those that are the client's fault.
func TestAnAnswerBelow500IsRepeatedIfItsStatusIsListed(t *testing.T) {
	busy := say("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")
	edit := func(o *options) {
		o.rule.Retry.On, o.rule.Retry.Statuses = []resilience.Condition{resilience.RetriableStatus}, []int{429}
	}
	inRig(t, edit, func(r *rig) {
		repeated := false
		for range 20 {
			got := r.dial().do(get)
			if got.StatusCode != http.StatusOK {
				t.Fatalf("got %d, want 200; %+v", got.StatusCode, r.last())
			}
			repeated = repeated || len(r.last().Attempts) == 2
		}
		if !repeated {
			t.Error("no request met the endpoint that is busy")
		}
	}, busy, say(ok))
	inRig(t, nil, func(r *rig) {
		r.check(r.dial().do(get), 429, "", "-", "10.0.1.1 overload")
	}, busy)
}
