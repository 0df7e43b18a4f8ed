package trace_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/overhear-mesh/overhear/proxy/trace"
)

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	spanID  = "b7ad6b7169203331"
	w3c     = "00-" + traceID + "-" + spanID + "-01"
)

func policy(share float64, formats ...trace.Format) *trace.Policy {
	return trace.NewPolicy(formats, share)
}

func hex(b []byte) string { return fmt.Sprintf("%x", b) }

// TestATraceIsContinuedOrBegun: a share of 0, so that what is sampled was sampled
// by the caller.
func TestATraceIsContinuedOrBegun(t *testing.T) {
	b := func(s string) []byte { return []byte(s) }
	all := []trace.Format{trace.W3C, trace.B3, trace.B3Multi}
	for _, tt := range []struct {
		name      string
		in        trace.Incoming
		continued bool
		parent    string
		sampled   bool
	}{
		{"w3c", trace.Incoming{Traceparent: b(w3c)}, true, spanID, true},
		{"w3c, not sampled", trace.Incoming{Traceparent: b(w3c[:54] + "0")}, true, spanID, false},
		{"a version of the future, with more", trace.Incoming{Traceparent: b("cc" + w3c[2:] + "-what")}, true, spanID, true},
		{"a version of the future that runs on", trace.Incoming{Traceparent: b("cc" + w3c[2:] + "what")}, false, "", false},
		{"version 00 with more", trace.Incoming{Traceparent: b(w3c + "-what")}, false, "", false},
		{"version ff", trace.Incoming{Traceparent: b("ff" + w3c[2:])}, false, "", false},
		{"upper case", trace.Incoming{Traceparent: b("00-0AF7651916CD43DD8448EB211C80319C-" + spanID + "-01")}, false, "", false},
		{"no trace", trace.Incoming{Traceparent: b("00-00000000000000000000000000000000-" + spanID + "-01")}, false, "", false},
		{"no parent", trace.Incoming{Traceparent: b("00-" + traceID + "-0000000000000000-01")}, false, "", false},
		{"too short", trace.Incoming{Traceparent: b(w3c[:54])}, false, "", false},
		{"empty", trace.Incoming{}, false, "", false},

		{"b3", trace.Incoming{B3: b(traceID + "-" + spanID + "-1")}, true, spanID, true},
		{"b3 with parent", trace.Incoming{B3: b(traceID + "-" + spanID + "-1-05e3ac9a4f6e3b90")}, true, spanID, true},
		{"b3, debug", trace.Incoming{B3: b(traceID + "-" + spanID + "-d")}, true, spanID, true},
		{"b3, denied", trace.Incoming{B3: b(traceID + "-" + spanID + "-0")}, true, spanID, false},
		{"b3, deferred", trace.Incoming{B3: b(traceID + "-" + spanID)}, true, spanID, false},
		{"b3, decided only", trace.Incoming{B3: b("1")}, false, "", true},
		{"b3, denied only", trace.Incoming{B3: b("0")}, false, "", false},
		{"b3, a decision that nobody knows", trace.Incoming{B3: b(traceID + "-" + spanID + "-x")}, false, "", false},
		{"b3, cut short", trace.Incoming{B3: b(traceID + "-b7ad")}, false, "", false},
		{"b3, a trace of 64 bits", trace.Incoming{B3: b(traceID[16:] + "-" + spanID + "-1")}, true, spanID, true},

		{"b3 multi", trace.Incoming{TraceID: b(traceID), SpanID: b(spanID), Sampled: b("1")}, true, spanID, true},
		{"b3 multi, in words", trace.Incoming{TraceID: b(traceID), SpanID: b(spanID), Sampled: b("true")}, true, spanID, true},
		{"b3 multi, debug", trace.Incoming{TraceID: b(traceID), SpanID: b(spanID), Flags: b("1")}, true, spanID, true},
		{"b3 multi, decided only", trace.Incoming{Sampled: b("1")}, false, "", true},
		{"b3 multi without a span", trace.Incoming{TraceID: b(traceID), Sampled: b("1")}, false, "", false},

		{"the first format counts", trace.Incoming{Traceparent: b(w3c), B3: b(traceID + "-05e3ac9a4f6e3b90-0")}, true, spanID, true},
		{"what cannot be read makes room for the next", trace.Incoming{Traceparent: b("?"), B3: b(traceID + "-" + spanID + "-1")}, true, spanID, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := policy(0, all...).Place(&tt.in)
			if !c.Valid() || c.Span == (trace.SpanID{}) {
				t.Fatalf("context %+v: want a trace and a span", c)
			}
			id := hex(c.Trace[:])
			if continued := id == traceID || id == "0000000000000000"+traceID[16:]; continued != tt.continued {
				t.Errorf("trace %s: continued %v, want %v", id, continued, tt.continued)
			}
			if tt.parent == "" && c.Parent != (trace.SpanID{}) || tt.parent != "" && hex(c.Parent[:]) != tt.parent {
				t.Errorf("parent %x, want %q", c.Parent, tt.parent)
			}
			if c.Sampled() != tt.sampled {
				t.Errorf("sampled %v, want %v", c.Sampled(), tt.sampled)
			}
		})
	}
}

