package http1

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/test/pipenet"
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
				n, err := c.Conn.Read(buf)
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
			resp, err := http.ReadResponse(c.br, nil)
			if err != nil || resp.StatusCode != want {
				t.Fatalf("response: got %v, %v, want %d", resp, err, want)
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
				if resp, err := http.ReadResponse(c.br, nil); err != nil || resp.StatusCode != 100 {
					t.Fatalf("response: got %v, %v, want 100", resp, err)
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
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
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
							fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size)
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
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
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
		var resp *http.Response
		for _, word := range []string{"one", "two", "three"} {
			fmt.Fprintf(c, "%x\r\n%s\r\n", len(word), word)
			if resp == nil {
				var err error
				if resp, err = http.ReadResponse(c.br, nil); err != nil {
					t.Fatal(err)
				}
			}
			buf := make([]byte, 10)
			n, err := resp.Body.Read(buf)
			if got := string(buf[:n]); got != word || err != nil {
				t.Errorf("echo: got %q, %v, want %q", got, err, word)
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
				fmt.Fprintf(c, "%x\r\n%s\r\n", n, buf[:n])
			}
			if err != nil {
				break
			}
		}
		_, _ = io.WriteString(c, "0\r\n\r\n")
	})
}

// broken answers a request with the text and then resets or closes.
func broken(text string, reset bool) func(net.Conn, int) {
	return func(c net.Conn, _ int) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		_, _ = io.WriteString(c, text)
		time.Sleep(10 * time.Millisecond)
		if reset {
			_ = c.(*pipenet.Conn).Reset()
		}
	}
}

func TestACutAnswerNeverLooksWhole(t *testing.T) {
	for _, tt := range []struct {
		name, request, answer string
		reset                 bool
	}{
		{"sized", get, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", false},
		{"sized, reset", get, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", true},
		{"chunked", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", false},
		{"in a chunk", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf", false},
		{"in the last chunk", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n", false},
		{"until close, reset", get, "HTTP/1.1 200 OK\r\n\r\nhalf", true},
		{"until close for HTTP/1.0, reset", "GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nhalf", true},
		{"chunked for HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, nil, func(r *rig) {
				got := r.dial().do(tt.request)
				r.check(got, 200, "half", "UC", "10.0.1.1 server")
				if got.err == nil {
					t.Error("body: got a regular end, want an error")
				}
			}, broken(tt.answer, tt.reset))
		})
	}
}

func TestBytesBehindAnAnswerNeverReachAnybody(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok too much",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
	} {
		inRig(t, nil, func(r *rig) {
			c := r.dial()
			for range 3 {
				r.check(c.do(get), 200, "ok", "-", "10.0.1.1 ok")
			}
			if n := len(r.backends[0].conns); n != 3 {
				t.Errorf("%q: connections to the backend: got %d, want 3, none used again", answer, n)
			}
		}, say(answer))
	}
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		c.do("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
		r.check(c.do("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"), 200, "", "-", "10.0.1.1 ok")
		if n := len(r.backends[0].conns); n != 2 {
			t.Errorf("body after HEAD: connections to the backend: got %d, want 2", n)
		}
	}, say(ok))
}

func TestAnUnaskedAnswerOnAnIdleConnectionReachesNobody(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		r.check(c.do(get), 200, "ok", "-", "10.0.1.1 ok")
		time.Sleep(100 * time.Millisecond)
		r.check(c.do(get), 200, "ok", "-", "10.0.1.1 ok")
	}, func(c net.Conn, _ int) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		_, _ = io.WriteString(c, ok)
		time.Sleep(50 * time.Millisecond)
		_, _ = io.WriteString(c, "HTTP/1.1 408 Too Slow\r\nContent-Length: 4\r\n\r\nevil")
		_, _ = c.Read(make([]byte, 1))
	})
}

