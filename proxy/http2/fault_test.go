package http2

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/proxy/router"
)

func TestAFaultDelaysAndAborts(t *testing.T) {
	delay := &router.Delay{Duration: 2 * time.Second, Share: 1}
	abort := &router.Abort{Status: 503, Share: 1}
	for _, tt := range []struct {
		name     string
		fault    router.Fault
		status   int
		body     string
		flags    string
		wait     time.Duration
		attempts []string
	}{
		{"delay", router.Fault{Delay: delay}, 200, "x", "DI", 2 * time.Second, []string{"10.0.1.1 ok"}},
		{"abort", router.Fault{Abort: abort}, 503, "overhear: a fault that a rule asks for\n", "FI", 0, nil},
		{"both", router.Fault{Delay: delay, Abort: abort}, 503, "overhear: a fault that a rule asks for\n", "DI,FI", 2 * time.Second, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, func(o *options) { o.rule.Fault, o.rule.Timeout = &tt.fault, time.Second }, func(r *rig) {
				for _, body := range []string{"", "hello"} {
					from := time.Now()
					r.check(r.do("POST", "/", body), tt.status, tt.body, tt.flags, tt.attempts...)
					if took := time.Since(from); took != tt.wait {
						t.Errorf("answered after %v, want %v", took, tt.wait)
					}
				}
				if n := r.cluster.Limits().Requests.Held(); n != 0 {
					t.Errorf("requests held: got %d, want 0", n)
				}
			}, says("x"))
		})
	}
}

func TestAFaultGivesGRPCAStatus(t *testing.T) {
	for _, tt := range []struct {
		abort router.Abort
		want  string
	}{
		{router.Abort{Status: 503, Share: 1}, "14"},
		{router.Abort{Status: 503, GRPCStatus: 8, Share: 1}, "8"},
	} {
		inRig(t, func(o *options) { o.rule.Fault = &router.Fault{Abort: &tt.abort} }, func(r *rig) {
			res := r.askWith("/s/m", "Content-Type", "application/grpc")
			text(t, res)
			if got := res.Header.Get("grpc-status"); got != tt.want {
				t.Errorf("got grpc-status %q, want %s", got, tt.want)
			}
		}, says("x"))
	}
}

// The caller's own deadline is not put off by a delay.
func TestACallersDeadlineRunsDuringADelay(t *testing.T) {
	fault := router.Fault{Delay: &router.Delay{Duration: 10 * time.Second, Share: 1}}
	inRig(t, func(o *options) { o.rule.Fault = &fault }, func(r *rig) {
		from := time.Now()
		res := r.askWith("/s/m", "Content-Type", "application/grpc", "Grpc-Timeout", "1S")
		text(t, res)
		if got, took := res.Header.Get("grpc-status"), time.Since(from); got != "4" || took < time.Second || took > 2*time.Second {
			t.Errorf("got grpc-status %q after %v, want 4 after about 1s", got, took)
		}
	}, says("x"))
}

func TestWhoLeavesDuringADelayIsLetGo(t *testing.T) {
	fault := router.Fault{Delay: &router.Delay{Duration: time.Minute, Share: 1}}
	inRig(t, func(o *options) { o.rule.Fault = &fault }, func(r *rig) {
		ctx, leave := context.WithTimeout(r.t.Context(), time.Second)
		defer leave()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://api/", strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		from := time.Now()
		if got := r.send(req); got.err == nil {
			t.Errorf("got %d, want no answer", got.StatusCode)
		}
		synctest.Wait()
		line := r.last()
		if took := time.Since(from); line.Flags != "DC,DI" || len(line.Attempts) != 0 || took != time.Second {
			t.Errorf("got %s, attempts %q, after %v; want DC,DI at once and none", line.Flags, line.Attempts, took)
		}
	}, says("x"))
}
