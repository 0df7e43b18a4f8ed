package resource

import (
	"fmt"
	"math"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	leastrequestv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	roundrobinv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	wrrlocalityv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// httpProtocolOptions is the key under which Envoy looks for the protocol of a
// cluster.
const httpProtocolOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// EncodeCluster tells clients of kind k of the cluster. The policy goes to
// sidecars only, as one typed message in the metadata; a foreign client gets its
// protocol, and no outlier detection of its own: its ejections and our marks would
// be two vetoes that together cross its panic line.
//
// Its endpoints come over the same stream (EDS with config source ADS).
func EncodeCluster(c Cluster, k Kind) *clusterv3.Cluster {
	timeout := c.ConnectTimeout
	if timeout <= 0 {
		timeout = DefaultConnectTimeout
	}
	m := &clusterv3.Cluster{
		Name:                 c.Name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{
			EdsConfig:   adsSource(),
			ServiceName: c.EDSName(),
		},
		ConnectTimeout: durationpb.New(timeout),
		LbPolicy:       clusterv3.Cluster_ROUND_ROBIN, // gRPC knows few others, and refuses the rest
	}
	switch k {
	case Overhear:
		m.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		m.Metadata = &corev3.Metadata{TypedFilterMetadata: map[string]*anypb.Any{MetadataKey: pack(encodePolicy(c.Policy))}}
	case GRPC:
		switch {
		case c.Ring:
			m.LbPolicy = clusterv3.Cluster_RING_HASH // gRFC A42
		case c.Policy.Balancer.Policy == LeastRequest:
			m.LoadBalancingPolicy = leastRequest()
		}
	case Envoy:
		m.LbPolicy = envoyPolicy(c.Policy.Balancer.Policy)
		m.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{
			// Panic only when nothing is left. The caps are ours: at the default of 50 %
			// an Envoy that still counts DRAINING hosts (before 1.39) would send to
			// endpoints that we took out for good reason.
			HealthyPanicThreshold: &typev3.Percent{Value: 1},
			// Up to 1.39 a change of health waits for this window, one second by default.
			UpdateMergeWindow: durationpb.New(0),
		}
		if bound := c.Policy.Balancer.BoundedLoad; bound > 0 {
			m.CommonLbConfig.ConsistentHashingLbConfig = &clusterv3.Cluster_CommonLbConfig_ConsistentHashingLbConfig{
				HashBalanceFactor: wrapperspb.UInt32(uint32(math.Round(100 * bound))),
			}
		}
		// An endpoint that leaves the registry is gone, whatever a health check says.
		m.IgnoreHealthOnHostRemoval = true
		if c.Policy.Protocol == HTTP2 || c.Policy.Protocol == GRPCWire {
			m.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpProtocolOptions: pack(&upstreamsv3.HttpProtocolOptions{
				UpstreamProtocolOptions: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_{
					ExplicitHttpConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig{
						ProtocolConfig: &upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
							Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
						},
					},
				},
			})}
		}
	}
	return m
}

// envoyPolicy is the rule of an Envoy that comes nearest. Its RANDOM heeds no weights,
// neither those of the registry nor those by which an endpoint is tried and rises.
func envoyPolicy(b Balancing) clusterv3.Cluster_LbPolicy {
	switch b {
	case RoundRobin, Random:
		return clusterv3.Cluster_ROUND_ROBIN
	case RingHash:
		return clusterv3.Cluster_RING_HASH
	case Maglev:
		return clusterv3.Cluster_MAGLEV
	}
	return clusterv3.Cluster_LEAST_REQUEST
}

// leastRequest asks a gRPC client for least request (gRFC A48) as a list (gRFC A52), of
// which it takes the first that it knows. Who does not know lists goes by lb_policy; there
// LEAST_REQUEST is refused by every client in which it is not switched on.
//
// wrr_locality around it is what lb_policy means by itself: localities by their weights.
func leastRequest() *clusterv3.LoadBalancingPolicy {
	list := func(all ...proto.Message) *clusterv3.LoadBalancingPolicy {
		m := new(clusterv3.LoadBalancingPolicy)
		for _, one := range all {
			m.Policies = append(m.Policies, &clusterv3.LoadBalancingPolicy_Policy{TypedExtensionConfig: &corev3.TypedExtensionConfig{
				Name: string(one.ProtoReflect().Descriptor().FullName()), TypedConfig: pack(one),
			}})
		}
		return m
	}
	return list(&wrrlocalityv3.WrrLocality{EndpointPickingPolicy: list(&leastrequestv3.LeastRequest{}, &roundrobinv3.RoundRobin{})})
}

// adsSource says "over the stream that this came over".
func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

// pack wraps a message that this package made itself, whose strings went through
// valid; deterministic, because versions are hashes of bytes.
func pack(m proto.Message) *anypb.Any {
	a := new(anypb.Any)
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		panic(fmt.Sprintf("resource: a message of our own does not marshal: %v", err))
	}
	return a
}

// valid makes a string that protobuf can carry: it refuses what is not UTF-8.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// DecodeCluster checks a cluster and returns what it says. The error joins a
// [FieldError] for each thing that is wrong. A cluster without our policy, from
// another control plane, gets the default policy, with what its outlier_detection
// asks for as far as that can be had; what cannot is listed.
func DecodeCluster(m *clusterv3.Cluster) (Cluster, error) {
	c := Cluster{Name: m.GetName(), Service: m.GetEdsClusterConfig().GetServiceName(), ConnectTimeout: DefaultConnectTimeout, Policy: DefaultPolicy()}
	p := &Problems{Resource: fmt.Sprintf("cluster %q", clip(c.Name))}
	if c.Name == "" {
		p.Add("name", "is empty")
	}
	if c.Service == c.Name {
		c.Service = ""
	}
	switch m.GetClusterDiscoveryType().(type) {
	case *clusterv3.Cluster_Type:
		if m.GetType() != clusterv3.Cluster_EDS {
			p.Add("type", "is %s: only EDS is supported", m.GetType())
			break
		}
		source := m.GetEdsClusterConfig().GetEdsConfig()
		if source.GetAds() == nil && source.GetSelf() == nil {
			p.Add("eds_cluster_config.eds_config", "is neither ads nor self: endpoints come over the stream that the cluster comes over")
		}
	default:
		p.Add("type", "is not given: only EDS is supported")
	}
	if t := m.GetConnectTimeout(); t != nil {
		if err := t.CheckValid(); err != nil {
			p.Add("connect_timeout", "is no duration: %v", err)
		} else if d := t.AsDuration(); d < time.Millisecond || d > time.Hour {
			p.Add("connect_timeout", "is %v: want 1ms to 1h", d)
		} else {
			c.ConnectTimeout = d
		}
	}
	a := m.GetMetadata().GetTypedFilterMetadata()[MetadataKey]
	switch {
	case a != nil:
		decodePolicy(a, &c.Policy, p)
		if m.GetOutlierDetection() != nil {
			c.Ignored = []string{"outlier_detection"} // our own says more
		}
	case m.GetOutlierDetection() != nil:
		c.Ignored = decodeOutlierDetection(m.GetOutlierDetection(), &c.Policy.Outlier, p)
	}
	if err := p.Err(); err != nil {
		return Cluster{}, err
	}
	return c, nil
}