func TestAMalformedAnswerIsABadGateway(t *testing.T) {
	for _, answer := range []string{
		"nonsense\r\n\r\n",
		"HTTP/2.0 200 OK\r\n\r\n",
		"HTTP/1.1 20 OK\r\n\r\n",
		"HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
		"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nX: \x00\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 70<<10) + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: a\r\n", 101) + "\r\n",
		"HTTP/1.1 200 OK\r\nContent-Le",
		strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", maxInterim+1) + ok,
	} {
		name := answer[:min(len(answer), 60)]
		inRig(t, nil, func(r *rig) {
			c := r.dial()
			got := c.do("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
			r.check(got, 502, "*", "UPE", "10.0.1.1 server")
			if t.Failed() {
				t.Fatalf("that was %q", name)
			}
			r.check(c.do("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), 502, "*", "UPE", "10.0.1.1 server")
		}, broken(answer, false))
	}
}

func TestAClientThatLeavesWhileItWaitsEndsTheAttempt(t *testing.T) {
	for _, how := range []string{"close", "reset", "half-close"} {
		t.Run(how, func(t *testing.T) {
			var gone time.Duration
			inRig(t, nil, func(r *rig) {
				c := r.dial()
				c.send(get)
				time.Sleep(200 * time.Millisecond)
				switch how {
				case "close":
					c.Close()
				case "reset":
					_ = c.Reset()
				case "half-close":
					_ = c.CloseWrite()
				}
				left := r.clock.Now()
				line := r.last()
				want := logged{Method: "GET", Host: "api", Path: "/", ID: line.ID, Flags: "DC", Duration: left, Attempts: []string{"10.0.1.1 ignore"}}
				if diff := cmp.Diff(want, line); diff != "" {
					t.Errorf("log (-want +got):\n%s", diff)
				}
				if gone = r.clock.Now() - left; gone != 0 {
					t.Errorf("noticed after %v, want at once", gone)
				}
				if n := r.outcomes(); n.N != 0 || n.Cens != 0 {
					t.Errorf("counted: got %+v, want nothing", n)
				}
			}, func(c net.Conn, _ int) {
				_, _ = io.Copy(io.Discard, c) // until the proxy hangs up
			})
		})
	}
}

func TestWhatAWatchedClientSendsIsItsNextRequest(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		for range 3 {
			c.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
			time.Sleep(200 * time.Millisecond)
			c.send("GET /next HT")
			time.Sleep(200 * time.Millisecond)
			c.send("TP/1.1\r\nHost: a\r\n\r\n")
			for _, want := range []string{"/slow", "/next"} {
				if got := c.read("GET").body; got != want {
					t.Errorf("body: got %q, want %q", got, want)
				}
			}
		}
		if n := r.metrics.Watches.Load(); n < 3 {
			t.Errorf("watches: got %d, want at least 3", n)
		}
	}, talk(func(req *http.Request) string {
		time.Sleep(time.Second)
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(req.URL.Path), req.URL.Path)
	}))
}

func TestARefusedConnectionIsRetriedElsewhereWhateverTheMethod(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		r.backends[0].crash()
		retried := false
		for range 20 {
			got := r.dial().do("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
			if got.StatusCode != 200 {
				t.Fatalf("response: got %d %q, want 200; %+v", got.StatusCode, got.body, r.last())
			}
			if line := r.last(); len(line.Attempts) > 1 {
				retried = true
				want := []string{"10.0.1.1 conn", "10.0.1.2 ok"}
				if diff := cmp.Diff(want, line.Attempts); diff != "" {
					t.Errorf("attempts (-want +got):\n%s", diff)
				}
			}
		}
		if !retried {
			t.Error("no request met the endpoint that is down")
		}
	}, say(ok), say(ok))
}

func TestALargeBodySurvivesARefusedConnection(t *testing.T) {
	const size = 1 << 20
	inRig(t, nil, func(r *rig) {
		r.backends[0].crash()
		for range 10 {
			c := r.dial()
			go func() {
				fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size)
				_, _ = c.Write(make([]byte, size))
			}()
			if got := c.read("POST"); got.StatusCode != 200 {
				t.Fatalf("response: got %d %q, want 200; %+v", got.StatusCode, got.body, r.last())
			}
		}
	}, say(ok), say(ok))
}

func TestEveryEndpointRefusing(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		r.backends[0].crash()
		r.backends[1].crash()
		got := r.dial().do(get)
		if line := r.last(); got.StatusCode != 503 || line.Flags != "UF,URX" || len(line.Attempts) != 2 {
			t.Errorf("got %d %s %q, want 503 UF,URX after two attempts", got.StatusCode, line.Flags, line.Attempts)
		}
	}, say(ok), say(ok))
	inRig(t, nil, func(r *rig) {
		r.backends[0].crash()
		r.check(r.dial().do(get), 503, "*", "UF", "10.0.1.1 conn")
	}, say(ok))
}

