package ping_test

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/ping"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// serveGRPC runs a real gRPC server at address until the test ends.
func serveGRPC(t *testing.T, n *pipenet.Network, register func(*grpc.Server), opts ...grpc.ServerOption) {
	t.Helper()
	ln, err := n.Host("10.0.0.2").Listen(t.Context(), "tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(opts...)
	register(s)
	go func() { _ = s.Serve(ln) }() // ends with Stop
	t.Cleanup(s.Stop)
}

// inState registers a health service that says status of the service greeter.
func inState(s healthpb.HealthCheckResponse_ServingStatus) func(*grpc.Server) {
	return func(g *grpc.Server) {
		h := health.NewServer()
		h.SetServingStatus("greeter", s)
		healthpb.RegisterHealthServer(g, h)
	}
}

// answers makes the server answer each call with code, marked as from origin.
func answers(code codes.Code, origin string) grpc.ServerOption {
	return grpc.UnaryInterceptor(func(ctx context.Context, _ any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
		if origin != "" {
			if err := grpc.SetTrailer(ctx, metadata.Pairs("x-overhear-origin", origin)); err != nil {
				return nil, err
			}
		}
		return nil, status.Error(code, "as told")
	})
}

func TestAGRPCPingTellsTheWaysToBeDeadApart(t *testing.T) {
	const up = healthpb.HealthCheckResponse_SERVING
	good := ping.Target{Want: ping.Good, Service: "greeter"}
	tests := []struct {
		name     string
		register func(*grpc.Server)
		opts     []grpc.ServerOption
		raw      func(*pipenet.Conn) // instead of a gRPC server
		target   ping.Target
		want     outlier.ProbeResult
		took     time.Duration
	}{
		{name: "serving", register: inState(up), target: good, want: outlier.ProbeOK},
		{name: "the server as a whole", register: inState(up), target: ping.Target{Want: ping.Good}, want: outlier.ProbeOK},
		{name: "not serving", register: inState(healthpb.HealthCheckResponse_NOT_SERVING), target: good, want: outlier.Unhealthy},
		{name: "not serving is an answer", register: inState(healthpb.HealthCheckResponse_NOT_SERVING), target: ping.Target{Want: ping.Answered, Service: "greeter"}, want: outlier.ProbeOK},
		{name: "a service that is not known", register: inState(up), target: ping.Target{Want: ping.Good, Service: "other"}, want: outlier.Unhealthy},
		{name: "no health service", register: func(*grpc.Server) {}, target: good, want: outlier.ProbeOK},
		{name: "no health service, on trial", register: func(*grpc.Server) {}, target: ping.Target{Want: ping.Good, Trial: true}, want: outlier.Unhealthy},
		{name: "internal error", register: inState(up), opts: []grpc.ServerOption{answers(codes.Internal, "")}, target: good, want: outlier.Unhealthy},

		{name: "nobody listens", target: good, want: outlier.Refused},
		{name: "hangs", raw: hang, target: good, want: outlier.TimedOut, took: time.Second},
		{name: "resets", raw: reset, target: good, want: outlier.Reset},
		{name: "speaks HTTP/1.1", raw: answer("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"), target: good, want: outlier.Reset},

		{name: "application refuses", register: inState(up), opts: []grpc.ServerOption{answers(codes.Unavailable, "app-refused")}, target: ping.Target{Want: ping.Answered, Inbound: true}, want: outlier.Refused},
		{name: "application hangs", register: inState(up), opts: []grpc.ServerOption{answers(codes.Unavailable, "app-timeout")}, target: ping.Target{Want: ping.Good, Inbound: true}, want: outlier.TimedOut},
		{name: "a mark from no sidecar is not believed", register: inState(up), opts: []grpc.ServerOption{answers(codes.Unavailable, "app-refused")}, target: ping.Target{Want: ping.Answered}, want: outlier.ProbeOK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := pipenet.New(1)
				switch {
				case tt.register != nil:
					serveGRPC(t, n, tt.register, tt.opts...)
				case tt.raw != nil:
					serve(t, n, tt.raw)
				}
				tt.target.GRPC = true
				if got, took := pingIn(t, n, tt.target); got != tt.want || took != tt.took {
					t.Errorf("Ping = %v after %v, want %v after %v", got, took, tt.want, tt.took)
				}
			})
		})
	}
}

func TestAGRPCPingIsOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := pipenet.New(1)
		serve(t, n, func(c *pipenet.Conn) { // takes the request, and dies
			_, _ = c.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0}) // SETTINGS
			_, _ = io.ReadFull(c, make([]byte, 100))
			_ = c.Reset()
		})
		dials := 0
		dial := func(ctx context.Context, network, address string) (net.Conn, error) {
			dials++
			return n.Host("10.0.0.1").Dial(ctx, network, address)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		got := ping.Ping(ctx, dial, ping.Target{Address: address, Want: ping.Good, GRPC: true})
		if got != outlier.Reset || dials != 1 {
			t.Errorf("Ping = %v over %d connections, want %v over one", got, dials, outlier.Reset)
		}
	})
}
