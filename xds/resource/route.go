package resource

import (
	"net/netip"
	"time"
)

// Listener is where traffic enters: a port of an Envoy, or a target of gRPC.
type Listener struct {
	Name    string         // for gRPC: the target as the application dials it
	Address netip.AddrPort // where an Envoy listens; gRPC has none
	Route   string         // name of the [Route] that its requests take
	Cluster string         // instead of Route: carry opaque TCP to this cluster; Envoy only
}

// Route sends requests to clusters by their Host.
type Route struct {
	Name  string
	Hosts []VirtualHost
}

// VirtualHost is one entry of a [Route].
type VirtualHost struct {
	Name    string
	Domains []string // as in Envoy: exact, "*.suffix", "prefix.*" or "*"; a gRPC client matches its target
	Cluster string
	Timeout time.Duration // of the whole request with its retries; 0 means none
	Hash    []Hash        // what a Cluster that hashes goes by
}

// Hash is something of a request that hashing goes by: one field is given.
type Hash struct {
	Header, Cookie, Query string // a name
	Source                bool   // the client's address
}