func TestAClusterWithoutEndpointsIsUnhealthy(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		for range 2 {
			r.check(c.do(get), 503, "overhear: no healthy endpoint\n", "UH")
		}
	})
}

func TestNoRoute(t *testing.T) {
	inRig(t, func(o *options) { o.rule.Hosts = []string{"other"} }, func(r *rig) {
		c := r.dial()
		for range 2 {
			r.check(c.do(get), 404, "overhear: no route\n", "NR")
		}
		got := c.do("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
		r.check(got, 404, "", "NR")
		got = c.do("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n")
		r.check(got, 404, "*", "NR")
		if !got.Close {
			t.Error("connection: got none, want close: the body has not been read")
		}
	}, say(ok))
}

func TestAResetBeforeAnAnswerIsRetriedIfItDoesNoHarm(t *testing.T) {
	dies := broken("", true)
	for _, tt := range []struct {
		request string
		retried bool
	}{
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", true},
		{"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", false},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", false},
		{"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", false},
	} {
		inRig(t, nil, func(r *rig) {
			met := false
			for range 20 {
				c := r.dial()
				got := c.do(tt.request)
				line := r.last()
				if line.Attempts[0] != "10.0.1.1 conn" {
					continue
				}
				met = true
				if tt.retried {
					r.check(got, 200, "ok", "-", "10.0.1.1 conn", "10.0.1.2 ok")
				} else {
					r.check(got, 503, "*", "UC", "10.0.1.1 conn")
				}
				break
			}
			if !met {
				t.Errorf("%q never met the endpoint that resets", tt.request)
			}
		}, dies, say(ok))
	}
}

func TestAStaleConnectionIsReplacedByAFreshOne(t *testing.T) {
	// The backend closes an idle connection exactly when the next request is on
	// the way: it has been read, and nothing has been answered.
	race := func(c net.Conn, n int) {
		br := bufio.NewReader(c)
		for i := 0; ; i++ {
			if _, err := http.ReadRequest(br); err != nil || n == 1 && i == 1 {
				return
			}
			_, _ = io.WriteString(c, ok)
		}
	}
	for _, tt := range []struct {
		request  string
		idle     time.Duration
		attempts []string
	}{
		{get, 2 * time.Second, []string{"10.0.1.1 ignore", "10.0.1.1 ok"}},
		{"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", 2 * time.Second, []string{"10.0.1.1 ignore", "10.0.1.1 ok"}},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 2 * time.Second, []string{"10.0.1.1 ignore"}},
		{get, 100 * time.Millisecond, []string{"10.0.1.1 conn", "10.0.1.1 ok"}}, // too soon for an idle time-out
		{"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", 100 * time.Millisecond, []string{"10.0.1.1 conn"}},
	} {
		inRig(t, nil, func(r *rig) {
			c := r.dial()
			c.do(get)
			time.Sleep(tt.idle)
			got := c.do(tt.request)
			if status, flags := 200, "-"; len(tt.attempts) == 2 {
				r.check(got, status, "ok", flags, tt.attempts...)
			} else {
				r.check(got, 503, "*", "UC", tt.attempts...)
			}
		}, race)
	}
}

func TestAConnectionThatDiedWhileIdleCostsNothing(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		c.do(get)
		r.backends[0].mu.Lock()
		_ = r.backends[0].conns[0].Close()
		r.backends[0].mu.Unlock()
		time.Sleep(10 * time.Millisecond)
		r.check(c.do("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"), 200, "ok", "-", "10.0.1.1 ok")
	}, say(ok))
}

func hangs(c net.Conn, _ int) { _, _ = io.Copy(io.Discard, c) }

