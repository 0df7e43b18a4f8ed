package ingest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	lrsv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report"
	"github.com/overhear-mesh/overhear/xds/resource"
)

// Sink takes what Envoys tell. All calls of one stream come from one goroutine, Join
// first and Leave last; those of different streams come at the same time. A Sink that
// blocks holds back the streams that call it, and no others.
type Sink interface {
	// Join is called when an Envoy has said who it is and no other stream of the same
	// id is left. An error ends the stream; Leave is then not called.
	Join(s *Stream) error
	Evidence(s *Stream, r merge.Report)
	Leave(s *Stream)
}

const (
	nodeWithin = 10 * time.Second // for the first message
	// restInterval is how often a client is asked to report that has nothing to say of
	// single endpoints. It cannot be told to be silent.
	restInterval = time.Hour
	// burst is how many messages more than the pace allows, two in each interval, are read
	// at once: what has waited on its way comes together.
	burst = 20
)

// Collector serves load reports. Register it with a gRPC server.
type Collector struct {
	lrsv3.UnimplementedLoadReportingServiceServer
	cfg       Config
	sink      Sink
	directory Directory
	now       func() time.Duration
	log       *slog.Logger
	metrics   metrics
	running   sync.WaitGroup
	seats     *report.Seats
	live      live // by load reports
	polls     live
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
}

// NewCollector starts nothing. now is the table's clock; perPrincipal bounds the streams
// of one principal.
func NewCollector(cfg Config, perPrincipal int, sink Sink, directory Directory, now func() time.Duration, log *slog.Logger) *Collector {
	return &Collector{
		cfg: cfg, sink: sink, directory: directory, now: now, log: log,
		seats: report.NewSeats(perPrincipal), dial: new(net.Dialer).DialContext,
	}
}

// Register adds the services to a gRPC server, unless load reports are not wanted; logs
// are of no use without them.
func (c *Collector) Register(r grpc.ServiceRegistrar) {
	if !c.cfg.LoadReports {
		return
	}
	lrsv3.RegisterLoadReportingServiceServer(r, c)
	if c.cfg.AccessLogs {
		alsv3.RegisterAccessLogServiceServer(r, &Logs{c: c})
	}
}

// Wait returns when every stream has told the Sink that it has left. Stop the gRPC
// server first.
func (c *Collector) Wait() { c.running.Wait() }

// Stats counts since the start.
func (c *Collector) Stats() Stats {
	var all Stats
	c.metrics.add(func(s *Stats) { all = *s; all.Refused = maps.Clone(s.Refused) })
	all.Streams = c.seats.Len()
	return all
}

// Stream is one Envoy that reports.
type Stream struct {
	reporter merge.Reporter
	cancel   context.CancelCauseFunc
	logs     logged
}

// Reporter is who reports.
func (s *Stream) Reporter() merge.Reporter { return s.reporter }

// StreamLoadStats serves one stream; gRPC calls it. gRPC ends a stream when this returns,
// which is also the only way to end a Recv that blocks: the goroutine ends after it.
func (c *Collector) StreamLoadStats(srv lrsv3.LoadReportingService_StreamLoadStatsServer) error {
	ctx, cancel := context.WithCancelCause(srv.Context())
	s := &Stream{cancel: cancel}
	c.running.Go(func() { cancel(c.receive(ctx, s, srv)) })
	<-ctx.Done()
	err := context.Cause(ctx)
	if errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) {
		return nil // the peer is done
	}
	return err
}

