package router

import (
	"fmt"
	"slices"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/cluster"
)

// maxRedirects is how often a client may be sent on from one rule to the next: fetch
// gives up after 20.
const maxRedirects = 20

// Check says what is wrong with rules as a whole, if each by itself is right.
func Check(rules []Rule) error {
	redirects := slices.ContainsFunc(rules, func(r Rule) bool { return r.Redirect != nil })
	if !redirects || slices.ContainsFunc(rules, func(r Rule) bool { return r.Validate() != nil }) {
		return nil
	}
	_, err := New(rules, func(string) *cluster.Cluster { return nil }, new(IDs))
	return err
}

// circles says which redirect sends clients in a circle; nil: none does, as far as one
// can know without the requests.
func (t *Table) circles(rules []Rule) error {
	first := 0 // of the rule's routes
	for i := range rules {
		if rules[i].Redirect != nil {
			if path, found := t.circle(&rules[i], t.routes[first]); found {
				return strictyaml.Invalid(fmt.Sprintf("routes[%d].redirect", i), "leads a client that asks for %s to redirects without an end: want another scheme, host, path or prefix, or a rule for it before this one", path)
			}
		}
		first += max(1, len(rules[i].shares()))
	}
	return nil
}

// circle finds a path from which a rule's redirect leads back.
func (t *Table) circle(rule *Rule, own *Route) (path string, found bool) {
	for _, host := range rule.hosts() {
		for _, path := range rule.samples() {
			if t.leadsBack(own, []byte(sample(host)), []byte(path)) {
				return path, true
			}
		}
	}
	return "", false
}

// samples are paths that the rule is for; none if that cannot be told.
func (r *Rule) samples() []string {
	switch {
	case r.Path != "":
		return []string{r.Path}
	case r.Prefix != "":
		return []string{r.Prefix, string(joined(nil, r.Prefix, []byte("x"))) + "x"}
	case r.Regex != "":
		return nil
	}
	return []string{"/", "/x"}
}

// sample is a host name that a pattern is for; of every host none in particular.
func sample(host string) string {
	switch {
	case host == "*":
		return ""
	case host[0] == '*':
		return "x" + host[1:]
	}
	return host
}

// leadsBack follows a redirect as a client would.
func (t *Table) leadsBack(at *Route, host, path []byte) bool {
	for range maxRedirects {
		d := at.Redirect
		if d.Scheme == "https" {
			return false // to another listener, or to one that nobody here knows of
		}
		if d.Host != "" {
			host = []byte(d.Host)
			if len(bareHost(host)) != len(host) || !t.names(host) {
				return false
			}
		}
		path = at.redirected(path)
		if at = t.next(at, host, path); at == nil || at.Redirect == nil {
			return false
		}
	}
	return true
}

// names reports whether there are rules for the host and not only for every host.
func (t *Table) names(host []byte) bool {
	entries := t.competing(host)
	return len(entries) > 0 && (len(t.any) == 0 || &entries[0] != &t.any[0])
}

// next is the route that a client takes who was sent on by a redirect, nil if there is
// none. It sends again what has led it there: only a redirect may take the query away.
func (t *Table) next(from *Route, host, path []byte) *Route {
	q := Request{Host: host, Method: []byte("GET"), Path: path}
	entries := t.competing(host)
	for i := range entries {
		e := &entries[i]
		again := slices.Contains(e.routes, from)
		switch {
		case !again && e.holds(&q, path, nil), again && e.stays(from.Redirect) && e.leads(path):
			return e.routes[0]
		}
	}
	return nil
}

// stays reports whether all conditions but that on the path hold for a request that
// the rule's own redirect d sends here again.
func (e *entry) stays(d *Redirect) bool {
	return (len(e.methods) == 0 || e.lists([]byte("GET"))) && (len(e.query) == 0 || !d.StripQuery)
}

// redirected is the path to which the route sends a client.
func (r *Route) redirected(path []byte) []byte {
	d := r.Redirect
	switch {
	case d.Path != "":
		return []byte(d.Path)
	case d.Prefix != "":
		rest := path[min(r.matched, len(path)):]
		return append(joined(nil, d.Prefix, rest), rest...)
	}
	return path
}
