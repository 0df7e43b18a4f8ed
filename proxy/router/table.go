package router

import (
	"bytes"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/resilience"
)

// maxHost is how long a host name may be (RFC 1035, section 2.3.4). What is
// longer matches only rules for every host.
const maxHost = 255

// Route is where a request goes and what is done for it. It is immutable.
type Route struct {
	// ID tells routes apart in the counters of the detector: see IDs.
	ID   uint16
	Name string
	// Cluster is nil if the rule names one that does not exist (yet).
	Cluster       *cluster.Cluster
	ClusterName   string
	Timeout       time.Duration
	PerTryTimeout time.Duration
	IdleTimeout   time.Duration
	Retry         *resilience.RetryPolicy
}

// Table answers which route a request takes. It is immutable.
type Table struct {
	exact    map[string][]entry // by host, lower case
	suffixes []suffix           // longest first
	any      []entry
	routes   []*Route // in the order of the rules
}

// suffix is a wildcard with the rules that compete for it. Rules for every host
// are not among them: a host that has rules of its own is not looked for
// elsewhere, as with Envoy's virtual hosts.
type suffix struct {
	text    []byte // ".example.com", lower case
	entries []entry
}

// entry is one rule, compiled.
type entry struct {
	kind    pathKind
	path    []byte
	regex   *regexp.Regexp
	methods []string
	route   *Route
}

type pathKind uint8

const (
	anyPath pathKind = iota
	exactPath
	prefixPath
	regexPath
)

// New makes a table of rules. resolve finds a cluster by its name, and returns
// nil if there is none. ids is shared by all tables of a sidecar.
func New(rules []Rule, resolve func(name string) *cluster.Cluster, ids *IDs) (*Table, error) {
	t := &Table{exact: map[string][]entry{}}
	bySuffix := map[string][]entry{}
	names := map[string]int{}
	for i, rule := range rules {
		if err := strictyaml.Validate(&rule); err != nil {
			return nil, fmt.Errorf("route %d: %w", i, err)
		}
		name := rule.name()
		if names[name]++; names[name] > 1 {
			name = fmt.Sprintf("%s#%d", name, names[name])
		}
		e := rule.compile()
		e.route = &Route{
			ID:            ids.of(name + "\x00" + rule.Cluster),
			Name:          name,
			Cluster:       resolve(rule.Cluster),
			ClusterName:   rule.Cluster,
			Timeout:       rule.Timeout,
			PerTryTimeout: rule.PerTryTimeout,
			IdleTimeout:   rule.IdleTimeout,
			Retry:         &rule.Retry,
		}
		t.routes = append(t.routes, e.route)
		for _, host := range rule.hosts() {
			if host == "*" {
				t.any = append(t.any, e)
			} else if below, ok := strings.CutPrefix(host, "*"); ok {
				bySuffix[below] = append(bySuffix[below], e)
			} else {
				t.exact[host] = append(t.exact[host], e)
			}
		}
	}
	for text, entries := range bySuffix {
		t.suffixes = append(t.suffixes, suffix{[]byte(text), entries})
	}
	// Suffixes that match the same host have different lengths.
	slices.SortFunc(t.suffixes, func(a, b suffix) int { return len(b.text) - len(a.text) })
	return t, nil
}

// Routes are the routes in the order of their rules.
func (t *Table) Routes() iter.Seq[*Route] { return slices.Values(t.routes) }

// Match returns the route of a request, nil if there is none. host is the Host
// header, path the request target in origin form; both as they came from the
// wire.
func (t *Table) Match(host, method, path []byte) *Route {
	if i := bytes.IndexByte(path, '?'); i >= 0 {
		path = path[:i]
	}
	entries := t.competing(host)
	for i := range entries {
		if e := &entries[i]; e.holds(method, path) {
			return e.route
		}
	}
	return nil
}

// competing returns the rules that compete for a host.
func (t *Table) competing(host []byte) []entry {
	if len(t.exact) == 0 && len(t.suffixes) == 0 {
		return t.any
	}
	host = bareHost(host)
	if len(host) > maxHost {
		return t.any
	}
	var buffer [maxHost]byte
	name := buffer[:len(host)]
	for i, c := range host {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		name[i] = c
	}
	if entries, ok := t.exact[string(name)]; ok {
		return entries
	}
	for i := range t.suffixes {
		if s := &t.suffixes[i]; len(name) > len(s.text) && bytes.HasSuffix(name, s.text) {
			return s.entries
		}
	}
	return t.any
}

// holds reports whether the rule's conditions hold, but for the host.
func (e *entry) holds(method, path []byte) bool {
	if len(e.methods) > 0 && !e.lists(method) {
		return false
	}
	switch e.kind {
	case exactPath:
		return bytes.Equal(path, e.path)
	case prefixPath:
		return bytes.HasPrefix(path, e.path) &&
			(len(path) == len(e.path) || path[len(e.path)] == '/' || e.path[len(e.path)-1] == '/')
	case regexPath:
		return e.regex.Match(path)
	}
	return true
}

func (e *entry) lists(method []byte) bool {
	for _, m := range e.methods {
		if string(method) == m {
			return true
		}
	}
	return false
}

// bareHost is a Host header without port and without the dot of the root.
func bareHost(host []byte) []byte {
	if i := bytes.LastIndexByte(host, ':'); i >= 0 && bytes.IndexByte(host[i:], ']') < 0 {
		host = host[:i]
	}
	return bytes.TrimSuffix(host, []byte("."))
}
