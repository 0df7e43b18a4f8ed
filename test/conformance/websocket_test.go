package conformance

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// Opcodes of WebSocket (RFC 6455, section 5.2).
const (
	opContinue = 0x0
	opText     = 0x1
	opBinary   = 0x2
	opClose    = 0x8
	opPing     = 0x9
	opPong     = 0xa
)

// frame is one of WebSocket's.
type frame struct {
	last    bool // of its message
	op      byte
	payload []byte
}

// socket is an end of a WebSocket connection; a client masks what it sends.
type socket struct {
	net.Conn
	in     *bufio.Reader
	client bool
}

// send writes one frame (RFC 6455, section 5.2).
func (s *socket) send(f frame) error {
	b := []byte{f.op, 0}
	if f.last {
		b[0] |= 0x80
	}
	switch n := len(f.payload); {
	case n < 126:
		b[1] = byte(n)
	case n < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if !s.client {
		_, err := s.Write(append(b, f.payload...))
		return err
	}
	b[1] |= 0x80
	key := binary.BigEndian.AppendUint32(nil, rand.Uint32())
	b = append(b, key...)
	for i, c := range f.payload {
		b = append(b, c^key[i%4])
	}
	_, err := s.Write(b)
	return err
}

// receive reads one frame, and checks that the other end masks if it must.
func (s *socket) receive() (frame, error) {
	var b [8]byte
	if _, err := io.ReadFull(s.in, b[:2]); err != nil {
		return frame{}, err
	}
	f := frame{last: b[0]&0x80 != 0, op: b[0] & 0x0f}
	if masked := b[1]&0x80 != 0; masked == s.client || b[0]&0x70 != 0 {
		return f, fmt.Errorf("a frame begins with %x", b[:2])
	}
	n := uint64(b[1] & 0x7f)
	if size := map[uint64]int{126: 2, 127: 8}[n]; size > 0 {
		clear(b[:])
		if _, err := io.ReadFull(s.in, b[8-size:]); err != nil {
			return f, err
		}
		n = binary.BigEndian.Uint64(b[:])
	}
	if n > 16<<20 {
		return f, fmt.Errorf("a frame of %d bytes", n)
	}
	var key [4]byte
	if !s.client {
		if _, err := io.ReadFull(s.in, key[:]); err != nil {
			return f, err
		}
	}
	f.payload = make([]byte, n)
	_, err := io.ReadFull(s.in, f.payload)
	for i := range f.payload {
		f.payload[i] ^= key[i%4]
	}
	return f, err
}

func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// echoFrames is an application: it sends frames back as they come, answers pings, and
// closes when asked. What is no handshake of version 13 it refuses.
func echoFrames(w http.ResponseWriter, r *http.Request) {
	key := r.Header.Get("Sec-WebSocket-Key")
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || !strings.EqualFold(r.Header.Get("Connection"), "upgrade") ||
		r.Header.Get("Sec-WebSocket-Version") != "13" || key == "" {
		w.Header().Set("Sec-WebSocket-Version", "13")
		w.WriteHeader(http.StatusUpgradeRequired)
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	s := &socket{Conn: c, in: rw.Reader}
	if _, err := fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", acceptOf(key)); err != nil {
		return
	}
	if r.URL.Path == "/goodbye" { // in the same breath
		_ = s.send(frame{true, opClose, closing(1001)})
	}
	for {
		f, err := s.receive()
		if err != nil {
			return
		}
		if f.op == opPing {
			f.op = opPong
		}
		if s.send(f) != nil || f.op == opClose {
			return
		}
	}
}

func closing(code uint16) []byte { return binary.BigEndian.AppendUint16(nil, code) }

// shakeHands opens a WebSocket connection.
func shakeHands(t *testing.T, address, path string) *socket {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	s := &socket{Conn: c, in: bufio.NewReader(c), client: true}
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: app\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n", path, key); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(s.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if accept := res.Header.Get("Sec-WebSocket-Accept"); res.StatusCode != http.StatusSwitchingProtocols || accept != acceptOf(key) {
		t.Fatalf("got %d with accept %q, want 101 with %q", res.StatusCode, accept, acceptOf(key))
	}
	return s
}

