package translation

import (
	"fmt"
	"math"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	leastrequestv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ringhashv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundrobinv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	upstreamproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawbufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/balancer"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/ping"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/xds/resource"
)

// Clustered is a Cluster as the file would have it.
type Clustered struct {
	Config cluster.Config
	// Static: its endpoints stand in the message; else they come by Config.Service.
	Static    bool
	Endpoints []cluster.Spec
	// Ignored are fields that ask for something which is not done here.
	Ignored []string
}

var (
	protocols  = map[resource.Protocol]cluster.Protocol{resource.HTTP1: cluster.HTTP1, resource.TCP: cluster.TCP, resource.HTTP2: cluster.HTTP2, resource.GRPCWire: cluster.HTTP2}
	pings      = map[resource.PingKind]ping.Kind{resource.PingTCP: ping.TCP, resource.PingHTTP: ping.HTTP, resource.PingGRPC: ping.GRPC, resource.PingOff: ping.Off}
	balancings = map[resource.Balancing]balancer.Policy{resource.P2C: balancer.P2C, resource.LeastRequest: balancer.LeastRequest, resource.RoundRobin: balancer.RoundRobin,
		resource.Random: balancer.Random, resource.RingHash: balancer.RingHash, resource.Maglev: balancer.Maglev}
)

// Cluster reads a Cluster. The error joins a [resource.FieldError] for each thing that
// is wrong.
func Cluster(m *clusterv3.Cluster) (Clustered, error) {
	p := newProblems("cluster", m.GetName())
	walk(m, "", p)
	if err := p.Err(); err != nil {
		return Clustered{}, err
	}
	base, err := resource.DecodeCluster(dynamic(m))
	if err != nil {
		return Clustered{}, err
	}
	c := Clustered{Config: cluster.DefaultConfig(), Static: m.GetType() == clusterv3.Cluster_STATIC, Ignored: base.Ignored}
	cfg := &c.Config
	cfg.Name, cfg.ConnectTimeout, cfg.Outlier = base.Name, base.ConnectTimeout, base.Policy.Outlier
	if m.GetMetadata().GetTypedFilterMetadata()[resource.MetadataKey] != nil {
		ours(base.Policy, cfg)
	} else {
		foreign(m, cfg, p)
	}
	if c.Static {
		c.Endpoints = inline(m.GetLoadAssignment(), p)
	} else {
		cfg.Service = base.EDSName()
		if m.GetLoadAssignment() != nil {
			p.Add("load_assignment", "does not go with type EDS")
		}
	}
	if err := p.Err(); err != nil {
		return Clustered{}, err
	}
	p.wrap("as cluster", strictyaml.Validate(cfg))
	return c, p.Err()
}

// dynamic is a cluster that resource can read, which knows those of type EDS.
func dynamic(m *clusterv3.Cluster) *clusterv3.Cluster {
	if m.GetType() != clusterv3.Cluster_STATIC {
		return m
	}
	c := proto.CloneOf(m)
	c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
	c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}}
	return c
}

// ours is what our own control plane says.
func ours(policy resource.Policy, cfg *cluster.Config) {
	cfg.Protocol = protocols[policy.Protocol]
	cfg.Ping.Kind = pings[policy.Ping.Kind]
	if policy.Ping.Path != "" {
		cfg.Ping.Path = policy.Ping.Path
	}
	cfg.Ping.Host, cfg.Ping.Service = policy.Ping.Host, policy.Ping.Service
	cfg.Balancer.Policy, cfg.Balancer.BoundedLoad = balancings[policy.Balancer.Policy], policy.Balancer.BoundedLoad
}

// foreign reads the fields of which our own control plane's policy takes the place.
func foreign(m *clusterv3.Cluster, cfg *cluster.Config, p *problems) {
	balance(m, cfg, p)
	limits(m.GetCircuitBreakers(), cfg, p)
	protocol(m, cfg, p)
	health(m.GetHealthChecks(), cfg, p)
	transport(m.GetTransportSocket(), cfg, p)
	common := m.GetCommonLbConfig()
	if t := common.GetHealthyPanicThreshold(); t != nil {
		cfg.Outlier.Panic = t.GetValue() / 100
		if !(cfg.Outlier.Panic >= 0 && cfg.Outlier.Panic <= 1) {
			p.Add("common_lb_config.healthy_panic_threshold", "is %v: want 0 to 100", t.GetValue())
		}
	}
	if f := common.GetConsistentHashingLbConfig().GetHashBalanceFactor(); f != nil {
		if cfg.Balancer.BoundedLoad = float64(f.GetValue()) / 100; f.GetValue() < 100 && f.GetValue() > 0 {
			p.Add("common_lb_config.consistent_hashing_lb_config.hash_balance_factor", "is %d: want 100 or more", f.GetValue())
		}
	}
}

