package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/trace"
)

// Spans makes the spans of sampled requests when they are over, one SERVER span
// and a CLIENT span for each attempt, and sends them by OTLP over gRPC. Names and
// attributes follow OpenTelemetry's semantic conventions.
//
// Nobody waits for the receiver: spans stand in a queue, and when it is full they
// are dropped and counted.
type Spans struct {
	clock    clock.Clock
	log      *slog.Logger
	provider *sdktrace.TracerProvider
	tracer   oteltrace.Tracer

	queue                       int64
	waiting                     atomic.Int64 // made and neither sent nor failed
	made, sent, failed, dropped atomic.Uint64
	complained                  atomic.Int64 // when the last failure was logged
}

// SpansConfig says where spans go and who sends them.
type SpansConfig struct {
	// Address of an OTLP receiver, host:port, spoken to by gRPC without TLS.
	Address string
	// Queue is how many spans may wait to be sent.
	Queue int
	// Service, Instance, Zone and Version describe the sidecar.
	Service, Instance, Zone, Version string
	// Dial opens the connection to the receiver. Default: gRPC's own.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	exportEvery   = 5 * time.Second
	exportTimeout = 10 * time.Second
	complainEvery = time.Minute
)

// NewSpans starts sending. Shutdown ends it.
func NewSpans(cfg SpansConfig, clk clock.Clock, log *slog.Logger) (*Spans, error) {
	options := []otlptracegrpc.Option{
		otlptracegrpc.WithEndpoint(cfg.Address), otlptracegrpc.WithInsecure(), otlptracegrpc.WithTimeout(exportTimeout),
	}
	if cfg.Dial != nil {
		options = append(options, otlptracegrpc.WithDialOption(grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return cfg.Dial(ctx, "tcp", address)
		})))
	}
	exporter, err := otlptracegrpc.New(context.Background(), options...)
	if err != nil {
		return nil, fmt.Errorf("spans to %s: %w", cfg.Address, err)
	}
	s := &Spans{clock: clk, log: log, queue: int64(cfg.Queue)}
	about := []attribute.KeyValue{
		semconv.ServiceName(cfg.Service), semconv.ServiceInstanceID(cfg.Instance), semconv.ServiceVersion(cfg.Version),
	}
	if cfg.Zone != "" {
		about = append(about, semconv.CloudAvailabilityZone(cfg.Zone))
	}
	s.provider = sdktrace.NewTracerProvider(
		sdktrace.WithResource(resource.NewWithAttributes(semconv.SchemaURL, about...)),
		sdktrace.WithSampler(sdktrace.AlwaysSample()), // what is not sampled does not come here
		sdktrace.WithIDGenerator(given{}),
		// The SDK's queue is never full: Observe counts before it fills.
		sdktrace.WithBatcher(&counted{exporter, s}, sdktrace.WithMaxQueueSize(2*cfg.Queue), sdktrace.WithBatchTimeout(exportEvery)),
	)
	s.tracer = s.provider.Tracer("github.com/overhear-mesh/overhear/proxy")
	return s, nil
}

// Shutdown sends what waits, as long as ctx lets it, and ends.
func (s *Spans) Shutdown(ctx context.Context) error { return s.provider.Shutdown(ctx) }

// SpanStats are totals: what was made was sent, has failed, or waits; what was
// dropped was not made.
type SpanStats struct{ Made, Sent, Failed, Dropped uint64 }

// Stats are the totals so far.
func (s *Spans) Stats() SpanStats {
	return SpanStats{Made: s.made.Load(), Sent: s.sent.Load(), Failed: s.failed.Load(), Dropped: s.dropped.Load()}
}

// counted counts what is sent and what is lost, and says why now and then.
type counted struct {
	sdktrace.SpanExporter
	s *Spans
}

// ExportSpans implements sdktrace.SpanExporter.
func (c *counted) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := c.SpanExporter.ExportSpans(ctx, spans)
	c.s.waiting.Add(-int64(len(spans)))
	if err == nil {
		c.s.sent.Add(uint64(len(spans)))
		return nil
	}
	c.s.failed.Add(uint64(len(spans)))
	now := c.s.clock.Now()
	if last := c.s.complained.Load(); (last == 0 || now-time.Duration(last) >= complainEvery) && c.s.complained.CompareAndSwap(last, int64(now)) && !errors.Is(err, context.Canceled) {
		c.s.log.Warn("spans are lost", "spans", len(spans), "error", err)
	}
	return nil // said already; the SDK would say it again, elsewhere
}

// given hands out the span ids that were decided when the request began, because
// upstream requests carried them.
type given struct{}

