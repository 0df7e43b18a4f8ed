package cluster

import (
	"errors"
	"net"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/balancer"
	"github.com/overhear-mesh/overhear/proxy/ping"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// Protocol is what a cluster's endpoints speak.
type Protocol uint8

const (
	HTTP1 Protocol = iota // HTTP/1.1; the default
	TCP                   // bytes
	HTTP2                 // HTTP/2 with prior knowledge, gRPC included
)

var protocols = [...]string{HTTP1: "http1", TCP: "tcp", HTTP2: "http2"}

// String is the protocol's name in configuration files.
func (p Protocol) String() string { return strictyaml.NameOf(p, protocols[:], "protocol") }

// MarshalText writes the name that UnmarshalText reads.
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a protocol from a configuration file.
func (p *Protocol) UnmarshalText(text []byte) error {
	return strictyaml.SetName(p, protocols[:], text)
}

// Config is the policy of one cluster.
type Config struct {
	// Name by which routes and listeners call the cluster.
	Name string `yaml:"name"`
	// Service is what the control plane calls the set of endpoints; empty: this
	// cluster is nobody else's, and nothing is reported of it.
	Service string `yaml:"-"`
	// Protocol of its endpoints: http1, http2 (gRPC is that) or tcp. Default http1.
	Protocol Protocol `yaml:"protocol"`
	// ConnectTimeout of a new connection. Default 1s.
	ConnectTimeout time.Duration `yaml:"connect_timeout"`
	// IdleTimeout after which an unused connection is closed. Default 30s.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// MaxIdle is how many idle connections are kept per endpoint. Default 256.
	MaxIdle int `yaml:"max_idle"`
	// MaxConns per endpoint; 0 is no limit. Default 4096. Over HTTP/1.1, one request
	// more waits for its turn, within its time-outs and limits.pending.
	MaxConns int `yaml:"max_connections"`

	// Lifetime of a connection to an endpoint.
	Lifetime upstream.Lifetime `yaml:",inline"`
	// ProxyProtocol begins each connection with a PROXY header of that version, 1 or
	// 2, that names the client. For tcp. Default 0, none.
	ProxyProtocol int `yaml:"proxy_protocol"`

	Balancer balancer.Config          `yaml:"balancer"`
	Outlier  outlier.Config           `yaml:"outlier"`
	Ping     ping.Config              `yaml:"ping"`
	Limits   resilience.LimitsConfig  `yaml:"limits"`
	Breaker  resilience.BreakerConfig `yaml:"breaker"`
	Budget   resilience.BudgetConfig  `yaml:"retry_budget"`
}

// DefaultConfig is the policy of a cluster of which only the name is known.
func DefaultConfig() Config {
	connections := upstream.DefaultOptions()
	return Config{
		ConnectTimeout: connections.ConnectTimeout,
		IdleTimeout:    connections.IdleTimeout,
		MaxIdle:        connections.MaxIdle,
		MaxConns:       connections.MaxConns,
		Balancer:       balancer.DefaultConfig(),
		Outlier:        outlier.DefaultConfig(),
		Ping:           ping.DefaultConfig(),
		Limits:         resilience.DefaultLimitsConfig(),
		Breaker:        resilience.DefaultBreakerConfig(),
		Budget:         resilience.DefaultBudgetConfig(),
	}
}

// Validate speaks of the cluster's own fields, as the blocks within do of theirs.
func (c Config) Validate() error {
	var inVain error
	if c.Protocol == TCP {
		inVain = c.Lifetime.InVain()
	}
	return errors.Join(
		check(c.Name != "", "name", "want the name that routes use"),
		check(int(c.Protocol) < len(protocols), "protocol", "want one of %s", strings.Join(protocols[:], ", ")),
		check(c.ProxyProtocol >= 0 && c.ProxyProtocol <= 2, "proxy_protocol", "want 1, 2 or 0 for none, have %d", c.ProxyProtocol),
		check(c.ProxyProtocol == 0 || c.Protocol == TCP, "proxy_protocol", "goes with protocol tcp: connections of HTTP are shared by clients"),
		check(c.ConnectTimeout >= time.Millisecond && c.ConnectTimeout <= time.Minute, "connect_timeout", "want 1ms to 1m, have %s", c.ConnectTimeout),
		check(c.IdleTimeout >= 0 && c.IdleTimeout <= time.Hour, "idle_timeout", "want 0 (never) to 1h, have %s", c.IdleTimeout),
		check(c.MaxIdle >= 0, "max_idle", "want 0 or more, have %d", c.MaxIdle),
		check(c.MaxConns >= 0, "max_connections", "want 0 (no limit) or more, have %d", c.MaxConns),
		inVain,
		check(c.Protocol == HTTP1 || c.Ping.Kind != ping.HTTP, "ping", "an http ping needs protocol http1"),
		check(c.Protocol != HTTP1 || c.Ping.Kind != ping.GRPC, "ping", "a grpc ping does not go with protocol http1"),
	)
}

// Spec is one endpoint as discovery knows it.
type Spec struct {
	// ID is the identity: the instance that the registry names, else the address.
	ID string
	// Address is host:port.
	Address string
	// Zone and Node are where the endpoint runs, if known.
	Zone, Node string
	// Priority 0 is used first.
	Priority uint32
	// Weight relative to the other endpoints; 0 counts as 1.
	Weight uint32
	// Inbound: a sidecar stands in front of the application.
	Inbound bool
	// Draining: no new attempts.
	Draining bool
	// Labels are for people.
	Labels map[string]string
	// Verdict is what the control plane says; zero: nothing.
	Verdict outlier.Verdict
}

// Validate checks one endpoint.
func (s Spec) Validate() error {
	_, port, err := net.SplitHostPort(s.Address)
	return errors.Join(
		check(s.ID != "", "id", "want an instance or an address"),
		check(err == nil && port != "", "address", "want host:port, have %q", s.Address),
	)
}

func check(ok bool, field, format string, args ...any) error {
	if ok {
		return nil
	}
	return strictyaml.Invalid(field, format, args...)
}