func TestAPerTryTimeout(t *testing.T) {
	inRig(t, func(o *options) { o.rule.PerTryTimeout = 300 * time.Millisecond }, func(r *rig) {
		c := r.dial()
		start := r.clock.Now()
		r.check(c.do(get), 504, "*", "UT", "10.0.1.1 timeout")
		if took := r.clock.Now() - start; took < 300*time.Millisecond || took > 330*time.Millisecond {
			t.Errorf("took %v, want 300ms and a little", took)
		}
		r.check(c.do(get), 504, "*", "UT", "10.0.1.1 timeout")
	}, hangs)
	inRig(t, func(o *options) {
		o.rule.PerTryTimeout = 300 * time.Millisecond
		o.rule.Retry.On = append(o.rule.Retry.On, resilience.PerTryTimeout)
	}, func(r *rig) {
		for {
			got := r.dial().do(get)
			if line := r.last(); line.Attempts[0] == "10.0.1.1 timeout" {
				r.check(got, 200, "ok", "-", "10.0.1.1 timeout", "10.0.1.2 ok")
				return
			}
		}
	}, hangs, say(ok))
}

func TestARequestTimeout(t *testing.T) {
	t.Run("before the answer", func(t *testing.T) {
		inRig(t, func(o *options) { o.rule.Timeout = 2 * time.Second }, func(r *rig) {
			c := r.dial()
			start := r.clock.Now()
			r.check(c.do(get), 504, "*", "UT", "10.0.1.1 timeout")
			if took := r.clock.Now() - start; took < 2*time.Second || took > 2*time.Second+3*tick {
				t.Errorf("took %v, want 2s and a little", took)
			}
			r.check(c.do(get), 504, "*", "UT", "10.0.1.1 timeout")
		}, hangs)
	})
	t.Run("in the body", func(t *testing.T) {
		inRig(t, func(o *options) { o.rule.Timeout = 2 * time.Second }, func(r *rig) {
			got := r.dial().do(get)
			r.check(got, 200, strings.Repeat("x", 16), "UT", "10.0.1.1 timeout")
			if got.err == nil {
				t.Error("body: got a regular end, want an error")
			}
		}, func(c net.Conn, _ int) {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
			for err == nil {
				_, err = io.WriteString(c, "x")
				time.Sleep(130 * time.Millisecond)
			}
		})
	})
	t.Run("not while the client sends", func(t *testing.T) {
		inRig(t, func(o *options) { o.rule.Timeout = 2 * time.Second }, func(r *rig) {
			c := r.dial()
			c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n")
			for range 50 {
				time.Sleep(200 * time.Millisecond)
				c.send("x")
			}
			r.check(c.read("POST"), 200, "ok", "-", "10.0.1.1 ok")
		}, say(ok))
	})
	t.Run("while connecting", func(t *testing.T) {
		inRig(t, func(o *options) {
			o.rule.Timeout = 2 * time.Second
			o.cluster.ConnectTimeout = 10 * time.Second
		}, func(r *rig) {
			r.net.Cut("10.0.0.1", "10.0.1.1")
			start := r.clock.Now()
			c := r.dial()
			r.check(c.do(get), 504, "*", "UT", "10.0.1.1 timeout")
			if took := r.clock.Now() - start; took > 2*time.Second+3*tick {
				t.Errorf("took %v, want 2s and a little", took)
			}
			r.net.Heal("10.0.0.1", "10.0.1.1")
			r.check(c.do(get), 200, "ok", "-", "10.0.1.1 ok")
		}, say(ok))
	})
}

func TestARequestTimeoutCountsAllAttempts(t *testing.T) {
	inRig(t, func(o *options) { o.rule.Timeout = 2 * time.Second }, func(r *rig) {
		for {
			start := r.clock.Now()
			got := r.dial().do(get)
			line := r.last()
			if line.Attempts[0] != "10.0.1.1 conn" {
				continue
			}
			r.check(got, 504, "*", "URX,UT", "10.0.1.1 conn", "10.0.1.2 timeout")
			if took := r.clock.Now() - start; took < 2*time.Second || took > 2*time.Second+3*tick {
				t.Errorf("took %v, want 2s and a little", took)
			}
			return
		}
	}, broken("", true), hangs)
}

