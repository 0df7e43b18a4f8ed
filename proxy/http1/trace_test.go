package http1

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/trace"
)

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	caller  = "00-" + traceID + "-b7ad6b7169203331-01"
	traced  = "GET / HTTP/1.1\r\nHost: a\r\nTraceParent: " + caller + "\r\ntracestate: a=1\r\nb3: 0\r\n\r\n"
)

// heard is a backend that keeps what it is asked with, and fails as often as
// told before it answers.
func heard(requests *[]http.Header, failures int) func(r *http.Request) string {
	return func(r *http.Request) string {
		*requests = append(*requests, r.Header)
		if len(*requests) <= failures {
			return "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
		}
		return ok
	}
}

func TestEachAttemptIsASpanOfTheCallersTrace(t *testing.T) {
	var got []http.Header
	edit := func(o *options) {
		o.trace = trace.NewPolicy([]trace.Format{trace.W3C}, 0)
		o.rule.Retry.On = []resilience.Condition{resilience.GatewayError}
	}
	inRig(t, edit, func(r *rig) {
		if res := r.dial().do(traced); res.StatusCode != http.StatusOK {
			t.Fatalf("status %d, want 200 by a retry", res.StatusCode)
		}
	}, talk(heard(&got, 1)))
	if len(got) != 2 {
		t.Fatalf("%d attempts, want 2", len(got))
	}
	spans := map[string]bool{"b7ad6b7169203331": true}
	for i, h := range got {
		fields := h["Traceparent"]
		if len(fields) != 1 || len(fields[0]) != len(caller) {
			t.Fatalf("attempt %d: traceparent %q, want one", i, fields)
		}
		id, span, flags := fields[0][3:35], fields[0][36:52], fields[0][53:]
		if id != traceID || flags != "01" || spans[span] {
			t.Errorf("attempt %d: traceparent %s, want the caller's trace, sampled, with a span of its own", i, fields[0])
		}
		spans[span] = true
		if h.Get("tracestate") != "a=1" || h.Get("b3") != "0" {
			t.Errorf("attempt %d: tracestate %q and b3 %q, want them as they came", i, h.Get("tracestate"), h.Get("b3"))
		}
	}
}

func TestATraceBeginsWhereThereIsNone(t *testing.T) {
	var got []http.Header
	edit := func(o *options) { o.trace = trace.NewPolicy([]trace.Format{trace.B3Multi, trace.W3C}, 1) }
	inRig(t, edit, func(r *rig) {
		r.dial().do("GET / HTTP/1.1\r\nHost: a\r\nX-B3-Flags: what\r\n\r\n")
	}, talk(heard(&got, 0)))
	h := got[0]
	want := fmt.Sprintf("00-%s-%s-03", h.Get("x-b3-traceid"), h.Get("x-b3-spanid"))
	if h.Get("traceparent") != want || h.Get("x-b3-sampled") != "1" || len(h.Get("x-b3-traceid")) != 32 || h.Get("x-b3-flags") != "" {
		t.Errorf("fields %v, want one new trace in both forms, sampled", h)
	}
}

func TestWithoutTracingTraceFieldsPass(t *testing.T) {
	var got []http.Header
	inRig(t, nil, func(r *rig) {
		r.dial().do(traced)
	}, talk(heard(&got, 0)))
	if h := got[0]; h.Get("traceparent") != caller || h.Get("tracestate") != "a=1" || h.Get("b3") != "0" {
		t.Errorf("fields %v, want those of the trace as they came", h)
	}
}
