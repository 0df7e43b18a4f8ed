package translation

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/config"
	"github.com/overhear-mesh/overhear/proxy/router"
)

// Rules are the rules of a RouteConfiguration, in their order. The error joins a
// [resource.FieldError] for each thing that is wrong.
func Rules(m *routev3.RouteConfiguration) ([]router.Rule, error) {
	p := newProblems("route configuration", m.GetName())
	if walk(m, "", p); p.Len() > 0 {
		return nil, p.Err()
	}
	if m.GetName() == "" {
		p.Add("name", "is empty: want the name by which a listener asks for it")
	}
	rules := routes(m, "", p)
	if err := p.Err(); err != nil {
		return nil, err
	}
	return rules, nil
}

// routes reads a RouteConfiguration that stands at a path.
func routes(m *routev3.RouteConfiguration, at string, p *problems) []router.Rule {
	above := edits{}.with(m, at, p)
	taken := map[string]domain{}
	var rules []router.Rule
	for i, vh := range m.GetVirtualHosts() {
		at := join(at, fmt.Sprintf("virtual_hosts[%d]", i))
		hosts := hosts(vh.GetDomains(), at, taken, p)
		before, shared := len(rules), above.with(vh, at, p)
		for j, r := range vh.GetRoutes() {
			at := fmt.Sprintf("%s.routes[%d]", at, j)
			rule, never := route(r, vh, at, shared, p)
			if never {
				continue
			}
			rule.Hosts = hosts
			rules = append(rules, rule)
		}
		if len(rules) == before && len(hosts) > 0 {
			rules = append(rules, notFound(hosts)) // nobody else's rules are for these hosts
		}
	}
	// A rule may be wrong only beside another: what is said then counts our rules.
	whole := config.DefaultOutbound()
	whole.Address, whole.Routes = "127.0.0.1:1", rules
	if len(rules) > 0 && p.Len() == 0 {
		p.wrap(join(at, "virtual_hosts"), whole.Validate())
	}
	return rules
}

// notFound is the rule for hosts, or for all, that nobody has a rule for.
func notFound(hosts []string) router.Rule {
	none := router.DefaultRule()
	none.Hosts, none.Respond = hosts, &router.Respond{Status: 404}
	return none
}

func join(at, name string) string {
	if at == "" {
		return name
	}
	return at + "." + name
}

// route reads one route. never says that no request takes it.
func route(m *routev3.Route, vh *routev3.VirtualHost, at string, above edits, p *problems) (rule router.Rule, never bool) {
	rule = router.DefaultRule()
	rule.Name = m.GetName()
	never = match(m.GetMatch(), at+".match", &rule, p)
	switch action := m.GetAction().(type) {
	case *routev3.Route_Route:
		forward(action.Route, at+".route", &rule, p)
		rule.AttemptCount = vh.GetIncludeRequestAttemptCount()
		if own := action.Route.GetRetryPolicy(); own != nil {
			retry(own, at+".route.retry_policy", &rule, p)
		} else if shared := vh.GetRetryPolicy(); shared != nil {
			retry(shared, at[:strings.LastIndex(at, ".routes[")]+".retry_policy", &rule, p)
		}
	case *routev3.Route_Redirect:
		redirect(action.Redirect, at+".redirect", &rule, p)
	case *routev3.Route_DirectResponse:
		respond(action.DirectResponse, &rule)
	case nil:
		p.Add(at, "has no action: want route, redirect or direct_response")
		return rule, never
	}
	perRoute(m.GetTypedPerFilterConfig(), at, &rule, p)
	all := above.with(m, at, p)
	rule.RequestHeaders, rule.ResponseHeaders = all.request, all.response
	p.wrap(at, strictyaml.Validate(&rule))
	return rule, never
}

// domain is where a host name was seen.
type domain struct {
	host int    // which virtual host
	as   string // as it was written
}

// hosts are the host names of a virtual host. The port of a Host header does not count
// here, so that a name with a port is the name; it may not be what tells two virtual
// hosts apart.
func hosts(domains []string, at string, taken map[string]domain, p *problems) []string {
	number := len(taken) // any number that no other virtual host has
	var out []string
	for i, as := range domains {
		at := fmt.Sprintf("%s.domains[%d]", at, i)
		name, ok := hostOf(as)
		if !ok {
			p.Add(at, "is %q: want a name, *.suffix or *", clip(as))
			continue
		}
		first, seen := taken[strings.ToLower(name)]
		switch {
		case !seen:
			taken[strings.ToLower(name)] = domain{number, as}
			out = append(out, name)
		case first.host != number || strings.EqualFold(first.as, as):
			p.Add(at, "is %q, and there is %q already: want each name once, whatever its port", clip(as), clip(first.as))
		}
	}
	if len(domains) == 0 {
		p.Add(at+".domains", "is empty: want the names that it is for")
	}
	return out
}

// hostOf is a domain without a port and the dot of the root.
func hostOf(as string) (name string, ok bool) {
	name = as
	if host, port, err := net.SplitHostPort(as); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err == nil {
			if name = host; strings.Contains(host, ":") {
				name = "[" + host + "]"
			}
		}
	}
	name = strings.TrimSuffix(name, ".")
	star := strings.LastIndexByte(name, '*')
	return name, name != "" && (star < 0 || name == "*" || star == 0 && strings.HasPrefix(name, "*.") && len(name) > 2)
}
