package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/overhear-mesh/overhear/test/pipenet"
)

// modern is a backend that speaks HTTP/2 without being asked, on 10.0.1.n:80.
func (p *pod) modern(n int) {
	p.t.Helper()
	ip := fmt.Sprintf("10.0.1.%d", n)
	p.accept(p.net.Host(ip), ":80", func(c net.Conn) {
		serveHTTP2(c, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s by %s", ip, r.Proto)
		})
	})
}

// only2 is HTTP/2 without being asked.
func only2() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// serveHTTP2 serves one connection to its end.
func serveHTTP2(c net.Conn, h http.HandlerFunc) {
	ln := &oneConn{c: c, done: make(chan struct{})}
	srv := &http.Server{Handler: h, Protocols: only2(), ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed {
			close(ln.done)
		}
	}}
	_ = srv.Serve(ln)
}

// oneConn is a listener of one connection.
type oneConn struct {
	c    net.Conn
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.c; c != nil {
		l.c = nil
		return c, nil
	}
	<-l.done
	return nil, io.EOF
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// accept serves connections until the test ends.
func (p *pod) accept(host *pipenet.Host, address string, serve func(net.Conn)) {
	p.t.Helper()
	ln, err := host.Listen(p.t.Context(), "tcp", address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
}

// get2 asks over HTTP/2.
func (p *pod) get2(port int) answer {
	transport := &http.Transport{Protocols: only2(), DialContext: p.host.Dial}
	defer transport.CloseIdleConnections()
	before := p.client
	p.client = &http.Client{Transport: transport}
	defer func() { p.client = before }()
	return p.get(port, "/")
}

// Each version of HTTP reaches endpoints of each, and whatever says nothing that is
// known is carried unread.
func TestEveryCombinationOfProtocols(t *testing.T) {
	inPod(t, `
outbound:
  - {name: one, address: "127.0.0.1:1001", protocol: http1, cluster: old}
  - {name: two, address: "127.0.0.1:1002", protocol: http1, cluster: new}
  - {name: three, address: "127.0.0.1:1003", protocol: http2, cluster: old}
  - {name: four, address: "127.0.0.1:1004", protocol: http2, cluster: new}
  - {name: five, address: "127.0.0.1:1005", protocol: auto, cluster: old}
  - {name: six, address: "127.0.0.1:1006", protocol: auto, cluster: new}
  - {name: seven, address: "127.0.0.1:1007", protocol: auto, cluster: bytes}
clusters:
  - name: old
    endpoints: [{address: "10.0.1.1:80"}]
  - name: new
    protocol: http2
    endpoints: [{address: "10.0.1.2:80"}]
  - name: bytes
    protocol: tcp
    endpoints: [{address: "10.0.1.3:80"}]
`, func(p *pod) {
		p.backend(1, 0)
		p.modern(2)
		for port, want := range map[int]string{1001: "200 10.0.1.1", 1002: "200 10.0.1.2 by HTTP/2.0", 1005: "200 10.0.1.1", 1006: "200 10.0.1.2 by HTTP/2.0"} {
			for range 2 {
				if got := p.get(port, "/").String(); got != want {
					p.t.Errorf("HTTP/1.1 to port %d: got %s, want %s", port, got, want)
				}
			}
		}
		for port, want := range map[int]string{1003: "200 10.0.1.1", 1004: "200 10.0.1.2 by HTTP/2.0", 1005: "200 10.0.1.1", 1006: "200 10.0.1.2 by HTTP/2.0"} {
			if got := p.get2(port).String(); got != want {
				p.t.Errorf("HTTP/2 to port %d: got %s, want %s", port, got, want)
			}
		}
		p.accept(p.net.Host("10.0.1.3"), ":80", func(c net.Conn) {
			_, _ = io.WriteString(c, "220 hello\r\n")
			line, _ := bufio.NewReader(c).ReadString('\n')
			_, _ = io.WriteString(c, "250 "+line)
		})
		c, err := p.host.Dial(p.t.Context(), "tcp", "127.0.0.1:1007")
		if err != nil {
			p.t.Fatal(err)
		}
		br := bufio.NewReader(c)
		if line, err := br.ReadString('\n'); line != "220 hello\r\n" {
			p.t.Errorf("server that speaks first: got %q, %v", line, err)
		}
		_, _ = io.WriteString(c, "EHLO me\r\n")
		if line, err := br.ReadString('\n'); line != "250 EHLO me\r\n" {
			p.t.Errorf("opaque connection: got %q, %v", line, err)
		}
		c.Close()
		p.client.CloseIdleConnections()
	})
}

// greeter is gRPC's health service, which has a unary and a streaming method.
func (p *pod) greeter(host *pipenet.Host, address string) *health.Server {
	p.t.Helper()
	ln, err := host.Listen(p.t.Context(), "tcp", address)
	if err != nil {
		p.t.Fatal(err)
	}
	srv := grpc.NewServer()
	service := health.NewServer()
	healthpb.RegisterHealthServer(srv, service)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	p.t.Cleanup(func() { srv.Stop(); <-done })
	return service
}

func (p *pod) call(port int) (*grpc.ClientConn, healthpb.HealthClient) {
	p.t.Helper()
	cc, err := grpc.NewClient(fmt.Sprintf("passthrough:///127.0.0.1:%d", port), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return p.host.Dial(ctx, "tcp", address) }))
	if err != nil {
		p.t.Fatal(err)
	}
	return cc, healthpb.NewHealthClient(cc)
}

