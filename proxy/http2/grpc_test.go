package http2

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// call makes a gRPC call as far as HTTP knows it, and returns what came with grpc-status.
func (r *rig) call(more ...string) (reply, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, "http://api/greeter/hello", strings.NewReader("\x00\x00\x00\x00\x00"))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc+proto")
	req.Header.Set("Te", "trailers")
	for i := 0; i < len(more); i += 2 {
		req.Header.Set(more[i], more[i+1])
	}
	got := r.send(req)
	if status := got.Header.Get("Grpc-Status"); status != "" {
		return got, status
	}
	return got, got.Trailer.Get("Grpc-Status")
}

// What a gRPC answer says counts at its true end, wherever it says it.
func TestTheStatusOfAGRPCAnswer(t *testing.T) {
	inTrailers := func(pairs ...string) func(*raw, *xhttp2.MetaHeadersFrame) {
		return func(a *raw, f *xhttp2.MetaHeadersFrame) {
			_ = a.open(f.StreamID, false, a.fields(":status", "200", "content-type", "application/grpc"))
			_ = a.WriteData(f.StreamID, false, []byte("\x00\x00\x00\x00\x00"))
			_ = a.open(f.StreamID, true, a.fields(pairs...))
		}
	}
	trailersOnly := func(pairs ...string) func(*raw, *xhttp2.MetaHeadersFrame) {
		return func(a *raw, f *xhttp2.MetaHeadersFrame) {
			a.answer(f.StreamID, append([]string{"content-type", "application/grpc"}, pairs...)...)
		}
	}
	for _, tt := range []struct {
		name, status, class string
		serve               func(*raw, *xhttp2.MetaHeadersFrame)
	}{
		{"OK", "0", "ok", inTrailers("grpc-status", "0")},
		{"NOT_FOUND", "5", "ok", inTrailers("grpc-status", "5")},
		{"NOT_FOUND, trailers-only", "5", "ok", trailersOnly("grpc-status", "5")},
		{"UNAVAILABLE", "14", "server", inTrailers("grpc-status", "14")},
		{"UNAVAILABLE, trailers-only", "14", "server", trailersOnly("grpc-status", "14")},
		{"UNAVAILABLE with a wish to wait", "14", "overload", inTrailers("grpc-status", "14", "grpc-retry-pushback-ms", "100")},
		{"RESOURCE_EXHAUSTED", "8", "overload", inTrailers("grpc-status", "8")},
		{"INTERNAL", "13", "server", inTrailers("grpc-status", "13")},
		{"UNKNOWN", "2", "server", inTrailers("grpc-status", "2")},
		{"DEADLINE_EXCEEDED", "4", "timeout", inTrailers("grpc-status", "4")},
		{"none", "", "server", inTrailers("a", "b")},
		{"no trailers", "", "server", func(a *raw, f *xhttp2.MetaHeadersFrame) {
			_ = a.open(f.StreamID, false, a.fields(":status", "200", "content-type", "application/grpc"))
			_ = a.WriteData(f.StreamID, true, nil)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				got, status := r.call()
				if status != tt.status {
					r.t.Errorf("client: got status %q, want %q", status, tt.status)
				}
				r.check(got, 200, "*", "-", "10.0.1.1 "+tt.class)
				if line := r.last(); tt.status != "" && line.GRPC != int([]byte(tt.status)[len(tt.status)-1]-'0')+10*(len(tt.status)-1) {
					r.t.Errorf("log: got grpc status %d, want %s", line.GRPC, tt.status)
				}
			}, misbehaves(t, func(a *raw) { a.each(func(f *xhttp2.MetaHeadersFrame) { tt.serve(a, f) }) }))
		})
	}
}

// Problems of our own come in gRPC's words to those who speak it.
func TestOurOwnProblemsInGRPC(t *testing.T) {
	for _, tt := range []struct {
		name, status, flags string
		edit                func(*options)
		before              func(*rig)
		more                []string
		least, most         time.Duration
	}{
		{name: "no route", status: "12", flags: "NR", edit: func(o *options) { o.rule.Path = "/elsewhere" }},
		{name: "connection refused", status: "14", flags: "UF", before: func(r *rig) { r.backends[0].ln.Close() }},
		{name: "time-out of the route", status: "4", flags: "UT", edit: func(o *options) { o.rule.Timeout = 2 * time.Second }, least: 2 * time.Second, most: 2100 * time.Millisecond},
		{name: "the caller's deadline", status: "4", flags: "UT", more: []string{"Grpc-Timeout", "300m"}, least: 300 * time.Millisecond, most: 400 * time.Millisecond},
		{name: "the caller's deadline is the later one", status: "4", flags: "UT", edit: func(o *options) { o.rule.Timeout = time.Second },
			more: []string{"Grpc-Timeout", "1H"}, least: time.Second, most: 1100 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, tt.edit, func(r *rig) {
				if tt.before != nil {
					tt.before(r)
				}
				start := r.clock.Now()
				got, status := r.call(tt.more...)
				took := r.clock.Now() - start
				if status != tt.status || got.StatusCode != http.StatusOK || !strings.HasPrefix(got.Header.Get("Grpc-Message"), "overhear: ") {
					r.t.Errorf("got %d, grpc-status %q, message %q; want 200 and %q", got.StatusCode, status, got.Header.Get("Grpc-Message"), tt.status)
				}
				if line := r.last(); line.Flags != tt.flags {
					r.t.Errorf("flags: got %s, want %s", line.Flags, tt.flags)
				}
				if took < tt.least || tt.most > 0 && took > tt.most {
					r.t.Errorf("took %v, want %v to %v", took, tt.least, tt.most)
				}
			}, misbehaves(t, func(a *raw) { a.each(func(*xhttp2.MetaHeadersFrame) {}) }))
		})
	}
}

