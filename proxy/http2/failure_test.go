package http2

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/cluster"
)

// outcomes sums the counters of all endpoints.
func (r *rig) outcomes() outlier.Counts {
	r.t.Helper()
	var sum outlier.Counts
	err := r.cluster.Ask(r.t.Context(), func(d *outlier.Detector, _ time.Duration) {
		for _, b := range r.backends {
			n := d.Endpoint(b.host.Addr().String() + ":80").Counts()
			sum.N += n.N
			sum.Conn += n.Conn
			sum.Timeout += n.Timeout
			sum.Server += n.Server
			sum.Over += n.Over
			sum.Cens += n.Cens
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return sum
}

// first repeats a request until the endpoint 10.0.1.1 is the one that it meets first.
func (r *rig) first(method, body string) reply {
	r.t.Helper()
	for range 200 {
		got := r.do(method, "/", body)
		if line := r.last(); len(line.Attempts) > 0 && strings.HasPrefix(line.Attempts[0], "10.0.1.1 ") {
			return got
		}
		time.Sleep(3 * time.Second) // until it may be picked again
	}
	r.t.Fatal("10.0.1.1 is never met first")
	return reply{}
}

func TestWhatWasNotProcessedIsTriedElsewhere(t *testing.T) {
	goAway := func(code xhttp2.ErrCode) func(*raw) {
		return func(a *raw) {
			a.each(func(*xhttp2.MetaHeadersFrame) {
				_ = a.WriteGoAway(0, code, nil)
				a.Close()
			})
		}
	}
	for _, tt := range []struct {
		name  string
		class string
		serve func(*raw)
	}{
		{"REFUSED_STREAM", "overload", func(a *raw) {
			a.each(func(f *xhttp2.MetaHeadersFrame) { _ = a.WriteRSTStream(f.StreamID, xhttp2.ErrCodeRefusedStream) })
		}},
		{"GOAWAY below the stream", "ignore", goAway(xhttp2.ErrCodeNo)},
		{"GOAWAY with an error below the stream", "server", goAway(xhttp2.ErrCodeInternal)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				// A POST with a body: nothing else would be repeated.
				r.check(r.first("POST", "body"), 200, "ok", "-", "10.0.1.1 "+tt.class, "10.0.1.2 ok")
			}, misbehaves(t, tt.serve), says("ok"))
		})
	}
}

func TestAResetIsRepeatedOnlyIfThatIsSafe(t *testing.T) {
	dies := misbehaves(t, func(a *raw) {
		a.each(func(*xhttp2.MetaHeadersFrame) { a.Close() })
	})
	inRig(t, nil, func(r *rig) {
		r.check(r.first("GET", ""), 200, "ok", "-", "10.0.1.1 conn", "10.0.1.2 ok")
	}, dies, says("ok"))
	inRig(t, nil, func(r *rig) {
		r.check(r.first("POST", "body"), 503, "*", "UC", "10.0.1.1 conn")
	}, dies, says("ok"))
}

// One connection that is lost is one failure, whatever was on it.
func TestALostConnectionIsOneFailure(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		done := make(chan reply, 20)
		for range cap(done) {
			go func() { done <- r.do("POST", "/", "body") }()
		}
		for range cap(done) {
			if got := <-done; got.StatusCode != http.StatusServiceUnavailable {
				r.t.Errorf("got %d, want 503", got.StatusCode)
			}
		}
		if got := r.outcomes(); got.Conn != 1 || got.N != 1 {
			r.t.Errorf("got %+v, want one failure to connect", got)
		}
	}, misbehaves(t, func(a *raw) {
		n := 0
		a.each(func(*xhttp2.MetaHeadersFrame) {
			if n++; n == 20 {
				time.Sleep(time.Second)
				a.Close()
			}
		})
	}))
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
		r.check(r.do("POST", "/", "abc"), 200, "ok", "-", "10.0.1.2 conn", "10.0.1.1 ok")
	}, says("ok"), says("ok"))
}

func TestARefusedConnectionIsTriedElsewhereAndOneFailure(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		r.backends[0].ln.Close()
		synctest.Wait()
		done := make(chan reply, 20)
		for range cap(done) {
			go func() { done <- r.do("POST", "/", "body") }()
		}
		for range cap(done) {
			if got := <-done; got.StatusCode != http.StatusOK {
				r.t.Errorf("got %d, want 200", got.StatusCode)
			}
		}
		if got := r.outcomes(); got.Conn == 0 || got.Conn > 3 {
			r.t.Errorf("got %d failures to connect, want one for each connection that was tried", got.Conn)
		}
	}, says("ok"), says("ok"))
}

