package syntax

import "bytes"

// ValidEscapes reports whether every percent sign in a path escapes something:
// those who decode another disagree about what it means. In a query it is common.
func ValidEscapes[T text](target T) bool {
	for i := range len(target) {
		b := target[i]
		switch {
		case b == '?':
			return true
		case b != '%':
		case i+2 >= len(target), Class[target[i+1]]&Hex == 0, Class[target[i+2]]&Hex == 0:
			return false
		}
	}
	return true
}

// ValidHost checks host[:port] for what could lead two readers to two hosts; it
// does not check names.
func ValidHost(p []byte) bool {
	if len(p) == 0 || !All(p, HostByte) {
		return false
	}
	name, port := p, []byte(nil)
	if p[0] == '[' {
		end := bytes.IndexByte(p, ']')
		if end < 3 || !ipLiteral(p[1:end]) {
			return false
		}
		if name, port = p[:end+1], p[end+1:]; len(port) > 0 && port[0] != ':' {
			return false
		}
	} else {
		if i := bytes.IndexByte(p, ':'); i >= 0 {
			name, port = p[:i], p[i:]
		}
		if bytes.ContainsAny(name, "[]") {
			return false
		}
	}
	if len(name) == 0 || len(port) > 6 {
		return false
	}
	for i, b := range port {
		if i > 0 && (b < '0' || b > '9') {
			return false
		}
	}
	return true
}

func ipLiteral(p []byte) bool {
	for _, b := range p {
		if Class[b]&Hex == 0 && b != ':' && b != '.' {
			return false
		}
	}
	return true
}
