package http2

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	xhttp2 "golang.org/x/net/http2"
)

// many makes requests at once and counts the answers by status.
func (r *rig) many(n int) map[int]int {
	r.t.Helper()
	done := make(chan int, n)
	for range n {
		go func() { done <- r.get().StatusCode }()
	}
	got := map[int]int{}
	for range n {
		got[<-done]++
	}
	return got
}

// watched counts connections and the requests that are under way at one time.
type watched struct{ conns, most atomic.Int64 }

func (w *watched) serve(streams int, hold time.Duration) func(net.Conn, int) {
	return func(c net.Conn, _ int) {
		w.conns.Add(1)
		var here atomic.Int64
		speaksWith(func(rw http.ResponseWriter, _ *http.Request) {
			n := here.Add(1)
			for most := w.most.Load(); n > most && !w.most.CompareAndSwap(most, n); most = w.most.Load() {
			}
			time.Sleep(hold)
			here.Add(-1)
			_, _ = io.WriteString(rw, "ok")
		}, streams)(c, 0)
	}
}

func TestAnEndpointsStreamsAreNotExceeded(t *testing.T) {
	var w watched
	inRig(t, nil, func(r *rig) {
		r.get() // its settings have come
		if got := r.many(60); got[200] != 60 {
			r.t.Errorf("got %v, want 60 answers", got)
		}
		if most, conns := w.most.Load(), w.conns.Load(); most > 5 || conns < 2 {
			r.t.Errorf("%d streams at one time on a connection, %d connections: want at most 5, and another connection opened", most, conns)
		}
		for _, line := range r.log.all() {
			if len(line.Attempts) != 1 || line.Attempts[0] != "10.0.1.1 ok" {
				r.t.Errorf("got %v", line.Attempts)
			}
		}
	}, w.serve(5, 100*time.Millisecond))
}

func TestManyStreamsAreSpreadOverConnections(t *testing.T) {
	var w watched
	inRig(t, nil, func(r *rig) {
		if got := r.many(240); got[200] != 240 {
			r.t.Errorf("got %v, want 240 answers", got)
		}
		if got := r.many(240); got[200] != 240 {
			r.t.Errorf("got %v, want 240 answers", got)
		}
		if conns := w.conns.Load(); conns < 2 || conns > 5 {
			r.t.Errorf("%d connections, want a few", conns)
		}
	}, w.serve(1000, 100*time.Millisecond))
}

func TestFewStreamsShareAConnection(t *testing.T) {
	var w watched
	inRig(t, nil, func(r *rig) {
		r.many(50)
		if conns := w.conns.Load(); conns != 1 {
			r.t.Errorf("%d connections, want 1", conns)
		}
	}, w.serve(100, time.Millisecond))
}

func TestAClientsStreamsAreBounded(t *testing.T) {
	inRig(t, func(o *options) { o.cfg.MaxStreams = 10 }, func(r *rig) {
		a := r.attacker()
		for i := range uint32(20) {
			_ = a.open(2*i+1, true, a.head("GET"))
		}
		refused, answered := 0, 0
		for refused+answered < 20 {
			switch got := a.until(verdict); {
			case strings.HasSuffix(got, "REFUSED_STREAM"):
				refused++
			case strings.HasSuffix(got, " 200"):
				answered++
			default:
				r.t.Fatal(got)
			}
		}
		if refused != 10 {
			r.t.Errorf("%d of 20 refused, want 10", refused)
		}
	}, speaks(func(w http.ResponseWriter, _ *http.Request) { time.Sleep(time.Second) }))
}

func TestAnIdleConnectionIsClosed(t *testing.T) {
	var ended atomic.Bool
	inRig(t, func(o *options) { o.cluster.IdleTimeout = 10 * time.Second }, func(r *rig) {
		r.get()
		start := r.clock.Now()
		for !ended.Load() && r.clock.Now()-start < time.Minute {
			time.Sleep(100 * time.Millisecond)
		}
		if took := r.clock.Now() - start; took < 10*time.Second || took > 15*time.Second {
			r.t.Errorf("closed after %v, want 10s and a little", took)
		}
		r.check(r.get(), 200, "ok", "-", "10.0.1.1 ok")
	}, func(c net.Conn, n int) {
		says("ok")(c, n)
		if n == 1 {
			ended.Store(true)
		}
	})
}

