package http2

import (
	"net"
	"slices"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/overhear-mesh/overhear/proxy/wheel"
)

func TestABodyThatStandsStillIsGivenUpAsTheClusterSays(t *testing.T) {
	// halves sends the one half of a body, and after the pause the other one.
	halves := func(pause time.Duration, more ...string) func(net.Conn, int) {
		return misbehaves(t, func(a *raw) {
			a.each(func(f *xhttp2.MetaHeadersFrame) {
				_ = a.open(f.StreamID, false, a.fields(append([]string{":status", "200"}, more...)...))
				_ = a.WriteData(f.StreamID, false, []byte("ha"))
				time.Sleep(time.Second)
				_ = a.WriteData(f.StreamID, false, []byte("lf"))
				time.Sleep(pause)
				_ = a.WriteData(f.StreamID, true, nil)
			})
		})
	}
	idle := func(o *options) { o.rule.Timeout, o.cluster.Outlier.BodyIdleTimeout = 0, 2*time.Second }
	t.Run("the endpoint's fault", func(t *testing.T) {
		inRig(t, idle, func(r *rig) {
			start := r.clock.Now()
			got := r.get()
			r.check(got, 200, "half", "SI", "10.0.1.1 timeout")
			if took := r.clock.Now() - start; got.err == nil || took < 3*time.Second || took > 3*time.Second+3*wheel.Tick {
				t.Errorf("body: got %v after %v, want an error 2s after the last byte", got.err, took)
			}
		}, halves(time.Minute))
	})
	t.Run("the route knows better", func(t *testing.T) {
		inRig(t, func(o *options) { idle(o); o.rule.IdleTimeout = time.Minute }, func(r *rig) {
			r.check(r.get(), 200, "half", "-", "10.0.1.1 ok")
		}, halves(10*time.Second))
	})
	t.Run("gRPC may rest", func(t *testing.T) {
		inRig(t, idle, func(r *rig) {
			r.check(r.get(), 200, "half", "-", "10.0.1.1 ok")
		}, halves(10*time.Second, "content-type", "application/grpc", "grpc-status", "0"))
	})
}

func TestTheEndOfTheContextBreaksOffWhatIsUnderWay(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		a := r.attacker()
		_ = a.open(1, true, a.head("GET"))
		_ = a.open(3, false, a.head("POST"))
		time.Sleep(time.Second)
		r.stop() // and inRig waits for ServeConn to return
		lines := r.log.all()
		if len(lines) != 2 {
			t.Fatalf("log: got %+v, want a line for each of two requests", lines)
		}
		for _, line := range lines {
			if line.Flags != "LR" || !slices.Equal(line.Attempts, []string{"10.0.1.1 ignore"}) {
				t.Errorf("log: got %s %s %q, want LR and an attempt that counts for nothing", line.Method, line.Flags, line.Attempts)
			}
		}
	}, misbehaves(t, func(a *raw) { a.each(func(*xhttp2.MetaHeadersFrame) {}) }))
}
