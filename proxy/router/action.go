package router

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/overhear-mesh/overhear/proxy/syntax"
)

// Share is a cluster with its part of a rule's requests.
type Share struct {
	// Cluster by its name.
	Cluster string `yaml:"cluster"`
	// Weight is relative to those of the others; default 1.
	Weight uint32 `yaml:"weight"`
}

// Rewrite changes what is sent to the endpoint. The log and the conditions of
// rules see the request as it came.
type Rewrite struct {
	// Prefix takes the place of the rule's own prefix, or path.
	Prefix string `yaml:"prefix"`
	// Regex finds the parts of the path that Substitution replaces; \1 to \9 are
	// its groups.
	Regex        string `yaml:"regex"`
	Substitution string `yaml:"substitution"`
	// Host takes the place of the Host header.
	Host string `yaml:"host"`
}

// Redirect sends the client elsewhere. What is not given stays as it was.
type Redirect struct {
	// Status is 301, 302, 303, 307 or 308; default 301.
	Status int `yaml:"status"`
	// Scheme is http or https; default the client's, by X-Forwarded-Proto.
	Scheme string `yaml:"scheme"`
	// Host, with or without a port.
	Host string `yaml:"host"`
	// Path takes the place of the whole path, Prefix that of the rule's prefix.
	Path   string `yaml:"path"`
	Prefix string `yaml:"prefix"`
	// StripQuery leaves the query out.
	StripQuery bool `yaml:"strip_query"`
}

// Respond answers without asking anybody.
type Respond struct {
	// Status is 200 to 599.
	Status int `yaml:"status"`
	// Body is text/plain, at most 4KiB; default what the status is called.
	Body string `yaml:"body"`
}

// Edit changes header fields: first Remove, then Set, which replaces, then Add.
type Edit struct {
	// Set writes fields in place of those of their names.
	Set map[string]string `yaml:"set"`
	// Add writes fields beside them.
	Add map[string]string `yaml:"add"`
	// Remove takes fields out.
	Remove []string `yaml:"remove"`
}

// Hash says by what a policy that hashes keeps requests together. Exactly one
// field is given. Sources that a request does not have are left out; without any
// it has no key.
type Hash struct {
	// Header is the name of a header field, Cookie that of a cookie, Query that of a
	// parameter.
	Header string `yaml:"header"`
	Cookie string `yaml:"cookie"`
	Query  string `yaml:"query"`
	// Source is the client's host.
	Source bool `yaml:"source"`
}

// untouchable are fields that frame a message or belong to the sidecar: no edit
// may change them.
var untouchable = []string{
	"connection", "content-length", "date", "expect", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
	"via", "x-forwarded-for", "x-forwarded-proto", "x-overhear-origin", "x-request-id",
}

func (e Edit) wrong(field string, wrong func(field, format string, args ...any)) {
	check := func(at, name string) {
		switch {
		case name == "" || !syntax.All(name, syntax.Token):
			wrong(at, "%q: want the name of a header field", name)
		case slices.Contains(untouchable, strings.ToLower(name)):
			wrong(at, "%s is not for a rule to change", name)
		}
	}
	for _, m := range []struct {
		at     string
		fields map[string]string
	}{{field + ".set", e.Set}, {field + ".add", e.Add}} {
		for name, value := range m.fields {
			check(m.at+"."+name, name)
			if !syntax.All(value, syntax.Value) || strings.Trim(value, " \t") != value {
				wrong(m.at+"."+name, "%q: want printable characters, and no white space around them", value)
			}
		}
	}
	for i, name := range e.Remove {
		check(fmt.Sprintf("%s.remove[%d]", field, i), name)
	}
}

// FieldEdit is an Edit, compiled.
type FieldEdit struct {
	drop  []string // lower case, of what is removed or replaced
	write []Pair
}

// Pair is a header field, its name in lower case.
type Pair struct{ Name, Value string }

// compile is nil if the edit changes nothing.
func (e Edit) compile() *FieldEdit {
	out := new(FieldEdit)
	for _, name := range e.Remove {
		out.drop = append(out.drop, strings.ToLower(name))
	}
	for name, value := range e.Set {
		out.drop = append(out.drop, strings.ToLower(name))
		out.write = append(out.write, Pair{strings.ToLower(name), value})
	}
	for name, value := range e.Add {
		out.write = append(out.write, Pair{strings.ToLower(name), value})
	}
	if len(out.drop) == 0 && len(out.write) == 0 {
		return nil
	}
	slices.SortFunc(out.write, func(a, b Pair) int { return strings.Compare(a.Name, b.Name) }) // not in a map's order
	return out
}

