package main

import (
	"context"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// server is one that can be made to fail. It serves gRPC's health service, which everybody
// knows, and calls that are answered after 2 ms.
type server struct {
	healthpb.UnimplementedHealthServer
	name    string
	address string
	errors  atomic.Uint64 // of a million calls
	hangs   atomic.Bool
	grpc    *grpc.Server // nil: it has crashed
}

func serve(ctx context.Context, name string) (*server, error) {
	s := &server{name: name, address: "127.0.0.1:0"}
	return s, s.open(ctx)
}

// open listens, at the address that it had before if it had one.
func (s *server) open(ctx context.Context) error {
	lis, err := new(net.ListenConfig).Listen(ctx, "tcp", s.address)
	if err != nil {
		return err
	}
	s.address = lis.Addr().String()
	s.grpc = grpc.NewServer()
	healthpb.RegisterHealthServer(s.grpc, s)
	go func(g *grpc.Server) { _ = g.Serve(lis) }(s.grpc) // it ends by Stop
	return nil
}

// close ends it as a crash does: its listener and all of its connections are closed.
func (s *server) close() {
	if s.grpc != nil {
		s.grpc.Stop()
		s.grpc = nil
	}
}

// set makes it behave in a way until the next call.
func (s *server) set(ctx context.Context, b behaviour) error {
	s.errors.Store(uint64(b.errors * 1e6))
	s.hangs.Store(b.hangs)
	switch {
	case b.dead:
		s.close()
	case s.grpc == nil:
		return s.open(ctx)
	}
	return nil
}

// Check is the call that users make.
func (s *server) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if s.hangs.Load() {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	time.Sleep(2 * time.Millisecond)
	if rand.Uint64N(1e6) < s.errors.Load() {
		return nil, status.Errorf(codes.Internal, "%s fails", s.name)
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}
