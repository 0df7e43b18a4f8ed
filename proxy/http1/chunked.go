package http1

import (
	"math"

	"github.com/overhear-mesh/overhear/proxy/syntax"
)

// chunks decodes the chunked coding (RFC 9112, section 7.1) as bytes come, in
// place: data is moved down over the framing in front of it.
//
// It is strict where others differ: a size is hexadecimal digits and nothing
// else, lines end in CR LF, and an extension has no control characters. A line
// feed alone inside an extension ended the line for some and not for others,
// which smuggled requests through them (CVE-2025-22871, CVE-2025-55315).
type chunks struct {
	state  chunkState
	digits uint8
	ext    uint16 // bytes of the extensions of the present chunk
	left   int64  // of the present chunk
	// overhead counts extension bytes against data, so that a body of one-byte
	// chunks with long extensions cannot make us read for ever (CVE-2023-39326).
	overhead int64
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExtension
	chunkLF // of the size line
	chunkData
	chunkDataCR
	chunkDataLF
	chunkTrailer // the last chunk has been read
)

const (
	maxChunkDigits   = 15 // less than 2^60
	maxExtension     = 1 << 10
	maxChunkOverhead = 16 << 10
)

// decode consumes p and returns how many bytes of data now are at its start. It
// consumes all of p, unless it meets the last chunk: the trailer section begins
// at p[used:].
func (c *chunks) decode(p []byte) (data, used int, _ *problem) {
	for used < len(p) && c.state != chunkTrailer {
		b := p[used]
		switch c.state {
		case chunkData:
			n := int(min(c.left, int64(len(p)-used)))
			if data != used {
				copy(p[data:], p[used:used+n])
			}
			data += n
			used += n
			c.overhead = max(0, c.overhead-int64(n))
			if c.left -= int64(n); c.left == 0 {
				c.state = chunkDataCR
			}
			continue
		case chunkDataCR:
			if b != '\r' {
				return data, used, errChunkEnd
			}
			c.state = chunkDataLF
		case chunkDataLF:
			if b != '\n' {
				return data, used, errChunkEnd
			}
			c.state, c.digits, c.ext = chunkSize, 0, 0
		default:
			if p := c.sizeLine(b); p != nil {
				return data, used, p
			}
		}
		used++
	}
	return data, used, nil
}

// sizeLine takes one byte of a chunk's first line.
func (c *chunks) sizeLine(b byte) *problem {
	switch c.state {
	case chunkSize:
		switch {
		case syntax.Class[b]&syntax.Hex != 0:
			if c.digits == maxChunkDigits {
				return errChunkSize
			}
			c.digits++
			c.left = c.left<<4 | int64(hexValue(b))
		case c.digits == 0:
			return errChunkSize
		case b == ';':
			c.state = chunkExtension
			return c.extend()
		case b == '\r':
			c.state = chunkLF
		default:
			return errChunkSize
		}
	case chunkExtension:
		if b == '\r' {
			c.state = chunkLF
			return nil
		}
		if syntax.Class[b]&syntax.Value == 0 {
			return errChunkExt
		}
		return c.extend()
	case chunkLF:
		if b != '\n' {
			return errChunkSize
		}
		if c.left == 0 {
			c.state = chunkTrailer
		} else {
			c.state = chunkData
		}
	}
	return nil
}

func (c *chunks) extend() *problem {
	c.overhead++
	if c.ext++; c.ext > maxExtension || c.overhead > maxChunkOverhead {
		return errChunkExt
	}
	return nil
}

func hexValue(b byte) byte {
	switch {
	case b <= '9':
		return b - '0'
	default:
		return b | 0x20 - 'a' + 10
	}
}

// AppendChunkSize writes the line before the data of a chunk.
func AppendChunkSize(dst []byte, n int) []byte {
	const digits = "0123456789abcdef"
	var hex [16]byte
	i := len(hex)
	for v := uint64(n) & math.MaxInt64; ; v >>= 4 {
		i--
		hex[i] = digits[v&15]
		if v < 16 {
			break
		}
	}
	dst = append(dst, hex[i:]...)
	return append(dst, '\r', '\n')
}
