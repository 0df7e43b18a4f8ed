package http1

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/proxy/syntax"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// inDeafRig runs body with an inbound sidecar whose application takes 100 ms for an
// answer. It has closed its listener, and one request is under way.
func inDeafRig(t *testing.T, body func(r *rig, first *client)) {
	t.Helper()
	slow := talk(func(*http.Request) string {
		time.Sleep(100 * time.Millisecond)
		return ok
	})
	inRig(t, func(o *options) { o.inbound = true }, func(r *rig) {
		opts := upstream.DefaultOptions()
		opts.Dial = r.net.Host("10.0.0.1").Dial
		opts.RefusedWait = 250 * time.Millisecond
		r.server.deps.Inbound.Endpoint.SetOptions(&opts)
		first := r.dial()
		first.send(get)
		time.Sleep(10 * time.Millisecond)
		r.backends[0].ln.Close()
		body(r, first)
	}, slow)
}

// wantOrigin checks what the sidecar says of its application.
func wantOrigin(t *testing.T, got reply, want string) {
	t.Helper()
	if name := got.Header.Get(syntax.OriginField); name != want {
		t.Errorf("origin: got %q, want %q", name, want)
	}
}

func TestARequestWaitsForTheConnectionsOfALostListener(t *testing.T) {
	inDeafRig(t, func(r *rig, first *client) {
		start := r.clock.Now()
		second := r.dial().do(get)
		if took := r.clock.Now() - start; took < 190*time.Millisecond || took > 195*time.Millisecond {
			t.Errorf("the second answer took %v, want what the first had left and its own 100ms", took)
		}
		wantOrigin(t, second, "")
		r.check(second, http.StatusOK, "ok", "-", "10.0.1.1 ok")
		if got := first.read(http.MethodGet); got.StatusCode != http.StatusOK {
			t.Errorf("the first answer: got %d, want %d", got.StatusCode, http.StatusOK)
		}
	})
}

func TestThereIsNoWaitingForTheDead(t *testing.T) {
	inDeafRig(t, func(r *rig, first *client) {
		second := r.dial()
		second.send(get)
		time.Sleep(20 * time.Millisecond)
		start := r.clock.Now()
		r.backends[0].crash()
		got := second.read(http.MethodGet)
		if took := r.clock.Now() - start; took != 0 {
			t.Errorf("refused %v after the crash, want at once", took)
		}
		wantOrigin(t, got, "app-refused")
		wantOrigin(t, first.read(http.MethodGet), "app-reset")
	})
}

func TestWaitingForTheApplicationEnds(t *testing.T) {
	inDeafRig(t, func(r *rig, _ *client) {
		// The turn of the first comes after 90 ms, the third's would after 290.
		var queue []*client
		for range 3 {
			c := r.dial()
			c.send(get)
			synctest.Wait()
			queue = append(queue, c)
		}
		for i, want := range []int{http.StatusOK, http.StatusOK, http.StatusServiceUnavailable} {
			got := queue[i].read(http.MethodGet)
			if got.StatusCode != want {
				t.Errorf("number %d in the queue: got %d, want %d", i+1, got.StatusCode, want)
			}
			if want != http.StatusOK {
				wantOrigin(t, got, "app-refused")
			}
		}
	})
}

func TestACallerThatLeavesWaitsNoLonger(t *testing.T) {
	inDeafRig(t, func(r *rig, first *client) {
		gone := r.dial()
		gone.send(get)
		time.Sleep(60 * time.Millisecond) // by then it is watched
		gone.Close()
		if line := r.last(); line.Flags != "DC" || line.Duration > 70*time.Millisecond {
			t.Errorf("log: got %s after %v, want DC at once", line.Flags, line.Duration)
		}
		if got := first.read(http.MethodGet); got.StatusCode != http.StatusOK {
			t.Errorf("the first answer: got %d, want %d", got.StatusCode, http.StatusOK)
		}
		// The connection was not given to who had left.
		if got := r.dial().do(get); got.StatusCode != http.StatusOK {
			t.Errorf("a third: got %d, want %d", got.StatusCode, http.StatusOK)
		}
	})
}
