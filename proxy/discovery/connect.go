package discovery

import (
	"context"
	"net"

	"google.golang.org/grpc"

	"github.com/overhear-mesh/overhear/xds/client"
)

// Node is who the sidecar says it is.
type Node = client.Node

// Connect returns the connection to the first control plane that answers, for
// discovery and reporting to share. It does not wait for one.
func Connect(addresses []string, dial func(ctx context.Context, network, address string) (net.Conn, error)) (*grpc.ClientConn, error) {
	return client.Dial(addresses, client.DialOptions{Dialer: dial})
}

// XDS is how to ask the control plane as that node, for these clusters only or,
// without any, for all, and for these listeners.
func XDS(node Node, clusters, listeners []string) client.Config {
	cfg := client.DefaultConfig()
	cfg.Node, cfg.Clusters, cfg.Listeners = node, clusters, listeners
	return cfg
}
