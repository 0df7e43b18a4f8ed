package http1

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// broken answers a request with the text and then resets or closes.
func broken(text string, reset bool) func(net.Conn, int) {
	return func(c net.Conn, _ int) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		_, _ = io.WriteString(c, text)
		time.Sleep(10 * time.Millisecond)
		if reset {
			_ = c.(*pipenet.Conn).Reset()
		}
	}
}

func TestACutAnswerNeverLooksWhole(t *testing.T) {
	for _, tt := range []struct {
		name, request, answer string
		reset                 bool
	}{
		{"sized", get, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", false},
		{"sized, reset", get, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", true},
		{"chunked", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", false},
		{"in a chunk", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf", false},
		{"in the last chunk", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n", false},
		{"until close, reset", get, "HTTP/1.1 200 OK\r\n\r\nhalf", true},
		{"until close for HTTP/1.0, reset", "GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nhalf", true},
		{"chunked for HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				got := r.dial().do(tt.request)
				r.check(got, 200, "half", "UC", "10.0.1.1 server")
				if got.err == nil {
					t.Error("body: got a regular end, want an error")
				}
			}, broken(tt.answer, tt.reset))
		})
	}
}

func TestBytesBehindAnAnswerNeverReachAnybody(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok too much",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
	} {
		inRig(t, nil, func(r *rig) {
			c := r.dial()
			for range 3 {
				r.check(c.do(get), 200, "ok", "-", "10.0.1.1 ok")
			}
			if n := len(r.backends[0].conns); n != 3 {
				t.Errorf("%q: connections to the backend: got %d, want 3, none used again", answer, n)
			}
		}, say(answer))
	}
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		c.do("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
		r.check(c.do("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"), 200, "", "-", "10.0.1.1 ok")
		if n := len(r.backends[0].conns); n != 2 {
			t.Errorf("body after HEAD: connections to the backend: got %d, want 2", n)
		}
	}, say(ok))
}

func TestAnUnaskedAnswerOnAnIdleConnectionReachesNobody(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		r.check(c.do(get), 200, "ok", "-", "10.0.1.1 ok")
		time.Sleep(100 * time.Millisecond)
		r.check(c.do(get), 200, "ok", "-", "10.0.1.1 ok")
	}, func(c net.Conn, _ int) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		_, _ = io.WriteString(c, ok)
		time.Sleep(50 * time.Millisecond)
		_, _ = io.WriteString(c, "HTTP/1.1 408 Too Slow\r\nContent-Length: 4\r\n\r\nevil")
		_, _ = c.Read(make([]byte, 1))
	})
}

func TestAMalformedAnswerIsABadGateway(t *testing.T) {
	for _, answer := range []string{
		"nonsense\r\n\r\n",
		"HTTP/2.0 200 OK\r\n\r\n",
		"HTTP/1.1 20 OK\r\n\r\n",
		"HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
		"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 70<<10) + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: a\r\n", 101) + "\r\n",
		strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", maxInterim+1) + ok,
	} {
		name := answer[:min(len(answer), 60)]
		inRig(t, nil, func(r *rig) {
			c := r.dial()
			got := c.do("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
			r.check(got, 502, "*", "UPE", "10.0.1.1 server")
			if t.Failed() {
				t.Fatalf("that was %q", name)
			}
			r.check(c.do("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), 502, "*", "UPE", "10.0.1.1 server")
		}, broken(answer, false))
	}
}

func TestAConnectionThatIsLostBeforeTheHeadIsCompleteIsAHardFailure(t *testing.T) {
	for _, answer := range []string{"HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 100 Continue\r\n\r\n"} {
		for _, reset := range []bool{false, true} {
			inRig(t, nil, func(r *rig) {
				r.check(r.dial().do("GET / HTTP/1.0\r\n\r\n"), 503, "*", "UC", "10.0.1.1 conn")
				if t.Failed() {
					t.Fatalf("that was %q, reset %v", answer, reset)
				}
			}, broken(answer, reset))
		}
	}
}

func TestAClientThatLeavesWhileItWaitsEndsTheAttempt(t *testing.T) {
	for _, how := range []string{"close", "reset", "half-close"} {
		t.Run(how, func(t *testing.T) {
			var gone time.Duration
			inRig(t, nil, func(r *rig) {
				c := r.dial()
				c.send(get)
				time.Sleep(200 * time.Millisecond)
				switch how {
				case "close":
					c.Close()
				case "reset":
					_ = c.Reset()
				case "half-close":
					_ = c.CloseWrite()
				}
				left := r.clock.Now()
				line := r.last()
				want := logged{Method: "GET", Host: "api", Path: "/", ID: line.ID, Flags: "DC", Duration: left, Attempts: []string{"10.0.1.1 ignore"}}
				if diff := cmp.Diff(want, line); diff != "" {
					t.Errorf("log (-want +got):\n%s", diff)
				}
				if gone = r.clock.Now() - left; gone != 0 {
					t.Errorf("noticed after %v, want at once", gone)
				}
				if n := r.outcomes(); n.N != 0 || n.Cens != 0 {
					t.Errorf("counted: got %+v, want nothing", n)
				}
			}, func(c net.Conn, _ int) {
				_, _ = io.Copy(io.Discard, c) // until the proxy hangs up
			})
		})
	}
}

func TestWhatAWatchedClientSendsIsItsNextRequest(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		for range 3 {
			c.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
			time.Sleep(200 * time.Millisecond)
			c.send("GET /next HT")
			time.Sleep(200 * time.Millisecond)
			c.send("TP/1.1\r\nHost: a\r\n\r\n")
			for _, want := range []string{"/slow", "/next"} {
				if got := c.read("GET").body; got != want {
					t.Errorf("body: got %q, want %q", got, want)
				}
			}
		}
		if n := r.metrics.Watches.Load(); n < 3 {
			t.Errorf("watches: got %d, want at least 3", n)
		}
	}, talk(func(req *http.Request) string {
		time.Sleep(time.Second)
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(req.URL.Path), req.URL.Path)
	}))
}