func TestAnEndpointThatGoesFinishesWhatItHas(t *testing.T) {
	var conns atomic.Int64
	inRig(t, nil, func(r *rig) {
		slow := make(chan reply, 1)
		go func() { slow <- r.do("GET", "/slow", "") }()
		synctest.Wait()
		r.get() // is told to go
		r.check(r.get(), 200, "ok", "-", "10.0.1.1 ok")
		if got := <-slow; got.body != "slow" {
			r.t.Errorf("under way: got %d %q", got.StatusCode, got.body)
		}
		if n := conns.Load(); n != 2 {
			r.t.Errorf("%d connections, want 2", n)
		}
	}, func(c net.Conn, n int) {
		conns.Add(1)
		misbehaves(t, func(a *raw) {
			slow := uint32(0)
			a.each(func(f *xhttp2.MetaHeadersFrame) {
				if f.PseudoValue("path") == "/slow" {
					slow = f.StreamID
					return
				}
				_ = a.open(f.StreamID, false, a.fields(":status", "200"))
				_ = a.WriteData(f.StreamID, true, []byte("ok"))
				if slow != 0 && n == 1 {
					_ = a.WriteGoAway(f.StreamID, xhttp2.ErrCodeNo, nil)
					time.Sleep(time.Second)
					_ = a.open(slow, false, a.fields(":status", "200"))
					_ = a.WriteData(slow, true, []byte("slow"))
				}
			})
		})(c, n)
	})
}

func TestADrainFinishesWhatItHas(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		slow := make(chan reply, 1)
		go func() { slow <- r.get() }()
		synctest.Wait()
		a := r.attacker()
		_ = a.open(1, true, a.head("GET"))
		synctest.Wait()
		r.server.Drain()
		var allowed []uint32 // by one GOAWAY after the other
		goAway := func(f xhttp2.Frame) bool {
			g, is := f.(*xhttp2.GoAwayFrame)
			if is {
				allowed = append(allowed, g.LastStreamID)
			}
			return is
		}
		if got := a.until(goAway); got != "GOAWAY NO_ERROR" {
			r.t.Errorf("got %s", got)
		}
		_ = a.open(3, true, a.head("GET")) // it did not know yet
		for range 2 {
			if got := a.until(func(f xhttp2.Frame) bool { return !goAway(f) && verdict(f) }); !strings.HasSuffix(got, " 200") {
				r.t.Errorf("got %s, want an answer", got)
			}
		}
		if want := []uint32{1<<31 - 1, 3}; !slices.Equal(allowed, want) {
			r.t.Errorf("streams that were allowed: got %d, want %d: all at first", allowed, want)
		}
		if got := <-slow; got.body != "ok" {
			r.t.Errorf("under way: got %d %q, %v", got.StatusCode, got.body, got.err)
		}
		_, _ = io.Copy(io.Discard, a.Conn)
		if n := r.metrics.Connections.Load(); n != 0 {
			synctest.Wait()
			if n = r.metrics.Connections.Load(); n != 0 {
				r.t.Errorf("%d connections are left", n)
			}
		}
	}, speaks(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(5 * time.Second)
		_, _ = io.WriteString(w, "ok")
	}))
}

// A peer that is silent is asked whether it is there, and given up if it is not.
func TestAPeerThatHasVanished(t *testing.T) {
	inRig(t, func(o *options) { o.rule.Timeout = 0 }, func(r *rig) {
		start := r.clock.Now()
		got := r.do("POST", "/", "x")
		took := r.clock.Now() - start
		r.check(got, 504, "*", "UT", "10.0.1.1 timeout")
		if took < 40*time.Second || took > 41*time.Second {
			r.t.Errorf("took %v, want 40s: 30s of silence, 10s for an answer", took)
		}
	}, misbehaves(t, func(a *raw) { _, _ = io.Copy(io.Discard, a.Conn) }))
}

