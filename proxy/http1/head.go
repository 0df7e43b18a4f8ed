package http1

import (
	"bytes"

	"github.com/overhear-mesh/overhear/proxy/syntax"
)

// span is a part of the buffer that a head was parsed from. Offsets survive the
// growth of the buffer, slices would not.
type span struct{ start, end int32 }

func (s span) of(buf []byte) []byte { return buf[s.start:s.end:s.end] }

func (s span) len() int { return int(s.end - s.start) }

// field is one header field: name and value without the white space around.
type field struct {
	name, value span
	kind        syntax.Kind
	// plain says that the line reads exactly `name: value CR LF`, so that it may
	// be copied as it stands.
	plain bool
}

// Limits bound a message head, and the trailer section too.
type limits struct{ bytes, fields int }

// head is the parsed part of a header section. Parsing may stop for want of
// bytes at any place and go on later from there; the buffer then begins with the
// same bytes. The zero head is ready; reset keeps the memory of fields.
type head struct {
	fields []field
	next   int // where the first line begins that is not parsed yet
	seen   int // no LF before this
	size   int // of the whole section, once it is complete
}

func (h *head) reset() {
	h.fields = h.fields[:0]
	h.next, h.seen, h.size = 0, 0, 0
}

// line finds the next line: buf[start:end] without its CR LF. A line that is not
// complete is reported by ok == false and no problem.
func (h *head) line(buf []byte, lim limits) (start, end int, ok bool, p *problem) {
	i := bytes.IndexByte(buf[h.seen:], '\n')
	if i < 0 {
		h.seen = len(buf)
		if len(buf) >= lim.bytes {
			return 0, 0, false, errTooLarge
		}
		return 0, 0, false, nil
	}
	start, end = h.next, h.seen+i
	if end >= lim.bytes {
		return 0, 0, false, errTooLarge
	}
	// RFC 9112, section 2.2, lets a recipient take a lone LF for the end of a
	// line. Who does so sees other lines than who does not.
	if end == start || buf[end-1] != '\r' {
		return 0, 0, false, errLineEnd
	}
	h.next, h.seen = end+1, end+1
	return start, end - 1, true, nil
}

// section parses header fields up to the empty line. done is false as long as
// the empty line has not come.
func (h *head) section(buf []byte, lim limits) (done bool, p *problem) {
	for {
		start, end, ok, p := h.line(buf, lim)
		if !ok {
			return false, p
		}
		if start == end {
			h.size = h.next
			return true, nil
		}
		if len(h.fields) >= lim.fields {
			return false, errTooMany
		}
		f, p := parseField(buf, start, end)
		if p != nil {
			return false, p
		}
		h.fields = append(h.fields, f)
	}
}

// parseField reads one line of a header section (RFC 9112, section 5).
func parseField(buf []byte, start, end int) (field, *problem) {
	line := buf[start:end]
	if line[0] == ' ' || line[0] == '\t' {
		return field{}, errFold
	}
	colon := 0
	for colon < len(line) && syntax.Class[line[colon]]&syntax.Token != 0 {
		colon++
	}
	if colon == 0 || colon == len(line) || line[colon] != ':' {
		return field{}, errFieldName
	}
	from, to := colon+1, len(line)
	for from < to && (line[from] == ' ' || line[from] == '\t') {
		from++
	}
	for to > from && (line[to-1] == ' ' || line[to-1] == '\t') {
		to--
	}
	if !syntax.All(line[from:to], syntax.Value) {
		return field{}, errControl
	}
	return field{
		name:  span{int32(start), int32(start + colon)},
		value: span{int32(start + from), int32(start + to)},
		kind:  syntax.KindOf(line[:colon]),
		plain: from == colon+2 && to == len(line) && line[colon+1] == ' ',
	}, nil
}

// maxNamed bounds the fields that one Connection header may name: each is looked
// for among all others.
const maxNamed = 16

