package http1

import (
	"net/http"
	"strconv"

	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/syntax"
)

const (
	crlf      = "\r\n"
	lastChunk = "0\r\n\r\n"
)

// buildRequest writes the head for the endpoint, and whatever of the body leaves
// with it, as far as it is framing.
func (c *conn) buildRequest() {
	c.out.head, c.tail = c.appendRequest(c.out.head[:0], &c.Try)
	c.head = len(c.out.head)
}

// appendRequest writes the head for an attempt; tail ends a body in chunks.
func (c *conn) appendRequest(b []byte, t *exchange.Try) (head, tail []byte) {
	buf, r := c.in, &c.req
	b = append(b, r.method.of(buf)...)
	b = append(b, ' ')
	route := c.Record.Route // nil inbound
	if route != nil && route.Rewrites() && !r.connect {
		b = route.AppendPath(b, c.Record.Path)
	} else {
		b = appendTarget(b, r, buf)
	}
	b = append(b, " HTTP/1.1\r\nhost: "...)
	var edit *router.FieldEdit
	if route != nil {
		edit = route.Request
	}
	switch {
	case route != nil && route.Host != "" && !r.connect:
		b = append(b, route.Host...)
	case r.authority.len() == 0 && t.Endpoint.Multiplexed():
		// HTTP/1.0 may name no host. To an endpoint of HTTP/1.1 that is an empty one
		// (RFC 9112, section 3.2), which HTTP/2 has not.
		b = append(b, t.Endpoint.Address...)
	default:
		b = append(b, r.authority.of(buf)...)
	}
	b = append(b, crlf...)
	b = c.appendRequestFields(b, edit)
	b = appendPairs(b, edit)
	switch {
	case r.chunked:
		b = append(b, "transfer-encoding: chunked\r\n"...)
	case r.length >= 0:
		b = appendLength(b, r.length)
	}
	switch {
	case c.upgrade != "":
		b = appendUpgrade(b, c.upgrade)
	case r.trailers:
		b = append(b, "te: trailers\r\nconnection: te\r\n"...)
	}
	if len(c.from) > 0 && r.lastForwarded < 0 {
		b = append(append(append(b, "x-forwarded-for: "...), c.from...), crlf...)
	}
	if !r.proto {
		b = append(b, "x-forwarded-proto: http\r\n"...)
	}
	if r.identified.len() == 0 {
		b = append(append(append(b, "x-request-id: "...), c.ID()...), crlf...)
	}
	for _, f := range c.srv.deps.Trace.Fields() {
		b = append(append(b, f.Name()...), ": "...)
		b = append(f.Append(b, &c.Record.Trace, c.SpanOf(t)), crlf...)
	}
	if c.Counted() {
		b = append(b, router.AttemptCount+": "...)
		b = append(strconv.AppendInt(b, int64(t.Number()), 10), crlf...)
	}
	b = c.appendVia(b, c.major, r.minor)
	b = append(b, crlf...)
	if r.chunked {
		return frameChunk(b, c.in[r.size:c.data], &c.body)
	}
	return b, nil
}

// sendRequest writes what there is of the request. If that is all of it, in one piece,
// it also reads what comes first of the answer.
func (c *conn) sendRequest() (werr, rerr error) {
	c.out.head = c.out.head[:c.head]
	c.mirror()
	data := c.in[c.req.size:c.data]
	p := c.out.join(data, c.tail)
	if p == nil || !c.whole {
		n, err := c.out.send(c.up.Conn, data, c.tail)
		c.Sent = n > 0
		return err, nil
	}
	sent, n, err := c.up.Ask(p, c.resp)
	c.now = c.srv.deps.Clock.Now()
	c.Sent, c.rw = sent > 0, n
	if sent == len(p) {
		return nil, err
	}
	if err == nil {
		n, err = c.up.Write(p[sent:])
		c.Sent = sent+n > 0
	}
	return err, nil
}

