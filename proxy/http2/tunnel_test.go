package http2

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// upgrading lets clients change to WebSocket, and to what else is named.
func upgrading(more ...string) func(*options) {
	return func(o *options) {
		o.upgrade = exchange.DefaultUpgrades()
		o.upgrade.Protocols = append(o.upgrade.Protocols, more...)
	}
}

// upgradingOlder lets them, and the endpoints speak HTTP/1.1.
func upgradingOlder(o *options) { upgrading("connect")(o); older(o) }

// chat asks for a WebSocket by extended CONNECT.
func (a *raw) chat(id uint32, more ...string) error {
	return a.open(id, false, a.fields(append([]string{
		":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "api", ":path", "/chat", "sec-websocket-version", "13",
	}, more...)...))
}

// hear reads n frames that say something, in words.
func (a *raw) hear(n int) []string {
	_ = a.SetReadDeadline(time.Now().Add(2 * time.Hour))
	var said []string
	for len(said) < n {
		f, err := a.ReadFrame()
		if err != nil {
			return append(said, err.Error())
		}
		switch f := f.(type) {
		case *xhttp2.MetaHeadersFrame, *xhttp2.RSTStreamFrame, *xhttp2.GoAwayFrame:
			said = append(said, describe(f))
		case *xhttp2.DataFrame:
			text := fmt.Sprintf("DATA %d %s", f.StreamID, f.Data())
			if f.StreamEnded() {
				text += " END"
			}
			said = append(said, text)
		case *xhttp2.PingFrame:
			_ = a.WritePing(true, f.Data)
		}
	}
	return said
}

func wants(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// consents is a backend of HTTP/1.1 that takes what it is asked for, with the proof
// that belongs to the key, and then goes on with the connection.
func consents(got **http.Request, then func(c *pipenet.Conn, r *bufio.Reader)) func(net.Conn, int) {
	return func(c net.Conn, _ int) {
		r := bufio.NewReader(c)
		q, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		*got = q
		if q.Method == http.MethodConnect {
			_, err = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		} else {
			_, err = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
				proof(q.Header.Get("Sec-WebSocket-Key")))
		}
		if err == nil {
			then(c.(*pipenet.Conn), r)
		}
	}
}

// echoing sends back what comes, and its end.
func echoing(c *pipenet.Conn, r *bufio.Reader) {
	_, _ = io.Copy(c, r)
	_ = c.CloseWrite()
}

// connects is a backend of HTTP/2 that takes extended CONNECT, says what it was asked,
// and echoes.
func connects(t *testing.T) func(net.Conn, int) {
	return misbehaves(t, func(a *raw) {
		for {
			f, err := a.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *xhttp2.MetaHeadersFrame:
				said := []string{":status", "200"}
				for _, h := range f.Fields {
					said = append(said, "x-"+strings.TrimPrefix(h.Name, ":"), h.Value)
				}
				_ = a.open(f.StreamID, false, a.fields(said...))
			case *xhttp2.DataFrame:
				_ = a.WriteData(f.StreamID, f.StreamEnded(), f.Data())
			}
		}
	}, xhttp2.Setting{ID: settingConnect, Val: 1})
}

