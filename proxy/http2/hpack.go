package http2

import (
	"strconv"

	"golang.org/x/net/http2/hpack"
)

// encoder writes header blocks. What is the same in each request goes through the
// dynamic table; what never is the same is written as it stands, so that it does
// not push the rest out. Nothing is written in Huffman's code, which saves bytes that
// are cheap between neighbours and costs time that is not.
type encoder struct {
	buf    []byte
	table  table
	lowest int // size of the table since the last block, if resized
	// resized: the next block begins with the table's new size.
	resized bool
	num     [20]byte
	// value is where values are written that are no strings yet.
	value [128]byte
	lower []byte // a name of HTTP/1.1 in lower case
}

func (e *encoder) init() { e.table.limit = tableSize }

// limit is the size of the peer's table (RFC 7541, section 4.2).
func (e *encoder) limit(n uint32) {
	size := int(n)
	if size == e.table.limit {
		return
	}
	if !e.resized || size < e.lowest {
		e.lowest = size
	}
	e.resized = true
	e.table.limit = size
	e.table.evict(size)
}

func (e *encoder) begin() {
	e.buf = e.buf[:0]
	if !e.resized {
		return
	}
	e.resized = false
	if e.lowest < e.table.limit {
		e.integer(formResize, 5, e.lowest)
	}
	e.integer(formResize, 5, e.table.limit)
}

func (e *encoder) block() []byte { return e.buf }

// The forms of a field (RFC 7541, section 6), each with a number behind so many bits.
const (
	formIndexed  = 0x80 // 7
	formInserted = 0x40 // 6
	formResize   = 0x20 // 5
	formNever    = 0x10 // 4; nor may anybody further on
	formLiteral  = 0x00 // 4
)

// field writes a field through the table.
func (e *encoder) field(name, value string) { writeField(e, name, value) }

// put writes a field as it was received: what must not be indexed is not.
func (e *encoder) put(f hpack.HeaderField) {
	switch {
	case f.Sensitive:
		writeLiteral(e, formNever, f.Name, f.Value)
	case unique(f.Name):
		writeLiteral(e, formLiteral, f.Name, f.Value)
	default:
		writeField(e, f.Name, f.Value)
	}
}

// older writes a field of HTTP/1.1, whose name may have capitals.
func (e *encoder) older(name, value []byte) {
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			name = e.small(name)
			break
		}
	}
	if unique(name) {
		writeLiteral(e, formLiteral, name, value)
		return
	}
	writeField(e, name, value)
}

// small is a name in lower case, until the next one.
func (e *encoder) small(name []byte) []byte {
	e.lower = append(e.lower[:0], name...)
	for i, c := range e.lower {
		if 'A' <= c && c <= 'Z' {
			e.lower[i] = c + 'a' - 'A'
		}
	}
	return e.lower
}

// unique reports whether a field's value is hardly ever the same twice.
func unique[T octets](name T) bool {
	switch string(name) {
	case "content-length", "etag", "age", "location", "set-cookie", "if-none-match", "if-modified-since",
		"x-request-id", "traceparent", "grpc-timeout", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid":
		return true
	}
	return false
}

// literal writes a field without indexing.
func (e *encoder) literal(name, value string) { writeLiteral(e, formLiteral, name, value) }

// literalBytes is literal of a value that is no string yet.
func (e *encoder) literalBytes(name string, value []byte) {
	writeLiteral(e, formLiteral, name, value)
}

// writeField writes a field as a number if it is in the table, and else into it.
func writeField[N, V octets](e *encoder, name N, value V) {
	index, whole := find(&e.table, name, value)
	switch {
	case whole:
		e.integer(formIndexed, 7, index)
	case !e.table.fits(len(name), len(value)):
		writeLiteral(e, formLiteral, name, value)
	default:
		if static := staticName(string(name)); static > 0 {
			index = static
		}
		writeText(e, formInserted, 6, index, name, value)
		e.table.insert(string(name), string(value))
	}
}

