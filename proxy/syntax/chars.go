package syntax

import "bytes"

// text is what a head is made of: bytes of HTTP/1.1, strings of HPACK.
type text interface{ ~string | ~[]byte }

// Classes of bytes, as bits of the table below.
const (
	Token    = 1 << iota // tchar of RFC 9110, section 5.6.2
	Value                // in a field value: HTAB, SP, VCHAR, obs-text (RFC 9110, section 5.5)
	Target               // in a request target: visible ASCII except the number sign
	HostByte             // in host[:port]: what RFC 3986 allows there, except percent-encoding
	Hex
)

// Class has the classes of each byte.
var Class = classify()

func classify() (table [256]uint8) {
	for b := range 256 {
		var class uint8
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
		digit := b >= '0' && b <= '9'
		if letter || digit || contains("!#$%&'*+-.^_`|~", b) {
			class |= Token
		}
		if b == '\t' || b >= ' ' && b != 0x7f {
			class |= Value
		}
		// A fragment never travels, and a byte above 0x7f must be percent-encoded.
		if b > ' ' && b < 0x7f && b != '#' {
			class |= Target
		}
		if letter || digit || contains("-._~!$&'()*+,;=:[]", b) {
			class |= HostByte
		}
		if digit || b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F' {
			class |= Hex
		}
		table[b] = class
	}
	return table
}

func contains(set string, b int) bool {
	for i := range len(set) {
		if int(set[i]) == b {
			return true
		}
	}
	return false
}

// All reports whether every byte of p is of the class.
func All[T text](p T, class uint8) bool {
	for i := range len(p) {
		if Class[p[i]]&class == 0 {
			return false
		}
	}
	return true
}

// Is compares a token with a lower-case name, ignoring case. Setting bit 5 maps
// onto a letter only letters, and onto a digit or a hyphen only itself or a
// control character, which no token contains.
func Is[T text](token T, lower string) bool {
	if len(token) != len(lower) {
		return false
	}
	for i := range len(token) {
		if token[i]|0x20 != lower[i] {
			return false
		}
	}
	return true
}

// Trim removes optional white space at both ends.
func Trim(p []byte) []byte {
	for len(p) > 0 && (p[0] == ' ' || p[0] == '\t') {
		p = p[1:]
	}
	for len(p) > 0 && (p[len(p)-1] == ' ' || p[len(p)-1] == '\t') {
		p = p[:len(p)-1]
	}
	return p
}

// Element cuts the first element off a comma-separated list.
func Element(list []byte) (first, rest []byte) {
	for i, b := range list {
		if b == ',' {
			return Trim(list[:i]), list[i+1:]
		}
	}
	return Trim(list), nil
}

// Number reads digits and nothing else. It refuses what does not fit into 18
// digits: no body is that long, and a parser that wraps around reads another
// length than its neighbour.
func Number[T text](p T) (int64, bool) {
	if len(p) == 0 || len(p) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(p) {
		b := p[i]
		if b < '0' || b > '9' {
			return 0, false
		}
		n = n*10 + int64(b-'0')
	}
	return n, true
}

// HasElement looks for a token in a list, parameters and white space aside.
func HasElement(list []byte, lower string) bool {
	for len(list) > 0 {
		var e []byte
		e, list = Element(list)
		if i := bytes.IndexByte(e, ';'); i >= 0 {
			e = Trim(e[:i])
		}
		if Is(e, lower) {
			return true
		}
	}
	return false
}
