package translation

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/overhear-mesh/overhear/proxy/router"
)

// forward reads what is done for requests that go to a cluster.
func forward(m *routev3.RouteAction, at string, rule *router.Rule, p *problems) {
	switch to := m.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		rule.Cluster = to.Cluster
	case *routev3.RouteAction_WeightedClusters:
		for i, c := range to.WeightedClusters.GetClusters() {
			if c.GetWeight().GetValue() > 0 {
				rule.Clusters = append(rule.Clusters, router.Share{Cluster: c.GetName(), Weight: c.GetWeight().GetValue()})
			}
			if c.GetName() == "" {
				p.Add(fmt.Sprintf("%s.weighted_clusters.clusters[%d].name", at, i), "is empty: want the name of a cluster")
			}
		}
		if len(rule.Clusters) == 0 {
			p.Add(at+".weighted_clusters.clusters", "have no weight: want one with more than 0")
		}
	case nil:
		p.Add(at, "has no cluster_specifier: want cluster or weighted_clusters")
	}
	if into := m.GetPrefixRewrite(); into != "" {
		rewritePrefix(into, rule)
		if strings.Contains(into, `\`) {
			p.Add(at+".prefix_rewrite", "is %q: want a path", clip(into))
		}
	}
	if by := m.GetRegexRewrite(); by != nil {
		rule.Rewrite.Regex, rule.Rewrite.Substitution = by.GetPattern().GetRegex(), by.GetSubstitution()
		if strings.Contains(by.GetSubstitution(), `\\`) {
			p.Add(at+".regex_rewrite.substitution", "is %q: want \\0 to \\9, and no other backslash", clip(by.GetSubstitution()))
		}
		if m.GetPrefixRewrite() != "" || rule.Rewrite.Regex == "" {
			p.Add(at+".regex_rewrite", "want a pattern, and no prefix_rewrite beside it")
		}
	}
	rule.Rewrite.Host = m.GetHostRewriteLiteral()
	if m.GetTimeout() != nil {
		rule.Timeout = duration(m.GetTimeout(), at+".timeout", p)
	}
	rule.IdleTimeout = duration(m.GetIdleTimeout(), at+".idle_timeout", p)
	if m.GetIdleTimeout() != nil && rule.IdleTimeout == 0 {
		p.Add(at+".idle_timeout", "is none: want a time, which may be a long one")
	}
	mirror(m.GetRequestMirrorPolicies(), at+".request_mirror_policies", rule, p)
	for i, h := range m.GetHashPolicy() {
		rule.Hash = append(rule.Hash, hash(h, fmt.Sprintf("%s.hash_policy[%d]", at, i), p))
	}
}

// mirror reads where copies of requests go.
func mirror(all []*routev3.RouteAction_RequestMirrorPolicy, at string, rule *router.Rule, p *problems) {
	if len(all) > 1 {
		p.Add(at, "are %d: want one", len(all))
	}
	for _, m := range all {
		to := router.DefaultMirror()
		to.Cluster = m.GetCluster()
		if f := m.GetRuntimeFraction(); f != nil {
			to.Share = share(f.GetDefaultValue())
		}
		if to.Share > 0 {
			rule.Mirror = &to
		}
	}
}

// rewritePrefix replaces what a prefix or path matched. A rule's own rewrite keeps one
// slash between the new prefix and what follows; Envoy's replaces the text. Where that
// is not the same the text is replaced, by a regular expression.
func rewritePrefix(into string, rule *router.Rule) {
	matched := rule.Prefix + rule.Path + rule.StartsWith // one of them at most
	switch {
	case rule.Regex != "" || matched == "": // the whole path of a regex, the empty prefix of others
		rule.Rewrite.Regex, rule.Rewrite.Substitution = "^", into
		if rule.Regex != "" {
			rule.Rewrite.Regex = "^.*$"
		}
	case rule.StartsWith == "" && strings.HasSuffix(matched, "/") == strings.HasSuffix(into, "/"), rule.Path != "":
		rule.Rewrite.Prefix = into
	default:
		rule.Rewrite.Regex, rule.Rewrite.Substitution = "^"+regexp.QuoteMeta(matched), into
	}
}

// hash reads by what requests are kept together.
func hash(m *routev3.RouteAction_HashPolicy, at string, p *problems) router.Hash {
	switch by := m.GetPolicySpecifier().(type) {
	case *routev3.RouteAction_HashPolicy_Header_:
		return router.Hash{Header: by.Header.GetHeaderName()}
	case *routev3.RouteAction_HashPolicy_Cookie_:
		return router.Hash{Cookie: by.Cookie.GetName()}
	case *routev3.RouteAction_HashPolicy_QueryParameter_:
		return router.Hash{Query: by.QueryParameter.GetName()}
	case *routev3.RouteAction_HashPolicy_ConnectionProperties_:
		return router.Hash{Source: true}
	}
	p.Add(at, "has no policy_specifier: want header, cookie, query_parameter or connection_properties")
	return router.Hash{}
}

// redirect reads where clients are sent.
func redirect(m *routev3.RedirectAction, at string, rule *router.Rule, p *problems) {
	r := &router.Redirect{
		Status: map[routev3.RedirectAction_RedirectResponseCode]int{
			routev3.RedirectAction_MOVED_PERMANENTLY: 301, routev3.RedirectAction_FOUND: 302, routev3.RedirectAction_SEE_OTHER: 303,
			routev3.RedirectAction_TEMPORARY_REDIRECT: 307, routev3.RedirectAction_PERMANENT_REDIRECT: 308,
		}[m.GetResponseCode()],
		Scheme: m.GetSchemeRedirect(), Host: m.GetHostRedirect(),
		Path: m.GetPathRedirect(), Prefix: m.GetPrefixRewrite(), StripQuery: m.GetStripQuery(),
	}
	if r.Status == 0 {
		p.Add(at+".response_code", "is %v: want one that there is", m.GetResponseCode())
	}
	if m.GetHttpsRedirect() {
		r.Scheme = "https"
	}
	if port := m.GetPortRedirect(); port > 0 {
		if r.Host == "" {
			p.Add(at+".port_redirect", "is %d: want host_redirect with it", port)
		}
		r.Host = fmt.Sprintf("%s:%d", r.Host, port)
	}
	if r.Prefix != "" {
		matched := rule.Prefix + rule.Path
		if matched == "" || rule.Path == "" && strings.HasSuffix(matched, "/") != strings.HasSuffix(r.Prefix, "/") {
			p.Add(at+".prefix_rewrite", "is %q: want a path, or a prefix or path_separated_prefix that ends with / as this does", clip(r.Prefix))
		}
	}
	rule.Redirect = r
}

// respond reads an answer.
func respond(m *routev3.DirectResponseAction, rule *router.Rule) {
	rule.Respond = &router.Respond{Status: int(m.GetStatus())}
	switch body := m.GetBody().GetSpecifier().(type) {
	case *corev3.DataSource_InlineString:
		rule.Respond.Body = body.InlineString
	case *corev3.DataSource_InlineBytes:
		rule.Respond.Body = string(body.InlineBytes)
	}
}

// duration reads a time that must not be negative. A missing one is 0.
func duration(d *durationpb.Duration, at string, p *problems) time.Duration {
	if d == nil {
		return 0
	}
	if err := d.CheckValid(); err != nil {
		p.Add(at, "is no duration: %v", err)
		return 0
	}
	t := d.AsDuration()
	if t < 0 {
		p.Add(at, "is %v: want 0s or more", t)
		return 0
	}
	return t
}
