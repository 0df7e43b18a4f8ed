package http1

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/resilience"
)

func TestARefusedConnectionIsRetriedElsewhereWhateverTheMethod(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		r.backends[0].crash()
		retried := false
		for range 20 {
			got := r.dial().do("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
			if got.StatusCode != http.StatusOK {
				t.Fatalf("response: got %d %q, want 200; %+v", got.StatusCode, got.body, r.last())
			}
			if line := r.last(); len(line.Attempts) > 1 {
				retried = true
				want := []string{"10.0.1.1 conn", "10.0.1.2 ok"}
				if diff := cmp.Diff(want, line.Attempts); diff != "" {
					t.Errorf("attempts (-want +got):\n%s", diff)
				}
			}
		}
		if !retried {
			t.Error("no request met the endpoint that is down")
		}
	}, say(ok), say(ok))
}

func TestALargeBodySurvivesARefusedConnection(t *testing.T) {
	const size = 1 << 20
	inRig(t, nil, func(r *rig) {
		r.backends[0].crash()
		for range 10 {
			c := r.dial()
			go func() {
				_, _ = fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size)
				_, _ = c.Write(make([]byte, size))
			}()
			if got := c.read("POST"); got.StatusCode != http.StatusOK {
				t.Fatalf("response: got %d %q, want 200; %+v", got.StatusCode, got.body, r.last())
			}
		}
	}, say(ok), say(ok))
}

func TestEveryEndpointRefusing(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		r.backends[0].crash()
		r.backends[1].crash()
		got := r.dial().do(get)
		if line := r.last(); got.StatusCode != http.StatusServiceUnavailable || line.Flags != "UF,URX" || len(line.Attempts) != 2 {
			t.Errorf("got %d %s %q, want 503 UF,URX after two attempts", got.StatusCode, line.Flags, line.Attempts)
		}
	}, say(ok), say(ok))
	inRig(t, nil, func(r *rig) {
		r.backends[0].crash()
		r.check(r.dial().do(get), 503, "*", "UF", "10.0.1.1 conn")
	}, say(ok))
}

func TestAnEjectedEndpointThatIsBackServesWhomTheLastOneRefuses(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		var specs []cluster.Spec
		for _, b := range r.backends {
			address := b.host.Addr().String() + ":80"
			specs = append(specs, cluster.Spec{ID: address, Address: address})
		}
		specs[0].Verdict = outlier.Verdict{State: outlier.Ejected, Epoch: 1}
		r.cluster.Update(specs)
		synctest.Wait()
		r.backends[1].crash()
		r.check(r.dial().do("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"), 200, "ok", "-", "10.0.1.2 conn", "10.0.1.1 ok")
	}, say(ok), say(ok))
}

func TestAResetBeforeAnAnswerIsRetriedIfItDoesNoHarm(t *testing.T) {
	dies := broken("", true)
	for _, tt := range []struct {
		request string
		retried bool
	}{
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", false},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", false},
		{"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", false},
	} {
		inRig(t, nil, func(r *rig) {
			met := false
			for range 20 {
				c := r.dial()
				got := c.do(tt.request)
				line := r.last()
				if line.Attempts[0] != "10.0.1.1 conn" {
					continue
				}
				met = true
				if tt.retried {
					r.check(got, 200, "ok", "-", "10.0.1.1 conn", "10.0.1.2 ok")
				} else {
					r.check(got, 503, "*", "UC", "10.0.1.1 conn")
				}
				break
			}
			if !met {
				t.Errorf("%q never met the endpoint that resets", tt.request)
			}
		}, dies, say(ok))
	}
}

func TestAStaleConnectionIsReplacedByAFreshOne(t *testing.T) {
	// The backend closes an idle connection exactly when the next request is on
	// the way: it has been read, and nothing has been answered.
	race := func(c net.Conn, n int) {
		br := bufio.NewReader(c)
		for i := 0; ; i++ {
			if _, err := http.ReadRequest(br); err != nil || n == 1 && i == 1 {
				return
			}
			_, _ = io.WriteString(c, ok)
		}
	}
	for _, tt := range []struct {
		request  string
		idle     time.Duration
		attempts []string
	}{
		{get, 2 * time.Second, []string{"10.0.1.1 ignore", "10.0.1.1 ok"}},
		{"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", 2 * time.Second, []string{"10.0.1.1 ignore", "10.0.1.1 ok"}},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 2 * time.Second, []string{"10.0.1.1 ignore"}},
		{get, 100 * time.Millisecond, []string{"10.0.1.1 conn", "10.0.1.1 ok"}}, // too soon for an idle time-out
		{"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", 100 * time.Millisecond, []string{"10.0.1.1 conn"}},
	} {
		inRig(t, nil, func(r *rig) {
			c := r.dial()
			c.do(get)
			time.Sleep(tt.idle)
			got := c.do(tt.request)
			if status, flags := 200, "-"; len(tt.attempts) == 2 {
				r.check(got, status, "ok", flags, tt.attempts...)
			} else {
				r.check(got, 503, "*", "UC", tt.attempts...)
			}
		}, race)
	}
}