func TestAClientThatReadsNoneOfItsAnswersIsCutOff(t *testing.T) {
	inRig(t, func(o *options) { o.rule.Hosts = []string{"other"} }, func(r *rig) {
		c := r.dial()
		start := r.clock.Now()
		for {
			if _, err := io.WriteString(c, get); err != nil {
				break
			}
		}
		if took := r.clock.Now() - start; took > 2*5*time.Minute {
			t.Errorf("cut off after %v, want about stream_idle_timeout", took)
		}
		if line := r.last(); line.Flags != "NR,DC" {
			t.Errorf("log: got %s, want NR,DC", line.Flags)
		}
	}, say(ok))
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

func TestAnAnswerThatStallsIsGivenUp(t *testing.T) {
	inRig(t, func(o *options) { o.rule.Timeout, o.rule.IdleTimeout = 0, time.Second }, func(r *rig) {
		got := r.dial().do(get)
		r.check(got, 200, "half", "SI", "10.0.1.1 timeout")
		if got.err == nil {
			t.Error("body: got a regular end, want an error")
		}
	}, func(c net.Conn, _ int) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
		_, _ = io.Copy(io.Discard, c)
	})
}

func TestAClientThatDoesNotReadIsNotTheEndpointsFault(t *testing.T) {
	inRig(t, func(o *options) { o.rule.Timeout, o.rule.IdleTimeout = 0, time.Second }, func(r *rig) {
		r.dial().send(get)
		time.Sleep(5 * time.Second)
		line := r.last()
		if line.Flags != "DC,SI" || line.Attempts[0] != "10.0.1.1 ignore" {
			t.Errorf("log: got %s %q, want DC,SI and ignore", line.Flags, line.Attempts)
		}
	}, say("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 1000000)))
}

func TestAClientThatStopsSendingIsNotTheEndpointsFault(t *testing.T) {
	inRig(t, func(o *options) { o.rule.IdleTimeout = time.Second }, func(r *rig) {
		c := r.dial()
		got := c.do("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
		r.check(got, 408, "*", "SI", "10.0.1.1 ignore")
		if err := c.ended(); err != nil {
			t.Errorf("end of connection: %v", err)
		}
	}, hangs)
}

func TestAMalformedBodyIsRefusedWhileItFlows(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
		time.Sleep(time.Second)
		c.send("zz\r\n")
		r.check(c.read("POST"), 400, "overhear: malformed chunk size\n", "DPE", "10.0.1.1 ignore")
		if err := c.ended(); err != nil {
			t.Errorf("end of connection: %v", err)
		}
	}, hangs)
}

func TestAClientThatLeavesInItsBody(t *testing.T) {
	for _, wait := range []time.Duration{0, time.Second} {
		inRig(t, nil, func(r *rig) {
			c := r.dial()
			c.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
			time.Sleep(wait)
			c.Close()
			line := r.last()
			if line.Flags != "DC" || line.Status != 0 {
				t.Errorf("after %v: log: got %d %s, want 0 DC", wait, line.Status, line.Flags)
			}
		}, hangs)
	}
}

func TestASlowHeadIsRefusedAndAnIdleConnectionJustEnds(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		start := r.clock.Now()
		go func() {
			for _, b := range []byte(get[:len(get)-1]) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		got := c.read("GET")
		r.check(got, 408, "*", "DPE")
		if took := r.clock.Now() - start; took < 10*time.Second || took > 10*time.Second+3*tick {
			t.Errorf("took %v, want 10s and a little", took)
		}
		c.Close()

		idle := r.dial()
		start = r.clock.Now()
		if err := idle.ended(); err != nil {
			t.Errorf("end of an idle connection: %v", err)
		}
		if took := r.clock.Now() - start; took < 5*time.Minute || took > 5*time.Minute+3*tick {
			t.Errorf("idle connection ended after %v, want 5m", took)
		}
		if n := len(r.log.all()); n != 1 {
			t.Errorf("log: got %d lines, want 1: nothing was asked on the other connection", n)
		}
	}, say(ok))
}

func TestAnIdleConnectionHoldsNoBuffers(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		for range 3 {
			r.check(c.do(get), 200, "ok", "-", "10.0.1.1 ok")
			time.Sleep(time.Minute)
			synctest.Wait()
			r.server.mu.Lock()
			for conn := range r.server.conns {
				if conn.in != nil || conn.resp != nil || conn.out.head != nil {
					t.Error("buffers: got some, want none")
				}
			}
			r.server.mu.Unlock()
		}
	}, say(ok))
}