func TestAWebSocketGoesToAnOlderEndpoint(t *testing.T) {
	var asked *http.Request
	inRig(t, upgradingOlder, func(r *rig) {
		a := r.attacker()
		_ = a.chat(1, "sec-websocket-protocol", "chat", "sec-websocket-key", "forged", "te", "trailers", "cookie", "a=1", "cookie", "b=2")
		wants(t, a.hear(1), "HEADERS 1 200")
		for _, text := range []string{"one", "two"} {
			_ = a.WriteData(1, false, []byte(text))
			wants(t, a.hear(1), "DATA 1 "+text)
		}
		_ = a.WriteData(1, true, nil)
		wants(t, a.hear(1), "DATA 1  END")
		line := r.last()
		if line.Status != 101 || line.Flags != "-" || line.Received != 6 || line.Sent != 6 || line.Major != 2 || fmt.Sprint(line.Attempts) != "[10.0.1.1 ok]" {
			t.Errorf("log: got %+v", line)
		}
		if asked.Method != http.MethodGet || asked.URL.Path != "/chat" || asked.Host != "api" || asked.Header.Get("Cookie") != "a=1; b=2" ||
			len(asked.Header["Sec-Websocket-Key"]) != 1 || asked.Header.Get("Sec-WebSocket-Key") == "forged" || asked.Header.Get("Te") != "" {
			t.Errorf("the endpoint was asked %s %v %v", asked.Method, asked.URL, asked.Header)
		}
		// The connection goes on.
		_ = a.chat(3)
		wants(t, a.hear(1), "HEADERS 3 200")
	}, consents(&asked, echoing))
}

func TestAWebSocketGoesThroughHTTP2(t *testing.T) {
	inRig(t, upgrading("connect"), func(r *rig) {
		a := r.attacker()
		_ = a.chat(1, "x-a", "b")
		f := a.headers()
		for _, want := range [][2]string{{"x-method", "CONNECT"}, {"x-protocol", "websocket"}, {"x-path", "/chat"}, {"x-authority", "api"}, {"x-x-a", "b"}, {"x-sec-websocket-key", ""}, {"x-sec-websocket-version", "13"}, {"sec-websocket-accept", ""}} {
			if got := value(f, want[0]); got != want[1] {
				t.Errorf("%s: got %q, want %q", want[0], got, want[1])
			}
		}
		_ = a.WriteData(1, false, []byte("one"))
		wants(t, a.hear(1), "DATA 1 one")
		_ = a.WriteData(1, true, []byte("two"))
		wants(t, a.hear(2), "DATA 1 two", "DATA 1  END")

		_ = a.open(3, false, a.fields(":method", "CONNECT", ":authority", "db:5432"))
		f = a.headers()
		if got := []string{value(f, "x-method"), value(f, "x-authority"), value(f, "x-path"), value(f, "x-protocol")}; !slices.Equal(got, []string{"CONNECT", "db:5432", "", ""}) {
			t.Errorf("CONNECT: the endpoint was asked %q", got)
		}
		_ = a.WriteData(3, true, []byte("x"))
		wants(t, a.hear(2), "DATA 3 x", "DATA 3  END")
	}, connects(t))
}

// headers reads on to the next head.
func (a *raw) headers() *xhttp2.MetaHeadersFrame {
	a.t.Helper()
	for {
		f, err := a.ReadFrame()
		if err != nil {
			a.t.Fatal(err)
		}
		if h, ok := f.(*xhttp2.MetaHeadersFrame); ok {
			return h
		}
	}
}

func value(f *xhttp2.MetaHeadersFrame, name string) string {
	for _, h := range f.Fields {
		if h.Name == name {
			return h.Value
		}
	}
	return ""
}

