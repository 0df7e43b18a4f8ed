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

	"github.com/overhear-mesh/overhear/outlier"
)

// scribble takes buffers as other connections would, and fills them.
func scribble() (giveBack func()) {
	var taken [][]byte
	for _, size := range []int{smallBuffer, smallBuffer, smallBuffer, largeBuffer, largeBuffer} {
		b := getBuffer(size)
		for i := range b {
			b[i] = '!'
		}
		taken = append(taken, b)
	}
	return func() {
		for _, b := range taken {
			putBuffer(b)
		}
	}
}

func TestARecordIsOfItsOwnRequestAlsoWhenTheBufferHasGrown(t *testing.T) {
	for _, head := range []string{"Content-Length: 40000", "Transfer-Encoding: chunked"} {
		inRig(t, nil, func(r *rig) {
			c := r.dial()
			body := strings.Repeat("x", 40000)
			if strings.HasPrefix(head, "T") {
				body = "9c40\r\n" + body + "\r\n0\r\n\r\n"
			}
			c.send("POST /mine HTTP/1.1\r\nHost: mine\r\nX-Request-Id: mine\r\n" + head + "\r\n\r\n" + body)
			synctest.Wait()
			giveBack := scribble()
			got := c.read("POST")
			line := r.last()
			giveBack()
			if got.StatusCode != http.StatusOK || line.Method != http.MethodPost || line.Path != "/mine" || line.Host != "mine" || line.ID != "mine" {
				t.Errorf("%s: got %d, log %q %q %q %q, want the request's own", head, got.StatusCode, line.Method, line.Host, line.Path, line.ID)
			}
		}, talk(func(req *http.Request) string {
			_, _ = io.Copy(io.Discard, req.Body)
			time.Sleep(time.Second)
			return ok
		}))
	}
}

// floods answers the first request of each connection with more than anybody can
// hold, at once, whatever is still to come of the request.
func floods(c net.Conn, _ int) {
	req, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	go func() { _, _ = io.Copy(io.Discard, req.Body) }()
	_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
	_, _ = c.Write(make([]byte, 10000000))
}

func TestAClientThatNeitherReadsNorWritesAnyMoreHoldsNothing(t *testing.T) {
	for _, tt := range []struct{ name, request, then, flags string }{
		{"half-closed while watched", get, "", "DC"},
		{"half-closed in a body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nhalf", "", "DC"},
		{"malformed body", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "nonsense", "DPE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				c := r.dial()
				c.send(tt.request)
				time.Sleep(time.Second)
				if tt.then != "" {
					c.send(tt.then)
				} else if err := c.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				line := r.last()
				if n := r.metrics.Connections.Load(); n != 0 {
					t.Errorf("connections: got %d, want 0", n)
				}
				if line.Flags != tt.flags || line.Attempts[0] != "10.0.1.1 ignore" {
					t.Errorf("log: got %s %q, want %s and ignore", line.Flags, line.Attempts, tt.flags)
				}
			}, floods)
		})
	}
}

func TestAClientThatStopsReadingAndThenLeavesIsNotTheEndpointsFault(t *testing.T) {
	inRig(t, func(o *options) { o.rule.Timeout = 0 }, func(r *rig) {
		c := r.dial()
		c.send(get)
		time.Sleep(10 * time.Second)
		_ = c.Reset()
		line := r.last()
		if line.Flags != "DC" || line.Attempts[0] != "10.0.1.1 ignore" {
			t.Errorf("log: got %s %q, want DC and ignore", line.Flags, line.Attempts)
		}
	}, floods)
}

func TestAClientThatLeavesInASlowBodyIsNotTheEndpointsFault(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf")
		for range 10 {
			time.Sleep(time.Second)
			c.send("x")
		}
		time.Sleep(5 * time.Second)
		_ = c.Reset()
		line := r.last()
		if line.Flags != "DC" || line.Attempts[0] != "10.0.1.1 ignore" {
			t.Errorf("log: got %s %q, want DC and ignore", line.Flags, line.Attempts)
		}
	}, hangs)
}

func TestTheTimeOfASlowBodyIsNotTheEndpointsLatency(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 14\r\n\r\nhalf")
		for range 10 {
			time.Sleep(time.Second)
			c.send("x")
		}
		r.check(c.read("POST"), 200, "ok", "-", "10.0.1.1 ok")
		err := r.cluster.Ask(r.t.Context(), func(d *outlier.Detector, now time.Duration) {
			if cost := d.Endpoint("10.0.1.1:80").Cost(now); cost > 1 {
				t.Errorf("cost of the endpoint: got %.3f s, want the 0.1 s that it took", cost)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}, talk(func(req *http.Request) string {
		_, _ = io.Copy(io.Discard, req.Body)
		time.Sleep(100 * time.Millisecond)
		return ok
	}))
}

func TestAnEmptyRequestIDIsReplaced(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		r.check(r.dial().do("GET / HTTP/1.1\r\nHost: a\r\nX-Request-Id:\r\n\r\n"), 200, "*", "-", "10.0.1.1 ok")
		if line := r.last(); len(line.ID) != 36 {
			t.Errorf("log: got request id %q, want one of our own", line.ID)
		}
	}, talk(func(req *http.Request) string {
		if ids := req.Header["X-Request-Id"]; len(ids) != 1 || len(ids[0]) != 36 {
			return "HTTP/1.1 400 " + fmt.Sprintf("%q", ids) + "\r\nContent-Length: 0\r\n\r\n"
		}
		return ok
	}))
}
