package http1

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestARequestIsAnsweredAndBothConnectionsLive(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		for range 3 {
			r.check(c.do(get), 200, "ok", "-", "10.0.1.1 ok")
		}
		if n := len(r.backends[0].conns); n != 1 {
			t.Errorf("connections to the backend: got %d, want 1", n)
		}
	}, say(ok))
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	echo := talk(func(req *http.Request) string {
		body, _ := io.ReadAll(req.Body)
		text := req.URL.Path + " " + string(body)
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	})
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		c.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n" +
			"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" +
			"POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n1\r\nf\r\n0\r\n\r\n" +
			"GET /4 HTTP/1.1\r\nHost: a\r\n\r\n")
		for _, want := range []string{"/1 ", "/2 abc", "/3 def", "/4 "} {
			if got := c.read("GET").body; got != want {
				t.Errorf("body: got %q, want %q", got, want)
			}
		}
	}, echo)
}

func TestAnAnswerWithoutBodyEndsWithItsHead(t *testing.T) {
	for _, tt := range []struct{ method, answer string }{
		{"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"},
		{"HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"HEAD", "HTTP/1.1 200 OK\r\n\r\n"},
		{"GET", "HTTP/1.1 204 No Content\r\n\r\n"},
		{"GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"},
		{"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"},
		{"GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n"},
	} {
		inRig(t, nil, func(r *rig) {
			c := r.dial()
			for range 2 { // the second shows that both connections are where they should be
				got := c.do(tt.method + " / HTTP/1.1\r\nHost: a\r\n\r\n")
				if got.body != "" || got.err != nil {
					t.Errorf("%s %q: got %q, %v, want no body", tt.method, tt.answer, got.body, got.err)
				}
			}
			if n := len(r.backends[0].conns); n != 1 {
				t.Errorf("%s %q: connections to the backend: got %d, want 1", tt.method, tt.answer, n)
			}
		}, say(tt.answer))
	}
}

// onTheWire is a backend that keeps what it was sent, up to the first pause, and
// answers it.
func onTheWire(got *string, answer string) func(net.Conn, int) {
	return func(c net.Conn, _ int) {
		buf := make([]byte, 1<<20)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			*got += string(buf[:n])
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
	}
}

func TestTheHeadIsWrittenAnewForTheEndpoint(t *testing.T) {
	const id = "x-request-id: 0123\r\n"
	for _, tt := range []struct{ name, sent, want string }{
		{"added", "GET /a?b=c HTTP/1.1\r\nHost: a.example:80\r\nX-Request-Id: 0123\r\nAccept: */*\r\n\r\n",
			"GET /a?b=c HTTP/1.1\r\nhost: a.example:80\r\nX-Request-Id: 0123\r\nAccept: */*\r\n" +
				"x-forwarded-for: 10.0.0.9\r\nx-forwarded-proto: http\r\nvia: 1.1 overhear\r\n\r\n"},
		{"appended", "GET / HTTP/1.1\r\nHost: a\r\n" + id + "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nx-forwarded-for:  5.6.7.8 \r\nVia: 1.0 other\r\n\r\n",
			"GET / HTTP/1.1\r\nhost: a\r\n" + id + "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nx-forwarded-for: 5.6.7.8, 10.0.0.9\r\nVia: 1.0 other\r\nvia: 1.1 overhear\r\n\r\n"},
		{"hop by hop", "GET / HTTP/1.1\r\nConnection: keep-alive, X-Secret , close\r\nKeep-Alive: 5\r\nx-secret: 1\r\nX-Secrets: 2\r\nHost: a\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\n" + id + "TE: trailers, deflate;q=0.5\r\nTrailer: x\r\nX-Overhear-Origin: app-refused\r\n\r\n",
			"GET / HTTP/1.1\r\nhost: a\r\nX-Secrets: 2\r\n" + id + "te: trailers\r\nconnection: te\r\nx-forwarded-for: 10.0.0.9\r\nx-forwarded-proto: http\r\nvia: 1.1 overhear\r\n\r\n"},
		{"what Connection must not name", "GET / HTTP/1.1\r\nHost: a\r\nConnection: host, content-length, x-request-id, x-forwarded-for\r\nX-Forwarded-For: 1.1.1.1\r\n" + id + "\r\n",
			"GET / HTTP/1.1\r\nhost: a\r\nX-Forwarded-For: 1.1.1.1, 10.0.0.9\r\n" + id + "x-forwarded-proto: http\r\nvia: 1.1 overhear\r\n\r\n"},
		{"absolute target", "GET http://b.example?q HTTP/1.1\r\nHost: a\r\n" + id + "\r\n",
			"GET /?q HTTP/1.1\r\nhost: b.example\r\n" + id + "x-forwarded-for: 10.0.0.9\r\nx-forwarded-proto: http\r\nvia: 1.1 overhear\r\n\r\n"},
		{"absolute options", "OPTIONS HTTP://b:8080 HTTP/1.1\r\nHost: a\r\n" + id + "\r\n",
			"OPTIONS * HTTP/1.1\r\nhost: b:8080\r\n" + id + "x-forwarded-for: 10.0.0.9\r\nx-forwarded-proto: http\r\nvia: 1.1 overhear\r\n\r\n"},
		{"h2c is not taken up", "GET / HTTP/1.1\r\nHost: a\r\n" + id + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
			"GET / HTTP/1.1\r\nhost: a\r\n" + id + "x-forwarded-for: 10.0.0.9\r\nx-forwarded-proto: http\r\nvia: 1.1 overhear\r\n\r\n"},
		{"HTTP/1.0", "GET / HTTP/1.0\r\n" + id + "\r\n",
			"GET / HTTP/1.1\r\nhost: \r\n" + id + "x-forwarded-for: 10.0.0.9\r\nx-forwarded-proto: http\r\nvia: 1.0 overhear\r\n\r\n"},
		{"sized body", "POST / HTTP/1.1\r\nHost: a\r\n" + id + "Content-Length:   003\r\n\r\nabc",
			"POST / HTTP/1.1\r\nhost: a\r\n" + id + "content-length: 3\r\nx-forwarded-for: 10.0.0.9\r\nx-forwarded-proto: http\r\nvia: 1.1 overhear\r\n\r\nabc"},
		{"chunks and trailers", "POST / HTTP/1.1\r\nHost: a\r\n" + id + "Transfer-Encoding: Chunked\r\nTrailer: X-Sum\r\n\r\n1;ext=\"y\"\r\na\r\n0002\r\nbc\r\n0\r\nX-Sum:  9\r\nKeep-Alive: 1\r\n\r\n",
			"POST / HTTP/1.1\r\nhost: a\r\n" + id + "Trailer: X-Sum\r\ntransfer-encoding: chunked\r\nx-forwarded-for: 10.0.0.9\r\nx-forwarded-proto: http\r\nvia: 1.1 overhear\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 9\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got string
			inRig(t, nil, func(r *rig) {
				r.dial().do(tt.sent)
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("what the endpoint got (-want +got):\n%s", diff)
				}
			}, onTheWire(&got, ok))
		})
	}
}

