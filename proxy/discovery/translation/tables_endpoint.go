package translation

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
)

var endpointTables = []message{
	of((*endpointv3.ClusterLoadAssignment)(nil),
		as("the name by which a cluster asks", "cluster_name"),
		as("clusters.endpoints", "endpoints"),
		as("nothing beyond its defaults", "policy"),
	),
	of((*endpointv3.ClusterLoadAssignment_Policy)(nil),
		just("overprovisioning_factor", "clusters.balancer.overprovisioning 1.4", uint32(140)),
		instead("endpoints stay until they are withdrawn", "endpoint_stale_after"),
		instead("fault injection belongs to routes", "drop_overloads"),
	),
	of((*endpointv3.LocalityLbEndpoints)(nil),
		as("endpoints.zone", "locality"),
		as("endpoints.priority", "priority"),
		as("an endpoint each", "lb_endpoints"),
		fine("it counts only with locality_weighted_lb_config, which is refused", "load_balancing_weight"),
		fine(informational, "metadata", "proximity"),
	),
	of((*corev3.Locality)(nil),
		as("endpoints.zone", "zone"),
		as("where operators see it", "region"),
		fine("zones are the finest", "sub_zone"),
	),
	of((*endpointv3.LbEndpoint)(nil),
		as("endpoints.address", "endpoint"),
		as("endpoints.weight", "load_balancing_weight"),
		as("DRAINING: endpoints.draining; UNHEALTHY, TIMEOUT: ejected; DEGRADED: in service", "health_status"),
		opaque("our own control plane's verdict, under overhear; what others write there is informational", "metadata"),
		instead("want the endpoint itself", "endpoint_name"),
	),
	of((*endpointv3.Endpoint)(nil),
		as("endpoints.address", "address"),
		fine(informational, "hostname", "observability_name"),
	),
	of((*corev3.Address)(nil), as("an IP and a port", "socket_address")),
	of((*corev3.SocketAddress)(nil),
		as("an IP", "address"),
		as("a port", "port_value"),
		instead("want TCP", "protocol"),
	),
}
