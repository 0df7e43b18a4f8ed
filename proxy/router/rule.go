package router

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/resilience"
)

// Rule is a route as a file has it. Conditions that are absent hold always.
type Rule struct {
	// Name is for access log and metrics; default the cluster's name with the
	// path condition.
	Name string `yaml:"name"`
	// Hosts are compared with the Host header without its port, whatever the
	// case: a name, "*.example.com" for everything below example.com, or "*".
	Hosts []string `yaml:"hosts"`
	// Path must be the request's whole path, without the query.
	Path string `yaml:"path"`
	// Prefix must be the path or an ancestor of it: /v1 holds for /v1 and
	// /v1/users and not for /v10.
	Prefix string `yaml:"prefix"`
	// StartsWith is how the path must begin, whatever follows: /v1 holds for /v10 too.
	StartsWith string `yaml:"starts_with"`
	// Regex must match the whole path (RE2 syntax).
	Regex string `yaml:"regex"`
	// Methods lists the methods that the rule is for.
	Methods []string `yaml:"methods"`
	// Headers are conditions on header fields; of several of one name the first
	// counts.
	Headers []Text `yaml:"headers"`
	// Query are conditions on query parameters, as they stand in the target.
	Query []Text `yaml:"query"`
	// GRPC asks for a request whose content type is gRPC's.
	GRPC bool `yaml:"grpc"`

	// Exactly one of Cluster, Clusters, Redirect and Respond says what becomes of
	// requests.

	// Cluster is where requests go.
	Cluster string `yaml:"cluster"`
	// Clusters share them by weight.
	Clusters []Share `yaml:"clusters"`
	// Redirect sends clients elsewhere.
	Redirect *Redirect `yaml:"redirect"`
	// Respond answers them here.
	Respond *Respond `yaml:"respond"`

	// Rewrite changes path and host for the endpoint.
	Rewrite Rewrite `yaml:"rewrite"`
	// RequestHeaders changes header fields for the endpoint, ResponseHeaders for the
	// client.
	RequestHeaders  Edit `yaml:"request_headers"`
	ResponseHeaders Edit `yaml:"response_headers"`
	// AttemptCount tells the endpoint, in x-envoy-attempt-count, which attempt of the
	// request it gets; default false. A field of that name that the client has sent is
	// not passed on then.
	AttemptCount bool `yaml:"attempt_count"`
	// Hash is by what a cluster whose balancer hashes keeps requests together.
	Hash []Hash `yaml:"hash"`
	// Mirror sends copies of requests to another cluster; default none.
	Mirror *Mirror `yaml:"mirror"`
	// Fault harms requests on purpose; default none.
	Fault *Fault `yaml:"fault"`
	// RateLimit answers 429 beyond a rate, at this sidecar.
	RateLimit *resilience.RateConfig `yaml:"rate_limit"`
	// Timeout bounds a request from the end of its body to that of its answer, with all
	// attempts; default 15s, 0 is none. Of gRPC over HTTP/2 it bounds the time to the
	// answer's beginning, since what follows may be a stream: that has until the caller's
	// own grpc-timeout.
	Timeout time.Duration `yaml:"timeout"`
	// PerTryTimeout bounds each attempt; default 0, none but Timeout.
	PerTryTimeout time.Duration `yaml:"per_try_timeout"`
	// IdleTimeout ends an exchange in which nothing has moved for so long;
	// default 0, which leaves it to the engine's own.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// Retry says which failures are repeated.
	Retry resilience.RetryPolicy `yaml:"retry"`
}

// DefaultRule sends everything to a cluster that has yet to be named.
func DefaultRule() Rule {
	return Rule{Timeout: 15 * time.Second, Retry: resilience.DefaultRetryPolicy()}
}

