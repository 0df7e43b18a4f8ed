package translation

import (
	"fmt"
	"regexp"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/overhear-mesh/overhear/proxy/router"
)

// match reads the conditions of a route into its rule. never says that they never hold.
func match(m *routev3.RouteMatch, at string, rule *router.Rule, p *problems) (never bool) {
	switch path := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		switch {
		case path.Prefix == "": // every path
		case strings.HasSuffix(path.Prefix, "/"):
			rule.Prefix = path.Prefix
		default:
			rule.StartsWith = path.Prefix // /v1 holds for /v10
		}
	case *routev3.RouteMatch_PathSeparatedPrefix:
		rule.Prefix = path.PathSeparatedPrefix
	case *routev3.RouteMatch_Path:
		rule.Path = path.Path
	case *routev3.RouteMatch_SafeRegex:
		rule.Regex = path.SafeRegex.GetRegex()
		if rule.Regex == "" {
			p.Add(at+".safe_regex.regex", "is empty: want a regular expression")
		}
	case nil:
		p.Add(at, "has no path_specifier: want prefix, path, safe_regex or path_separated_prefix")
	}
	for i, h := range m.GetHeaders() {
		header(h, fmt.Sprintf("%s.headers[%d]", at, i), rule, p)
	}
	for i, q := range m.GetQueryParameters() {
		query(q, fmt.Sprintf("%s.query_parameters[%d]", at, i), rule, p)
	}
	rule.GRPC = m.GetGrpc() != nil
	return fraction(m.GetRuntimeFraction(), at+".runtime_fraction", p)
}

// fraction reports whether a share is nothing. It knows that and everything.
func fraction(m *corev3.RuntimeFractionalPercent, at string, p *problems) (nothing bool) {
	if m == nil {
		return false
	}
	n, full := m.GetDefaultValue().GetNumerator(), wholeOf(m.GetDefaultValue())
	if n == 0 {
		return true
	}
	if n < full {
		p.Add(at+".default_value", "is %d of %d: want all or nothing", n, full)
	}
	return false
}

// query reads a condition on a query parameter.
func query(m *routev3.QueryParameterMatcher, at string, rule *router.Rule, p *problems) {
	text := router.Text{Name: m.GetName()}
	switch by := m.GetQueryParameterMatchSpecifier().(type) {
	case *routev3.QueryParameterMatcher_StringMatch:
		stringMatch(by.StringMatch, at+".string_match", &text, p)
	case *routev3.QueryParameterMatcher_PresentMatch:
		text.Present, text.Not = true, !by.PresentMatch
	default:
		text.Present = true
	}
	rule.Query = append(rule.Query, text)
}

// header reads a condition on a header field. One on the method becomes a list of
// methods.
func header(m *routev3.HeaderMatcher, at string, rule *router.Rule, p *problems) {
	text := router.Text{Name: m.GetName()}
	switch by := m.GetHeaderMatchSpecifier().(type) {
	case *routev3.HeaderMatcher_StringMatch:
		stringMatch(by.StringMatch, at+".string_match", &text, p)
	case *routev3.HeaderMatcher_PresentMatch:
		text.Present, text.Not = true, !by.PresentMatch
	default:
		olderMatch(m, &text)
	}
	switch {
	case m.GetName() == ":method":
		rule.Methods = methods(text, m.GetInvertMatch(), at, rule.Methods, p)
		return
	case strings.HasPrefix(m.GetName(), ":"):
		p.Add(at+".name", "is %q: of a request's own fields want :method; the host is a matter of domains, the path of path and prefix", clip(m.GetName()))
		return
	case m.GetInvertMatch() && text.Present:
		text.Not = !text.Not
	case m.GetInvertMatch():
		// A field that is not there matches neither way round.
		rule.Headers = append(rule.Headers, router.Text{Name: text.Name, Present: true})
		text.Not = true
	}
	rule.Headers = append(rule.Headers, text)
}

// olderMatch reads the forms that string_match has taken the place of. Without any the
// field must be there.
//
//nolint:staticcheck // deprecated, and still what many control planes send
func olderMatch(m *routev3.HeaderMatcher, text *router.Text) {
	switch by := m.GetHeaderMatchSpecifier().(type) {
	case *routev3.HeaderMatcher_ExactMatch:
		exact(by.ExactMatch, text)
	case *routev3.HeaderMatcher_PrefixMatch:
		text.Prefix = by.PrefixMatch
	case *routev3.HeaderMatcher_SuffixMatch:
		text.Suffix = by.SuffixMatch
	case *routev3.HeaderMatcher_ContainsMatch:
		text.Contains = by.ContainsMatch
	case *routev3.HeaderMatcher_SafeRegexMatch:
		text.Regex = by.SafeRegexMatch.GetRegex()
	default:
		text.Present = true
	}
}

// alternation is a regular expression that is nothing but a list of words.
var alternation = regexp.MustCompile(`^\(?(?:\?:)?[A-Z-]+(?:\|[A-Z-]+)*\)?$`)

// methods reads a condition on the method.
func methods(text router.Text, inverted bool, at string, before []string, p *problems) []string {
	var words []string
	switch {
	case text.Exact != "":
		words = []string{text.Exact}
	case alternation.MatchString(text.Regex) && strings.Contains(text.Regex, "(") == strings.Contains(text.Regex, ")"):
		words = strings.Split(strings.Trim(strings.TrimPrefix(strings.TrimPrefix(text.Regex, "("), "?:"), ")"), "|")
	}
	if len(words) == 0 || inverted || len(before) > 0 {
		p.Add(at, "is not supported: want one condition on :method, exact or a safe_regex such as GET|HEAD, not inverted")
	}
	return words
}

// stringMatch reads a condition on a text. What a rule cannot say otherwise it says by a
// regular expression.
func stringMatch(m *matcherv3.StringMatcher, at string, text *router.Text, p *problems) {
	literal, before, after := "", "", ""
	switch by := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		exact(by.Exact, text)
		literal = by.Exact
	case *matcherv3.StringMatcher_Prefix:
		text.Prefix, literal, after = by.Prefix, by.Prefix, "(?s:.*)"
	case *matcherv3.StringMatcher_Suffix:
		text.Suffix, literal, before = by.Suffix, by.Suffix, "(?s:.*)"
	case *matcherv3.StringMatcher_Contains:
		text.Contains, literal, before, after = by.Contains, by.Contains, "(?s:.*)", "(?s:.*)"
	case *matcherv3.StringMatcher_SafeRegex:
		text.Regex = by.SafeRegex.GetRegex()
		if m.GetIgnoreCase() {
			p.Add(at+".ignore_case", "does not go with safe_regex: want (?i) in it")
		}
		return
	default:
		p.Add(at, "has no match_pattern: want exact, prefix, suffix, contains or safe_regex")
		return
	}
	if m.GetIgnoreCase() {
		*text = router.Text{Name: text.Name, Regex: before + "(?i:" + regexp.QuoteMeta(literal) + ")" + after}
	}
}

// exact asks for a text, which may be empty.
func exact(want string, text *router.Text) {
	if text.Exact = want; want == "" {
		text.Regex = "(?:)"
	}
}