// message is what the heads of requests and responses have in common: framing
// and persistence.
type message struct {
	head
	minor      uint8 // of HTTP/1.minor
	length     int64 // Content-Length, -1 without
	chunked    bool
	closing    bool // Connection: close
	keepAlive  bool // Connection: keep-alive
	upgrading  bool // has an Upgrade field, and Connection names it
	trailers   bool // TE: trailers
	named      int  // fields that Connection names, beside those that are dropped anyway
	codings    int
	connection [maxNamed]span
}

func (m *message) reset() {
	m.head.reset()
	m.minor, m.length, m.codings, m.named = 0, -1, 0, 0
	m.chunked, m.closing, m.keepAlive, m.upgrading, m.trailers = false, false, false, false, false
}

// persistent says what the message's own end thinks of reusing the connection
// (RFC 9112, section 9.3).
func (m *message) persistent() bool {
	return !m.closing && (m.minor >= 1 || m.keepAlive)
}

// frame reads the fields that decide where the message ends and whether the
// connection goes on. RFC 9112, section 6.3, tells a recipient how to survive a
// message with both lengths, or with several; a proxy that guesses is how
// requests get smuggled, so each of them is refused.
func (m *message) frame(buf []byte) *problem {
	for i := range m.fields {
		f := &m.fields[i]
		value := f.value.of(buf)
		switch f.kind {
		case syntax.ContentLength:
			if m.length >= 0 {
				return errLengthTwice
			}
			n, ok := syntax.Number(value)
			if !ok {
				return errLength
			}
			m.length = n
		case syntax.TransferEncoding:
			if m.codings++; m.codings > 1 {
				return errCodingTwice
			}
			if p := m.coding(value); p != nil {
				return p
			}
		case syntax.Connection:
			if p := m.options(buf, f.value); p != nil {
				return p
			}
		case syntax.TE:
			m.trailers = m.trailers || syntax.HasElement(value, "trailers")
		case syntax.Trailer:
			for list := value; len(list) > 0; {
				var name []byte
				if name, list = syntax.Element(list); framingKind(syntax.KindOf(name)) {
					return errTrailer
				}
			}
		}
	}
	switch {
	case m.codings > 0 && m.length >= 0:
		return errLengthCoding
	case m.codings > 0 && m.minor == 0:
		return errCodingVersion
	}
	return nil
}

// coding takes `chunked`, alone and spelled so. Other codings may be legal, but
// with them the body's end would be in doubt.
func (m *message) coding(value []byte) *problem {
	if syntax.Is(value, "chunked") {
		m.chunked = true
		return nil
	}
	last, rest := syntax.Element(value)
	known := syntax.All(last, syntax.Token) && len(last) > 0
	for rest != nil {
		last, rest = syntax.Element(rest)
		known = known && syntax.All(last, syntax.Token) && len(last) > 0
	}
	if known && syntax.Is(last, "chunked") {
		return errCodingUnknown
	}
	return errCoding
}

// options reads a Connection field (RFC 9110, section 7.6.1).
func (m *message) options(buf []byte, value span) *problem {
	for at := value.start; at < value.end; {
		end := at
		for end < value.end && buf[end] != ',' {
			end++
		}
		option := syntax.Trim(buf[at:end])
		switch {
		case len(option) == 0:
		case !syntax.All(option, syntax.Token):
			return errConnection
		case syntax.Is(option, "close"):
			m.closing = true
		case syntax.Is(option, "keep-alive"):
			m.keepAlive = true
		default:
			m.upgrading = m.upgrading || syntax.Is(option, "upgrade")
			if syntax.KindOf(option) != syntax.Other {
				break // framing and forwarding are not the peer's to take away
			}
			if m.named == maxNamed {
				return errConnection
			}
			from := at
			for buf[from] == ' ' || buf[from] == '\t' {
				from++
			}
			m.connection[m.named] = span{from, from + int32(len(option))}
			m.named++
		}
		at = end + 1
	}
	return nil
}

// drops reports whether a field of no known kind was named by Connection.
func (m *message) drops(buf []byte, f *field) bool {
	name := f.name.of(buf)
	for _, s := range m.connection[:m.named] {
		if bytes.EqualFold(s.of(buf), name) {
			return true
		}
	}
	return false
}