// Validate names everything that is wrong with the rule's own fields.
func (r Rule) Validate() error {
	var errs []error
	wrong := func(field, format string, args ...any) {
		errs = append(errs, strictyaml.Invalid(field, format, args...))
	}
	ways := 0
	for _, given := range []bool{r.Cluster != "", len(r.Clusters) > 0, r.Redirect != nil, r.Respond != nil} {
		if given {
			ways++
		}
	}
	switch {
	case ways == 0:
		wrong("cluster", "missing: want one of cluster, clusters, redirect and respond")
	case ways > 1:
		wrong("cluster", "cluster, clusters, redirect and respond exclude each other: want one of them")
	}
	if r.Redirect != nil || r.Respond != nil {
		r.idle(wrong)
	}
	for i, s := range r.Clusters {
		if s.Cluster == "" {
			wrong(fmt.Sprintf("clusters[%d].cluster", i), "missing: want the name of a cluster")
		}
		if s.Weight == 0 || s.Weight > maxWeight {
			wrong(fmt.Sprintf("clusters[%d].weight", i), "%d: want 1 to %d", s.Weight, maxWeight)
		}
	}
	all(r.Headers, "headers", wrong)
	all(r.Query, "query", wrong)
	if r.Redirect != nil {
		r.Redirect.wrong("redirect", wrong)
	}
	if r.Respond != nil {
		r.Respond.wrong("respond", wrong)
	}
	if r.Fault != nil {
		r.Fault.wrong("fault", wrong)
	}
	if r.Mirror != nil {
		r.Mirror.wrong("mirror", wrong)
	}
	r.Rewrite.wrong("rewrite", &r, wrong)
	r.RequestHeaders.wrong("request_headers", wrong)
	r.ResponseHeaders.wrong("response_headers", wrong)
	for i, h := range r.Hash {
		h.wrong(fmt.Sprintf("hash[%d]", i), wrong)
	}
	for i, host := range r.Hosts {
		if problem := wrongHost(host); problem != "" {
			wrong(fmt.Sprintf("hosts[%d]", i), "%q: %s", host, problem)
		}
	}
	for i, method := range r.Methods {
		if method == "" || strings.ContainsAny(method, " \t\r\n") {
			wrong(fmt.Sprintf("methods[%d]", i), "%q: want a method like GET", method)
		}
	}
	paths := 0
	for _, p := range []struct{ name, value string }{{"path", r.Path}, {"prefix", r.Prefix}, {"starts_with", r.StartsWith}, {"regex", r.Regex}} {
		if p.value == "" {
			continue
		}
		if paths++; paths > 1 {
			wrong(p.name, "only one of path, prefix, starts_with and regex may be given")
		}
		if p.name != "regex" && p.value[0] != '/' {
			wrong(p.name, "%q: want a leading /", p.value)
		}
	}
	if r.Regex != "" {
		if _, err := compileWhole(r.Regex); err != nil {
			wrong("regex", "%v", err)
		}
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"timeout", r.Timeout}, {"per_try_timeout", r.PerTryTimeout}, {"idle_timeout", r.IdleTimeout}} {
		if d.value < 0 {
			wrong(d.name, "%v: want 0s (none) or more", d.value)
		}
	}
	if r.Timeout > 0 && r.PerTryTimeout > r.Timeout {
		wrong("per_try_timeout", "%v: want at most the timeout, %v", r.PerTryTimeout, r.Timeout)
	}
	return errors.Join(errs...)
}

// idle names what is without effect in a rule that asks no cluster.
func (r Rule) idle(wrong func(field, format string, args ...any)) {
	usual := DefaultRule()
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"rewrite", r.Rewrite != Rewrite{}},
		{"attempt_count", r.AttemptCount},
		{"hash", len(r.Hash) > 0},
		{"fault", r.Fault != nil},
		{"mirror", r.Mirror != nil},
		{"timeout", r.Timeout != 0 && r.Timeout != usual.Timeout},
		{"per_try_timeout", r.PerTryTimeout != usual.PerTryTimeout},
		{"idle_timeout", r.IdleTimeout != usual.IdleTimeout},
		{"retry", !reflect.DeepEqual(r.Retry, usual.Retry)},
	} {
		if f.set {
			wrong(f.name, "without effect: the rule asks no cluster")
		}
	}
}

// maxWeight is the largest weight of a share.
const maxWeight = 1 << 16

// shares are the clusters of the rule; none if it answers itself.
func (r Rule) shares() []Share {
	if r.Cluster != "" {
		return []Share{{Cluster: r.Cluster, Weight: 1}}
	}
	return r.Clusters
}

// name is what the rule is called in log and metrics.
func (r Rule) name() string {
	does := r.Cluster
	switch {
	case r.Name != "":
		return r.Name
	case r.Redirect != nil:
		does = "redirect"
	case r.Respond != nil:
		does = "respond"
	case r.Cluster == "":
		does = "split"
	}
	return strings.TrimSpace(does + " " + r.Path + r.Prefix + r.StartsWith + r.Regex) // one of the four at most
}

// hosts are the rule's hosts in lower case; "*" if it lists none.
func (r Rule) hosts() []string {
	if len(r.Hosts) == 0 {
		return []string{"*"}
	}
	hosts := make([]string, len(r.Hosts))
	for i, host := range r.Hosts {
		hosts[i] = strings.ToLower(host)
	}
	return hosts
}

// compile makes the part of the rule that Match evaluates. The rule is valid.
func (r Rule) compile() entry {
	e := entry{methods: r.Methods, grpc: r.GRPC}
	for _, h := range r.Headers {
		e.headers = append(e.headers, h.compile(strings.ToLower(h.Name)))
	}
	for _, q := range r.Query {
		e.query = append(e.query, q.compile(q.Name))
	}
	switch {
	case r.Path != "":
		e.kind, e.path = exactPath, []byte(r.Path)
	case r.Prefix != "":
		e.kind, e.path = prefixPath, []byte(r.Prefix)
	case r.StartsWith != "":
		e.kind, e.path = startPath, []byte(r.StartsWith)
	case r.Regex != "":
		e.kind, e.regex = regexPath, whole(r.Regex)
	}
	return e
}

// wrongHost says what is wrong with a host pattern, "" if nothing.
func wrongHost(host string) string {
	name := strings.TrimPrefix(host, "*.")
	switch {
	case host == "*":
		return ""
	case host == "" || name == "":
		return "want a name, *.suffix or *"
	case len(host) > maxHost:
		return fmt.Sprintf("want at most %d characters", maxHost)
	case strings.Contains(name, "*"):
		return "want * only as the first label"
	case strings.Contains(name, "/") || strings.Contains(name, ":") && !strings.HasPrefix(name, "["):
		return "want a name without scheme, port or path"
	}
	return ""
}
