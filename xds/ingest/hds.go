package ingest

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	healthv3 "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

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
	streams
	cfg  Config
	sink ProbeSink
}

// NewProbing starts nothing. now is the table's clock; perPrincipal bounds the streams of
// one principal.
func NewProbing(cfg Config, perPrincipal int, sink ProbeSink, now func() time.Duration, log *slog.Logger) *Probing {
	return &Probing{streams: newStreams(perPrincipal, now, log), cfg: cfg, sink: sink}
}

// Register adds the service to a gRPC server, unless Envoys are not to probe.
func (g *Probing) Register(r grpc.ServiceRegistrar) {
	if g.cfg.Probes {
		healthv3.RegisterHealthDiscoveryServiceServer(r, g)
	}
}

// Prober is one Envoy that probes what it is asked to.
type Prober struct {
	now  func() time.Duration
	kick chan struct{} // holds one: the docket has changed
	seat *report.Seat

	mu     sync.Mutex // guards what follows
	docket *docket
}

// ID is the id of the Envoy's node, and Principal who it is by its connection.
func (p *Prober) ID() string { return p.seat.ID }

// Principal is who the Envoy is by its connection.
func (p *Prober) Principal() string { return p.seat.Principal }

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

// StreamHealthCheck serves one stream; gRPC calls it.
func (g *Probing) StreamHealthCheck(srv healthv3.HealthDiscoveryService_StreamHealthCheckServer) error {
	return g.run(srv.Context(), func(ctx context.Context, end context.CancelCauseFunc) error { return g.receive(ctx, end, srv) })
}

// receive reads until the stream ends.
func (g *Probing) receive(ctx context.Context, end context.CancelCauseFunc, srv healthv3.HealthDiscoveryService_StreamHealthCheckServer) error {
	_, node, err := firstOf(ctx, &g.streams, end, srv.Recv, func(m *healthv3.HealthCheckRequestOrEndpointHealthResponse) *corev3.Node {
		return m.GetHealthCheckRequest().GetNode()
	})
	if err != nil {
		return err
	}
	if resource.KindOf(node) != resource.Envoy {
		return g.faults.Refuse(codes.PermissionDenied, NotEnvoy, "node %q is no Envoy", node.GetId())
	}
	seat, err := g.seat(ctx, node.GetId(), end)
	if err != nil {
		return err
	}
	defer seat.Leave()
	p := &Prober{
		seat: seat, now: g.now, kick: make(chan struct{}, 1),
		docket: newDocket(fmt.Sprintf("%s%016x", docketPrefix, rand.Uint64())),
	}
	g.sink.Arrive(p)
	defer g.sink.Depart(p)
	g.log.LogAttrs(ctx, slog.LevelInfo, "envoy probes", slog.String("reporter", p.ID()), slog.String("principal", p.Principal()))
	var telling sync.WaitGroup
	defer telling.Wait()
	telling.Go(func() { end(g.tell(ctx, p, srv)) })
	err = g.listen(ctx, p, srv)
	end(err)
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
		var refused report.Aside
		p.mu.Lock()
		answers := p.docket.hear(m.GetEndpointHealthResponse(), now, &refused)
		p.mu.Unlock()
		g.metrics.add(func(s *Stats) { s.Messages++ })
		g.faults.SetAside(ctx, p.seat, &refused)
		for _, a := range answers {
			g.sink.Probed(p, a)
		}
		if len(answers) > 0 {
			p.wake() // what is answered need not be checked again
		}
		if err := g.pace(ctx, bucket, now); err != nil {
			return err
		}
	}
}
