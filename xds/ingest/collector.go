package ingest

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	lrsv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc"
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
	// id is left. An error ends the stream, and is counted as a fault of the Envoy unless
	// it has a gRPC status; Leave is then not called.
	Join(s *Stream) error
	Evidence(s *Stream, r merge.Report)
	Leave(s *Stream)
}

const (
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
	streams
	cfg       Config
	sink      Sink
	directory Directory
	live      live[Stream] // by load reports
	polls     live[Stream]
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
}

// NewCollector starts nothing. now is the table's clock; perPrincipal bounds the streams
// of one principal.
func NewCollector(cfg Config, perPrincipal int, sink Sink, directory Directory, now func() time.Duration, log *slog.Logger) *Collector {
	return &Collector{
		streams: newStreams(perPrincipal, now, log),
		cfg:     cfg, sink: sink, directory: directory, dial: new(net.Dialer).DialContext,
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

// Stream is one Envoy that reports.
type Stream struct {
	reporter merge.Reporter
	seat     *report.Seat
	logs     logged
	unknown  atomic.Pointer[[]string] // of the newest load report; nil: there never were any
}

// Reporter is who reports.
func (s *Stream) Reporter() merge.Reporter { return s.reporter }

// UnknownClusters are the first clusters, sorted, of which an Envoy's newest load report or
// admin page spoke and that are no services of the mesh.
func (c *Collector) UnknownClusters(id string) []string {
	for _, l := range []*live[Stream]{&c.live, &c.polls} {
		if s := l.get(id); s != nil {
			if all := s.unknown.Load(); all != nil {
				return *all
			}
		}
	}
	return nil
}

// meet takes in which clusters are no services; first says that it is the first time that
// there are any. It keeps a copy.
func (s *Stream) meet(clusters []string) (first bool) {
	had := s.unknown.Load()
	first = had == nil && len(clusters) > 0
	if first || had != nil && !slices.Equal(*had, clusters) {
		s.unknown.Store(new(slices.Clone(clusters)))
	}
	return first
}

// StreamLoadStats serves one stream; gRPC calls it.
func (c *Collector) StreamLoadStats(srv lrsv3.LoadReportingService_StreamLoadStatsServer) error {
	return c.run(srv.Context(), func(ctx context.Context, end context.CancelCauseFunc) error { return c.receive(ctx, end, srv) })
}

// receive reads until the stream ends.
func (c *Collector) receive(ctx context.Context, end context.CancelCauseFunc, srv lrsv3.LoadReportingService_StreamLoadStatsServer) error {
	req, node, err := firstOf(ctx, &c.streams, end, srv.Recv, (*lrsv3.LoadStatsRequest).GetNode)
	if err != nil {
		return err
	}
	if resource.KindOf(node) != resource.Envoy {
		return c.rest(srv)
	}
	seat, err := c.seat(ctx, node.GetId(), end)
	if err != nil {
		return err
	}
	defer seat.Leave()
	s := &Stream{reporter: reporterOf(node, seat.Principal, c.now()), seat: seat}
	if err := c.sink.Join(s); err != nil {
		return c.faults.NotJoined(err)
	}
	defer c.sink.Leave(s)
	defer c.live.set(s.reporter.ID, s)()
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
		c.metrics.add(func(s *Stats) { s.Messages++ })
		c.tell(ctx, s, o, req, now)
		err := c.pace(ctx, bucket, now)
		if err != nil {
			return err
		}
		if req, err = srv.Recv(); err != nil {
			return err
		}
	}
}

// tell hands on what there is to tell of a load report.
func (c *Collector) tell(ctx context.Context, s *Stream, o *observer, req *lrsv3.LoadStatsRequest, now time.Duration) {
	r, ok := o.observe(req, now)
	c.faults.SetAside(ctx, s.seat, &o.refused)
	if s.meet(o.unknown) {
		c.faults.Tell(ctx, slog.LevelInfo, s.reporter.ID, UnknownCluster, "an envoy has clusters that are no services of the mesh", slog.Any("clusters", o.unknown))
	}
	if ok {
		r.Reporter, r.Incarnation = s.reporter.ID, s.reporter.Incarnation
		c.sink.Evidence(s, r)
	}
}

// rest serves a client that is no Envoy: a proxyless gRPC client that is told where to
// report has nothing to say of single endpoints.
func (c *Collector) rest(srv lrsv3.LoadReportingService_StreamLoadStatsServer) error {
	c.faults.Count(NotEnvoy, 1)
	if err := srv.Send(&lrsv3.LoadStatsResponse{LoadReportingInterval: durationpb.New(restInterval)}); err != nil {
		return err
	}
	for {
		if _, err := srv.Recv(); err != nil {
			return err
		}
	}
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
		Zone: node.GetLocality().GetZone(), Region: node.GetLocality().GetRegion(), Labels: labels, Observes: true,
	}
}
