package controlplane

import (
	"context"
	"net"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/internal/httpguard"
)

// mayReadClients lets those ask for the state of all clients who are on this machine, or
// bear the token.
func (cp *ControlPlane) mayReadClients(ctx context.Context) error {
	if p, ok := peer.FromContext(ctx); ok {
		if tcp, ok := p.Addr.(*net.TCPAddr); ok && tcp.IP.IsLoopback() {
			return nil
		}
	}
	if cp.cfg.APIToken == "" {
		return status.Error(codes.PermissionDenied, "the state of clients is told on this machine alone: no api_token is set")
	}
	for _, authorization := range metadata.ValueFromIncomingContext(ctx, "authorization") {
		if httpguard.Bears(authorization, cp.cfg.APIToken) {
			return nil
		}
	}
	return status.Error(codes.Unauthenticated, "the state of clients is told to those who bear api_token: this call has none, or another")
}
