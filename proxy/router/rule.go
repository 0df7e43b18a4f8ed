package router

import (
	"errors"
	"fmt"
	"regexp"
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
	// Regex must match the whole path (RE2 syntax).
	Regex string `yaml:"regex"`
	// Methods lists the methods that the rule is for.
	Methods []string `yaml:"methods"`

	// Cluster is where requests go.
	Cluster string `yaml:"cluster"`
	// Timeout bounds a request from the end of its body to that of its answer, with all
	// attempts; default 15s, 0 is none.
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
	if r.Cluster == "" {
		wrong("cluster", "missing: want the name of a cluster")
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
	for _, p := range []struct{ name, value string }{{"path", r.Path}, {"prefix", r.Prefix}, {"regex", r.Regex}} {
		if p.value == "" {
			continue
		}
		if paths++; paths > 1 {
			wrong(p.name, "only one of path, prefix and regex may be given")
		}
		if p.name != "regex" && p.value[0] != '/' {
			wrong(p.name, "%q: want a leading /", p.value)
		}
	}
	if _, err := regexp.Compile(r.Regex); err != nil {
		wrong("regex", "%v", err)
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

// name is what the rule is called in log and metrics.
func (r Rule) name() string {
	if r.Name != "" {
		return r.Name
	}
	return strings.TrimSpace(r.Cluster + " " + r.Path + r.Prefix + r.Regex) // one of the three at most
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
	e := entry{methods: r.Methods}
	switch {
	case r.Path != "":
		e.kind, e.path = exactPath, []byte(r.Path)
	case r.Prefix != "":
		e.kind, e.path = prefixPath, []byte(r.Prefix)
	case r.Regex != "":
		e.kind, e.regex = regexPath, regexp.MustCompile("^(?:"+r.Regex+")$")
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
