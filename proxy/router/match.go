package router

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

// Fields finds header fields by their names, in lower case. Of several of one
// name it finds the first.
type Fields interface {
	Field(name string) (value []byte, ok bool)
}

// Request is what a request is matched by, as it came from the wire.
type Request struct {
	Host   []byte // the Host header
	Method []byte
	Path   []byte // the target in origin form, with its query
	GRPC   bool   // its content type is gRPC's
	Fields Fields // nil: it has none
}

// Scheme is the one by which the client asked, as far as that is known: whoever ends TLS
// in front of this sidecar says so in X-Forwarded-Proto.
func (r *Request) Scheme() string {
	if r.Fields != nil {
		if proto, _ := r.Fields.Field("x-forwarded-proto"); strings.EqualFold(string(proto), "https") {
			return "https"
		}
	}
	return "http"
}

// Text is a condition on a string. Exactly one of Exact, Prefix, Suffix, Contains,
// Regex and Present is given.
type Text struct {
	// Name of the header field, in any case, or of the query parameter.
	Name string `yaml:"name"`
	// Exact is the whole value; Prefix, Suffix and Contains are a part of it.
	Exact    string `yaml:"exact"`
	Prefix   string `yaml:"prefix"`
	Suffix   string `yaml:"suffix"`
	Contains string `yaml:"contains"`
	// Regex must match the whole value (RE2 syntax).
	Regex string `yaml:"regex"`
	// Present asks whether there is one, whatever its value.
	Present bool `yaml:"present"`
	// Not turns the condition round: it then also holds where there is none.
	Not bool `yaml:"not"`
}

// wrong names what cannot be used of a condition at field.
func (c Text) wrong(field string, wrong func(field, format string, args ...any)) {
	if c.Name == "" || strings.ContainsAny(c.Name, " \t\r\n:") {
		wrong(field+".name", "%q: want a name", c.Name)
	}
	given := 0
	for _, set := range []bool{c.Exact != "", c.Prefix != "", c.Suffix != "", c.Contains != "", c.Regex != "", c.Present} {
		if set {
			given++
		}
	}
	if given != 1 {
		wrong(field, "want one of exact, prefix, suffix, contains, regex and present")
	}
	if c.Regex != "" {
		if _, err := compileWhole(c.Regex); err != nil {
			wrong(field+".regex", "%v", err)
		}
	}
}

// condition is a Text, compiled.
type condition struct {
	name  string
	test  func(value []byte) bool // nil: any
	wants bool                    // what the test must say
}

// compile makes the condition of a valid Text.
func (c Text) compile(name string) condition {
	out := condition{name: name, wants: !c.Not}
	switch {
	case c.Exact != "":
		want := []byte(c.Exact)
		out.test = func(v []byte) bool { return bytes.Equal(v, want) }
	case c.Prefix != "":
		want := []byte(c.Prefix)
		out.test = func(v []byte) bool { return bytes.HasPrefix(v, want) }
	case c.Suffix != "":
		want := []byte(c.Suffix)
		out.test = func(v []byte) bool { return bytes.HasSuffix(v, want) }
	case c.Contains != "":
		want := []byte(c.Contains)
		out.test = func(v []byte) bool { return bytes.Contains(v, want) }
	case c.Regex != "":
		out.test = whole(c.Regex).Match
	}
	return out
}

// whole is a regular expression that must match all of its subject.
func whole(expr string) *regexp.Regexp {
	r, err := compileWhole(expr)
	if err != nil {
		panic(err) // Validate has compiled it
	}
	return r
}

// compileWhole may fail although expr alone is right: \Q without \E quotes all that
// follows.
func compileWhole(expr string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(expr); err != nil {
		return nil, err // in the user's words
	}
	return regexp.Compile("^(?:" + expr + ")$")
}

func (c *condition) holds(value []byte, ok bool) bool {
	return (ok && (c.test == nil || c.test(value))) == c.wants
}

// parameter is the value of a query parameter as it stands in the target, not
// decoded.
func parameter(query []byte, name string) (value []byte, ok bool) {
	for len(query) > 0 {
		var pair []byte
		pair, query, _ = bytes.Cut(query, []byte{'&'})
		key, value, _ := bytes.Cut(pair, []byte{'='})
		if string(key) == name {
			return value, true
		}
	}
	return nil, false
}

// all checks a list of conditions.
func all(list []Text, field string, wrong func(field, format string, args ...any)) {
	for i, c := range list {
		c.wrong(fmt.Sprintf("%s[%d]", field, i), wrong)
	}
}
