package http2

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/http1"
	"github.com/overhear-mesh/overhear/proxy/router"
)

// sink is a connection that takes everything and says nothing.
type sink struct {
	net.Conn
	wrote int
}

func (s *sink) Write(p []byte) (int, error)      { s.wrote += len(p); return len(p), nil }
func (s *sink) Read([]byte) (int, error)         { return 0, io.EOF }
func (s *sink) Close() error                     { return nil }
func (s *sink) SetDeadline(time.Time) error      { return nil }
func (s *sink) SetReadDeadline(time.Time) error  { return nil }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }
func (s *sink) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 1} }

// alone is a server's end of a connection, without a cluster behind it: each request is
// answered with 404.
func alone(tb testing.TB) *serverConn {
	tb.Helper()
	table, err := router.New(nil, nil, new(router.IDs))
	if err != nil {
		tb.Fatal(err)
	}
	k := clock.New()
	deps := exchange.Deps{Clock: k, Router: func() *router.Table { return table }, Metrics: new(exchange.Metrics)}
	srv := NewServer(DefaultConfig(), deps, NewClient(DefaultConfig(), k), nil)
	c := newServerConn(tb.Context(), srv, &sink{})
	c.link.in = getBuffer()
	return c
}

// feed gives the link's reader bytes, as the network would.
func (l *link) feed(p []byte) *fault {
	for len(p) > 0 {
		n := copy(l.in[l.w:], p)
		p = p[n:]
		l.w += n
		if f := l.parse(&l.b); f != nil {
			return f
		}
		l.mu.Lock()
		l.out = l.out[:0] // it has been sent
		l.mu.Unlock()
		l.b.dirty = l.b.dirty[:0]
	}
	return nil
}

// seed is what a well-behaved client sends.
func seed() []byte {
	var out bytes.Buffer
	f := xhttp2.NewFramer(&out, nil)
	out.WriteString(preface)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	_ = f.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 1 << 20})
	_ = f.WriteWindowUpdate(0, 1<<20)
	for id := uint32(1); id < 8; id += 2 {
		block.Reset()
		for _, h := range []hpack.HeaderField{{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "api"}, {Name: ":path", Value: "/x"}, {Name: "content-type", Value: "application/grpc"}} {
			_ = enc.WriteField(h)
		}
		_ = f.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, PadLength: 3})
		_ = f.WriteDataPadded(id, false, []byte("hello"), []byte{0, 0})
		_ = f.WriteData(id, true, nil)
	}
	_ = f.WritePing(false, [8]byte{1})
	_ = f.WriteRSTStream(7, xhttp2.ErrCodeCancel)
	_ = f.WriteGoAway(0, xhttp2.ErrCodeNo, nil)
	return out.Bytes()
}

// Whatever comes: nothing breaks, and what is open and what is kept stays within the
// limits.
func FuzzFrames(f *testing.F) {
	f.Add(seed())
	f.Add([]byte(preface))
	f.Add(append([]byte(preface), 0, 0, 0, 4, 0, 0, 0, 0, 0))
	f.Add(append([]byte(preface), 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 1, 4, 0, 0, 0, 1, 0x82))
	f.Fuzz(func(t *testing.T, p []byte) {
		c := alone(t)
		l := c.link
		_ = l.feed(p)
		if n := int(l.active.Load()); n != len(l.streams) || n > l.cfg.MaxStreams {
			t.Errorf("%d streams counted, %d there, at most %d allowed", n, len(l.streams), l.cfg.MaxStreams)
		}
		if len(l.block) > 2*int(l.cfg.MaxHead) {
			t.Errorf("%d bytes of a header block are kept", len(l.block))
		}
		for id, st := range l.streams {
			if st.recvWin < 0 || st.recvWin > int64(l.cfg.StreamWindow) {
				t.Errorf("stream %d: window of %d", id, st.recvWin)
			}
		}
		l.end(&l.b)
		if len(l.streams) != 0 || l.active.Load() != 0 {
			t.Error("streams outlive their connection")
		}
	})
}

// What a header block says is what another decoder reads, unless it is beyond the
// limits; and never more than these is kept.
func FuzzHeaderBlock(f *testing.F) {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: "a", Value: "b"}, {Name: "cookie", Value: "c"}, {Name: "secret", Value: "d", Sensitive: true}} {
		_ = enc.WriteField(h)
	}
	f.Add(block.Bytes())
	f.Add([]byte{0x82, 0x3f, 0xe1, 0x1f, 0x40, 0x01, 'a', 0x01, 'b', 0xbe})
	f.Fuzz(func(t *testing.T, p []byte) {
		l := alone(t).link
		var want []hpack.HeaderField
		size := 0
		dec := hpack.NewDecoder(tableSize, func(h hpack.HeaderField) { want = append(want, h); size += int(h.Size()) })
		dec.SetMaxStringLength(2 * int(l.cfg.MaxHead))
		_, err := dec.Write(p)
		if err == nil {
			err = dec.Close()
		}
		got := l.headerBlock(&l.b, 2, 0, p) // an even number opens nothing
		if (err != nil) != (got == errHeaderBlock) {
			t.Fatalf("got %v, another decoder %v", got, err)
		}
		if err != nil {
			return
		}
		if size <= int(l.cfg.MaxHead) && len(want) <= l.cfg.MaxFields && len(l.fields) != len(want) {
			t.Errorf("got %d fields, want %d", len(l.fields), len(want))
		}
		kept := 0
		for i, h := range l.fields {
			if h != want[i] {
				t.Errorf("field %d: got %v, want %v", i, h, want[i])
			}
			kept += int(h.Size())
		}
		if kept > int(l.cfg.MaxHead) {
			t.Errorf("%d bytes of fields are kept", kept)
		}
	})
}

