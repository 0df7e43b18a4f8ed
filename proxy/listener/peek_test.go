package listener_test

import (
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/proxy/listener"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// pair is both ends of a connection.
func pair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	n := pipenet.New(1)
	return n.Host("10.0.0.2").Pair(t, n.Host("10.0.0.1"))
}

func TestTheHostOfAFirstRequestIsSeenAndNothingIsLost(t *testing.T) {
	long := strings.Repeat("x", 9<<10)
	for _, tt := range []struct {
		name, sent, host string
		spoken           listener.Spoken
	}{
		{"a Host field", "GET / HTTP/1.1\r\nAccept: */*\r\nhOST: \tapi.local:80 \r\n\r\nbody", "api.local:80", listener.HTTP1},
		{"an absolute target", "GET http://api.local/x?u=http://b/ HTTP/1.1\r\nHost: other\r\n\r\n", "api.local", listener.HTTP1},
		{"a target that has one within", "GET /x?u=http://b/ HTTP/1.1\r\nHost: api.local\r\n\r\n", "api.local", listener.HTTP1},
		{"CONNECT", "CONNECT api.local:443 HTTP/1.1\r\nHost: other\r\n\r\n", "api.local:443", listener.HTTP1},
		{"none", "GET / HTTP/1.0\r\n\r\n", "", listener.HTTP1},
		{"a head that ends early", "GET / HTTP/1.1\r\nHost: api.local\r\nAcc", "api.local", listener.HTTP1},
		{"a head that is too long", "GET / HTTP/1.1\r\nX: " + long + "\r\nHost: api.local\r\n\r\n", "", listener.HTTP1},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrest", "", listener.HTTP2},
		{"something else", "\x16\x03\x01", "", listener.Opaque},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := pair(t)
				go func() {
					_, _ = io.WriteString(client, tt.sent)
					_ = client.Close()
				}()
				spoken, host, again, err := listener.Peek(server, time.Second)
				if err != nil || spoken != tt.spoken || host != tt.host {
					t.Errorf("got %v, host %q, %v; want %v, host %q", spoken, host, err, tt.spoken, tt.host)
				}
				if got, err := io.ReadAll(again); string(got) != tt.sent || err != nil {
					t.Errorf("read %d bytes and %v, want all %d that were sent", len(got), err, len(tt.sent))
				}
			})
		})
	}
}

func TestAHeadThatDoesNotComeIsNotWaitedForAnyLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t)
		go func() { _, _ = io.WriteString(client, "GET / HTTP/1.1\r\nHo") }()
		start := time.Now()
		spoken, host, again, err := listener.Peek(server, time.Second)
		if took := time.Since(start); spoken != listener.HTTP1 || host != "" || err != nil || took != time.Second {
			t.Errorf("got %v, host %q, %v after %v; want HTTP/1 without a host after 1s", spoken, host, err, took)
		}
		go func() {
			_, _ = io.WriteString(client, "st: late\r\n\r\n")
			_ = client.Close()
		}()
		if got, err := io.ReadAll(again); string(got) != "GET / HTTP/1.1\r\nHost: late\r\n\r\n" || err != nil {
			t.Errorf("read %q and %v, want the whole of it", got, err)
		}
	})
}