// TestReplacingAStaleConnectionCostsNoTry: the server ends its idle connections and
// its listener as the request comes, and the route allows two tries.
func TestReplacingAStaleConnectionCostsNoTry(t *testing.T) {
	var going func()        // ends the first server's listener
	var leaving atomic.Bool // it leaves with the next request
	leaves := func(c net.Conn, _ int) {
		br := bufio.NewReader(c)
		for i := 0; ; i++ {
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			if i > 0 && leaving.Load() {
				going()
				return
			}
			_, _ = io.WriteString(c, ok)
		}
	}
	inRig(t, func(o *options) { o.rule.Retry.MaxAttempts = 2 }, func(r *rig) {
		going = func() { r.backends[0].ln.Close() }
		c, met := r.dial(), false
		used := func() bool { return r.last().Attempts[0] == "10.0.1.1 ok" }
		for c.do(get); !used(); { // the picker may well prefer the other one
			c.do(get)
		}
		time.Sleep(2 * time.Second)
		leaving.Store(true)
		for n := 0; n < 5000 && !met; n++ {
			if got := c.do(get); got.StatusCode != http.StatusOK {
				t.Fatalf("got %d %q, want 200; %+v", got.StatusCode, got.body, r.last())
			}
			met = met || len(r.last().Attempts) == 3
		}
		if !met {
			t.Error("no request met the server that leaves")
		}
	}, leaves, say(ok))
}

func TestAConnectionThatDiedWhileIdleCostsNothing(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		c.do(get)
		r.backends[0].mu.Lock()
		_ = r.backends[0].conns[0].Close()
		r.backends[0].mu.Unlock()
		time.Sleep(10 * time.Millisecond)
		r.check(c.do("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"), 200, "ok", "-", "10.0.1.1 ok")
	}, say(ok))
}

func TestStatusesAreRetriedIfTheRouteSaysSo(t *testing.T) {
	bad := say("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		r.check(c.do(get), 503, "busy", "-", "10.0.1.1 server")
	}, bad)
	inRig(t, func(o *options) { o.rule.Retry.On = []resilience.Condition{resilience.GatewayError} }, func(r *rig) {
		for {
			got := r.dial().do(get)
			if line := r.last(); line.Attempts[0] == "10.0.1.1 server" {
				r.check(got, 200, "ok", "-", "10.0.1.1 server", "10.0.1.2 ok")
				break
			}
		}
		for _, b := range r.backends {
			if n := len(b.conns); n > 1 {
				t.Errorf("connections: got %d, want 1: the answer was read to its end", n)
			}
		}
	}, bad, say(ok))
	inRig(t, func(o *options) {
		o.rule.Retry.On = []resilience.Condition{resilience.GatewayError}
		o.cluster.Budget.MinPerSecond, o.cluster.Budget.Ratio = 0, 0
	}, func(r *rig) {
		r.check(r.dial().do(get), 503, "busy", "-", "10.0.1.1 server")
	}, bad)
}

func TestAnApplicationThatResetIsRetriedAsIfTheResetHadBeenSeenFromHere(t *testing.T) {
	reset := say("HTTP/1.1 503 Service Unavailable\r\nX-Overhear-Origin: app-reset\r\nContent-Length: 3\r\n\r\nbad")
	marked := func(o *options) { o.marked = true }
	inRig(t, marked, func(r *rig) {
		for range 20 {
			if got := r.dial().do(get); got.StatusCode != http.StatusOK {
				t.Fatalf("response: got %d, want 200 from the other endpoint", got.StatusCode)
			}
		}
	}, reset, say(ok))
	inRig(t, marked, func(r *rig) {
		for range 20 {
			got := r.dial().do("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
			if line := r.last(); line.Attempts[0] == "10.0.1.1 conn" {
				r.check(got, 503, "bad", "UC", "10.0.1.1 conn") // nobody knows what was processed
				return
			}
		}
		t.Error("no POST met the endpoint")
	}, reset, say(ok))
}