func TestEndings(t *testing.T) {
	for _, tt := range []struct {
		name           string
		serve          func(a *raw, f *xhttp2.MetaHeadersFrame)
		status         int
		flags, attempt string
	}{
		{"reset before the head", func(a *raw, f *xhttp2.MetaHeadersFrame) {
			_ = a.WriteRSTStream(f.StreamID, xhttp2.ErrCodeInternal)
		}, 503, "UR", "10.0.1.1 server"},
		{"ENHANCE_YOUR_CALM", func(a *raw, f *xhttp2.MetaHeadersFrame) {
			_ = a.WriteRSTStream(f.StreamID, xhttp2.ErrCodeEnhanceYourCalm)
		}, 503, "UR", "10.0.1.1 overload"},
		{"HTTP_1_1_REQUIRED", func(a *raw, f *xhttp2.MetaHeadersFrame) {
			_ = a.WriteRSTStream(f.StreamID, xhttp2.ErrCodeHTTP11Required)
		}, 502, "UPE", "10.0.1.1 ignore"},
		{"no status", func(a *raw, f *xhttp2.MetaHeadersFrame) {
			_ = a.open(f.StreamID, true, a.fields("a", "b"))
		}, 502, "UPE", "10.0.1.1 server"},
		{"101", func(a *raw, f *xhttp2.MetaHeadersFrame) {
			_ = a.open(f.StreamID, false, a.fields(":status", "101"))
		}, 502, "UPE", "10.0.1.1 server"},
		{"connection in a head", func(a *raw, f *xhttp2.MetaHeadersFrame) {
			_ = a.open(f.StreamID, true, a.fields(":status", "200", "connection", "close"))
		}, 502, "UPE", "10.0.1.1 server"},
		{"CR LF in a head", func(a *raw, f *xhttp2.MetaHeadersFrame) {
			_ = a.open(f.StreamID, true, a.fields(":status", "200", "x", "a\r\nb: c"))
		}, 502, "UPE", "10.0.1.1 server"},
		{"data before the head", func(a *raw, f *xhttp2.MetaHeadersFrame) {
			_ = a.WriteData(f.StreamID, false, []byte("x"))
		}, 502, "UPE", "10.0.1.1 server"},
		{"a hundred interim responses", func(a *raw, f *xhttp2.MetaHeadersFrame) {
			for range 100 {
				_ = a.open(f.StreamID, false, a.fields(":status", "103"))
			}
		}, 502, "UPE", "10.0.1.1 server"},
		{"frames of nonsense", func(a *raw, f *xhttp2.MetaHeadersFrame) {
			_ = a.WriteRawFrame(xhttp2.FrameHeaders, 0, 0, nil)
		}, 502, "UPE", "10.0.1.1 server"},
		{"push", func(a *raw, f *xhttp2.MetaHeadersFrame) {
			_ = a.WritePushPromise(xhttp2.PushPromiseParam{StreamID: f.StreamID, PromiseID: 2, BlockFragment: a.head("GET"), EndHeaders: true})
		}, 502, "UPE", "10.0.1.1 server"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				r.check(r.do("POST", "/", "x"), tt.status, "*", tt.flags, tt.attempt)
				if n := r.outcomes(); n.Conn+n.Timeout > 0 {
					r.t.Errorf("counted %+v", n)
				}
			}, misbehaves(t, func(a *raw) { a.each(func(f *xhttp2.MetaHeadersFrame) { tt.serve(a, f) }) }))
		})
	}
}

// An answer that is cut must not look whole.
func TestACutAnswer(t *testing.T) {
	half := func(a *raw, f *xhttp2.MetaHeadersFrame, more ...string) {
		_ = a.open(f.StreamID, false, a.fields(append([]string{":status", "200"}, more...)...))
		_ = a.WriteData(f.StreamID, false, []byte("half"))
	}
	for _, tt := range []struct {
		name           string
		serve          func(a *raw, f *xhttp2.MetaHeadersFrame)
		flags, attempt string
	}{
		{"reset", func(a *raw, f *xhttp2.MetaHeadersFrame) {
			half(a, f)
			_ = a.WriteRSTStream(f.StreamID, xhttp2.ErrCodeCancel)
		}, "UR", "10.0.1.1 server"},
		{"connection lost", func(a *raw, f *xhttp2.MetaHeadersFrame) {
			half(a, f)
			time.Sleep(time.Second)
			a.Close()
		}, "UC", "10.0.1.1 server"},
		{"shorter than promised", func(a *raw, f *xhttp2.MetaHeadersFrame) {
			half(a, f, "content-length", "100")
			_ = a.WriteData(f.StreamID, true, nil)
		}, "UPE", "10.0.1.1 server"},
		{"longer than promised", func(a *raw, f *xhttp2.MetaHeadersFrame) {
			half(a, f, "content-length", "5")
			_ = a.WriteData(f.StreamID, true, []byte("much more"))
		}, "UPE", "10.0.1.1 server"},
		{"malformed trailers", func(a *raw, f *xhttp2.MetaHeadersFrame) {
			half(a, f)
			_ = a.open(f.StreamID, true, a.fields("content-length", "4"))
		}, "UPE", "10.0.1.1 server"},
		{"stands still", func(a *raw, f *xhttp2.MetaHeadersFrame) { half(a, f) }, "UT", "10.0.1.1 timeout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				got := r.get()
				if got.err == nil {
					r.t.Errorf("got a whole answer of %q", got.body)
				}
				r.check(got, 200, "half", tt.flags, tt.attempt)
			}, misbehaves(t, func(a *raw) { a.each(func(f *xhttp2.MetaHeadersFrame) { tt.serve(a, f) }) }))
		})
	}
}