// receive reads until the stream ends.
func (c *Collector) receive(ctx context.Context, s *Stream, srv lrsv3.LoadReportingService_StreamLoadStatsServer) error {
	late := time.AfterFunc(nodeWithin, func() {
		s.cancel(c.refuse(codes.DeadlineExceeded, BadNode, "no node within %s", nodeWithin))
	})
	defer late.Stop()
	req, err := srv.Recv()
	if err != nil {
		return err
	}
	if !late.Stop() {
		return context.Cause(ctx)
	}
	node := req.GetNode()
	switch {
	case node.GetId() == "":
		return c.refuse(codes.InvalidArgument, BadNode, "the first message must name a node")
	case resource.KindOf(node) != resource.Envoy:
		return c.rest(srv)
	}
	principal, _ := report.Identify(ctx)
	leave, why, err := c.seats.Take(ctx, report.Sitter{ID: node.GetId(), Principal: principal, End: s.cancel})
	if err != nil {
		if why != "" {
			c.metrics.refuse(map[Refusal]int{Refusal(why): 1})
		}
		return err
	}
	defer leave()
	s.reporter = reporterOf(node, principal, c.now())
	if err := c.sink.Join(s); err != nil {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	defer c.sink.Leave(s)
	defer c.live.set(s)()
	c.log.LogAttrs(ctx, slog.LevelInfo, "envoy joined", slog.String("reporter", s.reporter.ID), slog.String("principal", s.reporter.Principal))
	defer func() {
		c.log.LogAttrs(ctx, slog.LevelInfo, "envoy left", slog.String("reporter", s.reporter.ID), slog.Any("cause", context.Cause(ctx)))
	}()
	if err := srv.Send(&lrsv3.LoadStatsResponse{
		SendAllClusters: true, ReportEndpointGranularity: true, LoadReportingInterval: durationpb.New(c.cfg.Interval),
	}); err != nil {
		return err
	}
	return c.listen(ctx, s, srv, req)
}

// listen hands on what the Envoy tells.
func (c *Collector) listen(ctx context.Context, s *Stream, srv lrsv3.LoadReportingService_StreamLoadStatsServer, req *lrsv3.LoadStatsRequest) error {
	o := newObserver(c.directory)
	o.logs = &s.logs
	bucket := report.NewBucket(c.cfg.Interval/2, burst)
	for {
		now := c.now()
		r, ok := o.observe(req, now)
		c.metrics.add(func(s *Stats) { s.Messages++ })
		c.metrics.refuse(o.refused)
		if ok {
			r.Reporter, r.Incarnation = s.reporter.ID, s.reporter.Incarnation
			c.sink.Evidence(s, r)
		}
		if wait := bucket.Take(now); wait > 0 {
			c.metrics.add(func(s *Stats) { s.Throttled++ })
			if err := report.Pause(ctx, wait); err != nil {
				return err
			}
		}
		var err error
		if req, err = srv.Recv(); err != nil {
			return err
		}
	}
}

// rest serves a client that is no Envoy: a proxyless gRPC client that is told where to
// report has nothing to say of single endpoints.
func (c *Collector) rest(srv lrsv3.LoadReportingService_StreamLoadStatsServer) error {
	c.metrics.refuse(map[Refusal]int{NotEnvoy: 1})
	if err := srv.Send(&lrsv3.LoadStatsResponse{LoadReportingInterval: durationpb.New(restInterval)}); err != nil {
		return err
	}
	for {
		if _, err := srv.Recv(); err != nil {
			return err
		}
	}
}

// refuse counts a stream that is not taken, and is the error that ends it.
func (c *Collector) refuse(code codes.Code, why Refusal, format string, args ...any) error {
	c.metrics.refuse(map[Refusal]int{why: 1})
	return status.Errorf(code, format, args...)
}

// reporterOf is the Envoy as a reporter. Counters begin with the stream, and so does the
// incarnation.
func reporterOf(node *corev3.Node, principal string, now time.Duration) merge.Reporter {
	said := node.GetMetadata().GetFields()[resource.MetadataKey].GetStructValue().GetFields()
	labels := map[string]string{"client": resource.Envoy.String()}
	if host := said["node"].GetStringValue(); host != "" {
		labels["node"] = host
	}
	return merge.Reporter{
		ID: node.GetId(), Incarnation: uint64(now), Principal: principal, Node: labels["node"],
		Zone: node.GetLocality().GetZone(), Region: node.GetLocality().GetRegion(), Labels: labels,
	}
}