// writeLiteral writes a field that does not go into the table.
func writeLiteral[N, V octets](e *encoder, form byte, name N, value V) {
	writeText(e, form, 4, staticName(string(name)), name, value)
}

// writeText writes a field as it stands, its name by a number if there is one.
func writeText[N, V octets](e *encoder, form byte, prefix, index int, name N, value V) {
	e.integer(form, prefix, index)
	if index == 0 {
		e.integer(0, 7, len(name))
		e.buf = append(e.buf, name...)
	}
	e.integer(0, 7, len(value))
	e.buf = append(e.buf, value...)
}

// integer writes a number behind the bits of a form (RFC 7541, section 5.1).
func (e *encoder) integer(bits byte, prefix, n int) {
	if limit := 1<<prefix - 1; n >= limit {
		e.buf = append(e.buf, bits|byte(limit))
		n -= limit
		for n >= 128 {
			e.buf = append(e.buf, byte(n)|0x80)
			n >>= 7
		}
		bits = 0
	}
	e.buf = append(e.buf, bits|byte(n))
}

// staticName is the index of a name in the static table (RFC 7541, appendix A); 0: it is
// not there, or hardly ever written.
func staticName[T octets](name T) int {
	switch string(name) {
	case ":authority":
		return 1
	case ":method":
		return 2
	case ":path":
		return 4
	case ":scheme":
		return 6
	case ":status":
		return 8
	case "accept-encoding":
		return 16
	case "accept-language":
		return 17
	case "accept":
		return 19
	case "age":
		return 21
	case "authorization":
		return 23
	case "cache-control":
		return 24
	case "content-encoding":
		return 26
	case "content-length":
		return 28
	case "content-type":
		return 31
	case "cookie":
		return 32
	case "date":
		return 33
	case "etag":
		return 34
	case "if-modified-since":
		return 40
	case "if-none-match":
		return 41
	case "last-modified":
		return 44
	case "location":
		return 46
	case "server":
		return 54
	case "set-cookie":
		return 55
	case "user-agent":
		return 58
	case "vary":
		return 59
	case "via":
		return 60
	}
	return 0
}

// numbers of fields of the static table that are whole.
const (
	indexGET         = 2
	indexPOST        = 3
	indexRoot        = 4
	indexSchemeHTTP  = 6
	indexSchemeHTTPS = 7
)

// indexStatus is that of a status; 0: there is none.
func indexStatus(status int) int {
	switch status {
	case 200:
		return 8
	case 204:
		return 9
	case 206:
		return 10
	case 304:
		return 11
	case 400:
		return 12
	case 404:
		return 13
	case 500:
		return 14
	}
	return 0
}

func (e *encoder) index(n int) { e.integer(formIndexed, 7, n) }

// status writes the pseudo-header of a response.
func (e *encoder) status(status int) {
	if n := indexStatus(status); n > 0 {
		e.index(n)
		return
	}
	e.number(":status", int64(status))
}

func (e *encoder) scheme(scheme string) {
	switch scheme {
	case "http":
		e.index(indexSchemeHTTP)
	case "https":
		e.index(indexSchemeHTTPS)
	default:
		e.field(":scheme", scheme)
	}
}

func (e *encoder) number(name string, n int64) {
	e.literalBytes(name, strconv.AppendInt(e.num[:0], n, 10))
}

func writeMethod[T octets](e *encoder, method T) {
	switch string(method) {
	case "GET":
		e.index(indexGET)
	case "POST":
		e.index(indexPOST)
	default:
		writeField(e, ":method", method)
	}
}

// writePath writes a request's path: through the table if there are few of them, as in
// gRPC.
func writePath[T octets](e *encoder, path T, few bool) {
	switch {
	case string(path) == "/":
		e.index(indexRoot)
	case few:
		writeField(e, ":path", path)
	default:
		writeLiteral(e, formLiteral, ":path", path)
	}
}