// Whatever head HTTP/2 brings: written in HTTP/1.1 it is exactly one request, and
// net/http reads the same in it as was meant.
func FuzzDowngrade(f *testing.F) {
	f.Add("GET", "/", "api", "x", "y", "cookie", "a=b", true)
	f.Add("POST", "/a?b=c", "api:80", "content-length", "3", "x", "a\r\n\r\nGET / HTTP/1.1", false)
	f.Add("OPTIONS", "*", "[::1]:80", "transfer-encoding", "chunked", "te", "trailers", true)
	f.Add("G T", "/ HTTP/1.1", "a b", "host", "other", "a:b", "c", true)
	f.Fuzz(func(t *testing.T, method, path, authority, n1, v1, n2, v2 string, end bool) {
		var r request
		if r.parse([]hpack.HeaderField{
			{Name: ":method", Value: method}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: authority}, {Name: ":path", Value: path},
			{Name: n1, Value: v1}, {Name: n2, Value: v2},
		}) != nil || r.connect || end && r.length > 0 {
			return
		}
		c := alone(t)
		br := &bridge{conn: c}
		br.init(c.srv.deps.Clock, br)
		br.write(&r, end)
		text := string(br.text)

		var ours http1.Transcript
		ours.Begin(http1.DefaultConfig(), false, "")
		ours.Write([]byte(text))
		if whole, err := ours.Head(); !whole || err != nil {
			t.Fatalf("proxy/http1 does not take %q: %v", text, err)
		}
		in := bufio.NewReader(strings.NewReader(text))
		q, err := http.ReadRequest(in)
		if err != nil {
			t.Fatalf("net/http does not take %q: %v", text, err)
		}
		if q.Method != method || q.RequestURI != path || q.Host != authority {
			t.Errorf("net/http reads %s %s of %s in %q", q.Method, q.RequestURI, q.Host, text)
		}
		if rest, _ := io.ReadAll(in); len(rest) > 0 {
			t.Errorf("%q is left behind the head of %q", rest, text)
		}
		fields := 0
		for name, values := range q.Header {
			for _, v := range values {
				fields++
				meant := false
				for _, pair := range [][2]string{{n1, v1}, {n2, v2}, {"te", "trailers"}} {
					meant = meant || strings.EqualFold(name, pair[0]) && (v == pair[1] || name == "Cookie" && strings.Contains(v, pair[1]))
				}
				if !meant {
					t.Errorf("nobody has sent %s: %q", name, v)
				}
			}
		}
		if fields > 2 {
			t.Errorf("%d fields of two", fields)
		}
	})
}

// The common path costs no garbage: a head whose fields are in the table, data, and what
// belongs to them.
func TestReadingFramesDoesNotAllocate(t *testing.T) {
	c := alone(t)
	l := c.link
	if f := l.feed(seed()[:len(preface)]); f != nil {
		t.Fatal(f)
	}
	var out bytes.Buffer
	fr := xhttp2.NewFramer(&out, nil)
	_ = fr.WriteSettings()
	_ = fr.WriteWindowUpdate(0, 1<<30)
	_ = l.feed(out.Bytes())
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	id := uint32(1)
	send := func() {
		block.Reset()
		for _, h := range []hpack.HeaderField{
			{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "api"}, {Name: ":path", Value: "/greeter/hello"},
			{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}, {Name: "user-agent", Value: "test"},
		} {
			_ = enc.WriteField(h)
		}
		out.Reset()
		_ = fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true})
		_ = fr.WriteData(id, true, []byte("\x00\x00\x00\x00\x05hello"))
		id += 2
	}
	for range 100 {
		send()
		if f := l.feed(out.Bytes()); f != nil {
			t.Fatal(f)
		}
	}
	// The request above is refused for want of a route, which writes an answer: reading
	// alone is measured with the head's own parser.
	var r request
	send()
	frames := bytes.Clone(out.Bytes())
	headers := frames[frameHeader : frameHeader+int(frames[2])]
	if got := testing.AllocsPerRun(100, func() {
		l.fields = l.fields[:0]
		l.listSize, l.crumbs, l.pseudo = 0, 0, 0
		l.dec.SetEmitEnabled(true)
		if _, err := l.dec.Write(headers); err != nil || l.dec.Close() != nil {
			t.Fatal(err)
		}
		if f := r.parse(l.fields); f != nil || r.path != "/greeter/hello" || !r.grpc {
			t.Fatal(f, r.path)
		}
	}); got != 0 {
		t.Errorf("reading a head: got %v allocations, want 0", got)
	}
	if got := testing.AllocsPerRun(100, func() {
		send()
		if f := l.feed(out.Bytes()); f != nil {
			t.Fatal(f)
		}
	}); got > 8 { // the refusal's closures and texts, and the framer's
		t.Errorf("a whole request with its refusal: got %v allocations, want at most 8", got)
	}
}

func BenchmarkReadHead(b *testing.B) {
	l := alone(b).link
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	write := func() {
		block.Reset()
		for _, h := range []hpack.HeaderField{
			{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "api"}, {Name: ":path", Value: "/greeter/hello"},
			{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"}, {Name: "user-agent", Value: "test"},
		} {
			_ = enc.WriteField(h)
		}
	}
	write()
	_, _ = l.dec.Write(block.Bytes())
	write()
	var r request
	for b.Loop() {
		l.fields, l.listSize, l.crumbs, l.pseudo = l.fields[:0], 0, 0, 0
		if _, err := l.dec.Write(block.Bytes()); err != nil {
			b.Fatal(err)
		}
		if f := r.parse(l.fields); f != nil {
			b.Fatal(f)
		}
	}
}
