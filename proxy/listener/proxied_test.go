package listener_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/overhear-mesh/overhear/proxy/listener"
	"github.com/overhear-mesh/overhear/test/loopback"
)

// named answers with the client's address, and then as echo does.
func named(_ context.Context, c net.Conn) {
	_, _ = fmt.Fprintf(c, "%v ", c.RemoteAddr())
	_, _ = io.Copy(c, c)
}

func TestAPROXYHeaderNamesTheClient(t *testing.T) {
	from, to := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 5000}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 80}
	v6from, v6to := &net.TCPAddr{IP: net.ParseIP("2001:db8::7"), Port: 5000}, &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 80}
	header := func(version byte, from, to net.Addr) string {
		b, err := proxyproto.HeaderProxyFromAddrs(version, from, to).Format()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const own = "the peer's own"
	local := "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
	for _, tt := range []struct{ name, header, want string }{
		{"version 1", header(1, from, to), "192.0.2.7:5000"},
		{"version 2", header(2, from, to), "192.0.2.7:5000"},
		{"version 1, IPv6", header(1, v6from, v6to), "[2001:db8::7]:5000"},
		{"version 2, IPv6", header(2, v6from, v6to), "[2001:db8::7]:5000"},
		{"version 1, unknown", "PROXY UNKNOWN\r\n", own},
		{"version 2, the load balancer itself", local, own},
		{"none", "GET / HTTP/1.1\r\n", ""},
		{"cut short", "PROXY TCP4 192.0.2.7", ""},
		{"no address", "PROXY TCP4 x y 1 2\r\n", ""},
		{"endless", "PROXY TCP4 " + string(make([]byte, 1000)), ""},
		{"version 2 that claims more than there may be", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := serve(t, listener.DefaultConfig(), nil, listener.Proxied(time.Second, slog.New(slog.DiscardHandler), named))
				c := b.dial()
				if _, err := io.WriteString(c, tt.header+"hello"); err != nil {
					t.Fatal(err)
				}
				_ = c.(interface{ CloseWrite() error }).CloseWrite()
				got, _ := io.ReadAll(c)
				want := tt.want
				if want == own {
					want = c.LocalAddr().String()
				}
				if want != "" {
					want += " hello"
				}
				if string(got) != want {
					t.Errorf("got %q, want %q", got, want)
				}
				b.stop(nil)
				b.wait(nil)
			})
		})
	}
}

func TestAPROXYHeaderMustComeInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, listener.DefaultConfig(), nil, listener.Proxied(time.Second, slog.New(slog.DiscardHandler), named))
		c, start := b.dial(), time.Now()
		if got, _ := io.ReadAll(c); len(got) != 0 || time.Since(start) != time.Second {
			t.Errorf("got %q after %v, want nothing and the end after a second", got, time.Since(start))
		}
		b.stop(nil)
		b.wait(nil)
	})
}

// A tunnel asks the socket how it has ended, whatever was read of the connection before.
func TestTheSocketIsFoundBehindAPROXYHeaderAndAFirstLook(t *testing.T) {
	client, socket := loopback.Pair(t)
	if _, err := io.WriteString(client, "PROXY TCP4 192.0.2.7 192.0.2.1 5000 80\r\nGET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	looked := false
	listener.Proxied(time.Minute, slog.New(slog.DiscardHandler), func(_ context.Context, c net.Conn) {
		looked = true
		_, c, err := listener.Detect(c, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		shell, ok := c.(interface{ NetConn() net.Conn })
		if !ok || shell.NetConn() != socket {
			t.Errorf("of %T the socket is not found", c)
		}
	})(t.Context(), socket)
	if !looked {
		t.Error("the connection was not passed on")
	}
}