func TestTheHeadIsWrittenAnewForTheClient(t *testing.T) {
	const date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
	for _, tt := range []struct{ name, sent, answer, want string }{
		{"kept", get, "HTTP/1.1 200 Fine\r\n" + date + "Set-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok",
			"HTTP/1.1 200 Fine\r\n" + date + "Set-Cookie: a\r\nSet-Cookie: b\r\ncontent-length: 2\r\nvia: 1.1 overhear\r\n\r\nok"},
		{"hop by hop", get, "HTTP/1.1 200\r\nConnection: x-a\r\nX-A: 1\r\nKeep-Alive: 5\r\n" + date + "X-Overhear-Origin: app-reset\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 200 \r\n" + date + "content-length: 0\r\nvia: 1.1 overhear\r\n\r\n"},
		{"date", get, "HTTP/1.1 204 No Content\r\n\r\n",
			"HTTP/1.1 204 No Content\r\ndate: Sat, 01 Jan 2000 00:00:00 GMT\r\nvia: 1.1 overhear\r\n\r\n"},
		{"chunks and trailers", get, "HTTP/1.1 200 OK\r\n" + date + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\nX-Sum: 1\r\n\r\n",
			"HTTP/1.1 200 OK\r\n" + date + "transfer-encoding: chunked\r\nvia: 1.1 overhear\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n"},
		{"chunks for HTTP/1.0", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\nX-Sum: 1\r\n\r\n",
			"HTTP/1.1 200 OK\r\n" + date + "via: 1.1 overhear\r\nconnection: close\r\n\r\nab"},
		{"HTTP/1.0 keep-alive", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 1\r\n\r\na",
			"HTTP/1.1 200 OK\r\n" + date + "content-length: 1\r\nvia: 1.1 overhear\r\nconnection: keep-alive\r\n\r\na"},
		{"client wants to close", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\n" + date + "Content-Length: 1\r\n\r\na",
			"HTTP/1.1 200 OK\r\n" + date + "content-length: 1\r\nvia: 1.1 overhear\r\nconnection: close\r\n\r\na"},
		{"endpoint of HTTP/1.0", get, "HTTP/1.0 200 OK\r\n" + date + "Content-Length: 1\r\n\r\na",
			"HTTP/1.1 200 OK\r\n" + date + "content-length: 1\r\nvia: 1.0 overhear\r\n\r\na"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				c := r.dial()
				c.send(tt.sent)
				synctest.Wait()
				buf := make([]byte, 4096)
				n, err := c.Read(buf)
				if diff := cmp.Diff(tt.want, string(buf[:n])); diff != "" || err != nil {
					t.Errorf("what the client got (-want +got): %v\n%s", err, diff)
				}
			}, say(tt.answer))
		})
	}
}

