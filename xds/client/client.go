// Package client keeps one delta ADS stream and tells its handler what arrives.
package client

import (
	"context"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// Dialer opens a connection; it is how a whole mesh runs in memory.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// DialOptions say how to reach a control plane. The zero value is a plain TCP
// connection without TLS.
type DialOptions struct {
	Dialer Dialer                           // nil: the operating system's
	TLS    credentials.TransportCredentials // nil: plain text
}

// Dial returns a connection to the first of the addresses that answers, tried in
// the order given; it stays with that one until the connection is lost. It
// returns before any connection is made.
func Dial(addresses []string, opts DialOptions) (*grpc.ClientConn, error) { return nil, nil }

// Node is who this client says it is.
type Node struct {
	ID, Cluster  string
	Region, Zone string
	Version      string            // of this binary
	Labels       map[string]string // node metadata under resource.MetadataKey
}

// Config is how a client behaves. [DefaultConfig] has the defaults.
type Config struct {
	Node     Node
	Clusters []string // subscribe to these only; empty: to all that there are
	// Missing is how long a named resource may stay unanswered before it counts
	// as one that does not exist.
	Missing time.Duration
	// BackoffMin and BackoffMax bound the wait before the next stream when a
	// server ended one; jittered, doubling, back to the start after the first
	// good response.
	BackoffMin, BackoffMax time.Duration
}

// DefaultConfig returns the defaults; Node is the caller's to fill in.
func DefaultConfig() Config {
	return Config{Missing: 15 * time.Second, BackoffMin: 100 * time.Millisecond, BackoffMax: 5 * time.Second}
}

// Handler gets what arrives. Its methods are called by Run's goroutine, one at a
// time, and must not block. An error refuses: it goes to the server as a NACK, with
// its text, and the version held before stays the one that is told on a
// reconnect. What the client cannot decode never reaches the handler; what is good
// in the same response does.
type Handler interface {
	// Clusters brings clusters that are new or have changed, and the names of
	// those that are gone.
	Clusters(changed []resource.Cluster, removed []string) error
	// Endpoints does the same for the assignments of clusters. A name in removed
	// does not exist, or does not any more.
	Endpoints(changed []resource.Endpoints, removed []string) error
	// Stream says that the stream answers (up), or that it was lost and why.
	// State stays what it was.
	Stream(up bool, why error)
}

// Client is the sidecar's end of the xDS stream.
type Client struct {
	cc  grpc.ClientConnInterface
	cfg Config
	h   Handler
	log *slog.Logger
}

// New returns a client; Run starts it.
func New(cc grpc.ClientConnInterface, cfg Config, h Handler, log *slog.Logger) *Client {
	return &Client{cc: cc, cfg: cfg, h: h, log: log}
}

// Run keeps the stream until ctx ends; it returns nil then.
func (c *Client) Run(ctx context.Context) error { <-ctx.Done(); return nil }
