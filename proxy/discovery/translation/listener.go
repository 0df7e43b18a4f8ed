package translation

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	rawbufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/config"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/router"
)

// Listening is a Listener as the file would have it.
type Listening struct {
	// Outbound lacks its routes if they come by themselves.
	Outbound config.Outbound
	// Routes is the name of the RouteConfiguration that brings them; "": none.
	Routes string

	// Of rules that have none of their own, and that ask a cluster.
	idle  time.Duration
	fault *router.Fault
}

// With is the listener with the rules of its RouteConfiguration. One without any rule is
// for nobody.
func (l Listening) With(rules []router.Rule) config.Outbound {
	if len(rules) == 0 {
		rules = []router.Rule{notFound(nil)}
	}
	out := l.Outbound
	out.Routes = slices.Clone(rules)
	for i := range out.Routes {
		r := &out.Routes[i]
		if r.Redirect != nil || r.Respond != nil {
			continue
		}
		r.IdleTimeout = cmp.Or(r.IdleTimeout, l.idle)
		r.Fault = cmp.Or(r.Fault, l.fault)
	}
	return out
}

// Listener reads a Listener. The error joins a [resource.FieldError] for each thing
// that is wrong.
func Listener(m *listenerv3.Listener) (Listening, error) {
	p := newProblems("listener", m.GetName())
	if walk(m, "", p); p.Len() > 0 {
		return Listening{}, p.Err()
	}
	l := Listening{Outbound: config.DefaultOutbound()}
	out := &l.Outbound
	out.Name = m.GetName()
	if out.Name == "" {
		p.Add("name", "is empty: want one that no other listener has")
	}
	out.Address = address(m.GetAddress(), "address", p)
	for i, f := range m.GetListenerFilters() {
		switch unpack(f.GetTypedConfig()).(type) {
		case *proxyprotocolv3.ProxyProtocol:
			out.ProxyProtocol = true
		case *httpinspectorv3.HttpInspector:
		default:
			p.Add(fmt.Sprintf("listener_filters[%d]", i), "is not supported: want ProxyProtocol or HttpInspector")
		}
	}
	at, chain := chainOf(m, p)
	if chain == nil {
		return l, p.Err()
	}
	if s := chain.GetTransportSocket(); s != nil {
		if _, raw := unpack(s.GetTypedConfig()).(*rawbufferv3.RawBuffer); !raw {
			p.Add(at+".transport_socket", "is not supported: want RawBuffer, there is no TLS")
		}
	}
	if len(chain.GetFilters()) != 1 {
		p.Add(at+".filters", "are %d: want one, HttpConnectionManager or TcpProxy", len(chain.GetFilters()))
		return l, p.Err()
	}
	at += ".filters[0]"
	switch f := unpack(chain.GetFilters()[0].GetTypedConfig()).(type) {
	case *hcmv3.HttpConnectionManager:
		l.http(f, at+".http_connection_manager", p)
	case *tcpproxyv3.TcpProxy:
		if out.Protocol, out.Cluster = config.TCP, f.GetCluster(); out.Cluster == "" {
			p.Add(at+".tcp_proxy.cluster", "is empty: want the name of a cluster")
		}
	default:
		p.Add(at, "is not supported: want HttpConnectionManager or TcpProxy")
	}
	if err := p.Err(); err != nil {
		return Listening{}, err
	}
	return l, l.check(p)
}

// check asks the sidecar's own model.
func (l Listening) check(p *problems) error {
	whole := l.Outbound
	if l.Routes != "" {
		whole = l.With(nil)
	}
	p.wrap("", strictyaml.Validate(&whole))
	return p.Err()
}

// chainOf is the one filter chain of a listener, nil if it has not just one.
func chainOf(m *listenerv3.Listener, p *problems) (at string, chain *listenerv3.FilterChain) {
	switch {
	case len(m.GetFilterChains()) == 1 && m.GetDefaultFilterChain() == nil:
		return "filter_chains[0]", m.GetFilterChains()[0]
	case len(m.GetFilterChains()) == 0 && m.GetDefaultFilterChain() != nil:
		return "default_filter_chain", m.GetDefaultFilterChain()
	}
	p.Add("filter_chains", "are %d, default_filter_chain among them: want one, there is nothing to choose by", len(m.GetFilterChains())+count(m.GetDefaultFilterChain() != nil))
	return "", nil
}

func count(there bool) int {
	if there {
		return 1
	}
	return 0
}

func address(m *corev3.Address, at string, p *problems) string {
	s := m.GetSocketAddress()
	if s == nil {
		p.Add(at, "has no socket_address: want an IP and a port")
		return ""
	}
	if s.GetProtocol() != corev3.SocketAddress_TCP {
		p.Add(at+".socket_address.protocol", "is %v: want TCP", s.GetProtocol())
	}
	ip, err := netip.ParseAddr(s.GetAddress())
	if err != nil {
		p.Add(at+".socket_address.address", "is %q: want an IP", clip(s.GetAddress()))
		return ""
	}
	if s.GetPortValue() > 65535 {
		p.Add(at+".socket_address.port_value", "is %d: want 0 to 65535", s.GetPortValue())
		return ""
	}
	return netip.AddrPortFrom(ip, uint16(s.GetPortValue())).String()
}