// AttemptCount is the field that numbers attempts.
const AttemptCount = "x-envoy-attempt-count"

// requestEdit is what the rule changes for the endpoint, the number of the attempt left
// out.
func (r *Rule) requestEdit() *FieldEdit {
	edit := r.RequestHeaders
	if r.AttemptCount {
		edit.Remove = append(slices.Clone(edit.Remove), AttemptCount)
	}
	return edit.compile()
}

// Drops reports whether a field does not pass. A nil edit drops none.
func (e *FieldEdit) Drops(name []byte) bool {
	if e == nil {
		return false
	}
	for _, d := range e.drop {
		if len(d) == len(name) && strings.EqualFold(d, string(name)) {
			return true
		}
	}
	return false
}

// Writes are the fields to add.
func (e *FieldEdit) Writes() []Pair {
	if e == nil {
		return nil
	}
	return e.write
}

func (r Redirect) wrong(field string, wrong func(field, format string, args ...any)) {
	if r.Status != 0 && !slices.Contains([]int{301, 302, 303, 307, 308}, r.Status) {
		wrong(field+".status", "%d: want 301, 302, 303, 307 or 308", r.Status)
	}
	if r.Scheme != "" && r.Scheme != "http" && r.Scheme != "https" {
		wrong(field+".scheme", "%q: want http or https", r.Scheme)
	}
	if r.Path != "" && r.Prefix != "" {
		wrong(field+".prefix", "only one of path and prefix may be given")
	}
	for _, p := range []struct{ name, value string }{{"path", r.Path}, {"prefix", r.Prefix}} {
		if p.value != "" && p.value[0] != '/' || strings.ContainsFunc(p.value, notVisible) {
			wrong(field+"."+p.name, "%q: want a path", p.value)
		}
	}
	if r.Host != "" && !syntax.ValidHost([]byte(r.Host)) {
		wrong(field+".host", "%q: want a host, with or without a port", r.Host)
	}
}

func notVisible(r rune) bool { return r <= ' ' || r >= 0x7f }

func (r Rewrite) wrong(field string, rule *Rule, wrong func(field, format string, args ...any)) {
	if r.Prefix != "" {
		if r.Prefix[0] != '/' || !syntax.All(r.Prefix, syntax.Target) {
			wrong(field+".prefix", "%q: want a path", r.Prefix)
		}
		if rule.Prefix == "" && rule.Path == "" {
			wrong(field+".prefix", "takes the place of the rule's prefix or path, and it has none")
		}
	}
	if r.Regex != "" && r.Prefix != "" {
		wrong(field+".regex", "only one of prefix and regex may be given")
	}
	if r.Regex != "" {
		if _, err := regexp.Compile(r.Regex); err != nil {
			wrong(field+".regex", "%v", err)
		}
	}
	if !syntax.All(r.Substitution, syntax.Target) {
		wrong(field+".substitution", "%q: want characters that a path may have", r.Substitution)
	}
	if r.Host != "" && !syntax.ValidHost([]byte(r.Host)) {
		wrong(field+".host", "%q: want a host, with or without a port", r.Host)
	}
}

func (r Respond) wrong(field string, wrong func(field, format string, args ...any)) {
	if r.Status < 200 || r.Status > 599 {
		wrong(field+".status", "%d: want 200 to 599", r.Status)
	}
	if len(r.Body) > maxRespond {
		wrong(field+".body", "has %d bytes: want at most %d", len(r.Body), maxRespond)
	}
}

const maxRespond = 4 << 10

func (h Hash) wrong(field string, wrong func(field, format string, args ...any)) {
	given := 0
	for _, set := range []bool{h.Header != "", h.Cookie != "", h.Query != "", h.Source} {
		if set {
			given++
		}
	}
	if given != 1 {
		wrong(field, "want one of header, cookie, query and source")
	}
}

// change is a Rewrite of the path, compiled.
type change struct {
	cut   int    // bytes of the path that the prefix has
	into  string // what takes their place
	regex *regexp.Regexp
	with  []byte
}

// backReference turns \1 into the ${1} of package regexp.
var backReference = regexp.MustCompile(`\\([0-9])`)

