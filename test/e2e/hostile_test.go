package e2e_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/overhear-mesh/overhear/proxy"
	"github.com/overhear-mesh/overhear/proxy/config"
)

// liar answers each connection's first request with a text, and ends the connection.
func liar(t *testing.T, text string) string {
	t.Helper()
	ln := listen(t)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					_, _ = io.WriteString(c, text) // whoever asked may have left
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// Bad clients and bad backends get clear answers on real sockets, nobody gets the
// answer of another, and when the sidecar has ended nothing of it is left.
func TestNothingIsLeftOfHostileClients(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) }) // the last of all, when the backends have ended

	backends := map[string]string{
		"good":      liar(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
		"promises":  liar(t, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort"),
		"talkative": liar(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"),
		"broken":    liar(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nnonsense\r\n"),
		"mute":      liar(t, ""),
		"foreign":   liar(t, "SSH-2.0-OpenSSH_9.2\r\n"),
	}
	var file strings.Builder
	file.WriteString("admin: {address: \"off\"}\ndrain: {timeout: 1s}\nhttp1: {head_timeout: 200ms}\noutbound: [{name: web, address: \"127.0.0.1:0\", routes: [")
	for name := range backends {
		fmt.Fprintf(&file, "{prefix: /%s, cluster: %[1]s, retry: {max_attempts: 1}}, ", name)
	}
	file.WriteString("]}]\nclusters:\n")
	for name, address := range backends {
		fmt.Fprintf(&file, "  - {name: %s, endpoints: [{address: \"%s\"}]}\n", name, address)
	}
	cfg, err := config.Decode("sidecar.yaml", []byte(file.String()), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	s, err := proxy.New(cfg, proxy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	}()
	eventually(t, "a sidecar that is ready", func() bool { return s.Ready() == "" })
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", s.Addr("web").String())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	request := func(backend string) string { return "GET /" + backend + " HTTP/1.1\r\nHost: a\r\n\r\n" }

	// Those who say nothing, or half of something, are there all the while.
	for _, text := range []string{"", "GET / HT", "POST /good HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf"} {
		c := dial()
		defer c.Close()
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name, send string
		status     int
		body       string
		cut        bool // the body ends before it should
	}{
		{"good", request("good"), 200, "ok", false},
		{"not HTTP", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "*", false},
		{"two lengths", "POST /good HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400, "*", false},
		{"length and chunks", "POST /good HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "*", false},
		{"no host", "GET /good HTTP/1.1\r\n\r\n", 400, "*", false},
		{"a head without end", "GET /good HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 1<<20), 431, "*", false},
		{"a head that does not come", "GET /good HTTP/1.1\r\n", 408, "*", false},
		{"an upgrade that is not taken up", "GET /good HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 200, "ok", false},
		{"CONNECT", "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501, "*", false},
		{"no route", request("elsewhere"), 404, "*", false},
		{"an answer that is too short", request("promises"), 200, "short", true},
		{"an answer with another behind it", request("talkative"), 200, "ok", false},
		{"the next on another connection", request("talkative"), 200, "ok", false},
		{"broken chunks", request("broken"), 502, "*", false},
		{"no answer", request("mute"), 503, "*", false},
		{"another protocol", request("foreign"), 502, "*", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial()
			defer c.Close()
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				_, _ = io.WriteString(c, tt.send) // a refusal may come before its end
			}()
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if cut := err != nil; res.StatusCode != tt.status || tt.body != "*" && string(body) != tt.body || cut != tt.cut {
				t.Errorf("got %d %q, %v; want %d %q, cut: %v", res.StatusCode, body, err, tt.status, tt.body, tt.cut)
			}
			c.Close()
			<-sent
		})
	}
	// Two requests at once: whatever a backend adds, the second answer is its own.
	c := dial()
	defer c.Close()
	if _, err := io.WriteString(c, request("talkative")+request("good")); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	for i := range 2 {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if string(body) != "ok" || err != nil {
			t.Errorf("answer %d: got %q, %v; want ok", i+1, body, err)
		}
	}
	// Somebody leaves in the middle of everything.
	gone := dial()
	if _, err := io.WriteString(gone, request("good")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(gone.(*net.TCPConn).SetLinger(0), gone.Close()); err != nil {
		t.Fatal(err)
	}
}
