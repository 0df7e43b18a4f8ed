package http2

import (
	"encoding/binary"
	"slices"
)

// ahead is what a look at the frames that have come together shows of their end: the
// streams that are given up in it. A client that opens streams and resets them in one
// breath (CVE-2023-44487), or makes us reset them (CVE-2025-8671), costs an endpoint
// nothing: by the time that a request would be written, nobody wants it any more.
type ahead struct {
	from   int  // in the read buffer: where the next frame begins
	looked bool // since the last read
	resets []uint32
}

// doomed reports whether the end of a stream that is being opened has come already.
// Only whole frames count, so that either it is read before anything else can happen,
// or the connection ends.
func (l *link) doomed(id uint32) bool {
	if !l.ahead.looked {
		l.look()
	}
	return slices.Contains(l.ahead.resets, id)
}

// look reads the heads of the frames that are still to be handled, once for each read.
func (l *link) look() {
	l.ahead.looked, l.ahead.resets = true, l.ahead.resets[:0]
	for rest := l.in[l.ahead.from:l.w]; len(rest) >= frameHeader; {
		n := int(rest[0])<<16 | int(rest[1])<<8 | int(rest[2])
		if len(rest)-frameHeader < n {
			return
		}
		switch t := frameType(rest[3]); {
		case n != 4:
		case t == frameReset, t == frameWindow && binary.BigEndian.Uint32(rest[frameHeader:])&maxWindow == 0:
			l.ahead.resets = append(l.ahead.resets, binary.BigEndian.Uint32(rest[5:])&maxWindow)
		}
		rest = rest[frameHeader+n:]
	}
}