func TestADrainingServerAnswersAndCloses(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		busy, idle, next := r.dial(), r.dial(), r.dial()
		idle.do(get)
		next.do(get)
		busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
		synctest.Wait()
		r.server.Drain()
		start := r.clock.Now()
		if got := next.do(get); got.StatusCode != 200 || !got.Close {
			t.Errorf("request right after Drain: got %d, close %v, want 200 and close", got.StatusCode, got.Close)
		}
		if got := busy.read("GET"); got.StatusCode != 200 || !got.Close {
			t.Errorf("request under way: got %d, close %v, want 200 and close", got.StatusCode, got.Close)
		}
		for _, c := range []*client{busy, next} {
			if err := c.ended(); err != nil {
				t.Errorf("end of connection: %v", err)
			}
		}
		if err := idle.ended(); err != nil {
			t.Errorf("end of the idle connection: %v", err)
		}
		if took := r.clock.Now() - start; took > 5*time.Second+3*tick {
			t.Errorf("took %v, want no longer than the slowest request", took)
		}
		if got := r.dial().do(get); got.StatusCode != 200 || !got.Close {
			t.Errorf("request on a new connection: got %d, close %v, want 200 and close", got.StatusCode, got.Close)
		}
	}, talk(func(req *http.Request) string {
		if req.URL.Path == "/slow" {
			time.Sleep(5 * time.Second)
		}
		return ok
	}))
}

func TestTheEndOfTheContextBreaksOffWhatIsUnderWay(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		c.send(get)
		r.dial() // idle
		half := r.dial()
		half.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
		time.Sleep(time.Second)
		// inRig ends the context and waits for ServeConn to return.
	}, hangs)
}

func TestLimitsOverflow(t *testing.T) {
	inRig(t, func(o *options) { o.cluster.Limits.Requests = 1 }, func(r *rig) {
		busy := r.dial()
		busy.send(get)
		synctest.Wait()
		r.check(r.dial().do(get), 503, "*", "UO")
		busy.read("GET")
		r.check(r.dial().do(get), 200, "ok", "-", "10.0.1.1 ok")
	}, talk(func(*http.Request) string { time.Sleep(time.Second); return ok }))
	inRig(t, func(o *options) { o.cluster.MaxConns = 1 }, func(r *rig) {
		busy := r.dial()
		busy.send(get)
		synctest.Wait()
		r.check(r.dial().do(get), 503, "*", "UO", "10.0.1.1 ignore")
	}, talk(func(*http.Request) string { time.Sleep(time.Second); return ok }))
}

func TestTheBreakerRefusesAtOnce(t *testing.T) {
	inRig(t, func(o *options) { o.cluster.Breaker.For = 0 }, func(r *rig) {
		r.backends[0].crash()
		for range resilience.DefaultBreakerConfig().Refusals {
			r.check(r.dial().do(get), 503, "*", "UF", "10.0.1.1 conn")
		}
		r.check(r.dial().do(get), 503, "*", "UO")
	}, say(ok))
}

func TestStatusesAreRetriedIfTheRouteSaysSo(t *testing.T) {
	bad := say("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		r.check(c.do(get), 503, "busy", "-", "10.0.1.1 server")
	}, bad)
	inRig(t, func(o *options) { o.rule.Retry.On = []resilience.Condition{resilience.GatewayError} }, func(r *rig) {
		for {
			got := r.dial().do(get)
			if line := r.last(); line.Attempts[0] == "10.0.1.1 server" {
				r.check(got, 200, "ok", "-", "10.0.1.1 server", "10.0.1.2 ok")
				break
			}
		}
		for _, b := range r.backends {
			if n := len(b.conns); n > 1 {
				t.Errorf("connections: got %d, want 1: the answer was read to its end", n)
			}
		}
	}, bad, say(ok))
	inRig(t, func(o *options) {
		o.rule.Retry.On = []resilience.Condition{resilience.GatewayError}
		o.cluster.Budget.MinPerSecond, o.cluster.Budget.Ratio = 0, 0
	}, func(r *rig) {
		r.check(r.dial().do(get), 503, "busy", "-", "10.0.1.1 server")
	}, bad)
}

