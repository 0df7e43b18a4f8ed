package conformance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// soakFor is how long each combination of versions is kept busy.
const soakFor = 1500 * time.Millisecond

// TestSoak keeps clients of both versions busy with endpoints of both, while these break
// connections off. Each request says what it is and what its answer must be: an answer
// is its own, whole, or an error; what was carried out twice is something that may be.
func TestSoak(t *testing.T) {
	var seen sync.Map // of requests that must not be repeated: id → times carried out
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if fmt.Sprintf("%x", sha256.Sum256(body)) != r.Header.Get("Sum") {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		n, _ := seen.LoadOrStore(r.Header.Get("Id"), new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		w.Header().Set("Id", r.Header.Get("Id"))
		_, _ = w.Write(body)
	})
	modern, older := newFlaky(t), newFlaky(t)
	modern.serve = func(c net.Conn) { serveOne(c, &http.Server{Handler: handler, Protocols: only2()}) }
	older.serve = func(c net.Conn) { serveOne(c, &http.Server{Handler: handler}) }
	before := runtime.NumGoroutine()
	s := sidecar(t, fmt.Sprintf(`
outbound:
  - {name: new-new, address: "127.0.0.1:0", protocol: http2, cluster: modern}
  - {name: new-old, address: "127.0.0.1:0", protocol: http2, cluster: older}
  - {name: old-new, address: "127.0.0.1:0", protocol: http1, cluster: modern}
  - {name: old-old, address: "127.0.0.1:0", protocol: http1, cluster: older}
clusters:
  - {name: modern, protocol: http2, outlier: {mode: shadow}, endpoints: [{address: %q}, {address: %q}]}
  - {name: older, outlier: {mode: shadow}, endpoints: [{address: %q}, {address: %q}]}
`, modern.listen(), modern.listen(), older.listen(), older.listen()))
	for _, name := range []string{"new-new", "new-old", "old-new", "old-old"} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), soakFor)
			defer cancel()
			var wg sync.WaitGroup
			wg.Go(func() {
				for ctx.Err() == nil {
					time.Sleep(100 * time.Millisecond)
					modern.breakOne()
					older.breakOne()
				}
			})
			var good, failed atomic.Int64
			for range 4 {
				transport := &http.Transport{MaxIdleConnsPerHost: 16}
				if strings.HasPrefix(name, "new") {
					transport.Protocols = only2()
				}
				client := &http.Client{Transport: transport}
				for range 8 {
					wg.Go(func() {
						for ctx.Err() == nil {
							switch err := ask(client, "127.0.0.1:"+port(t, s, name)); {
							case err == nil:
								good.Add(1)
							case !errors.Is(err, errFailed):
								t.Error(err)
								return
							default:
								failed.Add(1)
							}
						}
					})
				}
			}
			wg.Wait()
			t.Logf("%d answered, %d failed", good.Load(), failed.Load())
			if good.Load() <= failed.Load() {
				t.Errorf("%d answered and %d failed: want more good than bad", good.Load(), failed.Load())
			}
		})
	}
	seen.Range(func(id, n any) bool {
		if n := n.(*atomic.Int64).Load(); n > 1 && strings.HasPrefix(id.(string), "POST") {
			t.Errorf("%s was carried out %d times", id, n)
		}
		return true
	})
	modern.stop()
	older.stop()
	s.Drain()
	for range 200 {
		if runtime.NumGoroutine() <= before+10 {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Errorf("%d goroutines are left of a sidecar that began with %d", runtime.NumGoroutine(), before)
}

var errFailed = errors.New("no answer")

// ask makes one request; an error other than errFailed says that something is wrong.
func ask(client *http.Client, address string) error {
	body := make([]byte, rand.IntN(3)*rand.IntN(40_000))
	for i := range body {
		body[i] = byte(rand.Uint32())
	}
	method := []string{"GET", "POST", "PUT"}[rand.IntN(3)]
	if method == "GET" {
		body = nil
	}
	id := fmt.Sprintf("%s-%d", method, rand.Uint64())
	q, err := http.NewRequest(method, "http://"+address+"/"+id, bytes.NewReader(body))
	if err != nil {
		return err
	}
	q.GetBody = nil // the client does not repeat
	q.Header.Set("Id", id)
	q.Header.Set("Sum", fmt.Sprintf("%x", sha256.Sum256(body)))
	res, err := client.Do(q)
	if err != nil {
		return errFailed
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	switch {
	case res.StatusCode == http.StatusServiceUnavailable || res.StatusCode == http.StatusBadGateway, err != nil:
		return errFailed
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: got %d", id, res.StatusCode)
	case res.Header.Get("Id") != id:
		return fmt.Errorf("%s: got the answer to %s", id, res.Header.Get("Id"))
	case !bytes.Equal(got, body):
		return fmt.Errorf("%s: got %d bytes that are not the %d sent", id, len(got), len(body))
	}
	return nil
}

// flaky is a set of servers whose connections are broken off now and then.
type flaky struct {
	t     *testing.T
	serve func(net.Conn)

	mu    sync.Mutex
	conns map[net.Conn]bool
	lns   []net.Listener
}

func newFlaky(t *testing.T) *flaky { return &flaky{t: t, conns: map[net.Conn]bool{}} }

func (f *flaky) listen() string {
	f.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	f.lns = append(f.lns, ln)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns[c] = true
			f.mu.Unlock()
			go func() {
				f.serve(c)
				c.Close()
				f.mu.Lock()
				defer f.mu.Unlock()
				delete(f.conns, c)
			}()
		}
	}()
	return ln.Addr().String()
}

// breakOne resets a connection.
func (f *flaky) breakOne() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
		return
	}
}

func (f *flaky) stop() {
	for _, ln := range f.lns {
		ln.Close()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		c.Close()
	}
}

// only2 is HTTP/2 without being asked.
func only2() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// serveOne serves one connection to its end.
func serveOne(c net.Conn, srv *http.Server) {
	l := &once{conn: c, ended: make(chan struct{})}
	srv.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed {
			close(l.ended)
		}
	}
	_ = srv.Serve(l)
}

// once is a listener of one connection.
type once struct {
	conn  net.Conn
	ended chan struct{}
}

func (l *once) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.ended
	return nil, io.EOF
}
func (l *once) Close() error   { return nil }
func (l *once) Addr() net.Addr { return &net.TCPAddr{} }
