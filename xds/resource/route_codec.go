package resource

import (
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// EncodeListener tells an Envoy where to listen, or gRPC which routes a target
// has.
func EncodeListener(l Listener, k Kind) *listenerv3.Listener {
	return &listenerv3.Listener{Name: l.Name}
}

// EncodeRoute tells clients of kind k which cluster serves which host.
func EncodeRoute(r Route, k Kind) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{Name: r.Name}
}
