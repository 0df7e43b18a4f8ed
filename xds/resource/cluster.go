package resource

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Protocol is what an endpoint of a cluster speaks.
type Protocol string

// The protocols; the empty Protocol is HTTP1.
const (
	HTTP1    Protocol = "http1"
	HTTP2    Protocol = "http2"
	GRPCWire Protocol = "grpc"
	TCP      Protocol = "tcp"
)

// PingKind is how an endpoint is pinged when there is no traffic to listen to.
type PingKind string

// The kinds of pings; the empty PingKind is PingTCP.
const (
	PingOff  PingKind = "off"
	PingTCP  PingKind = "tcp"
	PingHTTP PingKind = "http"
	PingGRPC PingKind = "grpc"
)

// Ping says how to ping an endpoint.
type Ping struct {
	Kind    PingKind
	Path    string // of an HTTP ping; "" means /
	Host    string // the Host header of an HTTP ping; "" means the address
	Service string // of a gRPC health check; "" is the whole server
}

// Policy is how a sidecar treats a cluster. It travels inside the cluster, to
// sidecars only.
type Policy struct {
	Protocol Protocol
	Ping     Ping
	Outlier  outlier.Config
}

// DefaultPolicy is the policy of a cluster that brings none.
func DefaultPolicy() Policy {
	return Policy{Protocol: HTTP1, Ping: Ping{Kind: PingTCP}, Outlier: outlier.DefaultConfig()}
}

// Cluster is a named destination; its endpoints come separately, as [Endpoints]
// of its service.
type Cluster struct {
	Name           string
	Service        string        // name of its [Endpoints]; "" means Name
	ConnectTimeout time.Duration // 0 means [DefaultConnectTimeout]
	Policy         Policy
}

// DefaultConnectTimeout is the connect timeout of a cluster that brings none.
const DefaultConnectTimeout = time.Second

// EDSName is the name of the cluster's [Endpoints].
func (c Cluster) EDSName() string {
	if c.Service != "" {
		return c.Service
	}
	return c.Name
}
