package telemetry

import (
	"net"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

// object appends JSON to a buffer without allocating: encoding/json would cost
// more than the rest of the request's bookkeeping together.
type object struct {
	buf   []byte
	comma bool
}

func (o *object) separate() {
	if o.comma {
		o.buf = append(o.buf, ',')
	}
	o.comma = true
}

func (o *object) open() {
	o.separate()
	o.buf = append(o.buf, '{')
	o.comma = false
}

func (o *object) close() {
	o.buf = append(o.buf, '}')
	o.comma = true
}

func (o *object) openList() {
	o.buf = append(o.buf, '[')
	o.comma = false
}

func (o *object) closeList() {
	o.buf = append(o.buf, ']')
	o.comma = true
}

// key begins a member whose name needs no escaping; a value must follow.
func (o *object) key(name string) {
	o.separate()
	o.buf = append(append(append(o.buf, '"'), name...), `":`...)
}

func (o *object) text(name, value string) {
	o.key(name)
	o.buf = appendString(o.buf, value)
}

func (o *object) bytes(name string, value []byte) {
	o.key(name)
	o.buf = appendString(o.buf, value)
}

func (o *object) number(name string, value int64) {
	o.key(name)
	o.buf = strconv.AppendInt(o.buf, value, 10)
}

// flag writes that something is so.
func (o *object) flag(name string) {
	o.key(name)
	o.buf = append(o.buf, "true"...)
}

// millis writes a duration in milliseconds, to the microsecond.
func (o *object) millis(name string, d time.Duration) {
	o.key(name)
	us := d.Microseconds()
	o.buf = strconv.AppendInt(o.buf, us/1000, 10)
	if rest := us % 1000; rest > 0 { // AppendFloat takes three times as long
		digits := [...]byte{'.', byte('0' + rest/100), byte('0' + rest/10%10), byte('0' + rest%10)}
		n := len(digits)
		for digits[n-1] == '0' {
			n--
		}
		o.buf = append(o.buf, digits[:n]...)
	}
}

// address writes where a request comes from; nothing if that is not known. Who was named
// by a proxy, without a port, is written without one.
func (o *object) address(name string, a net.Addr) {
	switch a := a.(type) {
	case nil:
	case *net.TCPAddr: // String would allocate
		o.key(name)
		o.buf = append(o.buf, '"')
		from := a.AddrPort()
		if ip := from.Addr().Unmap(); from.Port() == 0 {
			o.buf = ip.AppendTo(o.buf)
		} else {
			o.buf = netip.AddrPortFrom(ip, from.Port()).AppendTo(o.buf)
		}
		o.buf = append(o.buf, '"')
	default:
		o.text(name, a.String())
	}
}

func (o *object) time(name string, t time.Time) {
	o.key(name)
	o.buf = append(o.buf, '"')
	o.buf = t.UTC().AppendFormat(o.buf, time.RFC3339Nano)
	o.buf = append(o.buf, '"')
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string (RFC 8259, section 7). Bytes that are
// no UTF-8, which a header may hold, become the replacement character.
func appendString[S string | []byte](buf []byte, s S) []byte {
	buf = append(buf, '"')
	for i := 0; i < len(s); {
		plain := i
		for plain < len(s) && plainByte[s[plain]] {
			plain++
		}
		if plain > i {
			buf = append(buf, s[i:plain]...)
			i = plain
			continue
		}
		b := s[i]
		switch {
		case b == '"' || b == '\\':
			buf = append(buf, '\\', b)
			i++
		case b < 0x20 || b == 0x7f:
			buf = append(buf, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&15])
			i++
		default:
			end := min(len(s), i+utf8.UTFMax)
			r, size := utf8.DecodeRuneInString(string(s[i:end]))
			buf = utf8.AppendRune(buf, r)
			i += size
		}
	}
	return append(buf, '"')
}

// plainByte tells which bytes stand for themselves in a JSON string.
var plainByte = func() (table [256]bool) {
	for b := range utf8.RuneSelf {
		table[b] = b >= 0x20 && b != 0x7f && b != '"' && b != '\\'
	}
	return table
}()