func TestAFormatThatIsNotAskedForIsNotRead(t *testing.T) {
	c := policy(0, trace.W3C).Place(&trace.Incoming{B3: []byte(traceID + "-" + spanID + "-1")})
	if c.Sampled() || hex(c.Trace[:]) == traceID {
		t.Errorf("context %+v came from b3", c)
	}
}

func TestAShareOfTheTracesThatBeginHereIsSampled(t *testing.T) {
	const n = 20_000
	for _, share := range []float64{0, 0.01, 0.5, 1} {
		p, got := policy(share, trace.W3C), 0
		for range n {
			if c := p.Place(&trace.Incoming{}); c.Sampled() {
				got++
			}
		}
		if limit := 5*math.Sqrt(n*share*(1-share)) + 1e-9; math.Abs(float64(got)-n*share) > limit {
			t.Errorf("share %v: %d of %d were sampled", share, got, n)
		}
	}
}

func TestTheUpstreamRequestCarriesTheSpanOfItsAttempt(t *testing.T) {
	p := policy(1, trace.W3C, trace.B3, trace.B3Multi)
	c := p.Place(&trace.Incoming{Traceparent: []byte(w3c)})
	first, second := c.Child(0), c.Child(1)
	if first == second || first == c.Span || second == c.Span {
		t.Fatalf("spans %x, %x of request %x: want three", first, second, c.Span)
	}
	got := map[string]string{}
	for _, f := range p.Fields() {
		got[f.Name()] = string(f.Append(nil, &c, first))
	}
	span, own := hex(first[:]), hex(c.Span[:])
	for name, want := range map[string]string{
		"traceparent":       "00-" + traceID + "-" + span + "-01",
		"b3":                traceID + "-" + span + "-1-" + own,
		"x-b3-traceid":      traceID,
		"x-b3-spanid":       span,
		"x-b3-parentspanid": own,
		"x-b3-sampled":      "1",
	} {
		if got[name] != want {
			t.Errorf("%s: %s, want %s", name, got[name], want)
		}
	}
	if len(got) != 6 {
		t.Errorf("fields %v, want six", got)
	}
}

func TestOnlyFieldsOfItsOwnFormatsAreReplaced(t *testing.T) {
	p := policy(1, trace.W3C, trace.B3Multi)
	for name, want := range map[string]bool{
		"traceparent": true, "TraceParent": true, "X-B3-ParentSpanId": true, "x-b3-flags": true,
		"b3": false, "tracestate": false, "baggage": false,
	} {
		if got := p.Replaces([]byte(name), &trace.Context{W3C: true}); got != want {
			t.Errorf("%s is replaced: %v, want %v", name, got, want)
		}
	}
	var none *trace.Policy
	if none.Replaces([]byte("traceparent"), &trace.Context{}) || len(none.Fields()) != 0 {
		t.Error("without a policy something is replaced or written")
	}
}

func TestATracestateStaysOnlyWithItsTraceparent(t *testing.T) {
	b3 := []byte(traceID + "-" + spanID + "-1")
	for _, tt := range []struct {
		name   string
		policy *trace.Policy
		in     trace.Incoming
		stays  bool
	}{
		{"continued", policy(1, trace.W3C), trace.Incoming{Traceparent: []byte(w3c)}, true},
		{"its traceparent is invalid", policy(1, trace.W3C), trace.Incoming{Traceparent: []byte("ff" + w3c[2:])}, false},
		{"without a traceparent", policy(1, trace.W3C), trace.Incoming{}, false},
		{"another format counts", policy(1, trace.B3, trace.W3C), trace.Incoming{B3: b3, Traceparent: []byte(w3c)}, false},
		{"traceparent is not ours", policy(1, trace.B3), trace.Incoming{B3: b3}, true},
	} {
		c := tt.policy.Place(&tt.in)
		if got := !tt.policy.Replaces([]byte("TraceState"), &c); got != tt.stays {
			t.Errorf("%s: stays %v, want %v", tt.name, got, tt.stays)
		}
	}
}

func TestPlacingARequestAllocatesNothing(t *testing.T) {
	p := policy(0.01, trace.W3C, trace.B3, trace.B3Multi)
	head, name, value := make([]byte, 0, 1024), []byte("Traceparent"), []byte(w3c)
	if n := testing.AllocsPerRun(100, func() {
		var in trace.Incoming
		in.Set(name, value)
		c, b := p.Place(&in), head
		for _, f := range p.Fields() {
			b = f.Append(append(b, f.Name()...), &c, c.Child(0))
		}
		if !p.Replaces(name, &c) || len(b) < 200 {
			t.Fatalf("wrote %q", b)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func FuzzWhatIsReadIsWrittenBack(f *testing.F) {
	f.Add([]byte(w3c), []byte(traceID+"-"+spanID+"-1"))
	f.Add([]byte("00-"), []byte("d"))
	f.Fuzz(func(t *testing.T, w, b []byte) {
		p := policy(0, trace.W3C, trace.B3)
		c := p.Place(&trace.Incoming{Traceparent: w, B3: b})
		if !c.Valid() {
			t.Fatal("no trace")
		}
		again := policy(0, trace.W3C).Place(&trace.Incoming{Traceparent: c.AppendTraceparent(nil, c.Span)})
		if again.Trace != c.Trace || again.Parent != c.Span || again.Sampled() != c.Sampled() {
			t.Errorf("%+v was read back as %+v", c, again)
		}
	})
}
