package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/xds/ingest"
	"github.com/overhear-mesh/overhear/xds/report"
	"github.com/overhear-mesh/overhear/xds/server"
)

// ControlPlane serves xDS, takes reports and answers operators.
type ControlPlane struct {
	cfg       Config
	opts      Options
	server    *server.Server
	history   *history
	store     *store
	loop      *loop
	collector *report.Collector
	loads     *ingest.Collector
	probing   *ingest.Probing
	followers chan struct{} // one for each who follows the events
}

// New checks cfg and starts nothing. The clock of the evidence begins here.
func New(cfg Config, opts Options) (*ControlPlane, error) {
	if err := strictyaml.Validate(cfg); err != nil {
		return nil, err
	}
	if opts.Registry == nil {
		return nil, errors.New("a control plane needs a registry")
	}
	if opts.Listen == nil {
		var lc net.ListenConfig
		opts.Listen = lc.Listen
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	for opts.Seed == 0 {
		opts.Seed = rand.Uint64()
	}
	cp := &ControlPlane{
		cfg: cfg, opts: opts,
		server:    server.New(cfg.Server, opts.Log),
		history:   newHistory(cfg.Events),
		store:     newStore(cfg.StateDir, opts.Log),
		followers: make(chan struct{}, maxFollowers),
	}
	cp.loop = newLoop(cfg, opts, cp.server, cp.history, cp.store)
	cp.collector = report.NewCollector(cfg.Reports, sink{cp.loop, cp.server}, &cp.loop.owners, cp.loop.now, opts.Log)
	cp.loads = ingest.NewCollector(cfg.Envoys, cfg.Reports.ReportersPerPrincipal, envoySink{sink{cp.loop, cp.server}}, &cp.loop.addresses, cp.loop.now, opts.Log)
	cp.probing = ingest.NewProbing(cfg.Envoys, cfg.Reports.ReportersPerPrincipal, probeSink{cp.loop}, cp.loop.now, opts.Log)
	return cp, nil
}

// Opened is closed when the gate has opened: from then on clients are answered.
func (cp *ControlPlane) Opened() <-chan struct{} { return cp.loop.opened }

// Run serves until ctx ends, and returns when all that it started has ended. It
// may be called once.
func (cp *ControlPlane) Run(ctx context.Context) error {
	if cp.cfg.StateDir != "" {
		if err := os.MkdirAll(cp.cfg.StateDir, 0o700); err != nil {
			return fmt.Errorf("state_dir: %w", err)
		}
	}
	xds, err := cp.opts.Listen(ctx, "tcp", cp.cfg.XDS)
	if err != nil {
		return fmt.Errorf("xds: %w", err)
	}
	api, err := cp.opts.Listen(ctx, "tcp", cp.cfg.HTTP)
	if err != nil {
		_ = xds.Close() // nothing was served on it
		return fmt.Errorf("http: %w", err)
	}
	cp.opts.Log.Info("listening", "xds", xds.Addr().String(), "http", api.Addr().String(), "version", cp.opts.Version, "seed", cp.opts.Seed)

	if cp.cfg.StateDir == "" {
		cp.opts.Log.Warn("no state_dir is set: verdicts and operators' orders end with this process")
	}
	cp.loop.load()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return cp.opts.Registry.Run(ctx) })
	g.Go(func() error { return cp.serveGRPC(ctx, xds) })
	g.Go(func() error { return cp.serveHTTP(ctx, api) })
	g.Go(func() error { return cp.loads.Poll(ctx) })
	// The loop gives its last memory to the store, which therefore ends after it.
	stored, done := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { defer done(); return cp.loop.run(ctx) })
	g.Go(func() error { return cp.store.run(stored) })
	return g.Wait()
}

// serveGRPC serves xDS, reports and gRPC health on one port. Streams have no end
// of their own, so that there is nothing to wait for when ctx ends: clients keep
// what they have and come again.
func (cp *ControlPlane) serveGRPC(ctx context.Context, lis net.Listener) error {
	s := grpc.NewServer(append(server.Options(),
		grpc.ConnectionTimeout(10*time.Second),
		// A client needs two or three; an aggregator in front of many, some hundred.
		grpc.MaxConcurrentStreams(1024),
	)...)
	cp.server.Register(s)
	cp.server.RegisterStatus(s, cp.mayReadClients)
	reflection.Register(s) // for grpcurl: what services and messages there are, and nothing of the mesh
	cp.collector.Register(s)
	cp.loads.Register(s)
	cp.probing.Register(s)
	healthy := health.NewServer()
	healthy.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	grpc_health_v1.RegisterHealthServer(s, healthy)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		select {
		case <-cp.loop.opened:
			healthy.SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
			<-ctx.Done()
		case <-ctx.Done():
		}
		healthy.Shutdown()
		s.Stop()
		return nil
	})
	g.Go(func() error { return s.Serve(lis) })
	err := g.Wait()
	cp.collector.Wait()
	cp.loads.Wait()
	cp.probing.Wait()
	return err
}

// serveHTTP serves operators, probes and metrics.
func (cp *ControlPlane) serveHTTP(ctx context.Context, lis net.Listener) error {
	s := &http.Server{
		Handler:           cp.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(cp.opts.Log.Handler(), slog.LevelDebug),
		// Whoever follows the events is told to go when ctx ends.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if s.Shutdown(grace) != nil {
			return s.Close()
		}
		return nil
	})
	g.Go(func() error {
		if err := s.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return g.Wait()
}
