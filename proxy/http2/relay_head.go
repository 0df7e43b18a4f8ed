package http2

import (
	"slices"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/syntax"
	"github.com/overhear-mesh/overhear/proxy/trace"
)

// place finds the request's place in a trace.
func (x *relay) place(policy *trace.Policy) {
	var in trace.Incoming
	for i := range x.fields {
		if f := &x.fields[i]; syntax.KindOf(f.Name) == syntax.Trace {
			in.Set([]byte(f.Name), []byte(f.Value))
		}
	}
	x.Record.Trace = policy.Place(&in)
}

// encodeRequest writes the head for the endpoint of an attempt.
func (x *relay) encodeRequest(e *encoder, t *exchange.Try) {
	r, c := &x.req, x.conn
	var edit *router.FieldEdit
	authority, path := r.authority, r.path
	if route := x.Record.Route; route != nil { // nil inbound
		edit = route.Request
		if route.Host != "" {
			authority = route.Host
		}
		if route.Rewrites() {
			path = string(route.AppendPath(nil, x.Record.Path))
		}
	}
	writeMethod(e, r.method)
	e.scheme(r.scheme)
	e.field(":authority", authority)
	writePath(e, path, r.grpc)
	for i := range r.regular {
		f := &r.regular[i]
		if edit != nil && edit.Drops([]byte(f.Name)) {
			continue
		}
		switch syntax.KindOf(f.Name) {
		case syntax.HopByHop, syntax.Host, syntax.Origin:
			continue
		case syntax.ForwardedFor:
			if i == r.forwarded && c.from != "" {
				e.literal(f.Name, forwardedFor(f.Value, c.from))
				continue
			}
		case syntax.RequestID:
			if f.Value == "" || f.Value != r.identified {
				continue // one id, the one in the record
			}
		case syntax.ForwardedProto:
			if f.Value == "" {
				continue
			}
		case syntax.Trace:
			if policy := c.srv.deps.Trace; policy != nil && policy.Replaces([]byte(f.Name), &x.Record.Trace) {
				continue
			}
		}
		e.put(*f)
	}
	for _, f := range c.srv.deps.Trace.Fields() {
		e.literalBytes(f.Name(), f.Append(e.value[:0], &x.Record.Trace, x.SpanOf(t)))
	}
	if x.Counted() {
		e.number(router.AttemptCount, int64(t.Number()))
	}
	encodePairs(e, edit)
	if r.forwarded < 0 && c.from != "" {
		e.field("x-forwarded-for", c.from)
	}
	if !r.proto {
		e.field("x-forwarded-proto", r.scheme)
	}
	if r.identified == "" {
		e.literalBytes("x-request-id", x.ID())
	}
	if c.srv.via != "" {
		e.field("via", c.srv.via)
	}
}

func forwardedFor(before, from string) string {
	if before == "" {
		return from
	}
	return before + ", " + from
}

// forwardedFor yields the values of x-forwarded-for, the last first.
func (r *request) forwardedFor(yield func([]byte) bool) {
	for _, f := range slices.Backward(r.regular) {
		if f.Name == "x-forwarded-for" && !yield([]byte(f.Value)) {
			return
		}
	}
}

// encodeTrailers writes the trailers for the endpoint.
func (x *relay) encodeTrailers(e *encoder) { encodeTail(e, x.trailers) }

// encodeTail writes the trailers for the client.
func (x *relay) encodeTail(e *encoder) { encodeTail(e, x.respTail) }

func encodeTail(e *encoder, fields []hpack.HeaderField) {
	for _, f := range fields {
		if f.Name != syntax.OriginField {
			e.put(f)
		}
	}
}

// encodeResponse writes a head for the client.
func (x *relay) encodeResponse(e *encoder, r *response, now time.Duration) {
	e.status(r.status)
	var edit *router.FieldEdit
	if r.status >= 200 {
		edit = x.ResponseEdit()
	}
	for i := range r.regular {
		f := &r.regular[i]
		if edit != nil && edit.Drops([]byte(f.Name)) {
			continue
		}
		switch syntax.KindOf(f.Name) {
		case syntax.HopByHop, syntax.Origin:
			continue
		}
		e.put(*f)
	}
	encodePairs(e, edit)
	if r.status < 200 {
		return
	}
	if !r.dated {
		e.literal("date", x.conn.srv.date(now))
	}
	if x.conn.srv.via != "" {
		e.field("via", x.conn.srv.via)
	}
}

// encodePairs writes the fields that an edit adds.
func encodePairs(e *encoder, edit *router.FieldEdit) {
	for _, p := range edit.Writes() {
		e.literal(p.Name, p.Value)
	}
}

func (x *relay) encodeOrigin(e *encoder, origin string) {
	if origin != "" {
		e.field(syntax.OriginField, origin)
	}
}
