package http2

import (
	"crypto/rand"
	"crypto/sha1" // RFC 6455 asks for it, and keeps no secret by it
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/http1"
	"github.com/overhear-mesh/overhear/proxy/syntax"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// A stream becomes a tunnel when its client asks for one by CONNECT (RFC 9113, section
// 8.5) or by the extended CONNECT of RFC 8441, which names a protocol, and the endpoint
// consents. proxy/http1 carries them all, whatever versions the two sides speak: there
// the one is CONNECT as well, and the other Upgrade. So they are translated here on a
// wire, once on each side that speaks HTTP/2.

const (
	websocket       = "websocket"
	websocketKey    = "sec-websocket-key"
	websocketAccept = "sec-websocket-accept"
)

var (
	errGone     = errors.New("the client has reset the stream")
	errAnswered = errors.New("the client has got another answer")
	errTunnel   = &fault{codeProtocol, "header fields in a tunnel"}
)

// tunnel is what a wire knows of one.
type tunnel struct {
	asked     bool
	open      bool   // the endpoint has consented
	protocol  string // "": plain CONNECT
	key       string // of WebSocket
	overruled string // why the client has got 502 in place of the endpoint's answer; "": it has not

	// early is what a client has sent before there was consent. Were it passed on, an
	// endpoint that does not consent would read it as requests that no rule has seen.
	early []byte
	holds bool
}

// hold keeps what comes too early, and reports whether it does.
func (t *tunnel) hold(p []byte) bool {
	if t.holds {
		t.early = append(t.early, p...)
	}
	return t.holds
}

// drop forgets what has come too early, and returns how much that is.
func (t *tunnel) drop() int {
	n := len(t.early)
	t.early = nil
	return n
}

// drops reports whether a field of the handshake has no place on the other side:
// extended CONNECT has no proof that it has been understood (RFC 8441, section 5).
func drops[T string | []byte](t *tunnel, name T) bool {
	return t.protocol == websocket && (syntax.Is(name, websocketKey) || syntax.Is(name, websocketAccept))
}

// broken is how the client of a tunnel that has not ended in order learns of it.
func (t *tunnel) broken() code {
	if t.protocol == "" {
		return codeConnect // RFC 9113, section 8.5
	}
	return codeCancel // RFC 8441, section 5
}

// proof is what proves that a key has been read (RFC 6455, section 4.2.2).
func proof(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// offers reports whether clients may use extended CONNECT.
func (s *Server) offers() bool {
	return s.older != nil && slices.ContainsFunc(s.deps.Upgrades.Protocols, func(name string) bool { return name != exchange.Connect })
}

// tunnels reports whether a request asks for a tunnel that it may have.
func (c *serverConn) tunnels(r *request) bool {
	switch u := &c.srv.deps.Upgrades; {
	case !r.connect || c.srv.older == nil:
		return false
	case r.protocol == "":
		return u.Connect()
	default:
		return u.Find([]byte(r.protocol)) != ""
	}
}

// ask writes how a request for a tunnel begins in HTTP/1.1.
func (br *bridge) ask(text []byte, r *request) []byte {
	t := &br.tunnel
	t.asked, t.holds = true, true
	if r.protocol == "" {
		return append(append(append(text, "CONNECT "...), r.authority...), " HTTP/1.1\r\n"...)
	}
	t.protocol = br.conn.srv.deps.Upgrades.Find([]byte(r.protocol))
	text = append(append(append(text, "GET "...), r.path...), " HTTP/1.1\r\n"...)
	text = appendField(text, "connection", "upgrade")
	text = appendField(text, "upgrade", t.protocol)
	if t.protocol == websocket {
		var nonce [16]byte
		_, _ = rand.Read(nonce[:]) // never fails
		t.key = base64.StdEncoding.EncodeToString(nonce[:])
		text = appendField(text, websocketKey, t.key)
	}
	return text
}

// consent looks whether the script's head makes a tunnel of the stream. If it has not
// passed it on, it is an answer like any other.
func (br *bridge) consent(b *batch) (passed bool) {
	t, s := &br.tunnel, &br.script
	consents := s.Status() == http.StatusSwitchingProtocols
	if t.protocol == "" {
		consents = s.Status()/100 == 2
	}
	switch {
	case consents && t.proven(s):
		br.begin(b)
	case consents:
		br.overrule(b, "the endpoint's "+websocketAccept+" is not that of this request")
	case s.Status()/100 == 2: // what is no consent must not look like one
		br.overrule(b, "the endpoint answered "+strconv.Itoa(s.Status())+" and did not change to "+t.protocol)
	default:
		return false
	}
	return true
}

// overrule answers in place of the endpoint.
func (br *bridge) overrule(b *batch, why string) {
	br.tunnel.overruled = why
	text := "overhear: " + why + "\n"
	br.st.link.sendHead(b, &br.st, false, func(e *encoder) {
		e.status(http.StatusBadGateway)
		e.field("content-type", "text/plain; charset=utf-8")
		e.number("content-length", int64(len(text)))
	})
	br.rest, br.end = []byte(text), true
}

// Overruled tells proxy/http1 that the client has got 502 in place of the answer to the
// last request, and why; "": it has not.
func (br *bridge) Overruled() string {
	br.mu.Lock()
	defer br.mu.Unlock()
	return br.tunnel.overruled
}

// proven reports whether the endpoint has read the key.
func (t *tunnel) proven(s *http1.Transcript) bool {
	if t.protocol != websocket {
		return true
	}
	for name, value := range s.Fields() {
		if syntax.Is(name, websocketAccept) {
			return string(value) == proof(t.key)
		}
	}
	return false
}

// begin is the beginning of the tunnel.
func (br *bridge) begin(b *batch) {
	t, s := &br.tunnel, &br.script
	br.st.link.sendHead(b, &br.st, false, func(e *encoder) {
		e.status(max(s.Status(), http.StatusOK))
		for name, value := range s.Fields() {
			if !drops(t, name) {
				e.older(name, value)
			}
		}
	})
	s.Tunnel()
	early := t.early
	t.open, t.holds, t.early = true, false, nil
	br.hear(early, false)
	if br.all {
		br.readErr = io.EOF
	}
}

// decline ends the stream of a tunnel that has not come about: what the client has sent
// for it, and may be sending still, nobody wants.
func (br *bridge) decline(b *batch) {
	br.credit += br.tunnel.drop()
	br.grant(b)
	br.st.link.reset(b, &br.st, codeNo)
	br.all = true
}

// asks looks whether the script's head asks for a tunnel. If the endpoint does not
// know extended CONNECT it answers in its place.
func (s *lend) asks() (answered bool) {
	t, q := &s.tunnel, &s.script
	protocol := q.Upgrade()
	if len(protocol) == 0 && !q.Connect() {
		return false
	}
	t.asked, t.protocol = true, string(protocol)
	for name, value := range q.Fields() {
		if syntax.Is(name, websocketKey) {
			t.key = string(value)
		}
	}
	q.Tunnel()
	l := s.link
	l.mu.Lock()
	known := l.peer.connects
	l.mu.Unlock()
	if known || t.protocol == "" {
		return false
	}
	s.text = append(s.text, "HTTP/1.1 501 Not Implemented\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"...)
	s.answered, s.sent, s.readErr = true, true, io.EOF
	s.wake.Broadcast()
	return true
}

// encode writes the pseudo-headers of the request.
func (t *tunnel) encode(e *encoder, q *http1.Transcript) {
	writeMethod(e, http.MethodConnect)
	if t.protocol != "" {
		e.field(":protocol", t.protocol)
		e.scheme("http")
		writePath(e, q.Target(), false)
	}
	writeField(e, ":authority", q.Host())
}

// agree writes the endpoint's consent in HTTP/1.1.
func (s *lend) agree(r *response, end bool) {
	t := &s.tunnel
	s.answered, t.open = true, true
	if t.protocol == "" {
		s.text = append(strconv.AppendInt(append(s.text, "HTTP/1.1 "...), int64(r.status), 10), " \r\n"...)
	} else {
		s.text = append(s.text, "HTTP/1.1 101 Switching Protocols\r\n"...)
		s.text = appendField(s.text, "connection", "upgrade")
		s.text = appendField(s.text, "upgrade", t.protocol)
	}
	if t.key != "" {
		s.text = appendField(s.text, websocketAccept, proof(t.key))
	}
	for i := range r.regular {
		f := &r.regular[i]
		switch k := syntax.KindOf(f.Name); {
		case k == syntax.ContentLength, k == syntax.HopByHop, drops(t, f.Name):
		default:
			s.text = appendField(s.text, f.Name, f.Value)
		}
	}
	s.text = append(s.text, "\r\n"...)
	s.st.link.expect(&s.st, -1)
	s.wake.Broadcast()
	if end {
		s.heardAll()
	}
}

// CloseWrite ends what is sent in a tunnel.
func (w *wire) CloseWrite() error {
	b := newBatch(w.clock.Now())
	defer b.done()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !w.tunnel.open:
		return errors.ErrUnsupported
	case w.stopped != nil:
		return w.stopped
	}
	if !w.sent && !w.closed {
		w.sent = true
		w.st.link.send(b, &w.st, nil, true)
	}
	return nil
}

// lostTunnel is the end of a tunnel's stream by the endpoint or with its connection.
// Its attempt has ended with the consent, so that no failure is charged to it.
func (s *lend) lostTunnel() {
	s.fail(&upstream.StreamError{Ending: outlier.EndConnectionLost, Retry: outlier.EndConnectionLost})
}
