package translation

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	leastrequestv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ringhashv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundrobinv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	upstreamproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawbufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// More reasons that several fields share.
const (
	noNames    = "only clusters of names have a use for it, and those are refused"
	detectorsT = "our detector works without it; the log and /config_dump say that it is set"
	pingPace   = "only endpoints without traffic are pinged, at a pace of ours"
	ownTable   = "our table has a size of its own"
)

var clusterTables = []message{
	of((*clusterv3.Cluster)(nil),
		as("clusters.name", "name"),
		just("type", "EDS, over the same stream; STATIC: clusters.endpoints", "EDS", "STATIC"),
		as("the name of its endpoints", "eds_cluster_config"),
		as("clusters.endpoints of a STATIC cluster", "load_assignment"),
		as("clusters.connect_timeout; 1s if unset", "connect_timeout"),
		just("lb_policy", "clusters.balancer.policy; ROUND_ROBIN if unset", "LEAST_REQUEST", "RANDOM", "RING_HASH", "MAGLEV", "LOAD_BALANCING_POLICY_CONFIG"),
		opaque("clusters.balancer.policy: the first of RoundRobin, LeastRequest, Random, RingHash, Maglev", "load_balancing_policy"),
		as("nothing beyond the policy", "least_request_lb_config", "ring_hash_lb_config", "maglev_lb_config"),
		as("clusters.limits", "circuit_breakers"),
		as("clusters.outlier", "outlier_detection"),
		as("clusters.ping; one at most", "health_checks"),
		as("clusters.protocol http2", "http2_protocol_options"),
		as("clusters.idle_timeout", "common_http_protocol_options"),
		as("HttpProtocolOptions", "typed_extension_protocol_options"),
		as("clusters.outlier.panic, clusters.balancer.bounded_load", "common_lb_config"),
		as("none; or PROXY headers: clusters.proxy_protocol, with clusters.protocol tcp", "transport_socket"),
		opaque("our own control plane's policy, under overhear; what others write there is informational", "metadata"),
		just("ignore_health_on_host_removal", "an endpoint that left gets no more requests, whether it is said or not", true),
		fine(statistics, "alt_stat_name", "stats_matcher", "track_timeout_budgets", "track_cluster_stats"),
		fine("buffers have the engines' own bounds", "per_connection_buffer_limit_bytes"),
		fine("routes wait for their clusters' endpoints", "wait_for_warm_on_init"),
		fine("what is not used goes at once", "cleanup_interval"),
		fine(noNames, "dns_refresh_rate", "dns_jitter", "dns_failure_refresh_rate", "respect_dns_ttl", "dns_lookup_family", "use_tcp_for_dns_lookups"),
		instead("want type EDS or STATIC", "cluster_type"),
		instead("there is no TLS, and nothing else to choose between", "transport_socket_matches"),
		instead("want clusters of their own", "lb_subset_config"),
		instead("clusters.protocol is one for all requests", "protocol_selection"),
	),
	of((*clusterv3.Cluster_EdsClusterConfig)(nil),
		opaque("ads or self", "eds_config"),
		as("the name of the ClusterLoadAssignment", "service_name"),
	),
	of((*clusterv3.Cluster_LeastRequestLbConfig)(nil), just("choice_count", "two are drawn", uint32(2))),
	of((*clusterv3.Cluster_RingHashLbConfig)(nil), fine(ownTable, "minimum_ring_size", "maximum_ring_size", "hash_function")),
	of((*clusterv3.Cluster_MaglevLbConfig)(nil), fine(ownTable, "table_size")),
	of((*clusterv3.Cluster_CommonLbConfig)(nil),
		as("clusters.outlier.panic; 50% if unset", "healthy_panic_threshold"),
		as("clusters.balancer.bounded_load", "consistent_hashing_lb_config"),
		fine("changes are applied at once", "update_merge_window"),
		instead("clusters.balancer.prefer_zone is "+ownFile, "zone_aware_lb_config"),
		instead("weights of endpoints count, those of localities do not", "locality_weighted_lb_config"),
	),
	of((*clusterv3.Cluster_CommonLbConfig_ConsistentHashingLbConfig)(nil), as("clusters.balancer.bounded_load, as a percentage", "hash_balance_factor")),
	of((*clusterv3.CircuitBreakers)(nil), as("clusters.limits", "thresholds")),
	of((*clusterv3.CircuitBreakers_Thresholds)(nil),
		as("clusters.limits.connections for TCP; for HTTP clusters.max_connections, of each endpoint", "max_connections"),
		as("clusters.limits.pending", "max_pending_requests"),
		as("clusters.limits.requests", "max_requests"),
		as("clusters.limits.retries", "max_retries"),
		fine(statistics, "track_remaining"),
		instead("clusters.retry_budget is "+ownFile, "retry_budget"),
		instead("routes have no priorities", "priority"),
	),
	of((*clusterv3.OutlierDetection)(nil),
		as("clusters.outlier: rules beside ours", "consecutive_5xx", "consecutive_gateway_failure", "consecutive_local_origin_failure", "split_external_local_origin_errors",
			"enforcing_consecutive_5xx", "enforcing_consecutive_gateway_failure", "enforcing_consecutive_local_origin_failure"),
		as("clusters.outlier.hold_base, hold_max, hold_jitter", "base_ejection_time", "max_ejection_time", "max_ejection_time_jitter"),
		as("clusters.outlier.max_out", "max_ejection_percent"),
		as("clusters.outlier.always_eject_one", "always_eject_one_host"),
		fine(detectorsT, resource.Unheeded...),
	),
	of((*corev3.HealthCheck)(nil),
		as("clusters.ping.timeout", "timeout"),
		as("clusters.ping.kind http", "http_health_check"),
		as("clusters.ping.kind tcp", "tcp_health_check"),
		as("clusters.ping.kind grpc", "grpc_health_check"),
		fine(pingPace, "interval", "initial_jitter", "interval_jitter", "interval_jitter_percent", "unhealthy_threshold", "healthy_threshold",
			"no_traffic_interval", "no_traffic_healthy_interval", "unhealthy_interval", "unhealthy_edge_interval", "healthy_edge_interval", "reuse_connection"),
		fine(statistics, "name", "event_log_path", "event_logger", "always_log_health_check_failures", "always_log_health_check_success"),
	),
	of((*corev3.HealthCheck_HttpHealthCheck)(nil),
		as("clusters.ping.path", "path"),
		as("clusters.ping.host", "host"),
		just("method", "it is GET", "GET"),
		instead("200 to 399 is healthy", "expected_statuses"),
	),
	of((*corev3.HealthCheck_TcpHealthCheck)(nil), instead("a TCP ping connects, and says nothing", "send", "receive")),
	of((*corev3.HealthCheck_GrpcHealthCheck)(nil),
		as("clusters.ping.service", "service_name"),
		as("clusters.ping.host", "authority"),
	),
	of((*corev3.Http1ProtocolOptions)(nil)),
	of((*corev3.Http2ProtocolOptions)(nil), instead("http2 is "+ownFile, "max_concurrent_streams", "initial_stream_window_size", "initial_connection_window_size", "connection_keepalive")),
	of((*corev3.HttpProtocolOptions)(nil), as("clusters.idle_timeout", "idle_timeout")),
	of((*upstreamsv3.HttpProtocolOptions)(nil),
		as("clusters.idle_timeout", "common_http_protocol_options"),
		as("clusters.protocol", "explicit_http_config"),
		instead("want explicit_http_config: an endpoint speaks one version of HTTP", "use_downstream_protocol_config"),
		instead("want explicit_http_config: there is no TLS to agree by", "auto_config"),
	),
	of((*upstreamsv3.HttpProtocolOptions_ExplicitHttpConfig)(nil),
		as("clusters.protocol http1", "http_protocol_options"),
		as("clusters.protocol http2", "http2_protocol_options"),
	),
	of((*corev3.TransportSocket)(nil),
		as("RawBuffer, or ProxyProtocolUpstreamTransport around it", typedConfig),
		fine(extensionName, "name"),
	),
	of((*rawbufferv3.RawBuffer)(nil)),
	of((*upstreamproxyv3.ProxyProtocolUpstreamTransport)(nil),
		as("clusters.proxy_protocol", "config"),
		as("RawBuffer", "transport_socket"),
	),
	of((*corev3.ProxyProtocolConfig)(nil), as("1 or 2", "version")),
	of((*roundrobinv3.RoundRobin)(nil)),
	of((*leastrequestv3.LeastRequest)(nil), just("choice_count", "two are drawn", uint32(2))),
	of((*randomv3.Random)(nil)),
	of((*ringhashv3.RingHash)(nil), fine(ownTable, "minimum_ring_size", "maximum_ring_size", "hash_function")),
	of((*maglevv3.Maglev)(nil), fine(ownTable, "table_size")),
}