func TestAClusterWithoutEndpointsIsUnhealthy(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		for range 2 {
			r.check(c.do(get), 503, "overhear: no healthy endpoint\n", "UH")
		}
	})
}

func TestAClusterOfWhichNobodyHasToldIsNone(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		r.cluster.SetKnown(false)
		r.check(r.dial().do(get), 503, "overhear: no such cluster\n", "NC")
		r.cluster.SetKnown(true)
		r.check(r.dial().do(get), 503, "overhear: no healthy endpoint\n", "UH")
	})
}

func TestNoRoute(t *testing.T) {
	inRig(t, func(o *options) { o.rule.Hosts = []string{"other"} }, func(r *rig) {
		c := r.dial()
		for range 2 {
			r.check(c.do(get), 404, "overhear: no route\n", "NR")
		}
		got := c.do("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
		r.check(got, 404, "", "NR")
		got = c.do("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
		r.check(got, 404, "*", "NR")
		if !got.Close {
			t.Error("connection: got none, want close: the body has not been read")
		}
	}, say(ok))
}

func TestAMalformedBodyIsRefusedWhileItFlows(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
		time.Sleep(time.Second)
		c.send("zz\r\n")
		r.check(c.read("POST"), 400, "overhear: malformed chunk size\n", "DPE", "10.0.1.1 ignore")
		if err := c.ended(); err != nil {
			t.Errorf("end of connection: %v", err)
		}
	}, hangs)
}

func TestAClientThatLeavesInItsBody(t *testing.T) {
	for _, wait := range []time.Duration{0, time.Second} {
		inRig(t, nil, func(r *rig) {
			c := r.dial()
			c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
			time.Sleep(wait)
			c.Close()
			line := r.last()
			if line.Flags != "DC" || line.Status != 0 {
				t.Errorf("after %v: log: got %d %s, want 0 DC", wait, line.Status, line.Flags)
			}
		}, hangs)
	}
}

func TestLimitsOverflow(t *testing.T) {
	inRig(t, func(o *options) { o.cluster.Limits.Requests = 1 }, func(r *rig) {
		busy := r.dial()
		busy.send(get)
		synctest.Wait()
		r.check(r.dial().do(get), 503, "*", "UO")
		busy.read("GET")
		r.check(r.dial().do(get), 200, "ok", "-", "10.0.1.1 ok")
	}, talk(func(*http.Request) string { time.Sleep(time.Second); return ok }))
}

func TestTheBreakerRefusesAtOnce(t *testing.T) {
	inRig(t, func(o *options) { o.cluster.Breaker.For = 0 }, func(r *rig) {
		r.backends[0].crash()
		for range resilience.DefaultBreakerConfig().Refusals {
			r.check(r.dial().do(get), 503, "*", "UF", "10.0.1.1 conn")
		}
		r.check(r.dial().do(get), 503, "*", "UO")
	}, say(ok))
}

func TestALateAnswerToACutRequestNeverReachesTheNextOne(t *testing.T) {
	inRig(t, func(o *options) { o.rule.PerTryTimeout = 100 * time.Millisecond }, func(r *rig) {
		c := r.dial()
		r.check(c.do("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"), 504, "*", "UT", "10.0.1.1 timeout")
		r.check(c.do("GET /fast HTTP/1.1\r\nHost: a\r\n\r\n"), 200, "fast", "-", "10.0.1.1 ok")
	}, talk(func(req *http.Request) string {
		name := strings.TrimPrefix(req.URL.Path, "/")
		if name == "slow" {
			time.Sleep(150 * time.Millisecond)
		}
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(name), name)
	}))
}