type givenKey struct{}

// NewIDs implements sdktrace.IDGenerator.
func (given) NewIDs(ctx context.Context) (oteltrace.TraceID, oteltrace.SpanID) {
	c, _ := ctx.Value(givenKey{}).(oteltrace.SpanContext)
	return c.TraceID(), c.SpanID()
}

// NewSpanID implements sdktrace.IDGenerator.
func (given) NewSpanID(ctx context.Context, _ oteltrace.TraceID) oteltrace.SpanID {
	c, _ := ctx.Value(givenKey{}).(oteltrace.SpanContext)
	return c.SpanID()
}

// Observe makes the spans of a request that is over, if it is sampled.
func (s *Spans) Observe(r *exchange.Record) {
	if !r.Trace.Sampled() {
		return
	}
	n := 1 + len(r.Attempts)
	if s.waiting.Add(int64(n)) > s.queue {
		s.waiting.Add(-int64(n))
		s.dropped.Add(uint64(n))
		return
	}
	s.made.Add(uint64(n))
	ctx := context.Background()
	if r.Trace.Parent != (trace.SpanID{}) {
		ctx = oteltrace.ContextWithRemoteSpanContext(ctx, spanContext(&r.Trace, r.Trace.Parent, true))
	}
	ctx = context.WithValue(ctx, givenKey{}, spanContext(&r.Trace, r.Trace.Span, false))
	start := s.clock.Time(r.Start)
	ctx, server := s.tracer.Start(ctx, serverName(r), oteltrace.WithSpanKind(oteltrace.SpanKindServer),
		oteltrace.WithTimestamp(start), oteltrace.WithAttributes(serverAttributes(r)...))
	if failed := serverError(r); failed != "" {
		server.SetAttributes(semconv.ErrorTypeKey.String(failed))
		server.SetStatus(otelcodes.Error, r.Detail)
	}
	for i := range r.Attempts {
		s.client(ctx, r, i)
	}
	server.End(oteltrace.WithTimestamp(s.clock.Time(r.Start + r.Duration)))
}

// client makes the span of one attempt.
func (s *Spans) client(ctx context.Context, r *exchange.Record, i int) {
	a := &r.Attempts[i]
	ctx = context.WithValue(ctx, givenKey{}, spanContext(&r.Trace, r.Trace.Child(i), false))
	attributes := append(request(r),
		attribute.String("overhear.endpoint", a.Endpoint.ID),
		attribute.String("overhear.outcome", a.Class.String()))
	attributes = append(attributes, peer(a.Endpoint.Address)...)
	if i > 0 {
		attributes = append(attributes, semconv.HTTPRequestResendCount(i))
	}
	if a.Hedge {
		attributes = append(attributes, attribute.Bool("overhear.hedge", true))
	}
	if a.Status != 0 {
		attributes = append(attributes, semconv.HTTPResponseStatusCode(a.Status))
	}
	name, _ := method(r)
	if r.GRPC {
		name = rpc(r)
	}
	begun := r.Start + a.Offset
	_, span := s.tracer.Start(ctx, name, oteltrace.WithSpanKind(oteltrace.SpanKindClient),
		oteltrace.WithTimestamp(s.clock.Time(begun)), oteltrace.WithAttributes(attributes...))
	switch {
	case a.Ending == outlier.EndHedgeLoser: // another one was faster, which is no error
	case a.Ending != outlier.EndComplete:
		span.SetAttributes(semconv.ErrorTypeKey.String(a.Ending.String()))
		span.SetStatus(otelcodes.Error, "")
	case a.Status >= 400:
		span.SetAttributes(semconv.ErrorTypeKey.String(strconv.Itoa(a.Status)))
		span.SetStatus(otelcodes.Error, "")
	case a.Class.Failure(): // by the status of a gRPC answer
		span.SetAttributes(semconv.ErrorTypeKey.String(a.Class.String()))
		span.SetStatus(otelcodes.Error, "")
	}
	span.End(oteltrace.WithTimestamp(s.clock.Time(begun + a.Duration)))
}

func spanContext(c *trace.Context, span trace.SpanID, remote bool) oteltrace.SpanContext {
	return oteltrace.NewSpanContext(oteltrace.SpanContextConfig{
		TraceID: c.Trace, SpanID: oteltrace.SpanID(span), TraceFlags: oteltrace.TraceFlags(c.Flags), Remote: remote,
	})
}

// serverName is what spans of one kind of request have in common.
func serverName(r *exchange.Record) string {
	if r.GRPC {
		return rpc(r)
	}
	name, _ := method(r)
	if r.Route != nil {
		name += " " + r.Route.Name
	}
	return name
}

