package http2

import (
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

	"github.com/overhear-mesh/overhear/test/pipenet"
)

// Every attack ends the attacker's connection, or its stream, for the reason that is
// named, with as little done as there is work allowed; and the next client is served.
func TestFloods(t *testing.T) {
	for _, tt := range []struct {
		name  string
		want  string
		fault *fault
		// flood writes until it is told by an error to stop, or has had its fill.
		flood func(a *raw, i uint32) error
		fill  int
	}{
		{"rapid reset (CVE-2023-44487)", "GOAWAY ENHANCE_YOUR_CALM", errResets, func(a *raw, i uint32) error {
			if err := a.open(2*i+1, false, a.head("POST")); err != nil {
				return err
			}
			return a.WriteRSTStream(2*i+1, xhttp2.ErrCodeCancel)
		}, 2 * resetBurst},
		{"made you reset (CVE-2025-8671)", "GOAWAY ENHANCE_YOUR_CALM", errResets, func(a *raw, i uint32) error {
			if err := a.open(2*i+1, false, a.head("POST")); err != nil {
				return err
			}
			return a.WriteWindowUpdate(2*i+1, 0)
		}, 2 * resetBurst},
		{"made you reset by malformed heads", "GOAWAY ENHANCE_YOUR_CALM", errResets, func(a *raw, i uint32) error {
			return a.open(2*i+1, true, a.fields(":method", "GET"))
		}, 2 * resetBurst},
		{"CONTINUATION without end (CVE-2023-45288)", "GOAWAY ENHANCE_YOUR_CALM", errBlockSize, func(a *raw, i uint32) error {
			if i == 0 {
				return a.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: a.head("GET")})
			}
			return a.WriteContinuation(1, false, a.fields("x-more", strings.Repeat("x", 10_000)))
		}, 1000},
		{"CONTINUATION without content", "GOAWAY ENHANCE_YOUR_CALM", errBlockSize, func(a *raw, i uint32) error {
			if i == 0 {
				return a.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: a.head("GET")})
			}
			return a.WriteContinuation(1, false, nil)
		}, 1000},
		{"SETTINGS (CVE-2019-9515)", "GOAWAY ENHANCE_YOUR_CALM", errNuisance, func(a *raw, _ uint32) error { return a.WriteSettings() }, 3 * nuisanceBurst},
		{"PING (CVE-2019-9512)", "GOAWAY ENHANCE_YOUR_CALM", errNuisance, func(a *raw, _ uint32) error { return a.WritePing(false, [8]byte{}) }, 3 * nuisanceBurst},
		{"PRIORITY (CVE-2019-9513)", "GOAWAY ENHANCE_YOUR_CALM", errNuisance, func(a *raw, i uint32) error {
			return a.WritePriority(2*i+1, xhttp2.PriorityParam{StreamDep: 0, Weight: uint8(i)})
		}, 3 * nuisanceBurst},
		{"empty DATA (CVE-2019-9518)", "GOAWAY ENHANCE_YOUR_CALM", errNuisance, func(a *raw, i uint32) error {
			if i == 0 {
				return a.open(1, false, a.head("POST"))
			}
			return a.WriteData(1, false, nil)
		}, 3 * nuisanceBurst},
		{"WINDOW_UPDATE", "GOAWAY ENHANCE_YOUR_CALM", errNuisance, func(a *raw, _ uint32) error { return a.WriteWindowUpdate(0, 1) }, 3 * nuisanceBurst},
		{"frames of no known type", "GOAWAY ENHANCE_YOUR_CALM", errNuisance, func(a *raw, i uint32) error { return a.WriteRawFrame(0x77, 0, i, nil) }, 3 * nuisanceBurst},
	} {
		for version, edit := range map[string]func(*options){"HTTP/2": nil, "HTTP/1.1": older} {
			t.Run(tt.name+", before endpoints of "+version, func(t *testing.T) {
				var asked atomic.Int64
				counts := func(w http.ResponseWriter, q *http.Request) {
					asked.Add(1)
					_, _ = io.Copy(io.Discard, q.Body)
					_, _ = io.WriteString(w, "ok")
				}
				backend := speaks(counts)
				if edit != nil {
					backend = served(counts)
				}
				inRig(t, edit, func(r *rig) {
					a := r.attacker()
					verdict := make(chan string, 1)
					go func() { verdict <- a.until(isGoAway) }()
					written := 0
					for i := range tt.fill {
						if tt.flood(a, uint32(i)) != nil {
							break
						}
						written++
					}
					if got := <-verdict; got != tt.want {
						r.t.Errorf("after %d: got %s, want %s", written, got, tt.want)
					}
					r.blames(tt.fault)
					if n := asked.Load(); n > resetBurst+1 {
						r.t.Errorf("the endpoint was asked %d times, want at most %d", n, resetBurst+1)
					}
					r.check(r.get(), 200, "ok", "-", "10.0.1.1 ok")
				}, backend)
			})
		}
	}
}

