package ping

import (
	"context"
	"errors"
	"net"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/outlier"
)

// errUsed keeps gRPC from connecting again: a ping is one connection.
var errUsed = errors.New("the ping's connection was used")

// call asks the health service over c.
func call(ctx context.Context, c net.Conn, t Target) outlier.ProbeResult {
	host := t.Host
	if host == "" {
		host = t.Address
	}
	var used atomic.Bool
	cc, err := grpc.NewClient("passthrough:///"+t.Address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errUsed
			}
			return c, nil
		}),
		grpc.WithAuthority(host), grpc.WithUserAgent("overhear-ping"),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithDisableHealthCheck(),
	)
	if err != nil {
		return outlier.NotRun // before a byte was sent
	}
	defer func() { _ = cc.Close() }()
	var header, trailer metadata.MD
	answer, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{Service: t.Service},
		grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil && ctx.Err() != nil {
		return failed(ctx, err)
	}
	for _, md := range []metadata.MD{header, trailer} {
		for _, origin := range md.Get(originHeader) {
			if r := marked(t, origin); r != outlier.ProbeOK {
				return r
			}
		}
	}
	switch code := status.Code(err); {
	case err == nil:
		if t.Want == Answered || answer.GetStatus() == healthpb.HealthCheckResponse_SERVING {
			return outlier.ProbeOK
		}
		return outlier.Unhealthy
	case header.Len() == 0 && trailer.Len() == 0:
		return outlier.Reset // gRPC made the status up: nobody answered in its language
	case t.Want == Answered, code == codes.Unimplemented && !t.Trial:
		// No health service, but a server that says so: alive, as gRPC's own
		// clients take it (gRFC A17).
		return outlier.ProbeOK
	}
	return outlier.Unhealthy
}
