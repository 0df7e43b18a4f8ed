package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// maxMessage bounds a message from the control plane: a first response holds every
// cluster, or the endpoints of every one of them.
const maxMessage = 64 << 20

// Dialer opens a connection. With one of its own a whole mesh runs in memory.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// DialOptions say how to reach a control plane. The zero value is TCP without TLS.
type DialOptions struct {
	Dialer Dialer                           // nil: the operating system's
	TLS    credentials.TransportCredentials // nil: plain text
}

// Dial returns a connection to the first of the addresses ("host:port") that
// answers, tried in the order given. It stays with that one until it is lost, and
// then begins at the front again. Dial itself does not wait for a connection.
//
// An idle connection is asked every 30 s whether it lives, so the gRPC server must
// allow that (keepalive.EnforcementPolicy): by default it hangs up on who asks more
// than once in five minutes.
func Dial(addresses []string, opts DialOptions) (*grpc.ClientConn, error) {
	if len(addresses) == 0 {
		return nil, errors.New("dial control plane: no address")
	}
	var state resolver.State
	for _, a := range addresses {
		host, _, err := net.SplitHostPort(a)
		if err != nil {
			return nil, fmt.Errorf("dial control plane: %w", err)
		}
		// The certificate of each is checked against its own name.
		state.Addresses = append(state.Addresses, resolver.Address{Addr: a, ServerName: host})
	}
	r := manual.NewBuilderWithScheme("overhear")
	r.InitialState(state)

	tls := opts.TLS
	if tls == nil {
		tls = insecure.NewCredentials()
	}
	dialer := opts.Dialer
	if dialer == nil {
		dialer = (&net.Dialer{}).DialContext
	}
	return grpc.NewClient("overhear:///controlplane",
		grpc.WithResolvers(r), // with the default policy, pick_first: in order and sticky
		grpc.WithTransportCredentials(tls),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialer(ctx, "tcp", address)
		}),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		// A control plane that comes back is found within a second, by however many.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
}