// appendTarget writes a target in origin form, or the asterisk (RFC 9112,
// sections 3.2.1 and 3.2.4).
func appendTarget(b []byte, r *request, buf []byte) []byte {
	target := r.target.of(buf)
	if r.absolute && len(target) == 0 && string(r.method.of(buf)) == "OPTIONS" {
		return append(b, '*')
	}
	if len(target) == 0 || target[0] == '?' {
		b = append(b, '/')
	}
	return append(b, target...)
}

// appendRequestFields copies what is meant for the endpoint. Lines that need no
// change and follow each other are copied as one.
func (c *conn) appendRequestFields(b []byte, edit *router.FieldEdit) []byte {
	buf, r := c.in, &c.req
	run := runner{buf: buf}
	for i := range r.fields {
		f := &r.fields[i]
		keep := true
		switch f.kind {
		case syntax.HopByHop, syntax.Connection, syntax.ContentLength, syntax.TransferEncoding, syntax.Host, syntax.TE, syntax.Upgrade, syntax.Origin:
			keep = false
		case syntax.Trailer:
			keep = r.chunked
		case syntax.Expect:
			keep = r.continues
		case syntax.RequestID:
			keep = r.identified == f.value && f.value.len() > 0 // one id, the one in the record
		case syntax.ForwardedProto:
			keep = f.value.len() > 0
		case syntax.ForwardedFor:
			if i == r.lastForwarded && len(c.from) > 0 {
				b = run.flush(b)
				b = appendName(b, f.name.of(buf))
				b = append(b, f.value.of(buf)...)
				if f.value.len() > 0 {
					b = append(b, ", "...)
				}
				b = append(append(b, c.from...), crlf...)
				continue
			}
		case syntax.Trace:
			keep = !c.srv.deps.Trace.Replaces(f.name.of(buf), &c.Record.Trace) && (r.named == 0 || !r.drops(buf, f))
		case syntax.Other:
			keep = r.named == 0 || !r.drops(buf, f)
		}
		if edit != nil && edit.Drops(f.name.of(buf)) {
			keep = false
		}
		b = run.field(b, f, keep)
	}
	return run.flush(b)
}

// buildResponse writes the head for the client.
func (c *conn) buildResponse(keep, chunked bool) {
	buf, r := c.resp, &c.res
	b := appendStatusLine(c.out.head[:0], r, buf)
	edit := c.ResponseEdit()
	b = c.appendResponseFields(b, chunked, edit)
	b = appendPairs(b, edit)
	switch {
	case chunked:
		b = append(b, "transfer-encoding: chunked\r\n"...)
	case r.length >= 0 && r.status != 204:
		b = appendLength(b, r.length)
	}
	if !r.dated {
		b = c.appendDate(b)
	}
	b = c.appendVia(b, c.spoken(), r.minor)
	c.out.head = c.appendPersistence(b, keep)
}

// buildSwitch writes the head after which the connection is a tunnel. It has neither
// body nor framing, and no Connection but for Upgrade.
func (c *conn) buildSwitch() {
	b := appendStatusLine(c.out.head[:0], &c.res, c.resp)
	edit := c.ResponseEdit()
	b = c.appendResponseFields(b, false, edit)
	b = appendPairs(b, edit)
	if c.upgrade != "" {
		b = appendUpgrade(b, c.upgrade)
	}
	c.out.head = append(b, crlf...)
}

func appendUpgrade(b []byte, protocol string) []byte {
	b = append(b, "connection: upgrade\r\nupgrade: "...)
	return append(append(b, protocol...), crlf...)
}

// buildInterim writes the head of an interim response for the client.
func (c *conn) buildInterim() {
	b := appendStatusLine(c.out.head[:0], &c.res, c.resp)
	b = c.appendResponseFields(b, false, nil)
	c.out.head = append(b, crlf...)
}

