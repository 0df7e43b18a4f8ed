package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// witness is a backend of both versions of HTTP that remembers what it was asked.
type witness struct {
	mu    sync.Mutex
	asked []string
}

func (w *witness) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.asked)
}

func (p *pod) witness(n int, hold <-chan struct{}) *witness {
	w := &witness{}
	p.accept(p.net.Host(fmt.Sprintf("10.0.1.%d", n)), ":80", func(c net.Conn) {
		ln := &oneConn{c: c, done: make(chan struct{})}
		protocols := only2()
		protocols.SetHTTP1(true)
		srv := &http.Server{Protocols: protocols, ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				close(ln.done)
			}
		}}
		srv.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			w.mu.Lock()
			w.asked = append(w.asked, fmt.Sprintf("%s %s%s %q for %s, %d cookies", r.Method, r.Host, r.URL, body, r.Header.Get("x-forwarded-for"), len(r.Header["Cookie"])))
			w.mu.Unlock()
			if hold != nil {
				<-hold
			}
		})
		_ = srv.Serve(ln)
	})
	return w
}

// ask makes a request by either version, of a host that has a port.
func (p *pod) ask(port, version int, method, body string) answer {
	p.t.Helper()
	transport := &http.Transport{DialContext: p.host.Dial}
	if version == 2 {
		transport.Protocols = only2()
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(p.t.Context(), method, fmt.Sprintf("http://127.0.0.1:%d/v1/a?b", port), strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Host = "api:80"
	req.Header["Cookie"] = []string{"a=1; b=2"}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, string(text), err, res.Header}
}

func TestAMirrorGetsACopyOfEachRequest(t *testing.T) {
	const file = `
outbound:
  - address: "127.0.0.1:1001"
    name: web
    protocol: auto
    routes: [{prefix: /v1, cluster: api, mirror: {cluster: next}, rewrite: {prefix: /v2}}]
clusters:
  - {name: api, protocol: %s, endpoints: [{address: "10.0.1.1:80"}]}
  - {name: next, protocol: %s, endpoints: [{address: "10.0.1.2:80"}]}
`
	for _, client := range []int{1, 2} {
		for _, api := range []string{"http1", "http2"} {
			for _, next := range []string{"http1", "http2"} {
				t.Run(fmt.Sprintf("HTTP/%d to %s and %s", client, api, next), func(t *testing.T) {
					inPod(t, fmt.Sprintf(file, api, next), func(p *pod) {
						first, second := p.witness(1, nil), p.witness(2, nil)
						for _, body := range []string{"", "hello", strings.Repeat("x", 20_000)} {
							method := "POST"
							if body == "" {
								method = "GET"
							}
							if got := p.ask(1001, client, method, body); got.status != 200 {
								p.t.Fatalf("got %v, want 200", got)
							}
							synctest.Wait()
						}
						asked, copied := first.all(), second.all()
						for i := range asked {
							asked[i] = strings.Replace(asked[i], " api:80/", " api-shadow:80/", 1)
						}
						if len(asked) != 3 || !slices.Equal(asked, copied) {
							p.t.Errorf("asked:\n%s\ncopied:\n%s\nwant the same three, but for the host", strings.Join(asked, "\n"), strings.Join(copied, "\n"))
						}
						p.wantMetric(`overhear_mirrored_requests_total{listener="web",result="sent"} 3`)
						p.wantMetric(`overhear_endpoint_attempts_total{cluster="next",endpoint="10.0.1.2:80",outcome="ok"} 3`)
						p.wantMetric(`overhear_http_server_requests_total{cluster="api",direction="outbound",http_response_status_code="200",http_route="api /v1",listener="web"} 3`)
					})
				})
			}
		}
	}
}

func (p *pod) wantMetric(line string) {
	p.t.Helper()
	if text := p.get(15000, "/metrics").body; !strings.Contains(text, line) {
		for l := range strings.Lines(text) {
			if name, _, _ := strings.Cut(line, "{"); strings.HasPrefix(l, name+"{") {
				p.t.Logf("there is %s", strings.TrimSpace(l))
			}
		}
		p.t.Errorf("metrics: got no %s", line)
	}
}

func TestAMirrorThatHangsHarmsNobody(t *testing.T) {
	inPod(t, `
outbound:
  - {name: web, address: "127.0.0.1:1001", routes: [{cluster: api, timeout: 0s, mirror: {cluster: next}}]}
clusters:
  - {name: api, endpoints: [{address: "10.0.1.1:80"}]}
  - {name: next, endpoints: [{address: "10.0.1.2:80"}]}
`, func(p *pod) {
		hold := make(chan struct{})
		p.backend(1, 0)
		next := p.witness(2, hold)
		for range 300 {
			if got := p.get(1001, "/"); got.status != 200 {
				p.t.Fatalf("got %v, want 200", got)
			}
		}
		synctest.Wait()
		if n := len(next.all()); n != 256 {
			p.t.Errorf("copies under way: got %d, want the most that there may be, 256", n)
		}
		p.wantMetric(`overhear_mirrored_requests_total{listener="web",result="sent"} 256`)
		p.wantMetric(`overhear_mirrored_requests_total{listener="web",result="dropped"} 44`)
		p.client.CloseIdleConnections()
		p.end() // while they hang
		p.ended <- nil
		close(hold)
	})
}

func TestWhatDoesNotFitIsNotMirrored(t *testing.T) {
	inPod(t, `
outbound:
  - {name: web, address: "127.0.0.1:1001", protocol: auto, routes: [{cluster: api, mirror: {cluster: next}}]}
clusters:
  - {name: api, endpoints: [{address: "10.0.1.1:80"}]}
  - {name: next, endpoints: [{address: "10.0.1.2:80"}]}
`, func(p *pod) {
		p.witness(1, nil)
		next := p.witness(2, nil)
		for _, client := range []int{1, 2} {
			if got := p.ask(1001, client, "POST", strings.Repeat("x", 1<<20)); got.status != 200 {
				p.t.Fatalf("got %v, want 200", got)
			}
		}
		synctest.Wait()
		if got := next.all(); len(got) != 0 {
			p.t.Errorf("got %d copies, want none", len(got))
		}
		p.wantMetric(`overhear_mirrored_requests_total{listener="web",result="dropped"} 2`)
	})
}

// A copy is a little longer than its original, and may be more than the engine takes:
// it then answers before it has read the body.
func TestACopyThatIsRefusedAtOnceDoesNotStayUnderWay(t *testing.T) {
	inPod(t, `
http1: {max_head: 1KiB}
outbound:
  - {name: web, address: "127.0.0.1:1001", routes: [{cluster: api, mirror: {cluster: next}}]}
clusters:
  - {name: api, endpoints: [{address: "10.0.1.1:80"}]}
  - {name: next, endpoints: [{address: "10.0.1.2:80"}]}
`, func(p *pod) {
		p.witness(1, nil)
		next := p.witness(2, nil)
		c, err := p.host.Dial(p.t.Context(), "tcp", "127.0.0.1:1001")
		if err != nil {
			p.t.Fatal(err)
		}
		defer c.Close()
		head := "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\nX-Long: "
		head += strings.Repeat("x", 1<<10-len(head)-4) + "\r\n\r\n"
		br := bufio.NewReader(c)
		for range 300 {
			if _, err := io.WriteString(c, head+strings.Repeat("b", 20_000)); err != nil {
				p.t.Fatal(err)
			}
			res, err := http.ReadResponse(br, nil)
			if err != nil || res.StatusCode != http.StatusOK {
				p.t.Fatalf("got %v, %v, want 200", res, err)
			}
			res.Body.Close()
			synctest.Wait()
		}
		if got := next.all(); len(got) != 0 {
			p.t.Errorf("got %d copies, want none: they are too long", len(got))
		}
		p.wantMetric(`overhear_mirrored_requests_total{listener="web",result="sent"} 300`)
	})
}