// echoes sends frames, and wants them back.
func (s *socket) echoes(t *testing.T, frames ...frame) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		for _, f := range frames {
			if err := s.send(f); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for i, want := range frames {
		if want.op == opPing {
			want.op = opPong
		}
		got, err := s.receive()
		if err != nil || got.last != want.last || got.op != want.op || !bytes.Equal(got.payload, want.payload) {
			t.Fatalf("frame %d: got op %x of %d bytes, last %v, %v; want op %x of %d, last %v", i, got.op, len(got.payload), got.last, err, want.op, len(want.payload), want.last)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// ends waits for the end of the connection.
func (s *socket) ends(t *testing.T) {
	t.Helper()
	if b, err := io.ReadAll(s.in); len(b) > 0 || err != nil {
		t.Errorf("end: got %q, %v, want nothing more and an orderly end", b, err)
	}
}

// TestWebSocket speaks WebSocket through an outbound and an inbound sidecar, which must
// not notice what it is about.
func TestWebSocket(t *testing.T) {
	app, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(echoFrames)}
	t.Cleanup(func() { _ = srv.Close() })
	go func() { _ = srv.Serve(app) }()
	in := sidecar(t, fmt.Sprintf(`
inbound:
  - {name: http1, address: "127.0.0.1:0", application: %[1]q}
  - {name: auto, address: "127.0.0.1:0", protocol: auto, application: %[1]q}
`, app.Addr().String()))
	out := sidecar(t, fmt.Sprintf(`
outbound:
  - {name: http1, address: "127.0.0.1:0", cluster: http1}
  - {name: auto, address: "127.0.0.1:0", protocol: auto, cluster: auto}
clusters:
  - {name: http1, endpoints: [{address: %q, inbound: true}]}
  - {name: auto, endpoints: [{address: %q, inbound: true}]}
`, in.Addr("http1").String(), in.Addr("auto").String()))
	for _, name := range []string{"http1", "auto"} {
		t.Run(name, func(t *testing.T) { speakWebSocket(t, out.Addr(name).String()) })
	}
}

func speakWebSocket(t *testing.T, address string) {
	payload := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		return b
	}
	t.Run("frames of all sizes", func(t *testing.T) {
		s := shakeHands(t, address, "/")
		for _, n := range []int{0, 1, 2, 125, 126, 127, 128, 1000, 2047, 2048, 2049, 18 << 10, 65_535, 65_536, 65_537, 1 << 20, 4 << 20, 3} {
			s.echoes(t, frame{true, opBinary, payload(n)})
		}
	})
	t.Run("one after the other without waiting", func(t *testing.T) {
		s := shakeHands(t, address, "/")
		var frames []frame
		for range 2000 {
			frames = append(frames, frame{true, opText, payload(rand.IntN(300))})
		}
		s.echoes(t, frames...)
	})
	t.Run("a message in fragments, with a ping in between", func(t *testing.T) {
		s := shakeHands(t, address, "/")
		s.echoes(t,
			frame{false, opText, []byte("frag")}, frame{true, opPing, []byte("are you there?")},
			frame{false, opContinue, nil}, frame{false, opContinue, payload(100_000)}, frame{true, opContinue, []byte("ments")})
	})
	t.Run("a frame that comes byte by byte", func(t *testing.T) {
		s := shakeHands(t, address, "/")
		slow := &socket{Conn: dribble{s.Conn}, in: s.in, client: true}
		slow.echoes(t, frame{true, opBinary, payload(200)})
	})
	t.Run("the client closes", func(t *testing.T) {
		s := shakeHands(t, address, "/")
		s.echoes(t, frame{true, opText, []byte("last words")}, frame{true, opClose, closing(1000)})
		s.ends(t)
	})
	t.Run("the server closes as it opens", func(t *testing.T) {
		s := shakeHands(t, address, "/goodbye")
		if f, err := s.receive(); err != nil || f.op != opClose || !bytes.Equal(f.payload, closing(1001)) {
			t.Fatalf("got op %x %x, %v, want a close with 1001", f.op, f.payload, err)
		}
		s.echoes(t, frame{true, opClose, closing(1001)})
		s.ends(t)
	})
	t.Run("many at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 20 {
			s := shakeHands(t, address, "/")
			wg.Go(func() {
				for range 20 {
					f := frame{true, opBinary, payload(rand.IntN(10_000))}
					if err := s.send(f); err != nil {
						t.Error(err)
						return
					}
					if got, err := s.receive(); err != nil || !bytes.Equal(got.payload, f.payload) {
						t.Errorf("got %d bytes, %v; want what was sent", len(got.payload), err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
	t.Run("a refusal leaves the connection to HTTP", func(t *testing.T) {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		in := bufio.NewReader(c)
		for range 2 {
			if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: app\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 7\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != http.StatusUpgradeRequired || res.Header.Get("Sec-WebSocket-Version") != "13" || res.Close {
				t.Fatalf("got %d, version %q, close %v; want 426, 13, and a connection that stays", res.StatusCode, res.Header.Get("Sec-WebSocket-Version"), res.Close)
			}
		}
	})
}

// dribble writes one byte at a time.
type dribble struct{ net.Conn }

func (d dribble) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := d.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}
