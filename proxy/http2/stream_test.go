package http2

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/wheel"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// begins is a server that answers each call with a head and one message, and then calls
// rest.
func begins(t *testing.T, rest func(a *raw, id uint32)) func(net.Conn, int) {
	return misbehaves(t, func(a *raw) {
		a.each(func(f *xhttp2.MetaHeadersFrame) {
			_ = a.open(f.StreamID, false, a.fields(":status", "200", "content-type", "application/grpc"))
			_ = a.WriteData(f.StreamID, false, []byte("\x00\x00\x00\x00\x00"))
			rest(a, f.StreamID)
		})
	})
}

// A gRPC answer that cannot be finished is ended by trailers that say why, since of a
// reset its caller would learn only that it was one.
func TestACallThatIsCutEndsWithAStatus(t *testing.T) {
	for _, tt := range []struct {
		name, status, flags, class string
		more                       []string
		rest                       func(a *raw, id uint32)
	}{
		{"the caller's deadline", "4", "UT", "ignore", []string{"Grpc-Timeout", "300m"}, func(*raw, uint32) {}},
		{"reset when the deadline has passed", "4", "UT", "ignore", []string{"Grpc-Timeout", "300m"}, func(a *raw, id uint32) {
			time.Sleep(300 * time.Millisecond)
			_ = a.WriteRSTStream(id, xhttp2.ErrCodeCancel)
		}},
		{"nothing moves", "4", "SI", "timeout", nil, func(*raw, uint32) {}},
		{"CANCEL", "1", "UR", "server", nil, func(a *raw, id uint32) { _ = a.WriteRSTStream(id, xhttp2.ErrCodeCancel) }},
		{"INTERNAL_ERROR", "13", "UR", "server", nil, func(a *raw, id uint32) { _ = a.WriteRSTStream(id, xhttp2.ErrCodeInternal) }},
		{"INADEQUATE_SECURITY", "7", "UR", "server", nil, func(a *raw, id uint32) {
			_ = a.WriteRSTStream(id, xhttp2.ErrCodeInadequateSecurity)
		}},
		{"ENHANCE_YOUR_CALM", "8", "UR", "overload", nil, func(a *raw, id uint32) {
			_ = a.WriteRSTStream(id, xhttp2.ErrCodeEnhanceYourCalm)
		}},
		{"the connection is lost", "14", "UC", "server", nil, func(a *raw, _ uint32) { _ = a.Conn.(*pipenet.Conn).Reset() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				time.Sleep(wheel.Tick / 2) // so that the server is sooner
				got, status := r.call(tt.more...)
				if got.err != nil || status != tt.status || !strings.HasPrefix(got.Trailer.Get("Grpc-Message"), "overhear: ") {
					r.t.Errorf("got %v, grpc-status %q, message %q; want %q in trailers", got.err, status, got.Trailer.Get("Grpc-Message"), tt.status)
				}
				r.check(got, 200, "*", tt.flags, "10.0.1.1 "+tt.class)
				if line := r.last(); fmt.Sprint(line.GRPC) != tt.status {
					r.t.Errorf("log: got grpc status %d, want %s", line.GRPC, tt.status)
				}
			}, begins(t, tt.rest))
		})
	}
}

// Whoever has not sent everything when the trailers come need not send the rest.
func TestACallThatIsCutIsEndedOnBothSides(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		a := r.attacker()
		_ = a.open(1, false, a.head("POST", "content-type", "application/grpc", "te", "trailers", "grpc-timeout", "1S"))
		var got []string
		for range 3 {
			got = append(got, a.until(verdict))
		}
		want := "[HEADERS 1 200 HEADERS 1  RST_STREAM 1 NO_ERROR]"
		if fmt.Sprint(got) != want {
			r.t.Errorf("got %v, want %s", got, want)
		}
	}, begins(t, func(*raw, uint32) {}))
}