func (r Rewrite) compile(rule *Rule) *change {
	switch {
	case r.Prefix != "":
		return &change{cut: len(rule.Prefix) + len(rule.Path), into: r.Prefix}
	case r.Regex != "":
		plain := strings.ReplaceAll(r.Substitution, "$", "$$")
		return &change{regex: regexp.MustCompile(r.Regex), with: []byte(backReference.ReplaceAllString(plain, "$${$1}"))}
	}
	return nil
}

// AppendPath writes the target that an endpoint is asked for in place of path,
// which matched the route.
func (r *Route) AppendPath(b, path []byte) []byte {
	c := r.rewrite
	if c == nil {
		return append(b, path...)
	}
	if c.regex == nil {
		return append(joined(b, c.into, path[min(c.cut, len(path)):]), path[min(c.cut, len(path)):]...)
	}
	path, query, found := bytes.Cut(path, []byte{'?'})
	asked := c.regex.ReplaceAll(path, c.with)
	if string(path) == "*" {
		asked = path // of OPTIONS: a form of its own
	} else if len(asked) == 0 || asked[0] != '/' {
		// What is left may be anything that the client wrote. It must stay a path: as
		// http://other/ it would name another host.
		b = append(b, '/')
	}
	b = append(b, asked...)
	if found {
		b = append(append(b, '?'), query...)
	}
	return b
}

// joined appends a prefix that rest follows, with one slash between them.
func joined(b []byte, prefix string, rest []byte) []byte {
	slash := strings.HasSuffix(prefix, "/")
	switch {
	case len(rest) > 0 && rest[0] == '/' && slash:
		prefix = prefix[:len(prefix)-1]
	case len(rest) > 0 && rest[0] != '/' && rest[0] != '?' && !slash:
		prefix += "/"
	}
	return append(b, prefix...)
}

// Rewrites reports whether AppendPath changes anything.
func (r *Route) Rewrites() bool { return r.rewrite != nil }

// Location is where a redirect leads a request; scheme is the one that it came
// by.
func (r *Route) Location(scheme string, q *Request) string {
	d := r.Redirect
	if d.Scheme != "" {
		scheme = d.Scheme
	}
	host := string(q.Host)
	if d.Host != "" {
		host = d.Host
	}
	path, query, found := bytes.Cut(q.Path, []byte{'?'})
	location := string(r.redirected(path))
	switch {
	case host != "":
		location = scheme + "://" + host + location
	case strings.HasPrefix(location, "//"):
		// HTTP/1.0 may name no host. Without one the reference is to where the client is
		// already (RFC 3986, section 4.2), unless what follows two slashes reads as a host.
		location = "/." + location
	}
	if found && !d.StripQuery {
		location += "?" + string(query)
	}
	return location
}

// Key is the key of a request of client for policies that hash. ok is false if the
// route has no sources, or the request none of them.
func (r *Route) Key(q *Request, client net.Addr) (key uint64, ok bool) {
	for i := range r.hash {
		h := &r.hash[i]
		var v []byte
		have := false
		switch {
		case h.Source:
			if a, is := client.(*net.TCPAddr); is {
				ip := a.AddrPort().Addr().As16()
				key, ok = mix(key, xxhash.Sum64(ip[:])), true
			}
			continue
		case h.Header != "" && q.Fields != nil:
			v, have = q.Fields.Field(h.Header)
		case h.Cookie != "" && q.Fields != nil:
			v, have = cookie(q.Fields, h.Cookie)
		case h.Query != "":
			if i := bytes.IndexByte(q.Path, '?'); i >= 0 {
				v, have = parameter(q.Path[i+1:], h.Query)
			}
		}
		if have {
			key, ok = mix(key, xxhash.Sum64(v)), true
		}
	}
	return key, ok
}

// mix puts a hash behind others, so that their order counts.
func mix(key, hash uint64) uint64 { return (key<<5|key>>59)*0x9e3779b97f4a7c15 ^ hash }

// cookie is the value of one cookie of a request (RFC 6265, section 4.2).
func cookie(fields Fields, name string) (value []byte, ok bool) {
	rest, _ := fields.Field("cookie")
	for len(rest) > 0 {
		var pair []byte
		pair, rest, _ = bytes.Cut(rest, []byte{';'})
		key, value, found := bytes.Cut(bytes.Trim(pair, " \t"), []byte{'='})
		if found && string(key) == name {
			return value, true
		}
	}
	return nil, false
}

// text is the body: that of the status, if the rule has none.
func (r Respond) text() string {
	if r.Body != "" {
		return r.Body
	}
	return http.StatusText(r.Status)
}