// A dead application looks dead through its inbound sidecar, whose mark no application
// sees.
func TestAnInboundSidecarSaysWhatItsApplicationDid(t *testing.T) {
	dies := misbehaves(t, func(a *raw) {
		a.each(func(*xhttp2.MetaHeadersFrame) { _ = a.Conn.(*pipenet.Conn).Reset() })
	})
	speaksOlder := func(c net.Conn, _ int) {
		_, _ = c.Read(make([]byte, 1000))
		_ = c.(*pipenet.Conn).Reset()
	}
	for _, tt := range []struct {
		origin string
		before func(*rig)
	}{
		{outlier.OriginRefused, func(r *rig) { r.backends[0].ln.Close() }},
		{outlier.OriginReset, func(*rig) {}},
	} {
		for _, v := range []struct {
			edit    func(*options)
			backend func(net.Conn, int)
		}{
			{func(o *options) { o.inbound = true }, dies},
			{func(o *options) { o.inbound = true; older(o) }, speaksOlder},
		} {
			inRig(t, v.edit, func(r *rig) {
				tt.before(r)
				if got := r.do("POST", "/", "x"); got.StatusCode != http.StatusServiceUnavailable || got.Header.Get("X-Overhear-Origin") != tt.origin {
					r.t.Errorf("HTTP: got %d %q, want 503 %q", got.StatusCode, got.Header.Get("X-Overhear-Origin"), tt.origin)
				}
				if got, status := r.call(); status != "14" || got.Header.Get("X-Overhear-Origin") != tt.origin {
					r.t.Errorf("gRPC: got %s %q, want 14 %q", status, got.Header.Get("X-Overhear-Origin"), tt.origin)
				}
			}, v.backend)
		}
	}
	says := func(origin string) func(*raw) {
		return func(a *raw) {
			a.each(func(f *xhttp2.MetaHeadersFrame) {
				a.answer(f.StreamID, "content-type", "application/grpc", "grpc-status", "14", "x-overhear-origin", origin)
			})
		}
	}
	for origin, class := range map[string]string{outlier.OriginRefused: "conn", outlier.OriginReset: "conn", outlier.OriginTimeout: "timeout"} {
		inRig(t, func(o *options) { o.marked = true; o.rule.Retry.MaxAttempts = 1 }, func(r *rig) {
			got, _ := r.call()
			if line := r.last(); line.Attempts[0] != "10.0.1.1 "+class {
				r.t.Errorf("%s: got %v, want %s", origin, line.Attempts, class)
			}
			if got.Header.Get("X-Overhear-Origin") != "" {
				r.t.Error("the mark has reached the client")
			}
		}, misbehaves(t, says(origin)))
		inRig(t, nil, func(r *rig) {
			r.call()
			if line := r.last(); line.Attempts[0] != "10.0.1.1 server" {
				r.t.Errorf("%s of who may not say so: got %v, want server", origin, line.Attempts)
			}
		}, misbehaves(t, says(origin)))
	}
}

// Nothing was processed, so that even what is unsafe is tried elsewhere.
func TestAnApplicationThatRefusesIsLeftForAnother(t *testing.T) {
	inRig(t, func(o *options) { o.marked = true }, func(r *rig) {
		for range 100 {
			_, status := r.call()
			if line := r.last(); line.Attempts[0] == "10.0.1.1 conn" {
				if status != "0" || len(line.Attempts) != 2 || line.Attempts[1] != "10.0.1.2 ok" {
					r.t.Errorf("got status %s of %v", status, line.Attempts)
				}
				return
			}
		}
		r.t.Error("10.0.1.1 is never met")
	}, misbehaves(t, func(a *raw) {
		a.each(func(f *xhttp2.MetaHeadersFrame) {
			a.answer(f.StreamID, "content-type", "application/grpc", "grpc-status", "14", "x-overhear-origin", outlier.OriginRefused)
		})
	}), misbehaves(t, func(a *raw) {
		a.each(func(f *xhttp2.MetaHeadersFrame) {
			a.answer(f.StreamID, "content-type", "application/grpc", "grpc-status", "0")
		})
	}))
}
