package proxy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/proxy"
	"github.com/overhear-mesh/overhear/proxy/config"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// pod is a host with a sidecar on an in-memory network. Other hosts, 10.0.1.1 and
// so on, are the backends.
type pod struct {
	t       *testing.T
	net     *pipenet.Network
	host    *pipenet.Host
	sidecar *proxy.Sidecar
	stop    context.CancelFunc
	ended   chan error
	client  *http.Client
	meant   func(net.Conn) (netip.AddrPort, error) // where connections were to go; nil: ask the kernel
}

// inPod runs body beside a running sidecar, if the configuration says so. Everything
// must end: a goroutine that is left fails the test.
func inPod(t *testing.T, file string, body func(*pod)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := newPod(t)
		p.start(file)
		body(p)
		p.end()
	})
}

func newPod(t *testing.T) *pod {
	p := &pod{t: t, net: pipenet.New(1), ended: make(chan error, 1)}
	p.host = p.net.Host("10.0.0.1")
	transport := &http.Transport{DialContext: p.host.Dial}
	p.client = &http.Client{Transport: transport}
	t.Cleanup(transport.CloseIdleConnections)
	return p
}

// start makes the sidecar of a file and runs it.
func (p *pod) start(file string) {
	p.t.Helper()
	var err error
	p.sidecar, err = proxy.New(p.config(file), proxy.Options{
		Log:  slog.New(slog.NewTextHandler(p.t.Output(), nil)),
		Dial: p.host.Dial, Listen: p.host.Listen, Version: "v1.2.3", OriginalDestination: p.meant,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(p.t.Context())
	p.stop = stop
	go func() { p.ended <- p.sidecar.Run(ctx) }()
	synctest.Wait()
}

// end stops the sidecar, which must not have failed.
func (p *pod) end() {
	p.t.Helper()
	p.stop()
	if err := <-p.ended; err != nil {
		p.t.Errorf("Run = %v, want nil", err)
	}
}

// config reads a file. Every sidecar here has an admin port on :15000.
func (p *pod) config(file string) config.Config {
	p.t.Helper()
	cfg, err := config.Decode("sidecar.yaml", []byte(file), func(string) (string, bool) { return "", false })
	if err != nil {
		p.t.Fatal(err)
	}
	return cfg
}

// backend answers with its name, on 10.0.1.n:80.
func (p *pod) backend(n int, latency time.Duration) *fakeupstream.Backend {
	p.t.Helper()
	ip := fmt.Sprintf("10.0.1.%d", n)
	b, err := fakeupstream.Start(p.t.Context(), fakeupstream.Config{
		Address: ip + ":80", Listen: p.net.Host(ip).Listen, Body: []byte(ip), Latency: latency,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(b.Close)
	return b
}

// application is the local one, on 127.0.0.1:8080; it keeps everybody waiting.
func (p *pod) application() *fakeupstream.Backend {
	p.t.Helper()
	b, err := fakeupstream.Start(p.t.Context(), fakeupstream.Config{Address: "127.0.0.1:8080", Listen: p.host.Listen})
	if err == nil {
		err = b.Set(fakeupstream.Hang())
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(b.Close)
	return b
}

// answer is what came of a request.
type answer struct {
	status int
	body   string
	err    error
	header http.Header
}

func (a answer) String() string {
	if a.err != nil {
		return a.err.Error()
	}
	return fmt.Sprintf("%d %s", a.status, a.body)
}

// get asks what listens on a port of the pod's loopback.
func (p *pod) get(port int, path string) answer {
	res, err := p.client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, string(body), err, res.Header}
}

// later makes a request in the background.
func (p *pod) later(port int) <-chan answer {
	done := make(chan answer, 1)
	go func() { done <- p.get(port, "/") }()
	synctest.Wait()
	return done
}

// want makes a request, which must be answered by that backend.
func (p *pod) want(port, backend int) {
	p.t.Helper()
	if got, want := p.get(port, "/").String(), fmt.Sprintf("200 10.0.1.%d", backend); got != want {
		p.t.Errorf("port %d: got %s, want %s", port, got, want)
	}
}

// refuses reports whether nobody listens on a port.
func (p *pod) refuses(port int) bool {
	c, err := p.host.Dial(p.t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err == nil {
		c.Close()
		return false
	}
	return errors.As(err, new(*net.OpError))
}

// logged are the lines of an access log.
func logged[L any](t *testing.T, path string) []L {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []L
	for line := range strings.Lines(string(text)) {
		var l L
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}
