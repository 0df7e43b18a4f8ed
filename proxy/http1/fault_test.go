package http1

import (
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
		{"delay", router.Fault{Delay: delay}, 200, "ok", "DI", 2 * time.Second, []string{"10.0.1.1 ok"}},
		{"abort", router.Fault{Abort: abort}, 503, "overhear: a fault that a rule asks for\n", "FI", 0, nil},
		{"both", router.Fault{Delay: delay, Abort: abort}, 503, "overhear: a fault that a rule asks for\n", "DI,FI", 2 * time.Second, nil},
		{"hardly ever", router.Fault{Delay: &router.Delay{Duration: time.Second, Share: 1e-12}}, 200, "ok", "-", 0, []string{"10.0.1.1 ok"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, func(o *options) { o.rule.Fault, o.rule.Timeout = &tt.fault, time.Second }, func(r *rig) {
				c := r.dial()
				for range 2 {
					from := time.Now()
					got := c.do("POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n\r\n")
					r.check(got, tt.status, tt.body, tt.flags, tt.attempts...)
					if took := time.Since(from); took != tt.wait {
						t.Errorf("answered after %v, want %v", took, tt.wait)
					}
				}
				if n := r.outcomes(); n.K() != 0 || int(n.N) != 2*len(tt.attempts) {
					t.Errorf("counts: %+v, want no failure and %d attempts", n, 2*len(tt.attempts))
				}
				if n := r.cluster.Limits().Requests.Held(); n != 0 {
					t.Errorf("requests held: got %d, want 0", n)
				}
				c.Close()
			}, say(ok))
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
			res := r.dial().do("POST /s/m HTTP/1.1\r\nHost: api\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n")
			if got := res.Header.Get("grpc-status"); got != tt.want {
				t.Errorf("got grpc-status %q, want %s", got, tt.want)
			}
		}, say(ok))
	}
}

func TestABodyComesThroughADelay(t *testing.T) {
	fault := router.Fault{Delay: &router.Delay{Duration: time.Second, Share: 1}}
	inRig(t, func(o *options) { o.rule.Fault = &fault }, func(r *rig) {
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\n\r\n")
		time.Sleep(500 * time.Millisecond) // the client is watched by now
		c.send("hello")
		r.check(c.read("POST"), 200, "ok", "DI", "10.0.1.1 ok")
		if got := r.last().Received; got != 5 {
			t.Errorf("body: got %d bytes, want 5", got)
		}
		r.check(c.do(get), 200, "ok", "DI", "10.0.1.1 ok")
		c.Close()
	}, say(ok))
}

func TestWhoLeavesDuringADelayIsLetGo(t *testing.T) {
	fault := router.Fault{Delay: &router.Delay{Duration: time.Minute, Share: 1}}
	inRig(t, func(o *options) { o.rule.Fault = &fault }, func(r *rig) {
		c := r.dial()
		from := time.Now()
		c.send(get)
		time.Sleep(time.Second)
		c.Close()
		synctest.Wait()
		line := r.last()
		if took := time.Since(from); line.Flags != "DC,DI" || len(line.Attempts) != 0 || took != time.Second {
			t.Errorf("got %s, attempts %q, after %v; want DC,DI at once and none", line.Flags, line.Attempts, took)
		}
	}, say(ok))
}