// A head that is gRPC's on one side only belongs to no call.
func TestAnAnswerThatIsNotGRPCIsCutByAReset(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		if got, status := r.call(); got.err == nil || status != "" {
			r.t.Errorf("got status %q, want the answer to be broken off", status)
		}
		r.check(r.do("POST", "/", ""), 200, "*", "UR", "10.0.1.1 server")
	}, misbehaves(t, func(a *raw) {
		a.each(func(f *xhttp2.MetaHeadersFrame) {
			_ = a.open(f.StreamID, false, a.fields(":status", "200", "content-type", "text/html"))
			_ = a.WriteRSTStream(f.StreamID, xhttp2.ErrCodeCancel)
		})
	}))
}

// The route's time-out is for the beginning of a gRPC answer: the rest may be a stream.
func TestAStreamOutlivesTheTimeoutOfItsRoute(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		start := r.clock.Now()
		got, status := r.call()
		if took := r.clock.Now() - start; status != "0" || took < time.Hour {
			r.t.Errorf("got status %q (%v) after %v, want 0 after an hour", status, got.err, took)
		}
		r.check(got, 200, "*", "-", "10.0.1.1 ok")
	}, begins(t, func(a *raw, id uint32) {
		for range 180 {
			time.Sleep(20 * time.Second)
			_ = a.WriteData(id, false, []byte("\x00\x00\x00\x00\x00"))
		}
		_ = a.open(id, true, a.fields("grpc-status", "0"))
	}))
}

// A server that keeps the caller's deadline, and says so, has done nothing wrong: its
// answer had flowed until then.
func TestAServerThatKeepsTheDeadlineIsNotBlamed(t *testing.T) {
	for _, tt := range []struct {
		timeout, class string
	}{{"300m", "ignore"}, {"1H", "timeout"}} {
		inRig(t, nil, func(r *rig) {
			time.Sleep(wheel.Tick / 2) // so that the server is sooner
			got, status := r.call("Grpc-Timeout", tt.timeout)
			if status != "4" {
				r.t.Errorf("got status %q, want 4", status)
			}
			r.check(got, 200, "*", "-", "10.0.1.1 "+tt.class)
		}, begins(t, func(a *raw, id uint32) {
			time.Sleep(300 * time.Millisecond)
			_ = a.open(id, true, a.fields("grpc-status", "4"))
		}))
	}
}

func TestAnInboundTimeoutIsADeadlineToGRPC(t *testing.T) {
	inRig(t, func(o *options) { o.inbound, o.rule.PerTryTimeout = true, time.Second }, func(r *rig) {
		if got, status := r.call(); status != "4" || got.Header.Get("X-Overhear-Origin") != outlier.OriginTimeout {
			r.t.Errorf("got %s %q, want 4 %q", status, got.Header.Get("X-Overhear-Origin"), outlier.OriginTimeout)
		}
	}, misbehaves(t, func(a *raw) { a.each(func(*xhttp2.MetaHeadersFrame) {}) }))
}

// The end of a stream needs no window, and a peer may make that smaller than nothing (RFC
// 9113, section 6.9.2).
func TestTheEndOfAnAnswerNeedsNoWindow(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		a := r.attacker(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 10})
		_ = a.open(1, true, a.head("GET"))
		if got := a.until(func(f xhttp2.Frame) bool { _, is := f.(*xhttp2.DataFrame); return is }); got != "DATA" {
			t.Fatalf("got %s, want DATA", got)
		}
		_ = a.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 5})
		got := a.until(func(f xhttp2.Frame) bool {
			_, reset := f.(*xhttp2.RSTStreamFrame)
			return reset || f.Header().Type == xhttp2.FrameData && f.Header().Flags.Has(xhttp2.FlagDataEndStream)
		})
		if got != "DATA" {
			t.Errorf("got %s, want the end in DATA", got)
		}
	}, misbehaves(t, func(a *raw) {
		a.each(func(f *xhttp2.MetaHeadersFrame) {
			_ = a.open(f.StreamID, false, a.fields(":status", "200"))
			_ = a.WriteData(f.StreamID, false, make([]byte, 10))
			time.Sleep(time.Second)
			_ = a.WriteData(f.StreamID, true, nil)
		})
	}))
}
