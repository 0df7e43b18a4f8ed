package resource

import (
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Names that Envoy and gRPC know filters and predicates by.
const (
	routerFilter   = "envoy.filters.http.router"
	hcmFilter      = "envoy.filters.network.http_connection_manager"
	tcpProxyFilter = "envoy.filters.network.tcp_proxy"
	previousHosts  = "envoy.retry_host_predicates.previous_hosts"
)

// retries is how often a request is tried again where nothing was processed,
// each time on an endpoint not yet tried; as our own sidecars do.
const retries = 3

// EncodeListener tells an Envoy where to listen, or gRPC which routes a target
// has.
func EncodeListener(l Listener, k Kind) *listenerv3.Listener {
	m := &listenerv3.Listener{Name: l.Name}
	hcm := &hcmv3.HttpConnectionManager{
		StatPrefix: valid(l.Name),
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			ConfigSource:    adsSource(),
			RouteConfigName: valid(l.Route),
		}},
		// gRPC refuses a listener whose HTTP filters do not end with the router.
		HttpFilters: []*hcmv3.HttpFilter{{
			Name:       routerFilter,
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(&routerv3.Router{})},
		}},
	}
	if k == GRPC {
		m.ApiListener = &listenerv3.ApiListener{ApiListener: pack(hcm)}
		return m
	}
	m.Address = SocketAddress(l.Address)
	filter := &listenerv3.Filter{Name: hcmFilter, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(hcm)}}
	if l.Cluster != "" {
		filter = &listenerv3.Filter{Name: tcpProxyFilter, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(&tcpproxyv3.TcpProxy{
			StatPrefix:         valid(l.Name),
			ClusterSpecifier:   &tcpproxyv3.TcpProxy_Cluster{Cluster: valid(l.Cluster)},
			MaxConnectAttempts: wrapperspb.UInt32(1 + retries),
		})}}
	}
	m.FilterChains = []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{filter}}}
	return m
}

// EncodeRoute tells clients of kind k which cluster serves which host.
//
// Envoys retry what our sidecars retry: where nothing was processed, always;
// after a reset without an answer, only what is safe to do twice. gRPC by itself
// retries what no server has seen (gRFC A6).
func EncodeRoute(r Route, k Kind) *routev3.RouteConfiguration {
	m := &routev3.RouteConfiguration{Name: r.Name}
	for _, h := range r.Hosts {
		host := &routev3.VirtualHost{Name: h.Name, Domains: h.Domains}
		if k == GRPC {
			host.Routes = []*routev3.Route{route(h, nil, nil)}
		} else {
			safe := &routev3.HeaderMatcher{
				Name: ":method",
				HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
					MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: "GET|HEAD|OPTIONS"}},
				}},
			}
			host.Routes = []*routev3.Route{
				route(h, []*routev3.HeaderMatcher{safe}, retryOn("connect-failure,refused-stream,reset-before-request,reset")),
				route(h, nil, retryOn("connect-failure,refused-stream,reset-before-request")),
			}
		}
		m.VirtualHosts = append(m.VirtualHosts, host)
	}
	return m
}

func route(h VirtualHost, headers []*routev3.HeaderMatcher, retry *routev3.RetryPolicy) *routev3.Route {
	return &routev3.Route{
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: ""}, Headers: headers},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: h.Cluster},
			Timeout:          durationpb.New(h.Timeout), // also when 0, which is none: unsaid, Envoy takes 15 s
			RetryPolicy:      retry,
			HashPolicy:       hashPolicies(h.Hash),
		}},
	}
}

// hashPolicies are for Envoys and gRPC alike: what it does not know gRPC leaves out.
func hashPolicies(by []Hash) (all []*routev3.RouteAction_HashPolicy) {
	for _, h := range by {
		m := new(routev3.RouteAction_HashPolicy)
		switch {
		case h.Header != "":
			m.PolicySpecifier = &routev3.RouteAction_HashPolicy_Header_{Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: valid(h.Header)}}
		case h.Cookie != "":
			m.PolicySpecifier = &routev3.RouteAction_HashPolicy_Cookie_{Cookie: &routev3.RouteAction_HashPolicy_Cookie{Name: valid(h.Cookie)}}
		case h.Query != "":
			m.PolicySpecifier = &routev3.RouteAction_HashPolicy_QueryParameter_{QueryParameter: &routev3.RouteAction_HashPolicy_QueryParameter{Name: valid(h.Query)}}
		default:
			m.PolicySpecifier = &routev3.RouteAction_HashPolicy_ConnectionProperties_{ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true}}
		}
		all = append(all, m)
	}
	return all
}

func retryOn(conditions string) *routev3.RetryPolicy {
	return &routev3.RetryPolicy{
		RetryOn:    conditions,
		NumRetries: wrapperspb.UInt32(retries),
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name:       previousHosts,
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: pack(&previoushostsv3.PreviousHostsPredicate{})},
		}},
		HostSelectionRetryMaxAttempts: 5,
	}
}
