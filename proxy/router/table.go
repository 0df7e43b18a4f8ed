package router

import (
	"bytes"
	"cmp"
	"fmt"
	"iter"
	"net/http"
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

	// Redirect and Respond answer in place of a cluster; nil where there is one.
	Redirect *Redirect
	Respond  *Respond
	// Host, if not empty, is the Host header that the endpoint gets.
	Host string
	// AttemptCount is whether attempts are numbered.
	AttemptCount bool
	// Request and Response change header fields; nil: none.
	Request, Response *FieldEdit
	// Rate bounds the rule's requests; nil: nothing does.
	Rate *resilience.Rate
	// Fault harms them on purpose; nil: none does.
	Fault *Fault
	// Mirror gets copies of them; nil: none does.
	Mirror *Reflection

	rewrite *change
	matched int // bytes of the path that the rule's prefix or path has
	hash    []Hash
}

// Table answers which route a request takes. It is immutable.
type Table struct {
	exact    map[string][]entry // by host, lower case
	suffixes []suffix           // longest first
	any      []entry
	routes   []*Route // in the order of the rules
	mirrors  []*Route // of copies
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
	headers []condition
	query   []condition
	grpc    bool
	// routes are by share: most have one.
	routes []*Route
	upTo   []uint32 // the end of each one's share of all 32-bit words
}

type pathKind uint8

const (
	anyPath pathKind = iota
	exactPath
	prefixPath
	startPath
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
		var rate *resilience.Rate // of the rule, whichever cluster a request goes to
		if rule.RateLimit != nil {
			rate = resilience.NewRate(*rule.RateLimit)
		}
		mirror := rule.reflection(name, resolve, ids)
		shares := rule.shares()
		if len(shares) == 0 {
			shares = []Share{{Weight: 1}} // answered here
		}
		var total, sum uint64
		for _, s := range shares {
			total += uint64(s.Weight)
		}
		for _, s := range shares {
			sum += uint64(s.Weight)
			e.upTo = append(e.upTo, uint32(sum<<32/total-1))
			route := rule.route(name, s.Cluster, resolve, ids)
			route.Rate, route.Mirror = rate, mirror
			e.routes = append(e.routes, route)
		}
		t.routes = append(t.routes, e.routes...)
		if mirror != nil {
			t.mirrors = append(t.mirrors, mirror.Route)
		}
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
	if err := t.circles(rules); err != nil {
		return nil, err
	}
	return t, nil
}

// Inherit takes over what the rules of the table before have used up of their rates,
// as far as name and rate of a rule are the same. It must come before any request.
func (t *Table) Inherit(before *Table) {
	if before == nil {
		return
	}
	rates := map[string]*resilience.Rate{}
	for _, r := range before.routes {
		rates[r.Name] = r.Rate
	}
	for _, r := range t.routes {
		if old := rates[r.Name]; old != nil && old.Equal(r.Rate) {
			r.Rate = old
		}
	}
}

// route is what becomes of the rule's requests for one of its clusters; "": none.
func (r *Rule) route(name, to string, resolve func(string) *cluster.Cluster, ids *IDs) *Route {
	route := &Route{
		ID:            ids.of(name + "\x00" + to),
		Name:          name,
		ClusterName:   to,
		Timeout:       r.Timeout,
		PerTryTimeout: r.PerTryTimeout,
		IdleTimeout:   r.IdleTimeout,
		Retry:         &r.Retry,
		Host:          r.Rewrite.Host,
		AttemptCount:  r.AttemptCount,
		Request:       r.requestEdit(),
		Response:      r.ResponseHeaders.compile(),
		Fault:         r.Fault,
		rewrite:       r.Rewrite.compile(r),
		matched:       len(r.Path) + len(r.Prefix),
	}
	if to != "" {
		route.Cluster = resolve(to)
	}
	if r.Redirect != nil {
		redirect := *r.Redirect
		redirect.Status = cmp.Or(redirect.Status, http.StatusMovedPermanently)
		route.Redirect = &redirect
	}
	if r.Respond != nil {
		route.Respond = &Respond{Status: r.Respond.Status, Body: r.Respond.text()}
	}
	for _, h := range r.Hash {
		h.Header = strings.ToLower(h.Header)
		route.hash = append(route.hash, h)
	}
	return route
}

// Routes are the routes in the order of their rules, and then those of mirrors.
func (t *Table) Routes() iter.Seq[*Route] { return slices.Values(slices.Concat(t.routes, t.mirrors)) }

// Match returns the route of a request, nil if there is none. dice are 32 random
// bits, by which rules with several clusters choose.
func (t *Table) Match(r *Request, dice uint32) *Route {
	path, query, _ := bytes.Cut(r.Path, []byte{'?'})
	entries := t.competing(r.Host)
	for i := range entries {
		if e := &entries[i]; e.holds(r, path, query) {
			return e.pick(dice)
		}
	}
	return nil
}

// pick chooses by share.
func (e *entry) pick(dice uint32) *Route {
	for i, end := range e.upTo {
		if dice <= end {
			return e.routes[i]
		}
	}
	return e.routes[len(e.routes)-1]
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
func (e *entry) holds(r *Request, path, query []byte) bool {
	if len(e.methods) > 0 && !e.lists(r.Method) || e.grpc && !r.GRPC {
		return false
	}
	return e.leads(path) && e.suits(r, query)
}

// suits reports whether the conditions on header and query hold.
func (e *entry) suits(r *Request, query []byte) bool {
	for i := range e.headers {
		c := &e.headers[i]
		var value []byte
		ok := false
		if r.Fields != nil {
			value, ok = r.Fields.Field(c.name)
		}
		if !c.holds(value, ok) {
			return false
		}
	}
	for i := range e.query {
		if c := &e.query[i]; !c.holds(parameter(query, c.name)) {
			return false
		}
	}
	return true
}

// leads reports whether the condition on the path holds.
func (e *entry) leads(path []byte) bool {
	switch e.kind {
	case exactPath:
		return bytes.Equal(path, e.path)
	case prefixPath:
		return bytes.HasPrefix(path, e.path) &&
			(len(path) == len(e.path) || path[len(e.path)] == '/' || e.path[len(e.path)-1] == '/')
	case startPath:
		return bytes.HasPrefix(path, e.path)
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
