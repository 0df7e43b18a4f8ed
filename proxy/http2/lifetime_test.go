package http2

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

func slowly(w http.ResponseWriter, _ *http.Request) {
	time.Sleep(5 * time.Second)
	_, _ = io.WriteString(w, "ok")
}

// Whatever ends the use of a client's connection, streams that it opens before it knows
// are answered.
func TestAClientThatIsToLeaveGetsItsAnswers(t *testing.T) {
	for name, life := range map[string]upstream.Lifetime{
		"requests": {MaxRequests: 2},
		"duration": {MaxDuration: 8 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inRig(t, func(o *options) { o.life = life }, func(r *rig) {
				a := r.attacker()
				_ = a.open(1, true, a.head("GET"))
				if life.MaxDuration > 0 {
					time.Sleep(4 * time.Second)
				}
				_ = a.open(3, true, a.head("GET"))
				if got := a.until(isGoAway); got != "GOAWAY NO_ERROR" {
					t.Errorf("got %s", got)
				}
				_ = a.open(5, true, a.head("GET")) // it did not know yet
				answers := 0
				for {
					got := a.until(func(f xhttp2.Frame) bool { return verdict(f) && !isGoAway(f) })
					if !strings.HasSuffix(got, " 200") {
						break
					}
					answers++
				}
				if want := 2; answers < want {
					t.Errorf("answers after GOAWAY: got %d, want %d or more", answers, want)
				}
				synctest.Wait()
				if n := r.metrics.Connections.Load(); n != 0 {
					t.Errorf("connections that are left: got %d, want 0", n)
				}
			}, speaks(slowly))
		})
	}
}

func TestAnIdleClientIsSentAwayInTime(t *testing.T) {
	inRig(t, func(o *options) { o.life.MaxDuration = 5 * time.Second }, func(r *rig) {
		start := r.clock.Now()
		a := r.attacker()
		_, _ = io.Copy(io.Discard, a.Conn)
		if took := r.clock.Now() - start; took < 6*time.Second || took > 7*time.Second {
			t.Errorf("the connection ended after %v, want 5s and a second between the two GOAWAY", took)
		}
	})
}

func TestAnEndpointsConnectionHasItsLifetime(t *testing.T) {
	for name, life := range map[string]upstream.Lifetime{
		"requests": {MaxRequests: 2},
		"duration": {MaxDuration: 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inRig(t, func(o *options) { o.cluster.Lifetime = life }, func(r *rig) {
				for range 4 {
					r.check(r.get(), 200, "ok", "-", "10.0.1.1 ok")
					time.Sleep(2 * time.Second)
				}
				b := r.backends[0]
				b.mu.Lock()
				defer b.mu.Unlock()
				if n := len(b.conns); n != 2 {
					t.Errorf("connections to the endpoint: got %d, want 2", n)
				}
			}, says("ok"))
		})
	}
}

// Requests at once that are more than a connection takes find others, and those under way
// when its time is up finish.
func TestRequestsUnderWayOutliveTheLifetime(t *testing.T) {
	for name, life := range map[string]upstream.Lifetime{
		"requests": {MaxRequests: 1},
		"duration": {MaxDuration: time.Second},
	} {
		for _, protocol := range []cluster.Protocol{cluster.HTTP1, cluster.HTTP2} {
			t.Run(name+" "+protocol.String(), func(t *testing.T) {
				inRig(t, func(o *options) { o.cluster.Lifetime, o.cluster.Protocol = life, protocol }, func(r *rig) {
					const n = 40 // more than connections that are opened because others are busy
					got := make(chan reply, n)
					for range n {
						go func() { got <- r.get() }()
					}
					for range n {
						if g := <-got; g.StatusCode != http.StatusOK || g.body != "ok" {
							t.Fatalf("got %d %q, %v; want 200", g.StatusCode, g.body, g.err)
						}
					}
				}, map[cluster.Protocol]func(http.HandlerFunc) func(net.Conn, int){cluster.HTTP1: served, cluster.HTTP2: speaks}[protocol](slowly))
			})
		}
	}
}
