package registry

import (
	"net/netip"
	"time"
)

// Mesh is one consistent list of services. It is immutable once a Registry has
// published it.
type Mesh struct {
	Services []Service `yaml:"services"`
}

// Protocol is what the endpoints of a service speak, as far as a sidecar has
// to know it.
type Protocol string

const (
	HTTP1 Protocol = "http1" // HTTP/1.1
	TCP   Protocol = "tcp"   // bytes, whatever they mean
)

// Service is what callers name, with the endpoints that offer it.
type Service struct {
	// Name is the name of the cluster and of its endpoints on the wire.
	Name string `yaml:"name"`
	// Protocol is http1 or tcp.
	Protocol Protocol `yaml:"protocol"`
	// ConnectTimeout bounds the time in which a connection must be up.
	ConnectTimeout time.Duration `yaml:"connect_timeout"`
	// Port is the port on which an unmodified Envoy that takes its whole
	// configuration from here listens for this service; 0: none.
	Port uint16 `yaml:"port"`
	// Hosts are the authorities that a route to this service matches, for
	// Envoys and gRPC clients. Empty: any.
	Hosts []string `yaml:"hosts"`
	// Ping says how an endpoint without traffic is asked whether it lives.
	Ping Ping `yaml:"ping"`
	// Endpoints are the addresses that offer the service.
	Endpoints []Endpoint `yaml:"endpoints"`
}

// Ping is how an idle endpoint of a service is asked whether it lives.
type Ping struct {
	// Kind is tcp or http.
	Kind string `yaml:"kind"`
	// Path is what an http ping asks for.
	Path string `yaml:"path"`
	// Host is the authority that an http ping names; empty: the address.
	Host string `yaml:"host"`
}

// Endpoint is one address that offers a service.
type Endpoint struct {
	// Address is an IP address and a port.
	Address netip.AddrPort `yaml:"address"`
	// Instance is the identity of the endpoint; empty: its address.
	Instance string `yaml:"instance"`
	Region   string `yaml:"region"`
	Zone     string `yaml:"zone"`
	// Node names the machine that the endpoint runs on. Observers on the same
	// machine are not asked to confirm that it is down.
	Node string `yaml:"node"`
	// Sidecar is the xDS node id of the sidecar beside the endpoint, the only
	// one that may report what happened inside it. Empty: whoever connects from
	// the endpoint's own IP address.
	Sidecar string `yaml:"sidecar"`
	// Weight is the share of the endpoint relative to the others, 1 to 10000;
	// default 1.
	Weight uint32 `yaml:"weight"`
	// Priority 0 is used first; the next one when too little of it is left.
	Priority uint32 `yaml:"priority"`
	// Inbound says that a sidecar stands before the application and marks the
	// answers that it gives in the application's place.
	Inbound bool `yaml:"inbound"`
	// Draining takes the endpoint out of use in peace.
	Draining bool `yaml:"draining"`
	// Labels are for people and for findings such as "all of version v2".
	Labels map[string]string `yaml:"labels"`
}

// ID is the identity of the endpoint inside its service.
func (e Endpoint) ID() string {
	if e.Instance != "" {
		return e.Instance
	}
	return e.Address.String()
}

// Len is the number of endpoints of all services.
func (m *Mesh) Len() int {
	n := 0
	for i := range m.Services {
		n += len(m.Services[i].Endpoints)
	}
	return n
}
