package http2

import (
	"net/http"
	"testing"

	"github.com/overhear-mesh/overhear/proxy/resilience"
)

// A server of gRPC that refuses a call says so in the head of its answer, and nothing
// of it has been passed on.
func TestACallIsRepeatedIfItsStatusIsListed(t *testing.T) {
	answers := func(status string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", status)
		}
	}
	for _, tt := range []struct {
		name string
		on   []resilience.Condition
		want map[string]bool
	}{
		{"listed", []resilience.Condition{resilience.Unavailable}, map[string]bool{"0": true}},
		{"another is listed", []resilience.Condition{resilience.Internal}, map[string]bool{"0": true, "14": true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			edit := func(o *options) { o.rule.Retry.On, o.rule.Retry.AnyMethod = tt.on, true }
			inRig(t, edit, func(r *rig) {
				got := map[string]bool{}
				for range 20 {
					res := r.askWith("/s/m", "Content-Type", "application/grpc")
					text(t, res)
					got[res.Header.Get("Grpc-Status")] = true
				}
				if len(got) != len(tt.want) || !got["0"] {
					t.Errorf("got statuses %v, want %v", got, tt.want)
				}
			}, speaks(answers("14")), speaks(answers("0")))
		})
	}
}