func appendStatusLine(b []byte, r *response, buf []byte) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(r.status), 10)
	b = append(b, ' ')
	b = append(b, r.reason.of(buf)...)
	return append(b, crlf...)
}

func (c *conn) appendResponseFields(b []byte, chunked bool, edit *router.FieldEdit) []byte {
	buf, r := c.resp, &c.res
	run := runner{buf: buf}
	for i := range r.fields {
		f := &r.fields[i]
		keep := true
		switch f.kind {
		case syntax.HopByHop, syntax.Connection, syntax.ContentLength, syntax.TransferEncoding, syntax.Upgrade, syntax.Origin:
			keep = false
		case syntax.Trailer:
			keep = chunked || c.isHead()
		case syntax.Other:
			keep = r.named == 0 || !r.drops(buf, f)
		}
		if edit != nil && edit.Drops(f.name.of(buf)) {
			keep = false
		}
		b = run.field(b, f, keep)
	}
	return run.flush(b)
}

// appendPairs writes the fields that an edit adds.
func appendPairs(b []byte, edit *router.FieldEdit) []byte {
	for _, p := range edit.Writes() {
		b = append(append(append(append(b, p.Name...), ": "...), p.Value...), crlf...)
	}
	return b
}

// runner copies header fields, neighbours together.
type runner struct {
	buf        []byte
	start, end int32 // lines that are to be copied
}

func (r *runner) field(b []byte, f *field, keep bool) []byte {
	switch {
	case keep && f.plain && f.name.start == r.end:
		r.end = f.value.end + int32(len(crlf))
	case keep && f.plain:
		b = r.flush(b)
		r.start, r.end = f.name.start, f.value.end+int32(len(crlf))
	case keep:
		b = r.flush(b)
		b = appendName(b, f.name.of(r.buf))
		b = append(append(b, f.value.of(r.buf)...), crlf...)
	}
	return b
}

func (r *runner) flush(b []byte) []byte {
	b = append(b, r.buf[r.start:r.end]...)
	r.start = r.end
	return b
}

func appendName(b, name []byte) []byte { return append(append(b, name...), ": "...) }

func appendLength(b []byte, n int64) []byte {
	b = append(b, "content-length: "...)
	b = strconv.AppendInt(b, n, 10)
	return append(b, crlf...)
}

// spoken is the major version in which the endpoint has answered.
func (c *conn) spoken() int {
	if c.srv.deps.Streams != nil && c.Endpoint.Multiplexed() {
		return 2
	}
	return 1
}

// appendVia writes in which version the message came.
func (c *conn) appendVia(b []byte, major int, minor uint8) []byte {
	switch {
	case c.srv.cfg.Via == "":
		return b
	case major > 1:
		b = append(b, "via: 2 "...)
	default:
		b = append(b, "via: 1."...)
		b = append(b, '0'+minor, ' ')
	}
	return append(append(b, c.srv.cfg.Via...), crlf...)
}

// appendPersistence ends a response head. A client of HTTP/1.0 must be told that
// the connection stays open, one of HTTP/1.1 that it does not (RFC 9112, section
// 9.3).
func (c *conn) appendPersistence(b []byte, keep bool) []byte {
	switch {
	case !keep:
		b = append(b, "connection: close\r\n"...)
	case c.req.minor == 0:
		b = append(b, "connection: keep-alive\r\n"...)
	}
	return append(b, crlf...)
}

// appendDate adds the Date that a response must not lack when it is passed on
// (RFC 9110, section 6.6.1).
func (c *conn) appendDate(b []byte) []byte {
	b = append(b, "date: "...)
	b = c.srv.deps.Clock.Time(c.now).UTC().AppendFormat(b, "Mon, 02 Jan 2006 15:04:05 GMT")
	return append(b, crlf...)
}