// blames checks that one line of the log tells of a connection that ended for this fault,
// beside those of its requests, and that it was counted.
func (r *rig) blames(want *fault) {
	r.t.Helper()
	var got []logged
	for _, line := range r.log.all() {
		if line.Method == "" && line.Detail == want.text {
			got = append(got, line)
		}
	}
	if len(got) != 1 || got[0].Flags != "DPE" || got[0].Status != 0 || got[0].Major != 2 {
		r.t.Errorf("log: got %+v, want one line of HTTP/2 with DPE and %q", got, want.text)
	}
	if r.metrics.Malformed.Load() == 0 {
		r.t.Error("the fault was not counted")
	}
}

// Also who sends something else altogether is told of.
func TestAConnectionThatEndsForAFaultIsLogged(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fault *fault
		send  func(net.Conn)
	}{
		{"no preface", errPreface, func(c net.Conn) { _, _ = io.WriteString(c, "PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n") }},
		{"frame size", errFrameSize, func(c net.Conn) {
			_, _ = io.WriteString(c, xhttp2.ClientPreface)
			_ = newRaw(t, c).WriteRawFrame(xhttp2.FrameSettings, 0, 0, []byte{1})
		}},
		{"no SETTINGS", errNoSettings, func(c net.Conn) {
			_, _ = io.WriteString(c, xhttp2.ClientPreface)
			_ = newRaw(t, c).WritePing(false, [8]byte{})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				c, err := r.net.Host("10.0.0.66").Dial(r.t.Context(), "tcp", "10.0.0.1:80")
				if err != nil {
					r.t.Fatal(err)
				}
				defer c.Close()
				tt.send(c)
				_, _ = io.Copy(io.Discard, c)
				r.blames(tt.fault)
				if n := len(r.log.all()); n != 1 {
					r.t.Errorf("log: got %d lines, want 1", n)
				}
				r.check(r.get(), 200, "ok", "-", "10.0.1.1 ok")
			}, says("ok"))
		})
	}
}

// A client that makes us answer and does not read is cut off before much waits for it
// (CVE-2019-9514, CVE-2019-9517).
func TestAPeerThatDoesNotReadIsCutOff(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		a := r.attacker()
		c := a.Conn.(*pipenet.Conn)
		for i := uint32(0); ; i++ {
			if a.WriteSettings() != nil || i > 3*nuisanceBurst {
				break
			}
			if i%nuisanceBurst == nuisanceBurst-1 {
				time.Sleep(time.Minute) // it pays for its frames, and never reads
			}
		}
		synctest.Wait()
		_ = c.Close()
		r.check(r.get(), 200, "ok", "-", "10.0.1.1 ok")
	}, says("ok"))
}