func TestGRPCThroughTwoSidecars(t *testing.T) {
	inPod(t, `
access_log: {path: "off"}
outbound:
  - {name: out, address: "127.0.0.1:1001", protocol: http2, cluster: greeter}
inbound:
  - {name: in, address: "127.0.0.1:1002", protocol: grpc, application: "127.0.0.1:8080", service: greeter, instance: a}
clusters:
  - name: greeter
    protocol: http2
    endpoints: [{address: "127.0.0.1:1002", inbound: true}]
`, func(p *pod) {
		cc, client := p.call(1001)
		defer cc.Close()
		ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
		defer cancel()
		_, err := client.Check(ctx, &healthpb.HealthCheckRequest{})
		if got := status.Convert(err); got.Code() != codes.Unavailable || !strings.Contains(got.Message(), "overhear") {
			p.t.Errorf("without an application: got %v, want UNAVAILABLE with our words", err)
		}
		service := p.greeter(p.host, "127.0.0.1:8080")
		time.Sleep(10 * time.Second) // until it is believed to be well again
		got, err := client.Check(ctx, &healthpb.HealthCheckRequest{})
		if err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			p.t.Errorf("unary: got %v, %v", got, err)
		}
		_, err = client.Check(ctx, &healthpb.HealthCheckRequest{Service: "nobody"})
		if status.Code(err) != codes.NotFound {
			p.t.Errorf("unary with an error: got %v, want NOT_FOUND", err)
		}
		watch, stop := context.WithCancel(ctx)
		stream, err := client.Watch(watch, &healthpb.HealthCheckRequest{})
		if err != nil {
			p.t.Fatal(err)
		}
		for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
			got, err := stream.Recv()
			if err != nil || got.GetStatus() != want {
				p.t.Errorf("streaming: got %v, %v; want %v", got, err, want)
			}
			service.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
		}
		stop()
		if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
			p.t.Errorf("cancelled stream: got %v", err)
		}
		short, cancelShort := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancelShort()
		stream, err = client.Watch(short, &healthpb.HealthCheckRequest{})
		for err == nil {
			_, err = stream.Recv()
		}
		// Client, sidecars and server have the same deadline, and whoever is first ends
		// the stream. This server's word for it is CANCELLED.
		if code := status.Code(err); code != codes.DeadlineExceeded && code != codes.Canceled {
			p.t.Errorf("after its deadline: got %v, want DEADLINE_EXCEEDED or CANCELLED", err)
		}
		synctest.Wait()
	})
}

// A server that forgives more than this proxy must not be reached past its rules.
func TestABadlyWrittenRequestIsNotCarriedUnread(t *testing.T) {
	inPod(t, `
outbound:
  - {name: web, address: "127.0.0.1:15001", protocol: auto, cluster: api, paths: {escaped_slashes: reject}}
clusters:
  - {name: api, endpoints: [{address: "10.0.1.1:80"}]}
`, func(p *pod) {
		p.backend(1, 0)
		for text, want := range map[string]string{
			"get /ok HTTP/1.1\r\nHost: a\r\n\r\n":            "200 OK",
			"get /a%2Fb HTTP/1.1\r\nHost: a\r\n\r\n":         "400 Bad Request",
			"\r\nGET /a%2Fb HTTP/1.1\r\nHost: a\r\n\r\n":     "400 Bad Request",
			"\r\n\r\nGET /a%2Fb HTTP/1.1\r\nHost: a\r\n\r\n": "400 Bad Request",
			"GET\t/a%2Fb\tHTTP/1.1\r\nHost: a\r\n\r\n":       "400 Bad Request",
		} {
			c, err := p.host.Dial(p.t.Context(), "tcp", "127.0.0.1:15001")
			if err != nil {
				p.t.Fatal(err)
			}
			_, _ = io.WriteString(c, text)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				p.t.Fatalf("%q: %v", text, err)
			}
			if resp.Status != want {
				p.t.Errorf("%q: got %s, want %s", text, resp.Status, want)
			}
			_ = resp.Body.Close()
			_ = c.Close()
		}
	})
}

// With auto, what is no HTTP goes to the cluster, and nowhere while there are routes.
func TestAReloadChangesWhereOpaqueConnectionsLead(t *testing.T) {
	const file = `
outbound:
  - {name: web, address: "127.0.0.1:15001", protocol: auto, %s}
clusters:
  - {name: echo, endpoints: [{address: "10.0.1.1:80"}]}
`
	const toCluster, byRoutes = "cluster: echo", "routes: [{prefix: /, cluster: echo}]"
	inPod(t, fmt.Sprintf(file, byRoutes), func(p *pod) {
		p.accept(p.net.Host("10.0.1.1"), ":80", func(c net.Conn) { _, _ = io.CopyN(c, c, 6) })
		for _, now := range []string{toCluster, byRoutes, toCluster} {
			if err := p.sidecar.Reload(p.config(fmt.Sprintf(file, now))); err != nil {
				p.t.Fatal(err)
			}
			c, err := p.host.Dial(p.t.Context(), "tcp", "127.0.0.1:15001")
			if err != nil {
				p.t.Fatal(err)
			}
			_, _ = io.WriteString(c, "hello\n")
			want := ""
			if now == toCluster {
				want = "hello\n"
			}
			if got, _ := io.ReadAll(c); string(got) != want {
				p.t.Errorf("with %s: got %q, want %q", now, got, want)
			}
			_ = c.Close()
		}
	})
}