// frameChunk surrounds data with the chunked coding: what goes before it is
// appended to head, what goes behind it is tail. b says whether the body ends
// here, and with which trailer fields.
func frameChunk(head, data []byte, b *body) (newHead, tail []byte) {
	if len(data) > 0 {
		head = AppendChunkSize(head, len(data))
	}
	switch {
	case !b.done && len(data) == 0:
		return head, nil
	case !b.done:
		return head, tailOpen
	case len(b.trailer.fields) > 0:
		return head, appendTrailers(b, len(data) > 0)
	case len(data) > 0:
		return head, tailLast
	}
	return head, tailLast[len(crlf):]
}

var (
	tailOpen = []byte(crlf)
	tailLast = []byte(crlf + lastChunk)
)

// appendTrailers writes the end of a body that has trailer fields. Fields about
// the connection, and ours, are left out.
func appendTrailers(b *body, afterData bool) []byte {
	var tail []byte
	if afterData {
		tail = append(tail, crlf...)
	}
	tail = append(tail, "0\r\n"...)
	for i := range b.trailer.fields {
		f := &b.trailer.fields[i]
		if f.kind == syntax.HopByHop || f.kind == syntax.Origin {
			continue
		}
		tail = appendName(tail, f.name.of(b.section))
		tail = append(append(tail, f.value.of(b.section)...), crlf...)
	}
	return append(tail, crlf...)
}

// buildReply writes an answer of our own.
func (c *conn) buildReply(r *exchange.Refusal, origin string, keep bool) {
	if c.out.head == nil {
		c.out.head = getBuffer(smallBuffer)
	}
	if c.GRPC && c.req.begun {
		c.buildGRPC(r, origin, keep)
		return
	}
	b := append(c.out.head[:0], "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(append(append(b, ' '), http.StatusText(r.Status)...), crlf...)
	b = c.appendDate(b)
	var edit *router.FieldEdit
	if r.Asked || r.Location != "" {
		edit = c.ResponseEdit()
		b = appendPairs(b, edit)
	}
	if r.Location != "" {
		b = append(append(append(b, "location: "...), r.Location...), crlf...)
		c.out.head = c.appendPersistence(appendLength(b, 0), keep)
		return
	}
	who, end := "overhear: ", "\n"
	if r.Asked {
		who, end = "", ""
	}
	if !edit.Drops([]byte("content-type")) {
		b = append(b, "content-type: text/plain; charset=utf-8\r\n"...)
	}
	if origin != "" {
		b = append(append(append(b, syntax.OriginField+": "...), origin...), crlf...)
	}
	if r.Status != 204 {
		b = appendLength(b, int64(len(who)+len(r.Text)+len(end)))
	}
	b = c.appendPersistence(b, keep)
	if !c.isHead() && r.Status != 204 && r.Status != 304 {
		b = append(append(append(b, who...), r.Text...), end...)
	}
	c.out.head = b
}

// buildGRPC writes an answer of our own to a caller that speaks gRPC: a status without
// a message, as "trailers-only".
func (c *conn) buildGRPC(r *exchange.Refusal, origin string, keep bool) {
	code := r.GRPCStatus()
	c.Record.Status, c.Record.GRPCStatus = 200, code
	b := append(c.out.head[:0], "HTTP/1.1 200 OK\r\n"...)
	b = c.appendDate(b)
	b = append(b, "content-type: application/grpc\r\ngrpc-status: "...)
	b = strconv.AppendInt(b, int64(code), 10)
	b = append(append(append(b, "\r\ngrpc-message: "...), exchange.GRPCMessage(r.Text)...), crlf...)
	if origin != "" {
		b = append(append(append(b, syntax.OriginField+": "...), origin...), crlf...)
	}
	c.out.head = c.appendPersistence(appendLength(b, 0), keep)
}

// isHead reports whether the request's answer has no body whatever it says.
func (c *conn) isHead() bool {
	return c.req.begun && string(c.req.method.of(c.in)) == "HEAD"
}
