package http1

// Classes of bytes, as bits of the table below.
const (
	tokenByte  = 1 << iota // tchar of RFC 9110, section 5.6.2
	valueByte              // in a field value: HTAB, SP, VCHAR, obs-text (RFC 9110, section 5.5)
	targetByte             // in a request target: visible ASCII except the number sign
	hostByte               // in host[:port]: what RFC 3986 allows there, except percent-encoding
	hexByte
)

var bytesOf = classify()

func classify() (table [256]uint8) {
	for b := range 256 {
		var class uint8
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
		digit := b >= '0' && b <= '9'
		if letter || digit || contains("!#$%&'*+-.^_`|~", b) {
			class |= tokenByte
		}
		if b == '\t' || b >= ' ' && b != 0x7f {
			class |= valueByte
		}
		// A fragment never travels, and a byte above 0x7f must be percent-encoded.
		if b > ' ' && b < 0x7f && b != '#' {
			class |= targetByte
		}
		if letter || digit || contains("-._~!$&'()*+,;=:[]", b) {
			class |= hostByte
		}
		if digit || b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F' {
			class |= hexByte
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

// all reports whether every byte of p is of the class.
func all(p []byte, class uint8) bool {
	for _, b := range p {
		if bytesOf[b]&class == 0 {
			return false
		}
	}
	return true
}

// is compares a token with a lower-case name, ignoring case. Setting bit 5 maps
// onto a letter only letters, and onto a digit or a hyphen only itself or a
// control character, which no token contains.
func is(token []byte, lower string) bool {
	if len(token) != len(lower) {
		return false
	}
	for i, b := range token {
		if b|0x20 != lower[i] {
			return false
		}
	}
	return true
}

// trim removes optional white space at both ends.
func trim(p []byte) []byte {
	for len(p) > 0 && (p[0] == ' ' || p[0] == '\t') {
		p = p[1:]
	}
	for len(p) > 0 && (p[len(p)-1] == ' ' || p[len(p)-1] == '\t') {
		p = p[:len(p)-1]
	}
	return p
}

// element cuts the first element off a comma-separated list.
func element(list []byte) (first, rest []byte) {
	for i, b := range list {
		if b == ',' {
			return trim(list[:i]), list[i+1:]
		}
	}
	return trim(list), nil
}

// number reads digits and nothing else. It refuses what does not fit into 18
// digits: no body is that long, and a parser that wraps around reads another
// length than its neighbour.
func number(p []byte) (int64, bool) {
	if len(p) == 0 || len(p) > 18 {
		return 0, false
	}
	var n int64
	for _, b := range p {
		if b < '0' || b > '9' {
			return 0, false
		}
		n = n*10 + int64(b-'0')
	}
	return n, true
}
