package telemetry_test

import (
	"context"
	"encoding/hex"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/telemetry"
	"github.com/overhear-mesh/overhear/proxy/trace"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// receiver is an OTLP collector that keeps what it gets.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	about map[string]string
	spans []*tracepb.Span
}

func (r *receiver) Export(_ context.Context, in *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rs := range in.ResourceSpans {
		r.about = attributes(rs.Resource.Attributes)
		for _, ss := range rs.ScopeSpans {
			r.spans = append(r.spans, ss.Spans...)
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func attributes(all []*common.KeyValue) map[string]string {
	out := make(map[string]string, len(all))
	for _, kv := range all {
		switch v := kv.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			out[kv.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			out[kv.Key] = strconv.FormatInt(v.IntValue, 10)
		}
	}
	return out
}

// withReceiver runs body with spans that go to a receiver, or, without listen, to
// nobody.
func withReceiver(t *testing.T, listen bool, queue int, body func(*telemetry.Spans, *receiver, *strings.Builder)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n, r := pipenet.New(1), new(receiver)
		if listen {
			ln, err := n.Host("10.0.9.1").Listen(t.Context(), "tcp", ":4317")
			if err != nil {
				t.Fatal(err)
			}
			srv := grpc.NewServer()
			collector.RegisterTraceServiceServer(srv, r)
			go func() { _ = srv.Serve(ln) }() // ends with Stop
			defer srv.Stop()
		}
		var log strings.Builder
		s, err := telemetry.NewSpans(telemetry.SpansConfig{
			Address: "10.0.9.1:4317", Queue: queue, Service: "web", Instance: "web-1", Zone: "a", Version: "1.2",
			Dial: n.Host("10.0.0.1").Dial,
		}, clock.New(), slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		body(s, r, &log)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown = %v", err)
		}
	})
}

// sampled is a record with a place in a trace.
func sampled() *exchange.Record {
	r := record()
	r.Major, r.UserAgent = 1, []byte("curl")
	r.Trace = trace.NewPolicy([]trace.Format{trace.W3C}, 0).Place(&trace.Incoming{
		Traceparent: []byte("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
	})
	return r
}

func TestASampledRequestIsOneServerSpanAndOneClientSpanForEachAttempt(t *testing.T) {
	withReceiver(t, true, 100, func(s *telemetry.Spans, rx *receiver, log *strings.Builder) {
		r := sampled()
		s.Observe(r)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		rx.mu.Lock()
		defer rx.mu.Unlock()
		if len(rx.spans) != 3 {
			t.Fatalf("%d spans, want 3; log:\n%s", len(rx.spans), log)
		}
		first, second, server := rx.spans[0], rx.spans[1], rx.spans[2]
		if got, want := rx.about, map[string]string{"service.name": "web", "service.instance.id": "web-1", "service.version": "1.2", "cloud.availability_zone": "a"}; !cmp.Equal(got, want) {
			t.Errorf("resource %v, want %v", got, want)
		}
		for _, sp := range rx.spans {
			if got := hex.EncodeToString(sp.TraceId); got != "0af7651916cd43dd8448eb211c80319c" {
				t.Errorf("span %s in trace %s, not in the caller's", sp.Name, got)
			}
		}
		if got := hex.EncodeToString(server.ParentSpanId); got != "b7ad6b7169203331" || string(server.SpanId) != string(r.Trace.Span[:]) {
			t.Errorf("server span %x with parent %s, want %x with the caller's", server.SpanId, got, r.Trace.Span)
		}
		for i, sp := range []*tracepb.Span{first, second} {
			if child := r.Trace.Child(i); string(sp.SpanId) != string(child[:]) || string(sp.ParentSpanId) != string(r.Trace.Span[:]) {
				t.Errorf("attempt %d: span %x with parent %x, want %x with %x", i, sp.SpanId, sp.ParentSpanId, child, r.Trace.Span)
			}
		}
		if server.Kind != tracepb.Span_SPAN_KIND_SERVER || first.Kind != tracepb.Span_SPAN_KIND_CLIENT {
			t.Errorf("kinds %v and %v, want server and client", server.Kind, first.Kind)
		}
		if server.Name != "GET all" || first.Name != "GET" {
			t.Errorf("names %q and %q, want GET all and GET", server.Name, first.Name)
		}
		at := func(sp *tracepb.Span) [2]time.Duration {
			const epoch = 946684800 // of the bubble, 2000-01-01
			return [2]time.Duration{time.Duration(sp.StartTimeUnixNano) - epoch*time.Second, time.Duration(sp.EndTimeUnixNano) - epoch*time.Second}
		}
		for _, tt := range []struct {
			span *tracepb.Span
			want [2]time.Duration
		}{
			{server, [2]time.Duration{time.Second, time.Second + 1500*time.Microsecond}},
			{first, [2]time.Duration{time.Second, time.Second + 200*time.Microsecond}},
			{second, [2]time.Duration{time.Second + 200*time.Microsecond, time.Second + 1200*time.Microsecond}},
		} {
			if got := at(tt.span); got != tt.want {
				t.Errorf("%s: from %v to %v, want from %v to %v", tt.span.Name, got[0], got[1], tt.want[0], tt.want[1])
			}
		}
		shared := map[string]string{"http.request.method": "GET", "url.scheme": "http", "url.path": "/a\"b\\c\x01\uFFFD", "url.query": "q=é"}
		with := func(more map[string]string) map[string]string {
			for k, v := range shared {
				more[k] = v
			}
			return more
		}
		for _, tt := range []struct {
			span *tracepb.Span
			want map[string]string
		}{
			{server, with(map[string]string{
				"server.address": "api", "client.address": "127.0.0.1", "user_agent.original": "curl", "network.protocol.version": "1.1",
				"http.response.status_code": "200", "overhear.route": "all", "overhear.cluster": "api",
			})},
			{first, with(map[string]string{
				"server.address": "10.0.0.1", "server.port": "80", "overhear.endpoint": "api-1", "overhear.outcome": "conn", "error.type": "connect refused",
			})},
			{second, with(map[string]string{
				"server.address": "10.0.0.2", "server.port": "80", "overhear.endpoint": "api-2", "overhear.outcome": "ok",
				"http.response.status_code": "200", "http.request.resend_count": "1",
			})},
		} {
			if diff := cmp.Diff(tt.want, attributes(tt.span.Attributes)); diff != "" {
				t.Errorf("%s: attributes (-want +got):\n%s", tt.span.Name, diff)
			}
		}
		if first.Status.GetCode() != tracepb.Status_STATUS_CODE_ERROR || server.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR {
			t.Errorf("status of the failed attempt %v, of the request %v: want error and none", first.Status, server.Status)
		}
		if got, want := s.Stats(), (telemetry.SpanStats{Made: 3, Sent: 3}); got != want {
			t.Errorf("stats %+v, want %+v", got, want)
		}
	})
}

func TestWhatTheSpansOfAFailedRequestSay(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*exchange.Record)
		want string // error.type; "": none
		span string // its name
	}{
		{"503 of ours", func(r *exchange.Record) {
			r.Status, r.Flags, r.Attempts = 503, exchange.NoHealthyUpstream, nil
		}, "503", "GET all"},
		{"a client's mistake", func(r *exchange.Record) { r.Status = 404 }, "", "GET all"},
		{"the client left", func(r *exchange.Record) { r.Status, r.Flags = 0, exchange.DownstreamTermination }, "DC", "GET all"},
		{"gRPC, unavailable", func(r *exchange.Record) {
			r.GRPC, r.GRPCStatus, r.Path = true, 14, []byte("/pkg.Greeter/Hello")
		}, "UNAVAILABLE", "pkg.Greeter/Hello"},
		{"gRPC, not found", func(r *exchange.Record) {
			r.GRPC, r.GRPCStatus, r.Path = true, 5, []byte("/pkg.Greeter/Hello")
		}, "", "pkg.Greeter/Hello"},
		{"a method that nobody knows", func(r *exchange.Record) { r.Method, r.Route = []byte("BREW"), nil }, "", "HTTP"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			withReceiver(t, true, 100, func(s *telemetry.Spans, rx *receiver, _ *strings.Builder) {
				r := sampled()
				tt.edit(r)
				s.Observe(r)
				time.Sleep(6 * time.Second)
				synctest.Wait()
				rx.mu.Lock()
				defer rx.mu.Unlock()
				server := rx.spans[len(rx.spans)-1]
				if got := attributes(server.Attributes)["error.type"]; got != tt.want || server.Name != tt.span {
					t.Errorf("span %q with error %q, want %q with %q", server.Name, got, tt.span, tt.want)
				}
			})
		})
	}
}