func TestAClientThatLeaves(t *testing.T) {
	for name, edit := range map[string]func(*options){"HTTP/2": nil, "HTTP/1.1": older} {
		t.Run(name, func(t *testing.T) {
			var left atomic.Bool
			hangs := func(w http.ResponseWriter, q *http.Request) {
				<-q.Context().Done()
				left.Store(true)
			}
			backend := speaks(hangs)
			if edit != nil {
				backend = served(hangs)
			}
			inRig(t, edit, func(r *rig) {
				ctx, cancel := context.WithTimeout(r.t.Context(), 200*time.Millisecond)
				defer cancel()
				req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://api/", nil)
				if got := r.send(req); got.err == nil {
					r.t.Error("got an answer")
				}
				synctest.Wait()
				if !left.Load() {
					r.t.Error("the endpoint is not told")
				}
				if line := r.last(); line.Flags != "DC" || line.Attempts[0] != "10.0.1.1 ignore" {
					r.t.Errorf("log: got %s %v, want DC and ignore", line.Flags, line.Attempts)
				}
			}, backend)
		})
	}
}

func TestAnEarlyAnswerEndsTheRequest(t *testing.T) {
	for name, edit := range map[string]func(*options){"HTTP/2": nil, "HTTP/1.1": older} {
		t.Run(name, func(t *testing.T) {
			early := func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				_, _ = io.WriteString(w, "no")
			}
			backend := speaks(early)
			if edit != nil {
				backend = func(c net.Conn, _ int) { // net/http reads the request's body first
					if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
						_, _ = io.WriteString(c, "HTTP/1.1 413 No\r\nContent-Length: 2\r\n\r\nno")
						_, _ = io.Copy(io.Discard, c)
					}
				}
			}
			inRig(t, edit, func(r *rig) {
				a := r.attacker()
				_ = a.open(1, false, a.head("POST"))
				if got := a.until(verdict); got != "HEADERS 1 413" {
					r.t.Errorf("got %s, want the answer", got)
				}
				if got := a.until(verdict); got != "RST_STREAM 1 NO_ERROR" {
					r.t.Errorf("got %s, want no more of the request (RFC 9113, section 8.1)", got)
				}
				_ = a.open(3, true, a.head("GET"))
				if got := a.until(verdict); got != "HEADERS 3 413" {
					r.t.Errorf("next request: got %s", got)
				}
			}, backend)
		})
	}
}

// A server may close what has been idle at the very moment when a request comes, which
// is nobody's fault: but not twice within a second.
func TestASecondRaceWithinASecondIsAFailure(t *testing.T) {
	for _, tt := range []struct {
		idle     time.Duration // of both connections, before they die
		attempts []string
	}{
		{2 * time.Second, []string{"10.0.1.1 ignore", "10.0.1.1 conn", "10.0.1.1 ok"}},
		{100 * time.Millisecond, []string{"10.0.1.1 conn", "10.0.1.1 conn", "10.0.1.1 ok"}}, // too soon for an idle time-out
	} {
		inRig(t, nil, func(r *rig) {
			done := make(chan reply)
			for range 2 {
				go func() { done <- r.get() }()
			}
			for range 2 {
				if got := <-done; got.StatusCode != http.StatusOK {
					r.t.Fatalf("got %d, %v; want 200", got.StatusCode, got.err)
				}
			}
			time.Sleep(tt.idle)
			r.check(r.get(), 200, "", "-", tt.attempts...)
		}, func(c net.Conn, n int) {
			misbehaves(t, func(a *raw) {
				served := 0
				a.each(func(f *xhttp2.MetaHeadersFrame) {
					if served++; n <= 2 && served == 2 {
						a.Close()
						return
					}
					time.Sleep(time.Millisecond) // so that the other request needs another connection
					a.answer(f.StreamID)
				})
			}, xhttp2.Setting{ID: xhttp2.SettingMaxConcurrentStreams, Val: 1})(c, n)
		})
	}
}

// Whose file says http2 of endpoints that speak HTTP/1.1 is told so, by the access log.
func TestAnEndpointThatSpeaksHTTP11IsCalledOne(t *testing.T) {
	const want = "the endpoint answered in HTTP/1.1: its cluster wants protocol http1"
	behaviour := served(func(http.ResponseWriter, *http.Request) {})
	t.Run("HTTP/2", func(t *testing.T) {
		inRig(t, nil, func(r *rig) {
			r.check(r.get(), 502, "*", "UPE", "10.0.1.1 server")
			if got := r.last().Detail; got != want {
				t.Errorf("detail: got %q, want %q", got, want)
			}
		}, behaviour)
	})
	t.Run("HTTP/1.1", func(t *testing.T) {
		inRig(t, nil, func(r *rig) {
			r.olderClient()
			r.check(r.get(), 502, "*", "UPE", "10.0.1.1 server")
			if got := r.last().Detail; got != want {
				t.Errorf("detail: got %q, want %q", got, want)
			}
		}, behaviour)
	})
}