func TestABodyThatEndsWithItsConnectionIsChunkedForTheClient(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		for range 2 {
			got := c.do(get)
			r.check(got, 200, "all of it", "-", "10.0.1.1 ok")
			if got.err != nil || len(got.TransferEncoding) != 1 {
				t.Errorf("body: got %v, %v, want it chunked and complete", got.TransferEncoding, got.err)
			}
		}
	}, func(c net.Conn, _ int) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nall ")
		time.Sleep(time.Second)
		_, _ = io.WriteString(c, "of it")
	})
}

func TestAnInterimResponseIsPassedOn(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		c.send(get)
		for _, want := range []int{103, 200} {
			if got := c.read("GET"); got.StatusCode != want {
				t.Errorf("response: got %d, want %d", got.StatusCode, want)
			}
		}
		old := r.dial()
		r.check(old.do("GET / HTTP/1.0\r\n\r\n"), 200, "ok", "-", "10.0.1.1 ok")
	}, say("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"+ok))
}

func TestAClientThatExpectsContinueIsToldWhatTheEndpointSays(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
	t.Run("go on", func(t *testing.T) {
		inRig(t, nil, func(r *rig) {
			c := r.dial()
			for range 2 {
				c.send(head)
				if got := c.read("POST"); got.StatusCode != http.StatusContinue {
					t.Errorf("response: got %d, want 100", got.StatusCode)
				}
				c.send("body")
				r.check(c.read("POST"), 200, "body", "-", "10.0.1.1 ok")
			}
		}, func(c net.Conn, _ int) {
			br := bufio.NewReader(c)
			for {
				req, err := http.ReadRequest(br)
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
				body, _ := io.ReadAll(req.Body)
				_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			}
		})
	})
	t.Run("no", func(t *testing.T) {
		inRig(t, nil, func(r *rig) {
			c := r.dial()
			got := c.do(head)
			r.check(got, 413, "", "-", "10.0.1.1 ok")
			if !got.Close {
				t.Error("connection: got none, want close: nobody knows whether the body comes")
			}
			if err := c.ended(); err != nil {
				t.Errorf("end of connection: %v", err)
			}
		}, func(c net.Conn, _ int) {
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
				_, _ = c.Read(make([]byte, 1))
			}
		})
	})
}

