package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	healthv3 "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report"
	"github.com/overhear-mesh/overhear/xds/resource"
)

// ProbeSink takes what Envoys have probed. Arrive comes first and Depart last; the calls
// of one stream may come at the same time.
type ProbeSink interface {
	Arrive(p *Prober)
	Probed(p *Prober, a Answer)
	Depart(p *Prober)
}

// NeverOrdered is a reason of refusal: the result of a check that nobody has asked for.
const NeverOrdered Refusal = "never_ordered"

// forever is an instant that does not come.
const forever = time.Duration(1<<63 - 1)

// Probing serves health discovery: Envoys that ask what to probe. Register it with a gRPC
// server.
type Probing struct {
	healthv3.UnimplementedHealthDiscoveryServiceServer
	cfg     Config
	sink    ProbeSink
	now     func() time.Duration
	log     *slog.Logger
	metrics metrics
	running sync.WaitGroup
	seats   *report.Seats
}

// NewProbing starts nothing. now is the table's clock; perPrincipal bounds the streams of
// one principal.
func NewProbing(cfg Config, perPrincipal int, sink ProbeSink, now func() time.Duration, log *slog.Logger) *Probing {
	return &Probing{cfg: cfg, sink: sink, now: now, log: log, seats: report.NewSeats(perPrincipal)}
}

// Register adds the service to a gRPC server, unless Envoys are not to probe.
func (g *Probing) Register(r grpc.ServiceRegistrar) {
	if g.cfg.Probes {
		healthv3.RegisterHealthDiscoveryServiceServer(r, g)
	}
}

// Wait returns when every stream has told the ProbeSink that it has left. Stop the gRPC
// server first.
func (g *Probing) Wait() { g.running.Wait() }

// Stats counts since the start.
func (g *Probing) Stats() Stats {
	var all Stats
	g.metrics.add(func(s *Stats) { all = *s; all.Refused = maps.Clone(s.Refused) })
	all.Streams = g.seats.Len()
	return all
}

// Prober is one Envoy that probes what it is asked to.
type Prober struct {
	id, principal string
	now           func() time.Duration
	cancel        context.CancelCauseFunc
	kick          chan struct{} // holds one: the docket has changed

	mu     sync.Mutex // guards what follows
	docket *docket
}

// ID is the id of the Envoy's node, and Principal who it is by its connection.
func (p *Prober) ID() string { return p.id }

// Principal is who the Envoy is by its connection.
func (p *Prober) Principal() string { return p.principal }

// Order has the Envoy make a probe now; false: it has too many.
func (p *Prober) Order(one Probe) (taken bool) {
	p.change(func(d *docket) { taken = d.order(one, p.now()) })
	return taken
}

// Cancel withdraws a probe.
func (p *Prober) Cancel(id merge.OrderID) { p.change(func(d *docket) { d.cancel(id) }) }

// Lease gives, renews or ends a lease; false: there are too many.
func (p *Prober) Lease(l Lease) (taken bool) {
	p.change(func(d *docket) { taken = d.lease(l, p.now()) })
	return taken
}

func (p *Prober) change(f func(*docket)) {
	p.mu.Lock()
	f(p.docket)
	p.mu.Unlock()
	p.wake()
}

// wake has the Envoy told what is news.
func (p *Prober) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// StreamHealthCheck serves one stream; gRPC calls it. It ends as StreamLoadStats does.
func (g *Probing) StreamHealthCheck(srv healthv3.HealthDiscoveryService_StreamHealthCheckServer) error {
	ctx, cancel := context.WithCancelCause(srv.Context())
	p := &Prober{now: g.now, cancel: cancel, kick: make(chan struct{}, 1)}
	g.running.Go(func() { cancel(g.receive(ctx, p, srv)) })
	<-ctx.Done()
	err := context.Cause(ctx)
	if errors.Is(err, context.Canceled) || errors.Is(err, io.EOF) {
		return nil // the peer is done
	}
	return err
}

// receive reads until the stream ends.
func (g *Probing) receive(ctx context.Context, p *Prober, srv healthv3.HealthDiscoveryService_StreamHealthCheckServer) error {
	late := time.AfterFunc(nodeWithin, func() {
		p.cancel(g.refuse(codes.DeadlineExceeded, BadNode, "no node within %s", nodeWithin))
	})
	defer late.Stop()
	m, err := srv.Recv()
	if err != nil {
		return err
	}
	if !late.Stop() {
		return context.Cause(ctx)
	}
	first := m.GetHealthCheckRequest()
	switch {
	case first.GetNode().GetId() == "":
		return g.refuse(codes.InvalidArgument, BadNode, "the first message must name a node")
	case resource.KindOf(first.GetNode()) != resource.Envoy:
		return g.refuse(codes.PermissionDenied, NotEnvoy, "node %q is no Envoy", first.GetNode().GetId())
	}
	p.id = first.GetNode().GetId()
	p.principal, _ = report.Identify(ctx)
	p.docket = newDocket(fmt.Sprintf("overhear-%016x", rand.Uint64()))
	leave, why, err := g.seats.Take(ctx, report.Sitter{ID: p.id, Principal: p.principal, End: p.cancel})
	if err != nil {
		if why != "" {
			g.metrics.refuse(map[Refusal]int{Refusal(why): 1})
		}
		return err
	}
	defer leave()
	g.sink.Arrive(p)
	defer g.sink.Depart(p)
	g.log.LogAttrs(ctx, slog.LevelInfo, "envoy probes", slog.String("reporter", p.id), slog.String("principal", p.principal))
	var telling sync.WaitGroup
	defer telling.Wait()
	telling.Go(func() { p.cancel(g.tell(ctx, p, srv)) })
	err = g.listen(ctx, p, srv)
	p.cancel(err)
	return err
}

// tell sends the Envoy what it is to probe, and keeps time.
func (g *Probing) tell(ctx context.Context, p *Prober, srv healthv3.HealthDiscoveryService_StreamHealthCheckServer) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-p.kick:
		case <-timer.C:
		}
		now := g.now()
		p.mu.Lock()
		late := p.docket.tick(now)
		m, news := p.docket.specifier()
		next := p.docket.next()
		p.mu.Unlock()
		for _, a := range late {
			g.sink.Probed(p, a)
		}
		if news {
			if err := srv.Send(m); err != nil {
				return err
			}
		}
		timer.Reset(max(0, next-g.now()))
	}
}

// listen hands on what the Envoy has found.
func (g *Probing) listen(ctx context.Context, p *Prober, srv healthv3.HealthDiscoveryService_StreamHealthCheckServer) error {
	bucket := report.NewBucket(tellEvery/2, burst)
	for {
		m, err := srv.Recv()
		if err != nil {
			return err
		}
		now := g.now()
		refused := map[Refusal]int{}
		p.mu.Lock()
		answers := p.docket.hear(m.GetEndpointHealthResponse(), now, refused)
		p.mu.Unlock()
		g.metrics.add(func(s *Stats) { s.Messages++ })
		g.metrics.refuse(refused)
		for _, a := range answers {
			g.sink.Probed(p, a)
		}
		if len(answers) > 0 {
			p.wake() // what is answered need not be checked again
		}
		if wait := bucket.Take(now); wait > 0 {
			g.metrics.add(func(s *Stats) { s.Throttled++ })
			if err := report.Pause(ctx, wait); err != nil {
				return err
			}
		}
	}
}

// refuse counts a stream that is not taken, and is the error that ends it.
func (g *Probing) refuse(code codes.Code, why Refusal, format string, args ...any) error {
	g.metrics.refuse(map[Refusal]int{why: 1})
	return status.Errorf(code, format, args...)
}