// gRPC servers end connections on which they are asked too often (gRFC A8).
func TestAPeerThatIsThereIsNotAskedOften(t *testing.T) {
	var pings atomic.Int64
	inRig(t, func(o *options) { o.rule.Timeout, o.cfg.StreamIdleTimeout = 0, 0 }, func(r *rig) {
		go r.get()
		time.Sleep(30 * time.Minute)
		if n := pings.Load(); n < 2 || n > 7 {
			r.t.Errorf("asked %d times in 30 minutes of silence, want every 5 minutes or so", n)
		}
	}, misbehaves(t, func(a *raw) {
		for {
			f, err := a.ReadFrame()
			if err != nil {
				return
			}
			if p, ok := f.(*xhttp2.PingFrame); ok && !p.IsAck() {
				pings.Add(1)
				_ = a.WritePing(true, p.Data)
			}
		}
	}))
}

func TestTooManyWaitForAConnection(t *testing.T) {
	inRig(t, func(o *options) {
		o.cluster.Limits.Pending = 3
		o.cluster.ConnectTimeout = 5 * time.Second
		o.rule.Timeout = 2 * time.Second
	}, func(r *rig) {
		r.net.Cut("10.0.0.1", "10.0.1.1")
		if got := r.many(10); got[503] != 7 || got[504] != 3 {
			r.t.Errorf("got %v, want 7 refused for the limit and 3 timed out", got)
		}
		r.net.Heal("10.0.0.1", "10.0.1.1")
		time.Sleep(10 * time.Second)
		r.check(r.get(), 200, "ok", "-", "10.0.1.1 ok")
	}, says("ok"))
}

func TestTimeouts(t *testing.T) {
	for _, tt := range []struct {
		name    string
		edit    func(*options)
		after   time.Duration
		attempt string
	}{
		{"of an attempt", func(o *options) { o.rule.PerTryTimeout = 300 * time.Millisecond }, 300 * time.Millisecond, "10.0.1.1 timeout"},
		{"of a request", func(o *options) { o.rule.Timeout = 2 * time.Second }, 2 * time.Second, "10.0.1.1 timeout"},
	} {
		for version, edit := range map[string]func(*options){"HTTP/2": tt.edit, "HTTP/1.1": func(o *options) { tt.edit(o); older(o) }} {
			t.Run(fmt.Sprint(tt.name, " over ", version), func(t *testing.T) {
				inRig(t, edit, func(r *rig) {
					start := r.clock.Now()
					r.check(r.get(), 504, "*", "UT", tt.attempt)
					if took := r.clock.Now() - start; took < tt.after || took > tt.after+50*time.Millisecond {
						r.t.Errorf("took %v, want %v and a little", took, tt.after)
					}
				}, func(c net.Conn, _ int) { _, _ = io.Copy(io.Discard, c) })
			})
		}
	}
}

func TestInterimResponsesPass(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		a := r.attacker()
		_ = a.open(1, true, a.head("GET"))
		for _, want := range []string{"HEADERS 1 103", "HEADERS 1 200"} {
			if got := a.until(verdict); got != want {
				r.t.Errorf("got %s, want %s", got, want)
			}
		}
	}, misbehaves(t, func(a *raw) {
		a.each(func(f *xhttp2.MetaHeadersFrame) {
			_ = a.open(f.StreamID, false, a.fields(":status", "103", "link", "</x>"))
			a.answer(f.StreamID)
		})
	}))
}

// Settings that change in the middle hold from then on, on streams that are open as well.
func TestAWindowThatChangesMidway(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		a := r.attacker(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 10})
		_ = a.open(1, true, a.head("GET"))
		read := func(n int) {
			r.t.Helper()
			for n > 0 {
				f, err := a.ReadFrame()
				if err != nil {
					r.t.Fatal(err)
				}
				if d, ok := f.(*xhttp2.DataFrame); ok {
					if n -= len(d.Data()); n < 0 {
						r.t.Fatalf("%d bytes beyond the window", -n)
					}
				}
			}
		}
		read(10)
		_ = a.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 25})
		read(15)
		_ = a.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 5}) // 20 below nothing
		_ = a.WriteWindowUpdate(1, 30)
		read(10)
	}, says(strings.Repeat("x", 1000)))
}