func TestAnOlderClientsWebSocketGoesThroughHTTP2(t *testing.T) {
	inRig(t, upgrading(), func(r *rig) {
		c := r.front()
		const key = "dGhlIHNhbXBsZSBub25jZQ=="
		_, _ = io.WriteString(c, "GET /chat HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: "+key+"\r\n\r\n")
		_ = c.Flush()
		res, err := http.ReadResponse(c.Reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		// The example of RFC 6455, section 1.3.
		if got := res.Header.Get("Sec-WebSocket-Accept"); res.StatusCode != http.StatusSwitchingProtocols || got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || res.Header.Get("Upgrade") != "websocket" {
			t.Errorf("got %d %v, want 101 with the proof", res.StatusCode, res.Header)
		}
		if got := res.Header.Get("X-Protocol") + res.Header.Get("X-Sec-Websocket-Key"); got != "websocket" {
			t.Errorf("the endpoint was asked for %q, want websocket without a key", got)
		}
		_, _ = io.WriteString(c, "hello")
		_ = c.Flush()
		echo := make([]byte, 5)
		if _, err := io.ReadFull(c, echo); err != nil || string(echo) != "hello" {
			t.Errorf("got %q, %v; want hello", echo, err)
		}
	}, connects(t))
}

// What is no consent never looks like one, and what an endpoint is not asked it never
// sees.
func TestAWebSocketThatIsNotTaken(t *testing.T) {
	answers := func(text string) func(net.Conn, int) {
		return func(c net.Conn, _ int) {
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.WriteString(c, text)
				_, _ = io.Copy(io.Discard, c)
			}
		}
	}
	for _, tt := range []struct {
		name    string
		edit    func(*options)
		backend func(net.Conn, int)
		status  string
		text    string
	}{
		{"refused", upgradingOlder, answers("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"), "403", "no"},
		{"ignored", upgradingOlder, answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"), "502", "overhear: the endpoint answered 200 and did not change to websocket\n"},
		{"without proof", upgradingOlder, answers("HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n"), "502", "overhear: the endpoint's sec-websocket-accept is not that of this request\n"},
		{"another protocol", upgradingOlder, answers("HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"), "502", "overhear: the endpoint's answer is malformed\n"},
		{"HTTP/2 that does not know it", upgrading(), says("x"), "501", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, tt.edit, func(r *rig) {
				a := r.attacker()
				_ = a.chat(1)
				want := []string{"HEADERS 1 " + tt.status}
				if tt.text != "" {
					want = append(want, "DATA 1 "+tt.text, "DATA 1  END")
				}
				wants(t, a.hear(len(want)+1), append(want, "RST_STREAM 1 NO_ERROR")...)
				if why, ours := strings.CutPrefix(strings.TrimSuffix(tt.text, "\n"), "overhear: "); ours {
					if line := r.last(); line.Status != 502 || line.Flags != "UPE" || line.Detail == "" || !strings.HasPrefix(why, "the endpoint's answer is malformed") && line.Detail != why {
						t.Errorf("log: got %d %s (%s), want 502 UPE (%s)", line.Status, line.Flags, line.Detail, why)
					}
				}
			}, tt.backend)
		})
	}
}

func TestTunnelsThatAreNotAllowed(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(*options)
		fields []string
		want   string
	}{
		{"nothing is", nil, []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "api", ":path", "/"}, "RST_STREAM 1 PROTOCOL_ERROR"},
		{"another protocol", upgrading(), []string{":method", "CONNECT", ":protocol", "chat", ":scheme", "http", ":authority", "api", ":path", "/"}, "HEADERS 1 501"},
		{"CONNECT", upgrading(), []string{":method", "CONNECT", ":authority", "api:80"}, "HEADERS 1 501"},
		{"CONNECT without a port", upgrading("connect"), []string{":method", "CONNECT", ":authority", "api"}, "HEADERS 1 400"},
		{"CONNECT to two lines", upgrading("connect"), []string{":method", "CONNECT", ":authority", "a:80 HTTP/1.1\r\nx: y"}, "RST_STREAM 1 PROTOCOL_ERROR"},
		{"CONNECT with a body", upgrading("connect"), []string{":method", "CONNECT", ":authority", "a:80", "content-length", "5"}, "RST_STREAM 1 PROTOCOL_ERROR"},
		{"CONNECT with a path", upgrading("connect"), []string{":method", "CONNECT", ":authority", "a:80", ":path", "/"}, "RST_STREAM 1 PROTOCOL_ERROR"},
		{"without a path", upgrading(), []string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "api"}, "RST_STREAM 1 PROTOCOL_ERROR"},
		{"GET with a protocol", upgrading(), []string{":method", "GET", ":protocol", "websocket", ":scheme", "http", ":authority", "api", ":path", "/"}, "RST_STREAM 1 PROTOCOL_ERROR"},
		{"protocol of two lines", upgrading(), []string{":method", "CONNECT", ":protocol", "websocket\r\nx: y", ":scheme", "http", ":authority", "api", ":path", "/"}, "HEADERS 1 501"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, tt.edit, func(r *rig) {
				a := r.attacker()
				_ = a.open(1, false, a.fields(tt.fields...))
				wants(t, a.hear(1), tt.want)
				if r.log.all(); slices.ContainsFunc(r.log.all(), func(l logged) bool { return len(l.Attempts) > 0 }) {
					t.Errorf("an endpoint was asked: %+v", r.log.all())
				}
			}, says("x"))
		})
	}
}

