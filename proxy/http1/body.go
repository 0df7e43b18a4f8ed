package http1

import "github.com/overhear-mesh/overhear/proxy/syntax"

// framing is how the end of a body is found.
type framing uint8

const (
	noBody framing = iota
	sized
	inChunks
	untilClose
)

// body takes the data of one body out of what was read.
type body struct {
	framing framing
	done    bool
	left    int64 // sized: bytes to come
	chunks  chunks
	trailer head   // of a body in chunks, once done
	section []byte // what trailer was parsed from: part of the last buffer given to take
}

// begin starts a body; the memory of the trailer's fields is kept.
func (b *body) begin(f framing, length int64) {
	b.trailer.reset()
	*b = body{framing: f, left: length, trailer: b.trailer}
	b.done = f == noBody || f == sized && length == 0
}

// take reads from buf, which begins where the last call stopped: data is what it
// holds of the body, at its start, and used is how many of its bytes are done
// with. Who calls again must bring buf[used:] back at the front of the next
// buffer.
func (b *body) take(buf []byte, lim limits) (data []byte, used int, p *problem) {
	switch {
	case b.done:
		return nil, 0, nil
	case b.framing == sized:
		n := int(min(b.left, int64(len(buf))))
		b.left -= int64(n)
		b.done = b.left == 0
		return buf[:n], n, nil
	case b.framing == untilClose:
		return buf, len(buf), nil
	}
	n, used, p := b.chunks.decode(buf)
	if p != nil {
		return buf[:n], used, p
	}
	if b.chunks.state == chunkTrailer {
		size, p := b.trailers(buf[used:], lim)
		if p != nil {
			return buf[:n], used, p
		}
		used += size
	}
	return buf[:n], used, nil
}

// trailers reads the section after the last chunk, or waits for more of it.
func (b *body) trailers(section []byte, lim limits) (size int, p *problem) {
	done, p := b.trailer.section(section, lim)
	if !done {
		return 0, p
	}
	for i := range b.trailer.fields {
		if k := b.trailer.fields[i].kind; framingKind(k) {
			return 0, errTrailer
		}
	}
	b.done = true
	b.section = section[:b.trailer.size]
	return b.trailer.size, nil
}

// closed is told that the sender has closed its side, and reports whether the
// body was complete by then.
func (b *body) closed() bool {
	if b.framing == untilClose {
		b.done = true
	}
	return b.done
}

// framingKind are the fields that a trailer section must not have, because a
// recipient that merges it into the head would frame or route the message anew
// (RFC 9110, section 6.5.1).
func framingKind(k syntax.Kind) bool {
	switch k {
	case syntax.ContentLength, syntax.TransferEncoding, syntax.Host, syntax.Connection, syntax.TE, syntax.Trailer, syntax.Upgrade, syntax.Expect:
		return true
	}
	return false
}