func TestHeadsBeyondTheLimits(t *testing.T) {
	crumbs := func(n, size int) []string {
		var pairs []string
		for range n {
			pairs = append(pairs, "cookie", "a="+strings.Repeat("b", size))
		}
		return pairs
	}
	tiny := func(n int) []string {
		var pairs []string
		for range n {
			pairs = append(pairs, "a", "")
		}
		return pairs
	}
	for _, tt := range []struct {
		name string
		more []string
		want string
	}{
		{"a client with 120 crumbs of a cookie", crumbs(120, 20), "HEADERS 1 200"},
		{"crumbs that would escape the limit (CVE-2026-47774)", crumbs(3000, 2), "HEADERS 1 431"},
		{"thousands of tiny fields (CVE-2019-15226)", tiny(3000), "HEADERS 1 431"},
		{"one field more than allowed", tiny(101), "HEADERS 1 431"},
		{"as many fields as allowed", tiny(100), "HEADERS 1 200"},
		{"a field that is too large", []string{"a", strings.Repeat("b", 70<<10)}, "HEADERS 1 431"},
		{"a field that is much too large", []string{"a", strings.Repeat("!", 200<<10)}, "GOAWAY ENHANCE_YOUR_CALM"},
		// Its block is short: a reference to one large field, a thousand times.
		{"a bomb of references (HPACK)", slices.Concat(slices.Repeat([]string{"a", strings.Repeat("b", 3000)}, 1000)), "HEADERS 1 431"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				a := r.attacker()
				block := a.head("GET", tt.more...)
				first := block[:min(len(block), maxFrame)]
				block = block[len(first):]
				if err := a.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndStream: true, EndHeaders: len(block) == 0}); err != nil {
					r.t.Fatal(err)
				}
				for len(block) > 0 {
					next := block[:min(len(block), maxFrame)]
					block = block[len(next):]
					_ = a.WriteContinuation(1, len(block) == 0, next)
				}
				if got := a.until(verdict); got != tt.want {
					r.t.Errorf("got %s, want %s", got, tt.want)
				}
				if strings.HasSuffix(tt.want, "431") {
					if line := r.last(); line.Status != 431 || line.Flags != "DPE" {
						r.t.Errorf("log: got %d %s, want 431 DPE", line.Status, line.Flags)
					}
				}
				r.check(r.get(), 200, "ok", "-", "10.0.1.1 ok")
			}, says("ok"))
		})
	}
}

// What HTTP/1.1 would read as another field, or as another request, does not get there;
// nor to an endpoint that would not mind.
func TestMalformedHeadsReachNobody(t *testing.T) {
	for name, pairs := range map[string][]string{
		"line feed in a value":         {"x", "a\nb: c"},
		"CR LF in a value":             {"x", "a\r\nb: c"},
		"a second request in a value":  {"x", "a\r\n\r\nGET /admin HTTP/1.1\r\nhost: api"},
		"NUL in a value":               {"x", "a\x00b"},
		"blank before a value":         {"x", " a"},
		"colon in a name":              {"x: y", "a"},
		"CR LF in a name":              {"x\r\ny", "a"},
		"blank in a name":              {"x y", "a"},
		"capital in a name":            {"X", "a"},
		"empty name (CVE-2019-9516)":   {"", "a"},
		"transfer-encoding":            {"transfer-encoding", "chunked"},
		"connection":                   {"connection", "close"},
		"keep-alive":                   {"keep-alive", "1"},
		"upgrade":                      {"upgrade", "h2c"},
		"proxy-connection":             {"proxy-connection", "close"},
		"te":                           {"te", "gzip"},
		"second host":                  {"host", "other"},
		"two lengths":                  {"content-length", "0", "content-length", "0"},
		"list of lengths":              {"content-length", "0, 0"},
		"signed length":                {"content-length", "+0"},
		"length without body":          {"content-length", "1"},
		"pseudo-header behind a field": {"x", "a", ":path", "/b"},
		"unknown pseudo-header":        {":x", "a"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, edit := range []func(*options){nil, older} {
				var asked atomic.Int64
				count := func(c net.Conn, n int) {
					asked.Add(1)
					c.Close()
				}
				inRig(t, edit, func(r *rig) {
					a := r.attacker()
					if err := a.open(1, true, a.head("GET", pairs...)); err != nil {
						r.t.Fatal(err)
					}
					if got, want := a.until(verdict), "RST_STREAM 1 PROTOCOL_ERROR"; got != want {
						r.t.Errorf("got %s, want %s", got, want)
					}
					if line := r.last(); line.Flags != "DPE" || line.Detail == "" {
						r.t.Errorf("log: got %s %q, want DPE with a reason", line.Flags, line.Detail)
					}
					if n := asked.Load(); n > 0 {
						r.t.Error("the endpoint has been connected to")
					}
				}, count)
			}
		})
	}
}