// The listener says what it takes, and only then.
func TestOnlyAListenerWithUpgradesOffersThem(t *testing.T) {
	for _, tt := range []struct {
		edit func(*options)
		want bool
	}{{nil, false}, {upgrading(), true}, {func(o *options) { o.upgrade.Protocols = []string{exchange.Connect} }, false}} {
		inRig(t, tt.edit, func(r *rig) {
			a := r.attacker()
			offered := false
			a.until(func(f xhttp2.Frame) bool {
				s, ok := f.(*xhttp2.SettingsFrame)
				if !ok || s.IsAck() {
					return false
				}
				value, _ := s.Value(settingConnect)
				offered = value == 1
				return true
			})
			if offered != tt.want {
				t.Errorf("ENABLE_CONNECT_PROTOCOL: got %v, want %v", offered, tt.want)
			}
		}, says("x"))
	}
}

// What a client sends ahead of the consent reaches nobody who has not consented: it would
// be read as requests that no rule has seen.
func TestWhatIsSentAheadOfConsentIsNoRequest(t *testing.T) {
	const smuggled = "GET /secret HTTP/1.1\r\nHost: api\r\n\r\n"
	var seen []string
	inRig(t, upgradingOlder, func(r *rig) {
		a := r.attacker()
		_ = a.chat(1)
		_ = a.WriteData(1, false, []byte(smuggled))
		wants(t, a.hear(1), "HEADERS 1 403")
		_ = a.WriteData(1, false, []byte(smuggled))
		_ = a.open(3, true, a.head("GET"))
		for !slices.Contains(a.hear(1), "HEADERS 3 403") {
		}
		synctest.Wait()
		wants(t, seen, "GET /chat", "GET /")
	}, served(func(w http.ResponseWriter, q *http.Request) {
		seen = append(seen, q.Method+" "+q.URL.Path)
		w.WriteHeader(http.StatusForbidden)
	}))
}

// An end that is not orderly does not look like one, on either side.
func TestATunnelThatBreaksIsReset(t *testing.T) {
	var asked *http.Request
	var got error
	for _, tt := range []struct {
		name, want, flags string
		plain             bool
		then              func(*pipenet.Conn, *bufio.Reader)
		act               func(*rig, *raw)
		lost              bool // the endpoint sees it break
	}{
		{"by the endpoint", "RST_STREAM 1 CANCEL", "UC", false, func(c *pipenet.Conn, _ *bufio.Reader) { _ = c.Reset() }, nil, false},
		{"by the endpoint, of CONNECT", "RST_STREAM 1 CONNECT_ERROR", "UC", true, func(c *pipenet.Conn, _ *bufio.Reader) { _ = c.Reset() }, nil, false},
		{"by the client", "", "DC", false, nil, func(_ *rig, a *raw) { _ = a.WriteRSTStream(1, xhttp2.ErrCodeCancel) }, true},
		{"with the client's connection", "", "DC", false, nil, func(_ *rig, a *raw) { a.Close() }, true},
		{"trailers", "RST_STREAM 1 PROTOCOL_ERROR", "DC", false, nil, func(_ *rig, a *raw) { _ = a.open(1, true, a.fields("a", "b")) }, true},
		{"idle", "RST_STREAM 1 CANCEL", "SI", false, nil, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got = errors.New("nothing")
			then := tt.then
			if then == nil {
				then = func(_ *pipenet.Conn, r *bufio.Reader) { _, got = io.Copy(io.Discard, r) }
			}
			inRig(t, upgradingOlder, func(r *rig) {
				a := r.attacker()
				if tt.plain {
					_ = a.open(1, false, a.fields(":method", "CONNECT", ":authority", "db:5432"))
				} else {
					_ = a.chat(1)
				}
				wants(t, a.hear(1), "HEADERS 1 200")
				if tt.act != nil {
					tt.act(r, a)
				}
				if tt.want != "" {
					wants(t, a.hear(1), tt.want)
				}
				line := r.last()
				if line.Flags != tt.flags || fmt.Sprint(line.Attempts) != "[10.0.1.1 ok]" {
					t.Errorf("log: got %s %v, want %s", line.Flags, line.Attempts, tt.flags)
				}
				if tt.lost && got == nil {
					t.Error("the endpoint saw an orderly end")
				}
			}, consents(&asked, then))
		})
	}
}

