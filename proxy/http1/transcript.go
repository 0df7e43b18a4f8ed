package http1

import (
	"iter"

	"github.com/overhear-mesh/overhear/proxy/syntax"
)

// Transcript takes messages apart that a Server writes, as they come: for who carries
// them in another version of HTTP, on a connection that he has given to the Server as
// its client, or as its endpoint. It is the same parser that reads what strangers
// write.
//
//	t.Write(p)
//	if whole, err := t.Head(); whole { … t.Status(), t.Fields() … }
//	data, end, err := t.Body()
//	if end { … t.Trailers() … }
type Transcript struct {
	limits limits
	answer bool // it is responses that are written
	toHead bool // and the present one is to HEAD
	headed bool // the head has been read
	buf    []byte
	at     int // buf[:at] is done with, but for the head's and the trailers' fields
	req    request
	res    response
	body   body
}

// Begin makes the transcript ready for a request, or for the answers to one of a
// method.
func (t *Transcript) Begin(cfg Config, answer bool, method string) {
	t.limits = limits{bytes: 2 * int(cfg.MaxHead), fields: 2*cfg.MaxFields + 8} // with what is added on the way
	t.answer, t.toHead = answer, method == "HEAD"
	t.buf, t.at = t.buf[:0], 0
	t.next()
}

func (t *Transcript) next() {
	t.headed = false
	t.req.reset()
	t.res.reset()
}

// Shrink ends all messages. It lets go of their memory beyond so many bytes.
func (t *Transcript) Shrink(keep int) {
	if cap(t.buf) > keep {
		t.buf = nil
	}
	t.body.begin(noBody, 0) // the trailers are part of the buffer
	t.buf, t.at = t.buf[:0], 0
	t.next()
}

// Write takes in what has been written.
func (t *Transcript) Write(p []byte) {
	if t.headed || t.at == len(t.buf) {
		t.buf = t.buf[:copy(t.buf, t.buf[t.at:])]
		t.at = 0
	}
	t.buf = append(t.buf, p...)
}

// Head reads the head of the message, and reports whether it is there.
func (t *Transcript) Head() (bool, error) {
	if t.at > 0 {
		t.buf = t.buf[:copy(t.buf, t.buf[t.at:])]
		t.at = 0
	}
	var done bool
	var p *problem
	if t.answer {
		done, p = t.res.parse(t.buf, t.limits)
	} else {
		done, p = t.req.parse(t.buf, t.limits)
	}
	if p != nil {
		return false, p
	}
	if !done {
		return false, nil
	}
	t.headed, t.at = true, t.message().size
	m := t.message()
	switch {
	case t.answer && t.res.bodiless(t.toHead):
		t.body.begin(noBody, 0)
	case m.chunked:
		t.body.begin(inChunks, 0)
	case m.length > 0:
		t.body.begin(sized, m.length)
	case t.answer && m.length < 0:
		t.body.begin(untilClose, 0)
	default:
		t.body.begin(noBody, 0)
	}
	return true, nil
}

func (t *Transcript) message() *message {
	if t.answer {
		return &t.res.message
	}
	return &t.req.message
}

// Headed reports whether Head has found a head; an interim response counts until it
// has been skipped.
func (t *Transcript) Headed() bool { return t.headed }

// Skip goes on behind an interim response, to the next head.
func (t *Transcript) Skip() { t.next() }

// Status of a response.
func (t *Transcript) Status() int { return t.res.status }

// Method, Target and Host of a request.
func (t *Transcript) Method() []byte { return t.req.method.of(t.buf) }

// Target of a request.
func (t *Transcript) Target() []byte { return t.req.target.of(t.buf) }

// Host of a request.
func (t *Transcript) Host() []byte { return t.req.authority.of(t.buf) }

// Length is what content-length says, -1 without.
func (t *Transcript) Length() int64 { return t.message().length }

// Connect reports whether the request is a CONNECT, whose target is an authority.
func (t *Transcript) Connect() bool { return !t.answer && t.req.connect }

// Upgrade is the protocol that a request asks for, or a 101 consents to; nil without.
func (t *Transcript) Upgrade() []byte {
	m := t.message()
	if !m.upgrading {
		return nil
	}
	for value := range m.upgrades(t.buf) {
		return value
	}
	return nil
}

// Tunnel says that what follows the head is no HTTP: Body returns it as it comes.
func (t *Transcript) Tunnel() { t.body.begin(untilClose, 0) }

// GRPC reports whether the message's content is gRPC's.
func (t *Transcript) GRPC() bool { return t.answer && t.res.grpc || !t.answer && t.req.grpc }

// TE reports whether trailers are wanted.
func (t *Transcript) TE() bool { return t.req.trailers }

// Bodiless reports whether the message has ended with its head.
func (t *Transcript) Bodiless() bool { return t.body.done }

// Fields are those of the head that are not about the connection.
func (t *Transcript) Fields() iter.Seq2[[]byte, []byte] {
	return t.fields(&t.message().head, t.buf)
}

// Trailers are the fields behind the body.
func (t *Transcript) Trailers() iter.Seq2[[]byte, []byte] {
	return t.fields(&t.body.trailer, t.body.section)
}

func (t *Transcript) fields(h *head, buf []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for i := range h.fields {
			f := &h.fields[i]
			switch f.kind {
			case syntax.HopByHop, syntax.Connection, syntax.TransferEncoding, syntax.Upgrade, syntax.TE, syntax.Host, syntax.ContentLength:
				continue
			}
			if !yield(f.name.of(buf), f.value.of(buf)) {
				return
			}
		}
	}
}

// Body returns what has come of the body, until the next Write. end says that the
// message is complete.
func (t *Transcript) Body() (data []byte, end bool, err error) {
	data, used, p := t.body.take(t.buf[t.at:], t.limits)
	if p != nil {
		return nil, false, p
	}
	t.at += used
	return data, t.body.done, nil
}

// Complete reports whether the message is, if its sender closes now.
func (t *Transcript) Complete() bool { return t.headed && t.body.closed() }