// method is the request's method as span names and attributes want it: one of
// the known ones, else HTTP and _OTHER, so that nobody makes up names for us.
func method(r *exchange.Record) (name, value string) {
	switch m := string(r.Method); m {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY":
		return m, m
	}
	return "HTTP", "_OTHER"
}

// rpc is the full method of a gRPC request: its path without the first slash.
func rpc(r *exchange.Record) string {
	path := r.Path
	if len(path) > 0 && path[0] == '/' {
		path = path[1:]
	}
	return text(path)
}

// text is what a client sent as a string that OTLP takes: one field that is not
// UTF-8 would lose the whole batch, and long ones would fill the queue's memory.
func text(b []byte) string { return strings.ToValidUTF8(string(b[:min(len(b), maxText)]), "\uFFFD") }

// maxText is how much of a field that a client chose goes into a span.
const maxText = 1024

// request are the attributes that the spans of a request share.
func request(r *exchange.Record) []attribute.KeyValue {
	_, m := method(r)
	path, query := text(r.Path), ""
	for i := range r.Path {
		if r.Path[i] == '?' {
			path, query = text(r.Path[:i]), text(r.Path[i+1:])
			break
		}
	}
	all := append(make([]attribute.KeyValue, 0, 20),
		semconv.HTTPRequestMethodKey.String(m), semconv.URLScheme("http"), semconv.URLPath(path))
	if m == "_OTHER" {
		all = append(all, semconv.HTTPRequestMethodOriginal(text(r.Method)))
	}
	if query != "" {
		all = append(all, semconv.URLQuery(query))
	}
	if r.GRPC {
		all = append(all, semconv.RPCSystemNameGRPC, semconv.RPCMethod(rpc(r)))
		if r.GRPCStatus >= 0 {
			all = append(all, semconv.RPCResponseStatusCode(statusName(r.GRPCStatus)))
		}
	}
	return all
}

// statusName is how gRPC's documents write a status.
func statusName(code int) string {
	names := [...]string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
		"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}
	if code < len(names) {
		return names[code]
	}
	return strconv.Itoa(code)
}

func serverAttributes(r *exchange.Record) []attribute.KeyValue {
	all := request(r)
	if host, port, ok := hostPort(text(r.Host)); host != "" {
		all = append(all, semconv.ServerAddress(host))
		if ok {
			all = append(all, semconv.ServerPort(port))
		}
	}
	if r.Client != nil {
		if host, _, err := net.SplitHostPort(r.Client.String()); err == nil {
			all = append(all, semconv.ClientAddress(host))
		}
	}
	if len(r.UserAgent) > 0 {
		all = append(all, semconv.UserAgentOriginal(text(r.UserAgent)))
	}
	version := strconv.Itoa(r.Major)
	if r.Major == 1 {
		version += "." + strconv.Itoa(r.Minor)
	}
	all = append(all, semconv.NetworkProtocolVersion(version))
	if r.Status != 0 {
		all = append(all, semconv.HTTPResponseStatusCode(r.Status))
	}
	if r.Flags != 0 {
		all = append(all, attribute.String("overhear.flags", r.Flags.String()))
	}
	if r.Route != nil {
		all = append(all, attribute.String("overhear.route", r.Route.Name), attribute.String("overhear.cluster", r.Route.ClusterName))
	}
	return all
}

// serverError is what went wrong with a request by this side's fault; "": nothing.
func serverError(r *exchange.Record) string {
	switch {
	case r.GRPC && r.GRPCStatus >= 0:
		// The statuses that are a server's fault, by the conventions for gRPC.
		switch codes.Code(r.GRPCStatus) {
		case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
			return statusName(r.GRPCStatus)
		}
		return ""
	case r.Status >= 500:
		return strconv.Itoa(r.Status)
	case r.Status == 0:
		return r.Flags.String()
	}
	return ""
}

// peer says where an attempt went.
func peer(address string) []attribute.KeyValue {
	host, port, ok := hostPort(address)
	if !ok {
		return []attribute.KeyValue{semconv.ServerAddress(host)}
	}
	return []attribute.KeyValue{semconv.ServerAddress(host), semconv.ServerPort(port)}
}

// hostPort takes an authority apart; ok: it had a port.
func hostPort(s string) (host string, port int, ok bool) {
	h, p, err := net.SplitHostPort(s)
	if err != nil {
		return s, 0, false
	}
	port, err = strconv.Atoi(p)
	return h, port, err == nil
}