var lbPolicies = map[clusterv3.Cluster_LbPolicy]balancer.Policy{
	clusterv3.Cluster_ROUND_ROBIN: balancer.RoundRobin, clusterv3.Cluster_LEAST_REQUEST: balancer.LeastRequest, clusterv3.Cluster_RANDOM: balancer.Random,
	clusterv3.Cluster_RING_HASH: balancer.RingHash, clusterv3.Cluster_MAGLEV: balancer.Maglev,
}

// balance reads the policy by which endpoints are chosen.
func balance(m *clusterv3.Cluster, cfg *cluster.Config, p *problems) {
	if m.GetLoadBalancingPolicy() == nil {
		policy, known := lbPolicies[m.GetLbPolicy()]
		if !known {
			p.Add("load_balancing_policy", "is not given, and lb_policy wants it")
		}
		cfg.Balancer.Policy = policy
		return
	}
	for i, one := range m.GetLoadBalancingPolicy().GetPolicies() {
		at := fmt.Sprintf("load_balancing_policy.policies[%d].typed_extension_config", i)
		config := unpack(one.GetTypedExtensionConfig().GetTypedConfig())
		switch config.(type) {
		case *roundrobinv3.RoundRobin:
			cfg.Balancer.Policy = balancer.RoundRobin
		case *leastrequestv3.LeastRequest:
			cfg.Balancer.Policy = balancer.LeastRequest
		case *randomv3.Random:
			cfg.Balancer.Policy = balancer.Random
		case *ringhashv3.RingHash:
			cfg.Balancer.Policy = balancer.RingHash
		case *maglevv3.Maglev:
			cfg.Balancer.Policy = balancer.Maglev
		default:
			continue // the list is for clients that know less, or more
		}
		walk(config, at+"."+snake(string(config.ProtoReflect().Descriptor().Name())), p)
		return
	}
	p.Add("load_balancing_policy.policies", "has none that is supported: want RoundRobin, LeastRequest, Random, RingHash or Maglev")
}

// limits reads the circuit breakers of requests of the usual priority, the only one.
func limits(m *clusterv3.CircuitBreakers, cfg *cluster.Config, p *problems) {
	if n := len(m.GetThresholds()); n > 1 {
		p.Add("circuit_breakers.thresholds", "are %d: want one", n)
	}
	for _, t := range m.GetThresholds() {
		for _, l := range []struct {
			value interface{ GetValue() uint32 }
			given bool
			to    *int
		}{
			{t.GetMaxConnections(), t.GetMaxConnections() != nil, &cfg.Limits.Connections},
			{t.GetMaxConnections(), t.GetMaxConnections() != nil, &cfg.MaxConns},
			{t.GetMaxPendingRequests(), t.GetMaxPendingRequests() != nil, &cfg.Limits.Pending},
			{t.GetMaxRequests(), t.GetMaxRequests() != nil, &cfg.Limits.Requests},
			{t.GetMaxRetries(), t.GetMaxRetries() != nil, &cfg.Limits.Retries},
		} {
			switch v := l.value.GetValue(); {
			case !l.given:
			case v == 0:
				p.Add("circuit_breakers.thresholds[0]", "has a limit of 0: want 1 or more")
			case v >= math.MaxInt32:
				*l.to = 0 // no limit
			default:
				*l.to = int(v)
			}
		}
	}
}

// protocol reads what endpoints speak.
func protocol(m *clusterv3.Cluster, cfg *cluster.Config, p *problems) {
	if m.GetHttp2ProtocolOptions() != nil { //nolint:staticcheck // deprecated for years, and still what many control planes send
		cfg.Protocol = cluster.HTTP2
	}
	common(m.GetCommonHttpProtocolOptions(), "common_http_protocol_options", cfg, p) //nolint:staticcheck // the same
	const key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	for name, a := range m.GetTypedExtensionProtocolOptions() {
		at := fmt.Sprintf("typed_extension_protocol_options[%q]", clip(name))
		o, ok := unpack(a).(*upstreamsv3.HttpProtocolOptions)
		if !ok || name != key {
			p.Add(at, "is not supported: want %s", key)
			continue
		}
		common(o.GetCommonHttpProtocolOptions(), at+".common_http_protocol_options", cfg, p)
		switch o.GetExplicitHttpConfig().GetProtocolConfig().(type) {
		case *upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions:
			cfg.Protocol = cluster.HTTP2
		case *upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions:
			cfg.Protocol = cluster.HTTP1
		default:
			p.Add(at+".explicit_http_config", "is empty: want http_protocol_options or http2_protocol_options")
		}
	}
}

