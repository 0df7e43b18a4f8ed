package listener_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/proxy/listener"
)

// detected is what a server finds out about a client that writes these pieces, a tenth
// of a second apart.
type detected struct {
	spoken listener.Spoken
	text   string // what it reads from the connection then
	after  time.Duration
	err    error
}

func detect(t *testing.T, pieces ...string) (got detected) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t)
		go func() {
			for i, p := range pieces {
				if i > 0 {
					time.Sleep(100 * time.Millisecond)
				}
				_, _ = io.WriteString(client, p)
			}
			if len(pieces) > 0 {
				time.Sleep(10 * time.Second)
				client.Close()
			}
		}()
		start := time.Now()
		spoken, c, err := listener.Detect(server, 3*time.Second)
		got = detected{spoken: spoken, after: time.Since(start), err: err}
		if len(pieces) > 0 && err == nil {
			text, _ := io.ReadAll(c)
			got.text = string(text)
		}
		client.Close()
		server.Close()
	})
	return got
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

func TestTheFirstBytesTellWhatIsSpoken(t *testing.T) {
	for _, tt := range []struct {
		name   string
		pieces []string
		want   listener.Spoken
		slow   bool // only the time-out tells
	}{
		{"GET", []string{"GET / HTTP/1.1\r\n"}, listener.HTTP1, false},
		{"GET, byte by byte", []string{"G", "E", "T", " ", "/"}, listener.HTTP1, false},
		{"a method of its own", []string{"VERSION-CONTROL /x HTTP/1.1\r\n"}, listener.HTTP1, false},
		{"absolute target", []string{"GET http://api/ HTTP/1.1\r\n"}, listener.HTTP1, false},
		{"asterisk", []string{"OPTIONS * HTTP/1.1\r\n"}, listener.HTTP1, false},
		{"CONNECT", []string{"CONNECT api:443 HTTP/1.1\r\n"}, listener.HTTP1, false},
		{"preface", []string{preface, "more"}, listener.HTTP2, false},
		{"preface in pieces", []string{preface[:1], preface[1:10], preface[10:20], preface[20:]}, listener.HTTP2, false},
		{"almost the preface", []string{"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n"}, listener.HTTP1, false},
		{"TLS", []string{"\x16\x03\x01\x02\x00"}, listener.Opaque, false},
		{"absolute target, byte by byte", []string{"GET h", "t", "tP:/", "/api/ HTTP/1.1\r\n"}, listener.HTTP1, false},
		{"CONNECT to an address", []string{"CONNECT [::1]:443 HTTP/1.1\r\n"}, listener.HTTP1, false},
		{"Redis, a command with a key", []string{"GET hits\r\n"}, listener.Opaque, false},
		{"Redis, a key that begins like a scheme", []string{"GET http:\r\n"}, listener.Opaque, false},
		{"Redis, a command with a pattern", []string{"KEYS *\r\n"}, listener.Opaque, false},
		{"NATS", []string{"CONNECT {\"verbose\":false}\r\n"}, listener.Opaque, false},
		{"Redis", []string{"*1\r\n$4\r\nPING\r\n"}, listener.Opaque, false},
		{"SMTP", []string{"EHLO me\r\n"}, listener.Opaque, false},

		// What many servers take for a request, however it is written, must not pass by
		// the rules for requests.
		{"lower case", []string{"get / HTTP/1.1\r\n"}, listener.HTTP1, false},
		{"lower case, byte by byte", []string{"g", "et", " ", "/x", " HTTP/1.1", "\r", "\n"}, listener.HTTP1, false},
		{"an empty line before", []string{"\r\nGET / HTTP/1.1\r\n"}, listener.HTTP1, false},
		{"empty lines and spaces before", []string{"\r\n\n \tGET / HTTP/1.1\n"}, listener.HTTP1, false},
		{"an empty line, and then the rest", []string{"\r\n", "GET / HTTP/1.1\r\n"}, listener.HTTP1, false},
		{"tabs between", []string{"GET\t/\tHTTP/1.1\r\n"}, listener.HTTP1, false},
		{"two spaces between", []string{"GET  / HTTP/1.1\r\n"}, listener.HTTP1, false},
		{"another method", []string{"X_Y.1 http://api/ HTTP/1.1\r\n"}, listener.HTTP1, false},
		{"a long method", []string{strings.Repeat("x", 100) + " / HTTP/1.1\r\n"}, listener.HTTP1, false},
		{"a long target", []string{"get /" + strings.Repeat("x", 2000)}, listener.HTTP1, false},
		{"lower case, with a small version", []string{"get / http/1.1\r\n"}, listener.HTTP1, false},
		{"spaces without end", []string{strings.Repeat("\r\n", 600) + "GET / HTTP/1.1\r\n"}, listener.HTTP1, false},
		{"half a method", []string{"GE"}, listener.HTTP1, true},
		{"half a line in lower case", []string{"get / "}, listener.HTTP1, true},
		{"memcached, a key that is a path", []string{"get /index.html\r\n"}, listener.Opaque, false},
		{"memcached", []string{"set a 0 0 5\r\nhello\r\n"}, listener.Opaque, false},
		{"SSH", []string{"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"}, listener.Opaque, false},
		{"STOMP", []string{"CONNECT\naccept-version:1.2\n"}, listener.Opaque, false},
		{"MongoDB", []string{"\x3a\x00\x00\x00"}, listener.Opaque, false},
		{"AMQP", []string{"AMQP\x00\x00\x09\x01"}, listener.Opaque, false},
		{"a word and no more", []string{strings.Repeat("x", 2000)}, listener.Opaque, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := detect(t, tt.pieces...)
			want := ""
			for _, p := range tt.pieces {
				want += p
			}
			if got.err != nil || got.spoken != tt.want || got.text != want {
				t.Errorf("got %v, %q, %v; want %v and all that was sent", got.spoken, got.text, got.err, tt.want)
			}
			if slow := got.after >= 3*time.Second; slow != tt.slow {
				t.Errorf("found out after %v", got.after)
			}
		})
	}
}

func TestAClientThatSaysNothingIsOpaqueAfterAWhile(t *testing.T) {
	got := detect(t)
	if got.err != nil || got.spoken != listener.Opaque || got.after != 3*time.Second {
		t.Errorf("got %v after %v, %v; want opaque after 3s", got.spoken, got.after, got.err)
	}
}

func TestWhatNobodyUnderstandsIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		taken := func(context.Context, net.Conn) { t.Error("taken") }
		d := listener.NewDetector(time.Second, taken, taken, nil)
		b := serve(t, listener.DefaultConfig(), nil, d.ServeConn)
		c := b.dial()
		_, _ = io.WriteString(c, "\x00")
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the connection is open")
		}
		b.listener.Drain(time.Second)
		b.wait(nil)
	})
}