func TestAnInboundSidecarNamesWhatItsApplicationDid(t *testing.T) {
	inbound := func(o *options) { o.inbound, o.rule.PerTryTimeout = true, time.Second }
	origin := func(r *rig, want string, status int, flags string, attempt string) {
		r.t.Helper()
		got := r.dial().do(get)
		if name := got.Header.Get(originField); name != want {
			r.t.Errorf("origin: got %q, want %q", name, want)
		}
		r.check(got, status, "*", flags, attempt)
	}
	inRig(t, inbound, func(r *rig) {
		origin(r, "", 200, "-", "10.0.1.1 ok")
		r.backends[0].crash()
		time.Sleep(10 * time.Millisecond)
		origin(r, "app-refused", 503, "UF", "10.0.1.1 conn")
	}, say(strings.Replace(ok, "\r\n\r\n", "\r\nX-Overhear-Origin: app-refused\r\n\r\n", 1)))
	inRig(t, inbound, func(r *rig) { origin(r, "app-reset", 503, "UC", "10.0.1.1 conn") }, broken("", true))
	inRig(t, inbound, func(r *rig) { origin(r, "app-timeout", 503, "UT", "10.0.1.1 timeout") }, hangs)
	inRig(t, inbound, func(r *rig) { origin(r, "", 502, "UPE", "10.0.1.1 server") }, broken("nonsense\r\n", true))
}

func TestAnOriginIsBelievedOnlyFromAnEndpointThatMaySendIt(t *testing.T) {
	says := func(origin string) func(net.Conn, int) {
		return say("HTTP/1.1 503 Service Unavailable\r\nX-Overhear-Origin: " + origin + "\r\nContent-Length: 3\r\n\r\nbad")
	}
	for _, tt := range []struct{ origin, class, flags string }{
		{"app-refused", "conn", "UF"}, {"app-reset", "conn", "UC"}, {"app-timeout", "timeout", "UT"}, {"other", "server", "-"},
	} {
		inRig(t, func(o *options) { o.marked = true }, func(r *rig) {
			got := r.dial().do("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
			r.check(got, 503, "bad", tt.flags, "10.0.1.1 "+tt.class)
			if len(got.Header[http.CanonicalHeaderKey(originField)]) > 0 {
				t.Error("the application was shown the origin")
			}
		}, says(tt.origin))
		inRig(t, nil, func(r *rig) {
			r.check(r.dial().do(get), 503, "bad", "-", "10.0.1.1 server")
		}, says(tt.origin))
	}
	inRig(t, func(o *options) { o.marked = true }, func(r *rig) {
		for range 20 {
			got := r.dial().do("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
			if got.StatusCode != 200 {
				t.Fatalf("response: got %d, want 200: the application of the other endpoint has processed nothing", got.StatusCode)
			}
		}
	}, says("app-refused"), say(ok))
}

func TestAnApplicationThatResetIsRetriedAsIfTheResetHadBeenSeenFromHere(t *testing.T) {
	reset := say("HTTP/1.1 503 Service Unavailable\r\nX-Overhear-Origin: app-reset\r\nContent-Length: 3\r\n\r\nbad")
	inRig(t, func(o *options) { o.marked = true }, func(r *rig) {
		for range 20 {
			if got := r.dial().do(get); got.StatusCode != 200 {
				t.Fatalf("response: got %d, want 200 from the other endpoint", got.StatusCode)
			}
		}
		for range 20 {
			if got := r.dial().do("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"); got.StatusCode == 503 {
				r.check(got, 503, "bad", "UC", "10.0.1.1 conn") // nobody knows what was processed
				return
			}
		}
		t.Error("no POST met the endpoint")
	}, reset, say(ok))
}

func TestALateAnswerToACutRequestNeverReachesTheNextOne(t *testing.T) {
	inRig(t, func(o *options) { o.rule.PerTryTimeout = 100 * time.Millisecond }, func(r *rig) {
		c := r.dial()
		r.check(c.do("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"), 504, "*", "UT", "10.0.1.1 timeout")
		r.check(c.do("GET /fast HTTP/1.1\r\nHost: a\r\n\r\n"), 200, "fast", "-", "10.0.1.1 ok")
	}, talk(func(req *http.Request) string {
		name := strings.TrimPrefix(req.URL.Path, "/")
		if name == "slow" {
			time.Sleep(150 * time.Millisecond)
		}
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(name), name)
	}))
}
