package conformance

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/overhear-mesh/overhear/proxy"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// TestAnAnswerThatAResetCutsIsNeverWhole: the kernel tells of a reset once, to a read or
// to a write. While the client still sends it is often the write, and to whoever reads
// the answer then a part of it looks like all.
func TestAnAnswerThatAResetCutsIsNeverWhole(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells the two apart")
	}
	app, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = app.Close() })
	go func() {
		for {
			c, err := app.Accept()
			if err != nil {
				return
			}
			go cutShort(c)
		}
	}()
	config := fmt.Sprintf(`
outbound:
  - {name: http, address: "127.0.0.1:0", cluster: http}
  - {name: tcp, address: "127.0.0.1:0", protocol: tcp, cluster: tcp}
clusters:
  - {name: http, endpoints: [{address: %[1]q}]}
  - {name: tcp, protocol: tcp, endpoints: [{address: %[1]q}]}
`, app.Addr().String())
	for _, path := range paths {
		t.Run(path.name, func(t *testing.T) { cutsAreSeen(t, path.options, config) })
	}
}

func cutsAreSeen(t *testing.T, options proxy.Options, config string) {
	s, stop := startSidecarWith(t, options, config)
	t.Cleanup(stop)
	for _, x := range []struct{ name, listener, head string }{
		{"an answer that ends with its connection", "http", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"a tunnel", "http", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"},
		{"opaque bytes", "tcp", "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: no\r\n\r\n"},
	} {
		t.Run(x.name, func(t *testing.T) {
			cut := 0
			for range 200 {
				got, err := upload(s.Addr(x.listener).String(), x.head)
				if err == nil && strings.Contains(got, "half of") {
					t.Fatalf("a cut answer looks whole: %q", got)
				}
				if strings.Contains(got, "half of") {
					cut++
				}
			}
			t.Logf("%d of 200 saw a part of the answer", cut)
		})
	}
}

// cutShort begins an answer while its client sends, and resets the connection.
func cutShort(c net.Conn) {
	r := bufio.NewReader(c)
	q, err := http.ReadRequest(r)
	if err != nil {
		_ = c.Close()
		return
	}
	switch {
	case q.Header.Get("Upgrade") == "websocket":
		_, _ = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\nhalf of",
			acceptOf(q.Header.Get("Sec-WebSocket-Key")))
	default:
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nhalf of")
	}
	_, _ = r.Peek(4000)
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

// upload sends until it cannot, and returns what came back, without an error if that
// ends in order.
func upload(address, head string) (string, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := io.WriteString(c, head); err != nil {
		return "", err
	}
	go func() {
		chunk := "100\r\n" + strings.Repeat("x", 0x100) + "\r\n"
		for {
			if _, err := io.WriteString(c, chunk); err != nil {
				return
			}
		}
	}()
	r := bufio.NewReader(c)
	if !strings.HasPrefix(head, "POST") {
		got, err := io.ReadAll(r)
		if err == nil && upstream.Aborted(c) { // its own write has heard of it
			err = syscall.ECONNRESET
		}
		return string(got), err
	}
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	return string(got), err
}