func TestMalformedTargetsReachNobody(t *testing.T) {
	for name, pairs := range map[string][]string{
		"blank in a path":          {":method", "GET", ":scheme", "http", ":authority", "api", ":path", "/a b"},
		"CR LF in a path":          {":method", "GET", ":scheme", "http", ":authority", "api", ":path", "/ HTTP/1.1\r\nx: y"},
		"path without slash":       {":method", "GET", ":scheme", "http", ":authority", "api", ":path", "a"},
		"path of nothing":          {":method", "GET", ":scheme", "http", ":authority", "api", ":path", ""},
		"bad escape":               {":method", "GET", ":scheme", "http", ":authority", "api", ":path", "/%zz"},
		"CR LF in an authority":    {":method", "GET", ":scheme", "http", ":authority", "api\r\nx: y", ":path", "/"},
		"user in an authority":     {":method", "GET", ":scheme", "http", ":authority", "me@api", ":path", "/"},
		"no authority":             {":method", "GET", ":scheme", "http", ":path", "/"},
		"blank in a method":        {":method", "GET /x", ":scheme", "http", ":authority", "api", ":path", "/"},
		"no method":                {":scheme", "http", ":authority", "api", ":path", "/"},
		"another scheme":           {":method", "GET", ":scheme", "ftp", ":authority", "api", ":path", "/"},
		"two paths":                {":method", "GET", ":scheme", "http", ":authority", "api", ":path", "/", ":path", "/b"},
		"response's pseudo-header": {":method", "GET", ":scheme", "http", ":authority", "api", ":path", "/", ":status", "200"},
	} {
		t.Run(name, func(t *testing.T) {
			inRig(t, older, func(r *rig) {
				a := r.attacker()
				_ = a.open(1, true, a.fields(pairs...))
				if got, want := a.until(verdict), "RST_STREAM 1 PROTOCOL_ERROR"; got != want {
					r.t.Errorf("got %s, want %s", got, want)
				}
			}, func(c net.Conn, _ int) {
				t.Error("the endpoint has been connected to")
				c.Close()
			})
		})
	}
}

// What a slow client does not read stays with the endpoint (CVE-2019-9511).
func TestASlowReaderHoldsNoMoreThanItsWindow(t *testing.T) {
	var sent atomic.Int64
	flows := func(w http.ResponseWriter, _ *http.Request) {
		for range 1000 {
			n, err := w.Write(make([]byte, 16<<10))
			if err != nil {
				return
			}
			w.(http.Flusher).Flush()
			sent.Add(int64(n))
		}
	}
	for name, edit := range map[string]func(*options){"from HTTP/2": nil, "from HTTP/1.1": older} {
		backend := speaks(flows)
		if edit != nil {
			backend = served(flows)
		}
		t.Run(name, func(t *testing.T) {
			sent.Store(0)
			inRig(t, edit, func(r *rig) {
				a := r.attacker() // whose windows are as they are at the beginning
				_ = a.open(1, true, a.head("GET"))
				time.Sleep(time.Second)
				// The client's window, the stream's here, and what lies on the way.
				if n := sent.Load(); n < initialWindow || n > 640<<10 {
					r.t.Errorf("the endpoint has sent %d bytes to who does not read", n)
				}
				got := 0
				for got < 16_000<<10 {
					f, err := a.ReadFrame()
					if err != nil {
						r.t.Fatal(err)
					}
					if d, ok := f.(*xhttp2.DataFrame); ok {
						got += len(d.Data())
						_ = a.WriteWindowUpdate(0, uint32(len(d.Data())))
						_ = a.WriteWindowUpdate(1, uint32(len(d.Data())))
					}
				}
			}, backend)
		})
	}
}

