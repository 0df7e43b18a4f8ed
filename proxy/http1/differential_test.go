package http1

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// journal is a backend's view: one line per request that net/http found in what
// the proxy sent.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) serve(c net.Conn, _ int) {
	br := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			if _, broken := errors.AsType[*net.OpError](err); !broken && !errors.Is(err, io.EOF) {
				j.add(fmt.Sprintf("unreadable: %v", err))
			}
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return // refused in the middle of its body
		}
		j.add(fmt.Sprintf("%s %s %s %q", req.Method, req.RequestURI, req.Host, body))
		if _, err := io.WriteString(c, ok); err != nil {
			return
		}
	}
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

// Two requests must never be seen as one or three by the backend: of each strange
// message the backend sees exactly what net/http sees in it up to the place where
// this package refuses, and after a refusal the connection ends.
func TestTheBackendNeverSeesAnotherNumberOfRequests(t *testing.T) {
	const evil = "GET /evil HTTP/1.1\r\nHost: evil\r\n\r\n"
	for _, tt := range requestCorpus {
		for _, behind := range []string{"", evil} {
			if behind != "" && tt.status == 0 {
				continue // there it is just the next request
			}
			stream := tt.text + behind
			ours, _ := readRequests([]byte(stream), 1<<20)
			var want []string
			for _, m := range ours {
				want = append(want, fmt.Sprintf("%s %q", m.Start, m.Body))
			}
			var j journal
			inRig(t, nil, func(r *rig) {
				c := r.dial()
				c.send(stream)
				for range ours {
					if got := c.read("GET"); got.StatusCode != http.StatusOK {
						t.Errorf("%s: response: got %d, want 200", tt.name, got.StatusCode)
					}
				}
				if tt.status != 0 {
					if got := c.read("GET"); got.StatusCode != tt.status || !got.Close {
						t.Errorf("%s: response: got %d, close %v, want %d and close", tt.name, got.StatusCode, got.Close, tt.status)
					}
					if err := c.ended(); err != nil {
						t.Errorf("%s: end of connection: %v", tt.name, err)
					}
					if line := r.last(); line.Flags != "DPE" || line.Status != tt.status || line.Detail == "" {
						t.Errorf("%s: log: got %d %s %q, want %d DPE and why", tt.name, line.Status, line.Flags, line.Detail, tt.status)
					}
				}
				if got := r.dial().do(get); got.StatusCode != http.StatusOK {
					t.Errorf("%s: next request on a fresh connection: got %d, want 200", tt.name, got.StatusCode)
				}
				want = append(want, `GET / api ""`)
			}, j.serve)
			if diff := cmp.Diff(want, j.lines); diff != "" {
				t.Errorf("%s: what the backend saw (-want +got):\n%s", tt.name, diff)
			}
		}
	}
}

// outcome is what a client of net/http saw.
type outcome struct {
	Status   int
	Header   http.Header
	Body     string
	Trailer  http.Header
	Interim  []int
	Err      bool
	BodyErr  bool
	Received string // what the handler saw
}

// seenBy makes a request and reads its answer.
func seenBy(client *http.Client, build func(base string) *http.Request, base string, received func() string) (o outcome) {
	req := build(base)
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			o.Interim = append(o.Interim, code)
			return nil
		},
	})
	resp, err := client.Do(req.WithContext(ctx))
	if err != nil {
		o.Err = true
		o.Received = received()
		return o
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	o.Status, o.Body, o.BodyErr, o.Trailer = resp.StatusCode, string(body), err != nil, resp.Trailer
	o.Header = resp.Header.Clone()
	for _, name := range []string{"Via", "Date", "Connection"} {
		o.Header.Del(name)
	}
	o.Received = received()
	return o
}