func TestARequestThatIsNotSampledMakesNoSpansAndNoGarbage(t *testing.T) {
	withReceiver(t, true, 100, func(s *telemetry.Spans, rx *receiver, _ *strings.Builder) {
		r := record()
		r.Trace = trace.NewPolicy([]trace.Format{trace.W3C}, 0).Place(&trace.Incoming{})
		if n := testing.AllocsPerRun(100, func() { s.Observe(r) }); n != 0 {
			t.Errorf("%v allocations, want none", n)
		}
		time.Sleep(6 * time.Second)
		if rx.mu.Lock(); len(rx.spans) != 0 {
			t.Errorf("%d spans, want none", len(rx.spans))
		}
		rx.mu.Unlock()
	})
}

func TestAReceiverThatIsGoneHoldsUpNobody(t *testing.T) {
	withReceiver(t, false, 10, func(s *telemetry.Spans, _ *receiver, log *strings.Builder) {
		start := time.Now()
		for range 1000 {
			s.Observe(sampled())
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("a thousand requests waited %v for a receiver that is gone", took)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got, want := s.Stats(), (telemetry.SpanStats{Made: 9, Failed: 9, Dropped: 2991}); got != want {
			t.Errorf("stats %+v, want %+v: three requests' spans fit the queue", got, want)
		}
		if n := strings.Count(log.String(), "spans are lost"); n != 1 {
			t.Errorf("said %d times that spans are lost, want once in a minute; log:\n%s", n, log)
		}
	})
}
