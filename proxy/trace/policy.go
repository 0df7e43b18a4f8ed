package trace

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

// Format is a way to write a context into headers.
type Format uint8

// The formats.
const (
	W3C     Format = iota // traceparent; a tracestate that belongs with it passes as it is
	B3                    // b3
	B3Multi               // x-b3-traceid, x-b3-spanid, x-b3-parentspanid, x-b3-sampled
)

var formats = [...]string{W3C: "w3c", B3: "b3", B3Multi: "b3multi"}

// String is the format's name in configuration files.
func (f Format) String() string { return strictyaml.NameOf(f, formats[:], "format") }

// MarshalText writes the name that UnmarshalText reads.
func (f Format) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads a format from a configuration file.
func (f *Format) UnmarshalText(text []byte) error {
	return strictyaml.SetName(f, formats[:], text)
}

// Incoming are the fields of a request that speak of a trace; nil where there is
// none. They are read, not kept.
type Incoming struct {
	Traceparent []byte
	B3          []byte
	TraceID     []byte // x-b3-traceid
	SpanID      []byte // x-b3-spanid
	Sampled     []byte // x-b3-sampled
	Flags       []byte // x-b3-flags: 1 is debug
}

// Policy is how requests are placed in traces. It is immutable.
type Policy struct {
	formats   []Format
	fields    []Field
	threshold uint64 // of a root: sampled if its dice are below
	always    bool
}

// NewPolicy reads and writes the formats, the first one that a request has
// counting, and samples the given share of the traces that begin here; of others
// the caller has decided.
func NewPolicy(formats []Format, share float64) *Policy {
	p := &Policy{formats: formats, threshold: uint64(min(max(share, 0), 1) * math.MaxUint64), always: share >= 1}
	for _, f := range formats {
		switch f {
		case W3C:
			p.fields = append(p.fields, traceparent)
		case B3:
			p.fields = append(p.fields, b3)
		case B3Multi:
			p.fields = append(p.fields, b3TraceID, b3SpanID, b3Parent, b3Sampled)
		}
	}
	return p
}

// Place is the context of a request that came with in.
func (p *Policy) Place(in *Incoming) Context {
	d := undecided
	for _, f := range p.formats {
		c, decided, ok := in.read(f)
		if !ok {
			continue
		}
		if c.Valid() {
			if decided == undecided {
				decided = p.decide()
			}
			c.Flags &^= Sampled
			if decided == accepted {
				c.Flags |= Sampled
			}
			c.Span = spanID(rand.Uint64())
			return c
		}
		d = decided
		break
	}
	if d == undecided {
		d = p.decide()
	}
	c := Context{Span: spanID(rand.Uint64()), Flags: Random}
	binary.BigEndian.PutUint64(c.Trace[:8], rand.Uint64())
	binary.BigEndian.PutUint64(c.Trace[8:], max(rand.Uint64(), 1))
	if d == accepted {
		c.Flags |= Sampled
	}
	return c
}

func (p *Policy) decide() decision {
	if p.always || p.threshold > 0 && rand.Uint64() < p.threshold {
		return accepted
	}
	return denied
}

// read is what the fields of one format say; of B3 that may be a decision alone.
func (in *Incoming) read(f Format) (Context, decision, bool) {
	switch f {
	case B3:
		return parseB3(in.B3)
	case B3Multi:
		return in.readMulti()
	}
	c, ok := parseTraceparent(in.Traceparent)
	if !ok {
		return Context{}, undecided, false
	}
	if c.Sampled() {
		return c, accepted, true
	}
	return c, denied, true
}

func (in *Incoming) readMulti() (c Context, d decision, ok bool) {
	if len(in.Flags) == 1 && in.Flags[0] == '1' {
		d = accepted
	} else if len(in.Sampled) > 0 {
		if d, ok = parseDecision(in.Sampled); !ok {
			return Context{}, 0, false
		}
	}
	if len(in.TraceID) == 0 {
		return Context{}, d, d != undecided
	}
	ok = parseTrace(&c, in.TraceID) && parseHex(c.Parent[:], in.SpanID) && c.Valid() && c.Parent != SpanID{}
	return c, d, ok
}

// Set takes in a field of a request, if it speaks of a trace. Names are matched
// in any case.
func (in *Incoming) Set(name, value []byte) {
	switch {
	case is(name, "traceparent"):
		in.Traceparent = value
	case is(name, "b3"):
		in.B3 = value
	case is(name, "x-b3-traceid"):
		in.TraceID = value
	case is(name, "x-b3-spanid"):
		in.SpanID = value
	case is(name, "x-b3-sampled"):
		in.Sampled = value
	case is(name, "x-b3-flags"):
		in.Flags = value
	}
}

func is(name []byte, lower string) bool { return strings.EqualFold(string(name), lower) }

// Replaces reports whether a request's field of that name gives way to the ones
// that the policy writes, c being the request's place. No policy replaces nothing. A
// tracestate does not outlive its traceparent
// (https://www.w3.org/TR/trace-context/#tracestate-header).
func (p *Policy) Replaces(name []byte, c *Context) bool {
	if p == nil {
		return false
	}
	switch {
	case is(name, "traceparent"):
		return slices.Contains(p.formats, W3C)
	case is(name, "tracestate"):
		return !c.W3C && slices.Contains(p.formats, W3C)
	case is(name, "b3"):
		return slices.Contains(p.formats, B3)
	}
	return len(name) > 5 && is(name[:5], "x-b3-") && slices.Contains(p.formats, B3Multi)
}

// Field is one header field of an upstream request.
type Field uint8

// The fields.
const (
	traceparent Field = iota
	b3
	b3TraceID
	b3SpanID
	b3Parent
	b3Sampled
)

var names = [...]string{"traceparent", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled"}

// Name is in lower case.
func (f Field) Name() string { return names[f] }

// Fields are what an upstream request carries; none without a policy.
func (p *Policy) Fields() []Field {
	if p == nil {
		return nil
	}
	return p.fields
}

// Append writes the value of a field for the attempt whose span is span.
func (f Field) Append(b []byte, c *Context, span SpanID) []byte {
	switch f {
	case traceparent:
		return c.AppendTraceparent(b, span)
	case b3:
		return c.AppendB3(b, span)
	case b3TraceID:
		return appendHex(b, c.Trace[:])
	case b3SpanID:
		return appendHex(b, span[:])
	case b3Parent:
		return appendHex(b, c.Span[:])
	case b3Sampled:
		return append(b, '0'+c.Flags&Sampled)
	}
	return b
}