// Everything that net/http can say, as server and as client, comes through as if
// the proxy were not there.
func TestTheProxyIsInvisibleBetweenNetHTTPAndItself(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<14)
	requests := map[string]func(base string) *http.Request{
		"get":  func(b string) *http.Request { return newRequest("GET", b+"/a/b?c=d", nil) },
		"head": func(b string) *http.Request { return newRequest("HEAD", b, nil) },
		"post": func(b string) *http.Request { return newRequest("POST", b, strings.NewReader("hello")) },
		"big":  func(b string) *http.Request { return newRequest("PUT", b, strings.NewReader(big)) },
		"chunked": func(b string) *http.Request {
			return newRequest("POST", b, io.MultiReader(strings.NewReader("hello "), strings.NewReader("world")))
		},
		"big chunked": func(b string) *http.Request {
			return newRequest("POST", b, io.MultiReader(strings.NewReader(big)))
		},
		"trailers": func(b string) *http.Request {
			req := newRequest("POST", b, io.MultiReader(strings.NewReader("hello")))
			req.Trailer = http.Header{"X-Sum": {"5"}}
			return req
		},
		"expect": func(b string) *http.Request {
			req := newRequest("POST", b, strings.NewReader("hello"))
			req.Header.Set("Expect", "100-continue")
			return req
		},
		"close": func(b string) *http.Request {
			req := newRequest("GET", b, nil)
			req.Close = true
			return req
		},
		"many headers": func(b string) *http.Request {
			req := newRequest("GET", b, nil)
			for i := range 80 {
				req.Header.Add("X-Many", strings.Repeat("v", i))
			}
			return req
		},
	}
	handlers := map[string]http.HandlerFunc{
		"echo": func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body) // io.Copy would send the head before it asks for the body
			_, _ = w.Write(body)
		},
		"nothing": func(http.ResponseWriter, *http.Request) {},
		"204":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		"304": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(http.StatusNotModified)
		},
		"500": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) },
		"redirect": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(http.StatusFound)
		},
		"big": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, big) },
		"slow": func(w http.ResponseWriter, _ *http.Request) {
			time.Sleep(time.Second)
			_, _ = io.WriteString(w, "slow")
		},
		"early": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusOK)
			_, _ = io.WriteString(w, "early")
		},
		"trailer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-End")
			_, _ = io.WriteString(w, "x")
			w.Header().Set("X-End", "1")
		},
		"flush": func(w http.ResponseWriter, _ *http.Request) {
			for range 3 {
				_, _ = io.WriteString(w, "piece")
				_ = http.NewResponseController(w).Flush()
				time.Sleep(100 * time.Millisecond)
			}
		},
		"hints": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusOK)
		},
		"abort": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"abort chunked": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"close": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			_, _ = io.WriteString(w, "bye")
		},
	}
	for hname, handler := range handlers {
		inRig(t, nil, func(r *rig) {
			server, received := serveHTTP(r, handler)
			defer func() {
				server.Close()
				time.Sleep(time.Second) // it lingers over connections that it aborted
			}()
			transport := &http.Transport{DialContext: r.net.Host("10.0.0.9").Dial, ExpectContinueTimeout: time.Second}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			for rname, build := range requests {
				if rname == "expect" && hname != "echo" {
					// net/http deadlocks with itself over a body that it has neither
					// asked for nor refused.
					continue
				}
				direct := seenBy(client, build, "http://10.0.1.1:80", received)
				for range 2 { // again, on the same connections
					proxied := seenBy(client, build, "http://10.0.0.1:80", received)
					if diff := cmp.Diff(direct, proxied); diff != "" {
						t.Errorf("%s to %s (-direct +proxied):\n%s", rname, hname, diff)
					}
				}
			}
		}, nil)
	}
}

func newRequest(method, url string, body io.Reader) *http.Request {
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		panic(err) // a mistake of the test
	}
	req.Host = "api"
	req.Header.Set("X-Request-Id", "1")
	return req
}

// serveHTTP puts net/http in place of backend 0. received tells what the handler
// saw of the last request.
func serveHTTP(r *rig, handler http.HandlerFunc) (_ *http.Server, received func() string) {
	r.t.Helper()
	b := r.backends[0]
	b.ln.Close()
	ln, err := b.host.Listen(r.t.Context(), "tcp", ":80")
	if err != nil {
		r.t.Fatal(err)
	}
	var mu sync.Mutex
	var last string
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		header := req.Header.Clone()
		for _, name := range []string{"Via", "X-Forwarded-For", "X-Forwarded-Proto", "Connection"} {
			header.Del(name)
		}
		mu.Lock()
		last = fmt.Sprintf("%s %s %s %v %d %v", req.Method, req.RequestURI, req.Host, header, req.ContentLength, req.TransferEncoding)
		mu.Unlock()
		handler(w, req)
	})}
	go func() { _ = server.Serve(ln) }()
	return server, func() string {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		return last
	}
}
