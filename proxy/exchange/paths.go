package exchange

import (
	"bytes"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/syntax"
)

// Paths are what becomes of a request's path before any rule looks at it, so that rules
// and endpoints mean the same path. Log and endpoint get what comes of it. The zero
// value changes nothing.
type Paths struct {
	// Normalize decodes what need not be escaped and removes dot segments (RFC 3986,
	// sections 6.2.2.2 and 6.2.2.3), so that /a/../%62 is /b, and takes a backslash for
	// a slash; default true. A segment with parameters stays, as with other proxies: before
	// a server that takes /..;/ for /../, as those of Java do, want a rule that refuses it.
	Normalize bool `yaml:"normalize"`
	// MergeSlashes makes one of several slashes in a row, as many servers do; default
	// false.
	MergeSlashes bool `yaml:"merge_slashes"`
	// EscapedSlashes says what becomes of %2F and %5C, which servers take for a slash or
	// do not: keep, reject (400), unescape, both to a slash, or redirect (307) to the path
	// that unescape makes, so that whoever is on the way sees it too; callers of gRPC,
	// which follow no redirect, are rejected. Default keep.
	EscapedSlashes Slashes `yaml:"escaped_slashes"`
}

// Slashes is what becomes of escaped slashes.
type Slashes uint8

// The ways.
const (
	KeepSlashes Slashes = iota
	RejectSlashes
	UnescapeSlashes
	RedirectSlashes
)

var slashes = [...]string{KeepSlashes: "keep", RejectSlashes: "reject", UnescapeSlashes: "unescape", RedirectSlashes: "redirect"}

// String is the name that files use.
func (s Slashes) String() string { return strictyaml.NameOf(s, slashes[:], "slashes") }

// MarshalText writes the name that UnmarshalText reads.
func (s Slashes) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a name from a configuration file.
func (s *Slashes) UnmarshalText(text []byte) error { return strictyaml.SetName(s, slashes[:], text) }

// DefaultPaths normalize, and leave slashes alone.
func DefaultPaths() Paths { return Paths{Normalize: true} }

var (
	slashRefused = &Refusal{Status: 400, Flags: DownstreamProtocolError, Text: "the path has an escaped slash"}
	// asItIs leads to the request's own URL.
	asItIs = &router.Route{Redirect: &router.Redirect{}}
)

// Slashed is the answer to a path that Clean does not want. The record has what Clean
// has made of it.
func (x *Exchange) Slashed(p *Paths) *Refusal {
	if p.EscapedSlashes != RedirectSlashes || x.GRPC {
		return slashRefused
	}
	q := x.asked()
	return &Refusal{Status: 307, Text: "redirected to the path without escaped slashes", Location: asItIs.Location(q.Scheme(), &q)}
}

// Clean does to a target in origin form, with its query, what the policy wants, in
// place: the result is no longer than the target. ok is false if it is to be refused,
// see Slashed.
// Cleaning again changes nothing.
func (p *Paths) Clean(target []byte) (clean []byte, ok bool) {
	end := bytes.IndexByte(target, '?')
	if end < 0 {
		end = len(target)
	}
	path := target[:end]
	if *p == (Paths{}) || !suspicious(path) {
		return target, true
	}
	ok = p.EscapedSlashes != RejectSlashes && p.EscapedSlashes != RedirectSlashes || !escapedSlash(path)
	if !ok && p.EscapedSlashes == RejectSlashes {
		return target, false
	}
	path = p.unescape(path)
	if p.MergeSlashes { // first, so that /a//.. is /, as for servers that do so
		path = merge(path)
	}
	if p.Normalize {
		path = removeDots(path)
	}
	n := copy(target[len(path):], target[end:])
	return target[:len(path)+n], ok
}

// Dirty reports whether Clean might do anything.
func (p *Paths) Dirty(target string) bool { return *p != (Paths{}) && suspicious(target) }

// suspicious reports whether there is something in a path that may be cleaned: few have.
func suspicious[T []byte | string](path T) bool {
	if len(path) == 0 || path[0] != '/' {
		return false // the asterisk of OPTIONS
	}
	before := path[0]
	for i := 1; i < len(path); i++ {
		b := path[i]
		if special[b] && (before == '/' || b == '%' || b == '\\') {
			return true
		}
		before = b
	}
	return false
}

// special are the bytes that Clean looks for; a dot and a slash count behind a slash.
var special = [256]bool{'%': true, '\\': true, '.': true, '/': true}

func escapedSlash(path []byte) bool {
	for i := range path {
		if b, escaped := unhex(path[i:]); escaped && (b == '/' || b == '\\') {
			return true
		}
	}
	return false
}

// unescape decodes what the policy wants decoded.
func (p *Paths) unescape(path []byte) []byte {
	w := 0
	for r := 0; r < len(path); r++ {
		b := path[r]
		if decoded, escaped := unhex(path[r:]); escaped {
			switch {
			case (decoded == '/' || decoded == '\\') && p.EscapedSlashes >= UnescapeSlashes:
				b, r = '/', r+2
			case p.Normalize && unreserved(decoded):
				b, r = decoded, r+2
			}
		} else if b == '\\' && p.Normalize {
			b = '/' // it is no byte of a path, and those who take it for one take it for a slash
		}
		path[w] = b
		w++
	}
	return path[:w]
}

// unhex is the byte that stands escaped at the beginning of p.
func unhex(p []byte) (b byte, ok bool) {
	if len(p) < 3 || p[0] != '%' || !syntax.All(p[1:3], syntax.Hex) {
		return 0, false
	}
	for _, c := range p[1:3] {
		b = b<<4 | c&0xf
		if c > '9' {
			b += 9
		}
	}
	return b, true
}

// unreserved is what never needs an escape (RFC 3986, section 2.3).
func unreserved(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '-' || b == '.' || b == '_' || b == '~'
}

// removeDots removes dot segments (RFC 3986, section 5.2.4) of a path that begins with
// a slash.
func removeDots(path []byte) []byte {
	w := 0
	for r := 0; r < len(path); {
		end := r + 1
		for end < len(path) && path[end] != '/' {
			end++
		}
		segment, last := path[r+1:end], end == len(path)
		switch string(segment) {
		case "..":
			w = max(0, bytes.LastIndexByte(path[:w], '/'))
			fallthrough
		case ".":
			if last {
				path[w] = '/'
				w++
			}
		default:
			w += copy(path[w:], path[r:end])
		}
		r = end
	}
	return path[:w]
}

// merge makes one slash of several.
func merge(path []byte) []byte {
	w := 1
	for _, b := range path[1:] {
		if b != '/' || path[w-1] != '/' {
			path[w] = b
			w++
		}
	}
	return path[:w]
}
