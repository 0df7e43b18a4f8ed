package http1

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

func TestAClientsConnectionEndsWithItsLastRequest(t *testing.T) {
	inRig(t, func(o *options) { o.life = upstream.Lifetime{MaxRequests: 3} }, func(r *rig) {
		c := r.dial()
		for i := range 3 {
			got := c.do(get)
			if want := i == 2; got.StatusCode != http.StatusOK || got.Close != want {
				t.Errorf("request %d: got %d, close %v, want 200 and %v", i+1, got.StatusCode, got.Close, want)
			}
		}
		if err := c.ended(); err != nil {
			t.Errorf("end of connection: %v", err)
		}
	}, say(ok))
}

func TestAClientsConnectionEndsWithItsTime(t *testing.T) {
	inRig(t, func(o *options) { o.life = upstream.Lifetime{MaxDuration: 10 * time.Second} }, func(r *rig) {
		busy, idle, late := r.dial(), r.dial(), r.dial()
		for _, c := range []*client{busy, idle, late} {
			if got := c.do(get); got.Close {
				t.Error("connection: got close at once")
			}
		}
		start := r.clock.Now()
		time.Sleep(7 * time.Second)
		busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
		time.Sleep(3*time.Second + 500*time.Millisecond)
		if got := late.do(get); got.StatusCode != http.StatusOK || !got.Close {
			t.Errorf("request when time is just up: got %d, close %v, want 200 and close", got.StatusCode, got.Close)
		}
		if err := idle.ended(); err != nil {
			t.Errorf("end of the idle connection: %v", err)
		}
		if took := r.clock.Now() - start; took < 10*time.Second || took > 11*time.Second+3*wheel.Tick {
			t.Errorf("the idle connection ended after %v, want 10s and a second for a last request", took)
		}
		if got := busy.read("GET"); got.StatusCode != http.StatusOK || got.body != "ok" || !got.Close {
			t.Errorf("request under way: got %d %q, close %v, want 200 and close", got.StatusCode, got.body, got.Close)
		}
	}, talk(func(req *http.Request) string {
		if req.URL.Path == "/slow" {
			time.Sleep(5 * time.Second)
		}
		return ok
	}))
}

func TestAnEndpointsConnectionHasItsLifetime(t *testing.T) {
	for name, life := range map[string]upstream.Lifetime{
		"requests": {MaxRequests: 2},
		"duration": {MaxDuration: 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inRig(t, func(o *options) { o.cluster.Lifetime = life }, func(r *rig) {
				c := r.dial()
				for range 4 {
					r.check(c.do(get), 200, "ok", "-", "10.0.1.1 ok")
					time.Sleep(2 * time.Second)
				}
				synctest.Wait()
				b := r.backends[0]
				b.mu.Lock()
				defer b.mu.Unlock()
				if n := len(b.conns); n != 2 {
					t.Errorf("connections to the endpoint: got %d, want 2", n)
				}
			}, say(ok))
		})
	}
}

// TestAConnectionEndsBeforeItsServerClosesIt: a server that says for how long it keeps a
// connection gets the next request on it, or on a fresh one once that is nearly over.
func TestAConnectionEndsBeforeItsServerClosesIt(t *testing.T) {
	for _, x := range []struct {
		says  string
		fresh bool // after 4.5 s without a request
	}{
		{"Keep-Alive: timeout=5\r\n", true},
		{"Keep-Alive: max=100,TimeOut = 5\r\n", true},
		{"keep-alive: timeout=5, timeout=60\r\n", true},
		{"Keep-Alive: timeout=6\r\n", false},
		{"Keep-Alive: 5\r\n", false},
		{"Keep-Alive: timeout=0\r\n", false},
		{"Keep-Alive: timeout=-5\r\n", false},
		{"Keep-Alive: timeout=5.0\r\n", false},
		{"Keep-Alive: timeout=9223372036854775807\r\n", false},
		{"Keep-Alive: timeouts=5, timeout\r\n", false},
		{"Keep-Alive:\r\n", false},
		{"", false},
	} {
		t.Run(x.says, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				c := r.dial()
				for range 2 {
					r.check(c.do(get), 200, "ok", "-", "10.0.1.1 ok")
					time.Sleep(4500 * time.Millisecond)
				}
				b := r.backends[0]
				b.mu.Lock()
				defer b.mu.Unlock()
				if n := len(b.conns); (n == 2) != x.fresh {
					t.Errorf("connections: got %d, want a second one: %v", n, x.fresh)
				}
			}, say(strings.Replace(ok, "OK\r\n", "OK\r\n"+x.says, 1)))
		})
	}
}
