package main

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/xds"

	"github.com/overhear-mesh/overhear/test/plane"
	"github.com/overhear-mesh/overhear/test/trial"
	"github.com/overhear-mesh/overhear/xds/controlplane"
	"github.com/overhear-mesh/overhear/xds/registry"
	"github.com/overhear-mesh/overhear/xds/report/grpcstats"
)

// patience is how long a user waits for an answer.
const patience = time.Second

// fleet is a control plane, the servers that it knows, and clients.
type fleet struct {
	evidence bool // its clients report
	plane    *plane.Plane
	servers  []*server
	clients  []healthpb.HealthClient
	ends     []func() // what must end, in reverse
	running  sync.WaitGroup
	ledger   *trial.Ledger
}

// start starts everything and waits until each client gets answers.
func start(ctx context.Context, o options, evidence bool) (*fleet, error) {
	f := &fleet{evidence: evidence, ledger: &trial.Ledger{}}
	if err := f.startAll(ctx, o); err != nil {
		f.stop()
		return nil, err
	}
	return f, nil
}

func (f *fleet) startAll(ctx context.Context, o options) error {
	service := registry.NewService("api")
	service.Protocol = registry.GRPC
	for i := range o.servers {
		s, err := serve(ctx, name(i))
		if err != nil {
			return err
		}
		f.servers = append(f.servers, s)
		f.ends = append(f.ends, s.close)
		service.Endpoints = append(service.Endpoints, registry.Endpoint{
			Address: netip.MustParseAddrPort(s.address), Instance: s.name, Zone: "a", Weight: 1,
		})
	}
	p, err := plane.Start(controlplane.DefaultConfig(), controlplane.Options{Version: "grpc-proxyless"}, service)
	if err != nil {
		return err
	}
	f.plane = p
	follow, cancel := context.WithCancel(ctx)
	f.running.Go(func() { p.Verdicts(follow, f.ledger.Verdict) })
	f.ends = append(f.ends, func() {
		cancel()
		_ = p.Stop() // what it was to show has been seen
	})
	for i := range o.clients {
		if err := f.startClient(i); err != nil {
			return err
		}
	}
	for _, c := range f.clients {
		if err := trial.Wait(ctx, "an answer for each client", func() error { return call(ctx, c) }); err != nil {
			return err
		}
	}
	return nil
}

func name(i int) string { return fmt.Sprintf("api-%d", i+1) }

// startClient makes a client as a program of its own would. A program reads its bootstrap
// from GRPC_XDS_BOOTSTRAP and needs neither resolver nor Config for that; here are many in
// one, each with a node id of its own.
func (f *fleet) startClient(i int) error {
	bootstrap := fmt.Appendf(nil, `{
		"xds_servers": [ { "server_uri": %q, "channel_creds": [ { "type": "insecure" } ], "server_features": [ "xds_v3" ] } ],
		"node": { "id": "client-%d", "locality": { "zone": "a" } } }`, f.plane.XDS, i+1)
	resolver, err := xds.NewXDSResolverWithConfigForTesting(bootstrap)
	if err != nil {
		return err
	}
	options := []grpc.DialOption{grpc.WithResolvers(resolver), grpc.WithTransportCredentials(insecure.NewCredentials())}
	if f.evidence {
		reporter, err := grpcstats.Start(grpcstats.Config{Bootstrap: bootstrap, Node: fmt.Sprintf("host-%d", i+1)})
		if err != nil {
			return err
		}
		f.ends = append(f.ends, reporter.Close)
		options = append(options, grpc.WithStatsHandler(reporter.Handler("xds:///api")))
	}
	conn, err := grpc.NewClient("xds:///api", options...)
	if err != nil {
		return err
	}
	f.ends = append(f.ends, func() { _ = conn.Close() }) // nobody calls any more
	f.clients = append(f.clients, healthpb.NewHealthClient(conn))
	return nil
}

// drive makes calls at a rate until ctx ends.
func (f *fleet) drive(ctx context.Context, users *sync.WaitGroup, rate float64) {
	for _, c := range f.clients {
		users.Go(func() {
			f.ledger.Drive(ctx, rate/float64(len(f.clients)), func() error { return call(context.WithoutCancel(ctx), c) })
		})
	}
}

func call(ctx context.Context, c healthpb.HealthClient) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := c.Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

// stop ends everything.
func (f *fleet) stop() {
	for i := len(f.ends) - 1; i >= 0; i-- {
		f.ends[i]()
	}
	f.running.Wait()
}
