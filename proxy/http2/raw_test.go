package http2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// raw speaks HTTP/2 frame by frame, as wrongly as a test wants.
type raw struct {
	t *testing.T
	net.Conn
	*xhttp2.Framer
	enc   *hpack.Encoder
	block bytes.Buffer
}

func newRaw(t *testing.T, c net.Conn) *raw {
	r := &raw{t: t, Conn: c, Framer: xhttp2.NewFramer(c, c)}
	r.AllowIllegalWrites = true
	r.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	r.enc = hpack.NewEncoder(&r.block)
	return r
}

// attacker is a raw client that has greeted.
func (r *rig) attacker(settings ...xhttp2.Setting) *raw {
	r.t.Helper()
	c, err := r.net.Host("10.0.0.66").Dial(r.t.Context(), "tcp", "10.0.0.1:80")
	if err != nil {
		r.t.Fatal(err)
	}
	r.ends = append(r.ends, func() { c.Close() })
	if _, err := io.WriteString(c, xhttp2.ClientPreface); err != nil {
		r.t.Fatal(err)
	}
	a := newRaw(r.t, c)
	if err := a.WriteSettings(settings...); err != nil {
		r.t.Fatal(err)
	}
	return a
}

// fields encodes pairs of names and values.
func (a *raw) fields(pairs ...string) []byte {
	a.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		_ = a.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return bytes.Clone(a.block.Bytes())
}

// head encodes a request.
func (a *raw) head(method string, more ...string) []byte {
	return a.fields(append([]string{":method", method, ":scheme", "http", ":authority", "api", ":path", "/"}, more...)...)
}

func (a *raw) open(id uint32, end bool, block []byte) error {
	return a.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndStream: end, EndHeaders: true})
}

// until reads frames until one is what is looked for, which it describes; an error ends
// it as well.
func (a *raw) until(want func(xhttp2.Frame) bool) string {
	_ = a.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		f, err := a.ReadFrame()
		if se := (xhttp2.StreamError{}); errors.As(err, &se) {
			continue
		}
		if err != nil {
			return err.Error()
		}
		if want(f) {
			return describe(f)
		}
	}
}

func describe(f xhttp2.Frame) string {
	switch f := f.(type) {
	case *xhttp2.GoAwayFrame:
		return "GOAWAY " + f.ErrCode.String()
	case *xhttp2.RSTStreamFrame:
		return fmt.Sprintf("RST_STREAM %d %s", f.StreamID, f.ErrCode)
	case *xhttp2.MetaHeadersFrame:
		return fmt.Sprintf("HEADERS %d %s", f.StreamID, f.PseudoValue("status"))
	}
	return strings.ToUpper(f.Header().Type.String())
}

func isGoAway(f xhttp2.Frame) bool { _, ok := f.(*xhttp2.GoAwayFrame); return ok }

// verdict is the end of a stream, or of all.
func verdict(f xhttp2.Frame) bool {
	switch f.(type) {
	case *xhttp2.GoAwayFrame, *xhttp2.RSTStreamFrame, *xhttp2.MetaHeadersFrame:
		return true
	}
	return false
}

// misbehaves is a backend that speaks frame by frame; it is called when the client has
// greeted.
func misbehaves(t *testing.T, serve func(*raw), settings ...xhttp2.Setting) func(net.Conn, int) {
	return func(c net.Conn, _ int) {
		greeting := make([]byte, len(xhttp2.ClientPreface))
		if _, err := io.ReadFull(c, greeting); err != nil {
			return
		}
		r := newRaw(t, c)
		if r.WriteSettings(settings...) == nil {
			serve(r)
		}
	}
}

// answer is a whole answer to a stream.
func (a *raw) answer(id uint32, pairs ...string) {
	_ = a.open(id, true, a.fields(append([]string{":status", "200"}, pairs...)...))
}

// each calls serve for the head of each request, until the connection ends.
func (a *raw) each(serve func(f *xhttp2.MetaHeadersFrame)) {
	for {
		f, err := a.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *xhttp2.MetaHeadersFrame:
			serve(f)
		case *xhttp2.PingFrame:
			if !f.IsAck() {
				_ = a.WritePing(true, f.Data)
			}
		}
	}
}
