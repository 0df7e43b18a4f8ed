package http2

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	xhttp2 "golang.org/x/net/http2"
)

// versions are endpoints of both kinds, with what a rig needs for them.
var versions = map[string]struct {
	edit    func(*options)
	backend func(http.HandlerFunc) func(net.Conn, int)
}{
	"HTTP/2":   {nil, speaks},
	"HTTP/1.1": {older, served},
}

// inOneWrite sends all that write writes as one piece.
func (a *raw) inOneWrite(write func()) {
	a.t.Helper()
	var all bytes.Buffer
	to := a.Framer
	a.Framer = xhttp2.NewFramer(&all, nil)
	a.AllowIllegalWrites = true
	write()
	a.Framer = to
	if _, err := a.Write(all.Bytes()); err != nil {
		a.t.Fatal(err)
	}
}

// What is opened and given up in one breath reaches no endpoint, is no attempt, and is
// logged all the same.
func TestAStreamThatIsResetAtOnceReachesNobody(t *testing.T) {
	const streams = 50
	for name, giveUp := range map[string]func(a *raw, id uint32){
		"by the client":         func(a *raw, id uint32) { _ = a.WriteRSTStream(id, xhttp2.ErrCodeCancel) },
		"by a fault of its own": func(a *raw, id uint32) { _ = a.WriteWindowUpdate(id, 0) },
		"behind its body and trailers": func(a *raw, id uint32) {
			_ = a.WriteData(id, false, []byte("body"))
			_ = a.open(id, true, a.fields("x", "y"))
			_ = a.WriteRSTStream(id, xhttp2.ErrCodeCancel)
		},
	} {
		for version, v := range versions {
			t.Run(name+", before endpoints of "+version, func(t *testing.T) {
				var asked atomic.Int64
				inRig(t, v.edit, func(r *rig) {
					a := r.attacker()
					synctest.Wait()
					a.inOneWrite(func() {
						for i := range uint32(streams) {
							_ = a.open(2*i+1, false, a.head("POST"))
							giveUp(a, 2*i+1)
						}
					})
					synctest.Wait()
					if n := asked.Load(); n != 0 {
						t.Errorf("the endpoint was asked %d times, want 0", n)
					}
					lines := r.log.all()
					if len(lines) != streams {
						t.Fatalf("access log: got %d lines, want %d", len(lines), streams)
					}
					for _, line := range lines {
						if line.Status != 0 || len(line.Attempts) > 0 || line.Flags == "-" {
							t.Fatalf("log: got %+v, want no status and no attempt, and why", line)
						}
					}
					if n := r.cluster.Limits().Requests.Held(); n != 0 {
						t.Errorf("requests under way: got %d, want 0", n)
					}
					id := uint32(2*streams + 1)
					_ = a.open(id, true, a.head("GET"))
					if got, want := a.until(func(f xhttp2.Frame) bool { return f.Header().StreamID == id }), "HEADERS 101 200"; got != want {
						t.Errorf("the next request of the same client: got %s, want %s", got, want)
					}
				}, v.backend(func(w http.ResponseWriter, q *http.Request) {
					asked.Add(1)
					_, _ = io.Copy(io.Discard, q.Body)
					_, _ = io.WriteString(w, "ok")
				}))
			})
		}
	}
}

// A client that gives up much of what it asks for, and has much answered, is no flood:
// a hedging one, a browser whose user leaves the page, one whose deadline passes while
// an endpoint hangs.
func TestWhoCancelsOftenIsServed(t *testing.T) {
	type client struct {
		*raw
		next uint32
	}
	ask := func(c *client, path string) uint32 {
		c.next += 2
		_ = c.open(c.next, true, c.fields(":method", "GET", ":scheme", "http", ":authority", "api", ":path", path))
		return c.next
	}
	// In between passes the time that the sidecar may take to notice that a client of an
	// HTTP/1.1 endpoint has left.
	cancel := func(c *client, after time.Duration, ids ...uint32) {
		time.Sleep(after)
		synctest.Wait() // not in one breath
		for _, id := range ids {
			_ = c.WriteRSTStream(id, xhttp2.ErrCodeCancel)
		}
	}
	answered := func(c *client) bool {
		got := c.next + 2
		ask(c, "/")
		f := c.until(func(f xhttp2.Frame) bool { return verdict(f) && (isGoAway(f) || f.Header().StreamID == got) })
		if !strings.HasPrefix(f, "HEADERS") {
			c.t.Errorf("a request on stream %d: got %s", got, f)
			return false
		}
		return true
	}
	for name, play := range map[string]func(c *client){
		"one of two attempts, always": func(c *client) {
			for range 1000 {
				loser := ask(c, "/slow")
				if !answered(c) {
					return
				}
				cancel(c, time.Millisecond, loser)
			}
		},
		"all that a page asks for, again and again": func(c *client) {
			for range 10 {
				for range 40 {
					if !answered(c) {
						return
					}
				}
				var page []uint32
				for range 40 {
					page = append(page, ask(c, "/slow"))
				}
				cancel(c, 100*time.Millisecond, page...)
			}
		},
		"all streams that may be open, once some were answered": func(c *client) {
			for range 150 {
				if !answered(c) {
					return
				}
			}
			var all []uint32
			for range DefaultConfig().MaxStreams {
				all = append(all, ask(c, "/slow"))
			}
			cancel(c, 0, all...)
			time.Sleep(100 * time.Millisecond)
		},
		"all streams that may be open, when their time is up": func(c *client) {
			for range 4 {
				var all []uint32
				for range DefaultConfig().MaxStreams {
					all = append(all, ask(c, "/slow"))
				}
				cancel(c, prematureBefore, all...)
				time.Sleep(100 * time.Millisecond)
			}
		},
	} {
		for version, v := range versions {
			t.Run(name+", before endpoints of "+version, func(t *testing.T) {
				inRig(t, v.edit, func(r *rig) {
					c := &client{raw: r.attacker(), next: ^uint32(0)}
					play(c)
					synctest.Wait()
					answered(c)
				}, v.backend(func(w http.ResponseWriter, q *http.Request) {
					if q.URL.Path == "/slow" {
						select {
						case <-q.Context().Done():
						case <-time.After(time.Minute):
						}
					}
					_, _ = io.WriteString(w, "ok")
				}))
			})
		}
	}
}

// Who has let streams be answered may reset more than others, but not without end.
func TestWhatIsEarnedIsBounded(t *testing.T) {
	for _, tt := range []struct{ answers, resets int }{{0, resetBurst}, {50, resetBurst + 50}, {10_000, resetBurst + resetCredit}} {
		synctest.Test(t, func(t *testing.T) {
			l := alone(t).link
			b := &batch{}
			l.finished = tt.answers
			l.settle()
			got := 0
			for ; l.cancelled(b) == nil; got++ {
			}
			if got != tt.resets {
				t.Errorf("resets after %d answers: got %d, want %d", tt.answers, got, tt.resets)
			}
			b.now += time.Hour
			for got = 0; l.cancelled(b) == nil; got++ {
			}
			if got != resetBurst {
				t.Errorf("resets after a rest: got %d, want %d", got, resetBurst)
			}
		})
	}
}