// A tunnel may end in one direction first, and go on in the other.
func TestATunnelMayBeHalfClosed(t *testing.T) {
	var asked *http.Request
	inRig(t, upgradingOlder, func(r *rig) {
		a := r.attacker()
		_ = a.chat(1)
		wants(t, a.hear(3), "HEADERS 1 200", "DATA 1 bye", "DATA 1  END")
		_ = a.WriteData(1, false, []byte("and "))
		_ = a.WriteData(1, true, []byte("you"))
		if line := r.last(); line.Received != 7 || line.Sent != 3 || line.Flags != "-" {
			t.Errorf("log: got %+v", line)
		}
	}, consents(&asked, func(c *pipenet.Conn, r *bufio.Reader) {
		_, _ = io.WriteString(c, "bye")
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, r)
	}))
}

// What flows is as long as it likes, and neither side is sent more than it reads.
func TestATunnelCarriesAnyAmount(t *testing.T) {
	const total = 4 << 20
	for _, tt := range []struct {
		name    string
		edit    func(*options)
		backend func(net.Conn, int)
		want    int64 // bytes that come back
	}{
		{"to HTTP/1.1", upgradingOlder, consents(new(*http.Request), echoing), total},
		{"to HTTP/2", upgrading(), swallows(t), int64(len(strconv.Itoa(total)))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, tt.edit, func(r *rig) {
				q, err := http.NewRequestWithContext(r.t.Context(), http.MethodConnect, "http://api/chat", io.LimitReader(zeros{}, total))
				if err != nil {
					t.Fatal(err)
				}
				q.Header.Set(":protocol", "websocket")
				dial := func(ctx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) {
					return r.net.Host("10.0.0.9").Dial(ctx, "tcp", "10.0.0.1:80")
				}
				transport := &xhttp2.Transport{AllowHTTP: true, DialTLSContext: dial} //nolint:staticcheck // net/http refuses to send :protocol
				client := &http.Client{Transport: transport}
				defer client.CloseIdleConnections()
				res, err := client.Do(q)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				n, err := io.Copy(io.Discard, res.Body)
				if n != tt.want || err != nil {
					t.Errorf("got %d bytes, %v; want %d", n, err, tt.want)
				}
			}, tt.backend)
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// swallows is a backend of HTTP/2 that says how much has come in a tunnel.
func swallows(t *testing.T) func(net.Conn, int) {
	return misbehaves(t, func(a *raw) {
		for n := 0; ; {
			f, err := a.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *xhttp2.MetaHeadersFrame:
				_ = a.open(f.StreamID, false, a.fields(":status", "200"))
			case *xhttp2.DataFrame:
				n += len(f.Data())
				if f.StreamEnded() {
					_ = a.WriteData(f.StreamID, true, []byte(strconv.Itoa(n)))
				} else if len(f.Data()) > 0 {
					_ = a.WriteWindowUpdate(0, uint32(len(f.Data())))
					_ = a.WriteWindowUpdate(f.StreamID, uint32(len(f.Data())))
				}
			}
		}
	}, xhttp2.Setting{ID: settingConnect, Val: 1})
}
