package trace

import "encoding/binary"

// SpanID names one span of a trace; zero is none.
type SpanID [8]byte

// Context is the place of one request in a trace. The zero Context is in none.
type Context struct {
	Trace  [16]byte
	Parent SpanID // the caller's span; zero: the request begins the trace
	Span   SpanID // the span of the request here
	Flags  byte   // of W3C: Sampled, Random
	// W3C: it was read from a traceparent, with which a tracestate belongs.
	W3C bool
}

// The flags of a W3C trace context.
const (
	Sampled = 1 << 0
	Random  = 1 << 1 // the last 7 bytes of the trace id are random (level 2)
)

// Valid reports whether there is a trace.
func (c *Context) Valid() bool { return c.Trace != [16]byte{} }

// Sampled reports whether spans of the trace are recorded.
func (c *Context) Sampled() bool { return c.Flags&Sampled != 0 }

// Child is the id of the n-th attempt's span, told from the others of the trace
// by being derived from the request's own random one.
func (c *Context) Child(n int) SpanID {
	z := binary.BigEndian.Uint64(c.Span[:]) + uint64(n+1)*0x9e3779b97f4a7c15 // SplitMix64
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return spanID(z ^ z>>31)
}

// spanID is the id of a random word; never zero.
func spanID(word uint64) SpanID {
	var id SpanID
	binary.BigEndian.PutUint64(id[:], max(word, 1))
	return id
}

// AppendTraceparent writes the value of a traceparent field, 55 bytes, as a
// caller's whose span is span.
func (c *Context) AppendTraceparent(b []byte, span SpanID) []byte {
	b = append(b, "00-"...)
	b = appendHex(b, c.Trace[:])
	b = append(b, '-')
	b = appendHex(b, span[:])
	b = append(b, '-')
	return appendHex(b, []byte{c.Flags})
}

// AppendB3 writes the value of a single b3 field.
func (c *Context) AppendB3(b []byte, span SpanID) []byte {
	b = appendHex(b, c.Trace[:])
	b = append(b, '-')
	b = appendHex(b, span[:])
	b = append(b, '-', '0'+c.Flags&Sampled)
	if c.Span != (SpanID{}) && c.Span != span {
		b = append(b, '-')
		b = appendHex(b, c.Span[:])
	}
	return b
}

// parseTraceparent reads a traceparent field. A version that is not known is read
// as far as version 00 goes, as the standard wants.
func parseTraceparent(v []byte) (c Context, ok bool) {
	const size = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if len(v) < size || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return Context{}, false
	}
	var version, flags [1]byte
	ok = parseHex(version[:], v[:2]) && parseHex(c.Trace[:], v[3:35]) && parseHex(c.Parent[:], v[36:52]) && parseHex(flags[:], v[53:55])
	switch {
	case !ok, version[0] == 0xff, version[0] == 0 && len(v) != size, len(v) > size && v[size] != '-':
		return Context{}, false
	case !c.Valid(), c.Parent == SpanID{}:
		return Context{}, false
	}
	c.Flags, c.W3C = flags[0]&(Sampled|Random), true
	return c, true
}

// decision is what a caller says about sampling.
type decision uint8

const (
	undecided decision = iota
	denied
	accepted
)

// parseB3 reads a single b3 field: trace-span[-sampled[-parent]], or only the
// decision.
func parseB3(v []byte) (c Context, d decision, ok bool) {
	if len(v) == 1 {
		d, ok = parseDecision(v)
		return Context{}, d, ok
	}
	size := 32 // of the trace id
	if len(v) > 16 && v[16] == '-' {
		size = 16
	}
	if len(v) < size+17 || v[size] != '-' || !parseTrace(&c, v[:size]) || !parseHex(c.Parent[:], v[size+1:size+17]) {
		return Context{}, 0, false
	}
	if rest := v[size+17:]; len(rest) > 0 {
		if len(rest) < 2 || rest[0] != '-' || len(rest) > 2 && rest[2] != '-' {
			return Context{}, 0, false
		}
		if d, ok = parseDecision(rest[1:2]); !ok {
			return Context{}, 0, false
		}
	}
	return c, d, c.Valid() && c.Parent != SpanID{}
}

// parseDecision reads B3's word for a sampling decision; d is debug, which is
// more than accepted.
func parseDecision(v []byte) (decision, bool) {
	switch string(v) {
	case "0", "false":
		return denied, true
	case "1", "d", "true":
		return accepted, true
	}
	return undecided, false
}

// parseTrace reads a trace id of 32 digits, or of 16 as older B3 has them.
func parseTrace(c *Context, v []byte) bool {
	switch len(v) {
	case 32:
		return parseHex(c.Trace[:], v)
	case 16:
		return parseHex(c.Trace[8:], v)
	}
	return false
}

// parseHex reads lower-case digits, two for each byte of into.
func parseHex(into, v []byte) bool {
	if len(v) != 2*len(into) {
		return false
	}
	for i := range into {
		hi, lo := digit(v[2*i]), digit(v[2*i+1])
		if hi > 15 || lo > 15 {
			return false
		}
		into[i] = hi<<4 | lo
	}
	return true
}

func digit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

func appendHex(b, v []byte) []byte {
	const digits = "0123456789abcdef"
	for _, c := range v {
		b = append(b, digits[c>>4], digits[c&15])
	}
	return b
}