// http reads a HttpConnectionManager.
func (l *Listening) http(m *hcmv3.HttpConnectionManager, at string, p *problems) {
	l.Outbound.Protocol = map[hcmv3.HttpConnectionManager_CodecType]config.Protocol{
		hcmv3.HttpConnectionManager_HTTP1: config.HTTP1, hcmv3.HttpConnectionManager_HTTP2: config.HTTP2, hcmv3.HttpConnectionManager_AUTO: config.Auto,
	}[m.GetCodecType()]
	l.filters(m.GetHttpFilters(), at+".http_filters", p)
	l.Outbound.Paths = exchange.Paths{
		Normalize: m.GetNormalizePath().GetValue(), MergeSlashes: m.GetMergeSlashes(),
		EscapedSlashes: map[hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction]exchange.Slashes{
			hcmv3.HttpConnectionManager_REJECT_REQUEST: exchange.RejectSlashes, hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD: exchange.UnescapeSlashes,
			hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT: exchange.RedirectSlashes,
		}[m.GetPathWithEscapedSlashesAction()],
	}
	if l.Outbound.TrustedHops = int(m.GetXffNumTrustedHops()); l.Outbound.TrustedHops > 0 && !m.GetUseRemoteAddress().GetValue() {
		p.Add(at+".xff_num_trusted_hops", "is set without use_remote_address, which counts otherwise: want it true")
	}
	l.upgrades(m, at+".upgrade_configs", p)
	if o := m.GetCommonHttpProtocolOptions(); o != nil {
		at := at + ".common_http_protocol_options"
		if o.GetIdleTimeout() != nil {
			p.Add(at+".idle_timeout", "is not supported of a listener: http1.idle_timeout and http2.idle_timeout are settings of the sidecar's file")
		}
		l.Outbound.Lifetime = lifetime(o, at, p)
	}
	if m.GetStreamIdleTimeout() != nil {
		if l.idle = duration(m.GetStreamIdleTimeout(), at+".stream_idle_timeout", p); l.idle == 0 {
			p.Add(at+".stream_idle_timeout", "is none: want a time, which may be a long one")
		}
		if len(l.Outbound.Upgrades.Protocols) > 0 && l.idle > 0 {
			l.Outbound.Upgrades.TunnelIdle = l.idle
		}
	}
	switch by := m.GetRouteSpecifier().(type) {
	case *hcmv3.HttpConnectionManager_Rds:
		source := by.Rds.GetConfigSource()
		if source.GetAds() == nil && source.GetSelf() == nil {
			p.Add(at+".rds.config_source", "is neither ads nor self: routes come over the stream that the listener comes over")
		}
		if l.Routes = by.Rds.GetRouteConfigName(); l.Routes == "" {
			p.Add(at+".rds.route_config_name", "is empty: want the name of a RouteConfiguration")
		}
	case *hcmv3.HttpConnectionManager_RouteConfig:
		l.Outbound = l.With(routes(by.RouteConfig, at+".route_config", p))
	default:
		p.Add(at, "has no route_specifier: want rds or route_config")
	}
}

// upgrades reads what clients may change to.
func (l *Listening) upgrades(m *hcmv3.HttpConnectionManager, at string, p *problems) {
	l.Outbound.Upgrades.Protocols = nil
	for i, u := range m.GetUpgradeConfigs() {
		if enabled := u.GetEnabled(); enabled != nil && !enabled.GetValue() {
			continue
		}
		name := strings.ToLower(u.GetUpgradeType())
		if name == "" || slices.Contains(l.Outbound.Upgrades.Protocols, name) {
			p.Add(fmt.Sprintf("%s[%d].upgrade_type", at, i), "is %q: want a name, each once", clip(u.GetUpgradeType()))
			continue
		}
		l.Outbound.Upgrades.Protocols = append(l.Outbound.Upgrades.Protocols, name)
	}
}

// filters wants the router at the end. What is before it must be known, or optional.
func (l *Listening) filters(all []*hcmv3.HttpFilter, at string, p *problems) {
	for i, f := range all {
		at, last := fmt.Sprintf("%s[%d]", at, i), i == len(all)-1
		filter := unpack(f.GetTypedConfig())
		switch m := filter.(type) {
		case *routerv3.Router:
			walk(m, at+".router", p)
			if !last {
				p.Add(at, "is the router: want it at the end")
			}
		case *faultv3.HTTPFault:
			walk(m, at+".http_fault", p)
			l.fault = fault(m, at+".http_fault", p)
		default:
			if !f.GetIsOptional() {
				p.Add(at, "%s is not supported: want HTTPFault or Router, or is_optional", clip(f.GetTypedConfig().GetTypeUrl()))
			}
		}
		if _, router := filter.(*routerv3.Router); last && !router {
			p.Add(at, "is the last: want the router there")
		}
		if f.GetDisabled() || f.GetConfigDiscovery() != nil {
			p.Add(at, "is disabled, or comes by itself: want it as it is")
		}
	}
	if len(all) == 0 {
		p.Add(at, "is empty: want the router")
	}
}

// unpack is the message in an Any, nil if there is none that can be read.
func unpack(a *anypb.Any) proto.Message {
	if a == nil {
		return nil
	}
	m, err := a.UnmarshalNew()
	if err != nil {
		return nil
	}
	return m
}
