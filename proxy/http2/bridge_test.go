package http2

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	xhttp2 "golang.org/x/net/http2"

	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/http1"
)

// older makes the endpoints speak HTTP/1.1.
func older(o *options) { o.cluster.Protocol = cluster.HTTP1 }

// served is a backend of net/http.
func served(h http.HandlerFunc) func(net.Conn, int) {
	return func(c net.Conn, _ int) { serveOne(c, &http.Server{Handler: h}) }
}

func echo(w http.ResponseWriter, q *http.Request) {
	body, _ := io.ReadAll(q.Body)
	w.Header().Set("A", "b")
	w.Header().Set("Trailer", "T")
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, strings.Join([]string{q.Method, q.URL.String(), q.Host, string(body), q.Header.Get("X-Forwarded-For"), q.Header.Get("Via"), q.Header.Get("Cookie")}, " "))
	w.Header().Set("T", "u")
}

func TestARequestGoesToAnOlderEndpoint(t *testing.T) {
	inRig(t, older, func(r *rig) {
		for range 3 {
			got := r.do("POST", "/x?y=1", "hello")
			r.check(got, 201, "POST /x?y=1 api hello 10.0.0.9 2 overhear ", "-", "10.0.1.1 ok")
			if got.Header.Get("A") != "b" || got.Trailer.Get("T") != "u" {
				t.Errorf("got header %v, trailer %v", got.Header, got.Trailer)
			}
		}
		r.check(r.get(), 201, "GET / api  10.0.0.9 2 overhear ", "-", "10.0.1.1 ok")
		r.check(r.do("HEAD", "/", ""), 201, "", "-", "10.0.1.1 ok")
		body := strings.Repeat("0123456789", 300_000)
		if got := r.do("POST", "/", body); got.err != nil || !strings.Contains(got.body, body) {
			t.Errorf("got %d bytes, %v; want %d", len(got.body), got.err, len(body))
		}
		if line := r.last(); line.Major != 2 {
			t.Errorf("version in the record: got %d, want 2", line.Major)
		}
	}, served(echo))
}

// front serves HTTP/1.1 in front of the rig's cluster.
func (r *rig) front() *bufio.ReadWriter {
	r.t.Helper()
	srv := http1.NewServer(http1.DefaultConfig(), r.deps)
	here, there := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.ServeConn(r.t.Context(), there)
	}()
	r.ends = append(r.ends, func() { here.Close(); <-done })
	return bufio.NewReadWriter(bufio.NewReader(here), bufio.NewWriter(here))
}

func (r *rig) old(rw *bufio.ReadWriter, method, path, body string) reply {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://api"+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	go func() {
		if err := errors.Join(req.Write(rw.Writer), rw.Flush()); err != nil {
			r.t.Error(err)
		}
	}()
	resp, err := http.ReadResponse(rw.Reader, req)
	if err != nil {
		return reply{&http.Response{}, "", err}
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	return reply{resp, string(text), err}
}

func TestAnOlderClientsRequestGoesThere(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.front()
		for range 3 {
			got := r.old(c, "POST", "/x?y=1", "hello")
			r.check(got, 201, "POST /x?y=1 api hello  1.1 overhear ", "-", "10.0.1.1 ok")
			if got.Header.Get("A") != "b" || got.Trailer.Get("T") != "u" || got.Status != "201 Created" || got.Header.Get("Via") != "2 overhear" {
				t.Errorf("got %s, header %v, trailer %v", got.Status, got.Header, got.Trailer)
			}
		}
		r.check(r.old(c, "GET", "/", ""), 201, "GET / api   1.1 overhear ", "-", "10.0.1.1 ok")
		r.check(r.old(c, "HEAD", "/", ""), 201, "", "-", "10.0.1.1 ok")
		body := strings.Repeat("0123456789", 300_000)
		if got := r.old(c, "POST", "/", body); got.err != nil || !strings.Contains(got.body, body) {
			t.Errorf("got %d bytes, %v; want %d", len(got.body), got.err, len(body))
		}
	}, speaks(echo))
}

// TestAnOlderClientMayNameNoHost: HTTP/1.0 knows none, and HTTP/2 forbids an empty one.
func TestAnOlderClientMayNameNoHost(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.front()
		go func() {
			_, _ = c.WriteString("GET /x HTTP/1.0\r\n\r\n")
			_ = c.Flush()
		}()
		res, err := http.ReadResponse(c.Reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("got %d, want 200; %+v", res.StatusCode, r.last())
		}
	}, says("ok"))
}

// What an endpoint sends as data is not read as the head that it has not sent.
func TestDataBeforeTheHeadIsNoAnswerToAnOlderClient(t *testing.T) {
	const text = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	inRig(t, nil, func(r *rig) {
		r.check(r.old(r.front(), "GET", "/", ""), 502, "*", "UPE", "10.0.1.1 server")
	}, misbehaves(t, func(a *raw) {
		a.each(func(f *xhttp2.MetaHeadersFrame) { _ = a.WriteData(f.StreamID, true, []byte(text)) })
	}))
}

// A bridge may have been chosen for a stream at the moment at which its server closes it.
func TestAStreamIsNotGivenToABridgeThatHasClosed(t *testing.T) {
	inRig(t, older, func(r *rig) {
		r.check(r.get(), 201, "*", "-", "10.0.1.1 ok")
		synctest.Wait()
		r.server.mu.Lock()
		for c := range r.server.conns {
			c.mu.Lock()
			br := c.idle[0]
			c.mu.Unlock()
			_ = br.Close()
			c.mu.Lock()
			c.idle = append(c.idle, br)
			c.mu.Unlock()
		}
		r.server.mu.Unlock()
		r.check(r.get(), 201, "*", "-", "10.0.1.1 ok")
	}, served(echo))
}

// A server that looks up between the choice and the giving must not offer its bridge anew:
// that would be given a second stream, which then gets the answer to the first.
func TestABridgeThatIsChosenIsNotOfferedAnew(t *testing.T) {
	inRig(t, older, func(r *rig) {
		r.check(r.get(), 201, "*", "-", "10.0.1.1 ok")
		synctest.Wait()
		r.server.mu.Lock()
		defer r.server.mu.Unlock()
		for c := range r.server.conns {
			c.mu.Lock()
			br := c.chooseLocked()
			c.mu.Unlock()
			br.onRoom(nil, nil, place{})
			synctest.Wait()
			c.mu.Lock()
			if len(c.idle) > 0 {
				t.Error("it waits for another stream")
			}
			br.chosen = false
			c.mu.Unlock()
			br.onRoom(nil, nil, place{})
			synctest.Wait()
		}
	}, served(echo))
}