func TestALargeBodyStreamsWithoutBeingKept(t *testing.T) {
	const size = 4 << 20
	for _, framing := range []string{"sized", "chunked"} {
		t.Run(framing, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				c := r.dial()
				for range 2 {
					go func() {
						if framing == "sized" {
							_, _ = fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size)
							_, _ = c.Write(make([]byte, size))
							return
						}
						_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
						for range size / 8192 {
							_, _ = c.Write(append(append([]byte("2000\r\n"), make([]byte, 8192)...), "\r\n"...))
						}
						_, _ = io.WriteString(c, "0\r\n\r\n")
					}()
					got := c.read("POST")
					r.check(got, 200, fmt.Sprint(size), "-", "10.0.1.1 ok")
					if line := r.last(); line.Received != size {
						t.Errorf("received: got %d, want %d", line.Received, size)
					}
				}
				if n := len(r.backends[0].conns); n != 1 {
					t.Errorf("connections to the backend: got %d, want 1", n)
				}
			}, talk(func(req *http.Request) string {
				n, err := io.Copy(io.Discard, req.Body)
				if err != nil {
					return "HTTP/1.1 500 Bad\r\nContent-Length: 0\r\n\r\n"
				}
				text := fmt.Sprint(n)
				return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
			}))
		})
	}
}

func TestALargeAnswerStreamsOnlyAsFastAsTheClientReads(t *testing.T) {
	const size = 16 << 20
	var written int
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		c.send(get)
		synctest.Wait()
		// The two windows of the network, and what the proxy holds.
		if limit := 2*64<<10 + 2*largeBuffer; written > limit {
			t.Errorf("the endpoint got rid of %d bytes while nobody read, want at most %d", written, limit)
		}
		got := c.read("GET")
		if len(got.body) != size || got.err != nil {
			t.Errorf("body: got %d bytes, %v, want %d", len(got.body), got.err, size)
		}
		if line := r.last(); line.Sent != size {
			t.Errorf("sent: got %d, want %d", line.Sent, size)
		}
	}, func(c net.Conn, _ int) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
		for written < size {
			n, err := c.Write(make([]byte, 32<<10))
			if written += n; err != nil {
				return
			}
		}
	})
}

func TestAnEndpointMayAnswerBeforeItHasTheBody(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin")
		got := c.read("POST")
		r.check(got, 200, "ok", "-", "10.0.1.1 ok")
		if !got.Close {
			t.Error("connection: got none, want close")
		}
		if err := c.ended(); err != nil {
			t.Errorf("end of connection: %v", err)
		}
	}, func(c net.Conn, _ int) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, ok)
			_, _ = c.Read(make([]byte, 1<<10))
		}
	})
}

func TestBothDirectionsFlowAtOnce(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
		words := []string{"one", "two", "three"}
		chunk := func(word string) { c.send(fmt.Sprintf("%x\r\n%s\r\n", len(word), word)) }
		chunk(words[0])
		resp, err := http.ReadResponse(c.br, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		for i, word := range words {
			buf := make([]byte, 10)
			n, err := resp.Body.Read(buf)
			if got := string(buf[:n]); got != word || err != nil {
				t.Errorf("echo: got %q, %v, want %q", got, err, word)
			}
			if i+1 < len(words) {
				chunk(words[i+1])
			}
		}
		c.send("0\r\n\r\n")
		if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
			t.Errorf("rest: got %q, %v, want the end", rest, err)
		}
	}, func(c net.Conn, _ int) {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		buf := make([]byte, 100)
		for {
			n, err := req.Body.Read(buf)
			if n > 0 {
				_, _ = fmt.Fprintf(c, "%x\r\n%s\r\n", n, buf[:n])
			}
			if err != nil {
				break
			}
		}
		_, _ = io.WriteString(c, "0\r\n\r\n")
	})
}

func TestAnAbsoluteTargetIsRoutedByItsOwnHostAndPath(t *testing.T) {
	inRig(t, func(o *options) { o.rule.Hosts, o.rule.Prefix = []string{"b"}, "/" }, func(r *rig) {
		c := r.dial()
		for _, target := range []string{"http://b", "http://b?q", "http://b/x", "http://B:80/x"} {
			r.check(c.do("GET "+target+" HTTP/1.1\r\nHost: a\r\n\r\n"), 200, "ok", "-", "10.0.1.1 ok")
		}
		r.check(c.do("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n"), 404, "*", "NR")
	}, say(ok))
}