func common(m *corev3.HttpProtocolOptions, at string, cfg *cluster.Config, p *problems) {
	if m.GetIdleTimeout() != nil {
		cfg.IdleTimeout = duration(m.GetIdleTimeout(), at+".idle_timeout", p)
	}
	if m != nil {
		cfg.Lifetime = lifetime(m, at, p)
	}
}

// lifetime is for how long a connection of HTTP is used.
func lifetime(m *corev3.HttpProtocolOptions, at string, p *problems) upstream.Lifetime {
	l := upstream.Lifetime{MaxRequests: int(m.GetMaxRequestsPerConnection().GetValue())}
	if m.GetMaxConnectionDuration() != nil {
		l.MaxDuration = duration(m.GetMaxConnectionDuration(), at+".max_connection_duration", p)
	}
	p.wrap(at, l.Validate())
	return l
}

// health reads how an endpoint without traffic is pinged.
func health(checks []*corev3.HealthCheck, cfg *cluster.Config, p *problems) {
	if len(checks) > 1 {
		p.Add("health_checks", "are %d: want one at most", len(checks))
	}
	for _, c := range checks {
		if c.GetTimeout() != nil {
			cfg.Ping.Timeout = duration(c.GetTimeout(), "health_checks[0].timeout", p)
		}
		switch by := c.GetHealthChecker().(type) {
		case *corev3.HealthCheck_HttpHealthCheck_:
			cfg.Ping.Kind, cfg.Ping.Host, cfg.Ping.Path = ping.HTTP, by.HttpHealthCheck.GetHost(), by.HttpHealthCheck.GetPath()
		case *corev3.HealthCheck_GrpcHealthCheck_:
			cfg.Ping.Kind, cfg.Ping.Host, cfg.Ping.Service = ping.GRPC, by.GrpcHealthCheck.GetAuthority(), by.GrpcHealthCheck.GetServiceName()
		case *corev3.HealthCheck_TcpHealthCheck_:
			cfg.Ping.Kind = ping.TCP
		default:
			p.Add("health_checks[0]", "has no health_checker: want http_health_check, tcp_health_check or grpc_health_check")
		}
	}
}

// transport reads what surrounds the bytes of a connection.
func transport(m *corev3.TransportSocket, cfg *cluster.Config, p *problems) {
	if m == nil {
		return
	}
	switch s := unpack(m.GetTypedConfig()).(type) {
	case *rawbufferv3.RawBuffer:
	case *upstreamproxyv3.ProxyProtocolUpstreamTransport:
		cfg.Protocol, cfg.ProxyProtocol = cluster.TCP, 1+int(s.GetConfig().GetVersion())
		if _, raw := unpack(s.GetTransportSocket().GetTypedConfig()).(*rawbufferv3.RawBuffer); !raw {
			p.Add("transport_socket.transport_socket", "is not supported: want RawBuffer, there is no TLS")
		}
	default:
		p.Add("transport_socket", "is not supported: want RawBuffer, there is no TLS")
	}
}

// inline reads the endpoints of a STATIC cluster. They go by no service: nothing is
// reported of them, as of a cluster of the file.
func inline(m *endpointv3.ClusterLoadAssignment, p *problems) []cluster.Spec {
	if m == nil {
		p.Add("load_assignment", "is missing: want the endpoints of a STATIC cluster")
		return nil
	}
	e, err := resource.DecodeEndpoints(m)
	p.wrap("load_assignment", err)
	return Specs(e)
}

// Specs are the endpoints of an assignment.
func Specs(a resource.Endpoints) []cluster.Spec {
	specs := make([]cluster.Spec, 0, len(a.Endpoints))
	for _, e := range a.Endpoints {
		specs = append(specs, cluster.Spec{
			ID: e.ID(), Address: e.Address.String(), Zone: e.Zone, Node: e.Node,
			Priority: e.Priority, Weight: e.Weight, Inbound: e.Inbound, Draining: e.Draining,
			Labels: e.Labels, Verdict: e.Verdict,
		})
	}
	return specs
}

// Endpoints reads an assignment. One that asks for something which is not done here is
// refused before.
func Endpoints(m *endpointv3.ClusterLoadAssignment) (resource.Endpoints, error) {
	if err := checkEndpoints(m); err != nil {
		return resource.Endpoints{}, err
	}
	return resource.DecodeEndpoints(m)
}

func checkEndpoints(m *endpointv3.ClusterLoadAssignment) error {
	p := newProblems("endpoints", m.GetClusterName())
	walk(m, "", p)
	return p.Err()
}