// A stream that is stuck holds up no other, of the same client or of others.
func TestAStuckStreamHoldsUpNoOther(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		a := r.attacker(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 0})
		for i := range uint32(100) {
			_ = a.open(2*i+1, true, a.head("GET"))
		}
		time.Sleep(time.Second)
		if got := r.get(); len(got.body) != 1<<20 {
			r.t.Errorf("got %d bytes, %v; want 1 MiB", len(got.body), got.err)
		}
	}, speaks(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, 1<<20))
	}))
}

func TestAHeadThatDoesNotCome(t *testing.T) {
	for name, begin := range map[string]func(c net.Conn){
		"no preface":     func(net.Conn) {},
		"half a preface": func(c net.Conn) { _, _ = io.WriteString(c, xhttp2.ClientPreface[:9]) },
		"no SETTINGS":    func(c net.Conn) { _, _ = io.WriteString(c, xhttp2.ClientPreface) },
		"half a header block": func(c net.Conn) {
			_, _ = io.WriteString(c, xhttp2.ClientPreface)
			a := newRaw(t, c)
			_ = a.WriteSettings()
			_ = a.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: a.head("GET")})
		},
		"half a frame": func(c net.Conn) {
			_, _ = io.WriteString(c, xhttp2.ClientPreface)
			a := newRaw(t, c)
			_ = a.WriteSettings()
			_, _ = c.Write([]byte{0, 0, 100, 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				c, err := r.net.Host("10.0.0.66").Dial(r.t.Context(), "tcp", "10.0.0.1:80")
				if err != nil {
					r.t.Fatal(err)
				}
				defer c.Close()
				start := r.clock.Now()
				begin(c)
				_, _ = io.Copy(io.Discard, c)
				if took := r.clock.Now() - start; took < 10*time.Second || took > 11*time.Second {
					r.t.Errorf("the connection ended after %v, want 10s and a little", took)
				}
			}, says("ok"))
		})
	}
}

func TestAnIdleClientIsSentAway(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		a := r.attacker()
		_ = a.open(1, true, a.head("GET"))
		if got := a.until(verdict); got != "HEADERS 1 200" {
			r.t.Errorf("got %s", got)
		}
		start := r.clock.Now()
		_ = a.SetReadDeadline(time.Time{})
		for {
			f, err := a.ReadFrame()
			if err != nil {
				r.t.Fatalf("connection ended without a word: %v", err)
			}
			if isGoAway(f) {
				break
			}
		}
		if took := r.clock.Now() - start; took < 5*time.Minute || took > 5*time.Minute+time.Second {
			r.t.Errorf("idle for %v, want 5m", took)
		}
		_, _ = io.Copy(io.Discard, a.Conn)
	}, says("ok"))
}

// halfCloser is a connection whose end tells that one direction was closed.
type halfCloser struct {
	sink
	half chan struct{}
}

func (h *halfCloser) CloseWrite() error { close(h.half); return nil }

// Who ends a connection waits until the last words are written, whoever writes them.
func TestTheLastWordsAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := alone(t).link
		nc := &halfCloser{half: make(chan struct{})}
		l.nc = nc
		l.mu.Lock()
		l.writing = true // in flush, of another connection's reader
		l.mu.Unlock()
		go l.linger()
		synctest.Wait()
		select {
		case <-nc.half:
			t.Error("closed while somebody writes")
		default:
		}
		l.mu.Lock()
		l.writing = false
		l.mu.Unlock()
		l.flush()
		synctest.Wait()
		select {
		case <-nc.half:
		default:
			t.Error("not closed although all has been written")
		}
	})
}