// A client that leaves in the middle takes nothing with it: what it did not read is
// granted anew, or the connection to the endpoint would come to a standstill.
func TestAbortedAnswersDoNotUseUpTheConnection(t *testing.T) {
	inRig(t, func(o *options) { o.cfg.MaxStreams = 1 }, func(r *rig) { // whose windows are small
		for range 300 {
			a := r.attacker(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 0})
			_ = a.open(1, true, a.head("GET"))
			if got := a.until(verdict); got != "HEADERS 1 200" {
				r.t.Fatal(got)
			}
			time.Sleep(10 * time.Millisecond)
			_ = a.WriteRSTStream(1, xhttp2.ErrCodeCancel)
			synctest.Wait()
			a.Close()
		}
		if got := r.get(); len(got.body) != 1<<20 {
			r.t.Errorf("got %d bytes, %v", len(got.body), got.err)
		}
	}, says(strings.Repeat("x", 1<<20)))
}

// The same the other way: what an endpoint did not take of a request.
func TestRefusedBodiesDoNotUseUpTheConnection(t *testing.T) {
	for name, edit := range map[string]func(*options){"HTTP/2": nil, "HTTP/1.1": older} {
		t.Run(name, func(t *testing.T) {
			backend := misbehaves(t, func(a *raw) {
				a.each(func(f *xhttp2.MetaHeadersFrame) {
					time.Sleep(100 * time.Millisecond)
					a.answer(f.StreamID)
				})
			}, xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 0})
			if edit != nil {
				backend = func(c net.Conn, _ int) {
					_, _ = c.Read(make([]byte, 4096))
					time.Sleep(100 * time.Millisecond)
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				}
			}
			inRig(t, func(o *options) {
				o.cfg.MaxStreams = 1
				if edit != nil {
					edit(o)
				}
			}, func(r *rig) {
				a := r.attacker()
				window := int(r.server.cfg.connWindow())
				for id := uint32(1); id < 2*400; id += 2 {
					_ = a.open(id, false, a.head("POST"))
					for range 3 {
						if window -= 16 << 10; window < 0 {
							r.t.Fatalf("no window is left at stream %d", id)
						}
						_ = a.WriteData(id, false, make([]byte, 16<<10))
					}
					for done := false; !done; {
						f, err := a.ReadFrame()
						if err != nil {
							r.t.Fatal(err)
						}
						switch f := f.(type) {
						case *xhttp2.RSTStreamFrame:
							done = true
						case *xhttp2.WindowUpdateFrame:
							if f.StreamID == 0 {
								window += int(f.Increment)
							}
						}
					}
				}
			}, backend)
		})
	}
}

// An endpoint that speaks something else is left for another one at once.
func TestAnEndpointThatSpeaksAnotherProtocol(t *testing.T) {
	var conns atomic.Int64
	inRig(t, nil, func(r *rig) {
		r.check(r.do("POST", "/", "x"), 502, "*", "UPE", "10.0.1.1 server")
		if n := conns.Load(); n != 1 {
			r.t.Errorf("connected %d times, want once", n)
		}
	}, func(c net.Conn, _ int) {
		conns.Add(1)
		_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
		_, _ = io.Copy(io.Discard, c)
	})
	inRig(t, nil, func(r *rig) {
		r.check(r.first("POST", "x"), 200, "ok", "-", "10.0.1.1 conn", "10.0.1.2 ok")
	}, func(c net.Conn, _ int) { c.Close() }, says("ok"))
}

// Idle connections are cheap: they lie there without their buffers.
func TestAnIdleConnectionGivesItsBufferBack(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		for range 2 {
			r.check(r.get(), 200, "ok", "-", "10.0.1.1 ok")
			time.Sleep(3 * restAfter)
			synctest.Wait()
			links := poolOf(r.server.client, r.cluster.Pick(r.clock.Now(), nil)).links
			for c := range r.server.conns {
				links = append(links, c.link)
			}
			if len(links) != 2 {
				r.t.Fatalf("%d connections, want the client's and the endpoint's", len(links))
			}
			for _, l := range links {
				if l.resting.Load() != rested {
					r.t.Errorf("client's end %v: it has its buffer still", !l.client)
				}
			}
		}
	}, says("ok"))
}
