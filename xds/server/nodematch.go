package server

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxMatchers bounds what one request of CSDS may match by.
const maxMatchers = 100

// nodeMatcher says of a node.id whether one of the matchers wants it; without matchers
// all are wanted. Of a node the server keeps no metadata, so that a matcher of metadata
// is refused.
func nodeMatcher(all []*matcherv3.NodeMatcher) (func(id string) bool, error) {
	if len(all) > maxMatchers {
		return nil, status.Errorf(codes.InvalidArgument, "node_matchers: are %d: want at most %d", len(all), maxMatchers)
	}
	var matches []func(string) bool
	for i, m := range all {
		at := "node_matchers[" + strconv.Itoa(i) + "]"
		if len(m.GetNodeMetadatas()) > 0 {
			return nil, status.Errorf(codes.Unimplemented, "%s.node_metadatas: metadata of nodes is not kept: match by node_id", at)
		}
		if m.GetNodeId() == nil {
			matches = append(matches, func(string) bool { return true })
			continue
		}
		f, err := stringMatcher(m.GetNodeId())
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "%s.node_id: %v", at, err)
		}
		matches = append(matches, f)
	}
	return func(id string) bool {
		for _, f := range matches {
			if f(id) {
				return true
			}
		}
		return len(matches) == 0
	}, nil
}

func stringMatcher(m *matcherv3.StringMatcher) (func(string) bool, error) {
	fold := func(s string) string { return s }
	if m.GetIgnoreCase() {
		fold = strings.ToLower
	}
	by := func(holds func(s, part string) bool, part string) (func(string) bool, error) {
		part = fold(part)
		return func(s string) bool { return holds(fold(s), part) }, nil
	}
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		return by(func(s, part string) bool { return s == part }, p.Exact)
	case *matcherv3.StringMatcher_Prefix:
		return by(strings.HasPrefix, p.Prefix)
	case *matcherv3.StringMatcher_Suffix:
		return by(strings.HasSuffix, p.Suffix)
	case *matcherv3.StringMatcher_Contains:
		return by(strings.Contains, p.Contains)
	case *matcherv3.StringMatcher_SafeRegex:
		// All of the text must match; ignore_case has no effect here, says the proto.
		text := p.SafeRegex.GetRegex()
		if len(text) > maxName {
			return nil, fmt.Errorf("safe_regex is longer than %d bytes", maxName)
		}
		re, err := regexp.Compile(`\A(?:` + text + `)\z`)
		if err != nil {
			return nil, err
		}
		return re.MatchString, nil
	default:
		return nil, errors.New("has no pattern that is known: want exact, prefix, suffix, contains or safe_regex")
	}
}
