package http2

import (
	"bytes"
	"strconv"

	"golang.org/x/net/http2/hpack"
)

// encoder writes header blocks. What is the same in each request goes through the
// dynamic table; what never is the same is written as it stands, so that it does
// not push the rest out.
type encoder struct {
	buf bytes.Buffer
	enc *hpack.Encoder
	num [20]byte
	// value is where values are written that are no strings yet.
	value [128]byte
}

func (e *encoder) init() {
	e.enc = hpack.NewEncoder(&e.buf)
	e.enc.SetMaxDynamicTableSizeLimit(tableSize)
}

// limit is the size of the peer's table.
func (e *encoder) limit(n uint32) {
	e.enc.SetMaxDynamicTableSizeLimit(n)
}

func (e *encoder) begin() { e.buf.Reset() }

func (e *encoder) block() []byte { return e.buf.Bytes() }

// field writes a field through the table.
func (e *encoder) field(name, value string) {
	e.put(hpack.HeaderField{Name: name, Value: value})
}

// put writes a field as it was received: what must not be indexed is not.
func (e *encoder) put(f hpack.HeaderField) {
	if !f.Sensitive && unique(f.Name) {
		e.literal(f.Name, f.Value)
		return
	}
	_ = e.enc.WriteField(f) // into memory
}

// unique reports whether a field's value is hardly ever the same twice.
func unique(name string) bool {
	switch name {
	case "content-length", "etag", "age", "location", "set-cookie", "if-none-match", "if-modified-since",
		"x-request-id", "traceparent", "grpc-timeout", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid":
		return true
	}
	return false
}

// literal writes a field without indexing, its name by the static table if it is
// there (RFC 7541, section 6.2.2), and without Huffman's coding, which saves bytes
// that are cheap between neighbours and costs time that is not.
func (e *encoder) literal(name, value string) {
	e.name(name)
	e.length(len(value))
	e.buf.WriteString(value)
}

// literalBytes is literal of a value that is no string yet.
func (e *encoder) literalBytes(name string, value []byte) {
	e.name(name)
	e.length(len(value))
	e.buf.Write(value)
}

func (e *encoder) name(name string) {
	if i := staticName(name); i > 0 {
		e.integer(0, 4, i)
		return
	}
	e.buf.WriteByte(0)
	e.length(len(name))
	e.buf.WriteString(name)
}

func (e *encoder) length(n int) { e.integer(0, 7, n) }

// integer writes a number behind the bits of a prefix (RFC 7541, section 5.1).
func (e *encoder) integer(bits byte, prefix, n int) {
	if limit := 1<<prefix - 1; n >= limit {
		e.buf.WriteByte(bits | byte(limit))
		n -= limit
		for n >= 128 {
			e.buf.WriteByte(byte(n) | 0x80)
			n >>= 7
		}
		bits = 0
	}
	e.buf.WriteByte(bits | byte(n))
}

// staticName is the index of a name in the static table (RFC 7541, appendix A), of
// those that are written without indexing; 0: it is not there.
func staticName(name string) int {
	switch name {
	case ":path":
		return 4
	case ":status":
		return 8
	case "age":
		return 21
	case "content-length":
		return 28
	case "date":
		return 33
	case "etag":
		return 34
	case "if-modified-since":
		return 40
	case "if-none-match":
		return 41
	case "location":
		return 46
	case "set-cookie":
		return 55
	}
	return 0
}

// indexed fields of the static table that are whole.
const (
	indexGET        = 0x80 | 2
	indexPOST       = 0x80 | 3
	indexRoot       = 0x80 | 4
	indexSchemeHTTP = 0x80 | 6
	indexStatus200  = 0x80 | 8
)

// status writes the pseudo-header of a response.
func (e *encoder) status(status int) {
	switch status {
	case 200:
		e.buf.WriteByte(indexStatus200)
	case 204, 206, 304, 400, 404, 500:
		e.field(":status", strconv.Itoa(status)) // Itoa keeps small numbers ready; these are whole in the table
	default:
		e.literalBytes(":status", strconv.AppendInt(e.num[:0], int64(status), 10))
	}
}

func (e *encoder) method(method string) {
	switch method {
	case "GET":
		e.buf.WriteByte(indexGET)
	case "POST":
		e.buf.WriteByte(indexPOST)
	default:
		e.field(":method", method)
	}
}

func (e *encoder) scheme(scheme string) {
	if scheme == "http" {
		e.buf.WriteByte(indexSchemeHTTP)
		return
	}
	e.field(":scheme", scheme)
}

// path writes a request's path: through the table if there are few of them, as in
// gRPC.
func (e *encoder) path(path string, few bool) {
	switch {
	case path == "/":
		e.buf.WriteByte(indexRoot)
	case few:
		e.field(":path", path)
	default:
		e.literal(":path", path)
	}
}

func (e *encoder) number(name string, n int64) {
	e.literalBytes(name, strconv.AppendInt(e.num[:0], n, 10))
}
