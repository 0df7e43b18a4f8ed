package ping_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/ping"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

const address = "10.0.0.2:80"

// serve answers each connection by handle, until the test ends.
func serve(t *testing.T, n *pipenet.Network, handle func(*pipenet.Conn)) {
	t.Helper()
	ln, err := n.Host("10.0.0.2").Listen(t.Context(), "tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go handle(c.(*pipenet.Conn))
		}
	}()
}

// answer reads a request and writes the response.
func answer(response string) func(*pipenet.Conn) {
	return func(c *pipenet.Conn) {
		defer c.Close()
		readHead(c)
		_, _ = io.WriteString(c, response)
	}
}

func readHead(c net.Conn) string {
	var head []byte
	for b := make([]byte, 1); !strings.HasSuffix(string(head), "\r\n\r\n"); {
		if _, err := c.Read(b); err != nil {
			break
		}
		head = append(head, b...)
	}
	return string(head)
}

func hang(c *pipenet.Conn) { _, _ = io.Copy(io.Discard, c); c.Close() }

func reset(c *pipenet.Conn) { _ = c.Reset() }

// pingIn asks once, for a second at most, and says how long it took.
func pingIn(t *testing.T, n *pipenet.Network, target ping.Target) (outlier.ProbeResult, time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	target.Address = address
	start := time.Now()
	r := ping.Ping(ctx, n.Host("10.0.0.1").Dial, target)
	return r, time.Since(start)
}

func TestAPingTellsTheWaysToBeDeadApart(t *testing.T) {
	const ok, down = "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
	marked := func(origin string) string {
		return "HTTP/1.1 503 Service Unavailable\r\nx-overhear-origin: " + origin + "\r\ncontent-length: 0\r\n\r\n"
	}
	rejected := func(n *pipenet.Network) { n.Reject("*", address) }
	swallowed := func(n *pipenet.Network) { n.Blackhole("*", address) }
	tests := []struct {
		name    string
		handle  func(*pipenet.Conn) // nil: nobody listens
		network func(*pipenet.Network)
		target  ping.Target
		want    outlier.ProbeResult
		took    time.Duration
	}{
		{name: "nobody listens", want: outlier.Refused},
		{name: "no route", network: rejected, want: outlier.Unreachable},
		{name: "the first packet is lost", network: swallowed, want: outlier.TimedOut, took: time.Second},
		{name: "a connection is enough", handle: hang, want: outlier.ProbeOK},

		{name: "held, then quiet", handle: hang, target: ping.Target{Want: ping.Held}, want: outlier.ProbeOK, took: 50 * time.Millisecond},
		{name: "held, then reset", handle: reset, target: ping.Target{Want: ping.Held}, want: outlier.Refused},
		{name: "held, then closed in order", handle: func(c *pipenet.Conn) { c.Close() }, target: ping.Target{Want: ping.Held}, want: outlier.ProbeOK},
		{name: "held, the server speaks first", handle: func(c *pipenet.Conn) { _, _ = io.WriteString(c, "220 hello\r\n"); c.Close() }, target: ping.Target{Want: ping.Held}, want: outlier.ProbeOK},

		{name: "good", handle: answer(ok), target: ping.Target{Want: ping.Good}, want: outlier.ProbeOK},
		{name: "redirected", handle: answer("HTTP/1.1 302 Found\r\nlocation: /login\r\n\r\n"), target: ping.Target{Want: ping.Good}, want: outlier.ProbeOK},
		{name: "interim first", handle: answer("HTTP/1.1 103 Early Hints\r\n\r\n" + ok), target: ping.Target{Want: ping.Good}, want: outlier.ProbeOK},
		{name: "not well", handle: answer(down), target: ping.Target{Want: ping.Good}, want: outlier.Unhealthy},
		{name: "not found", handle: answer("HTTP/1.1 404 Not Found\r\n\r\n"), target: ping.Target{Want: ping.Good}, want: outlier.Unhealthy},
		{name: "hangs", handle: hang, target: ping.Target{Want: ping.Good}, want: outlier.TimedOut, took: time.Second},
		{name: "closes instead of answering", handle: answer(""), target: ping.Target{Want: ping.Good}, want: outlier.Reset},
		{name: "speaks another protocol", handle: answer("SSH-2.0-OpenSSH_9.2\r\n"), target: ping.Target{Want: ping.Good}, want: outlier.Reset},
		{name: "a head without end", handle: answer("HTTP/1.1 200 OK\r\nx: " + strings.Repeat("a", 1<<20)), target: ping.Target{Want: ping.Good}, want: outlier.Reset},

		{name: "any answer will do", handle: answer(down), target: ping.Target{Want: ping.Answered, Inbound: true}, want: outlier.ProbeOK},
		{name: "application refuses", handle: answer(marked("app-refused")), target: ping.Target{Want: ping.Answered, Inbound: true}, want: outlier.Refused},
		{name: "application resets", handle: answer(marked("app-reset")), target: ping.Target{Want: ping.Answered, Inbound: true}, want: outlier.Reset},
		{name: "application hangs", handle: answer(marked("app-timeout")), target: ping.Target{Want: ping.Answered, Inbound: true}, want: outlier.TimedOut},
		{name: "a mark that nobody knows", handle: answer(marked("router")), target: ping.Target{Want: ping.Answered, Inbound: true}, want: outlier.ProbeOK},
		{name: "a mark from no sidecar is not believed", handle: answer(marked("app-refused")), target: ping.Target{Want: ping.Answered}, want: outlier.ProbeOK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := pipenet.New(1)
				if tt.handle != nil {
					serve(t, n, tt.handle)
				}
				if tt.network != nil {
					tt.network(n)
				}
				got, took := pingIn(t, n, tt.target)
				if got != tt.want || took != tt.took {
					t.Errorf("Ping = %v after %v, want %v after %v", got, took, tt.want, tt.took)
				}
			})
		})
	}
}

func TestAPingAsksForItsPathAndHost(t *testing.T) {
	for _, tt := range []struct{ path, host, line, wantHost string }{
		{"/healthz?full=1", "api.internal", "GET /healthz?full=1 HTTP/1.1\r\n", "host: api.internal\r\n"},
		{"", "", "GET / HTTP/1.1\r\n", "host: " + address + "\r\n"},
	} {
		synctest.Test(t, func(t *testing.T) {
			n := pipenet.New(1)
			heads := make(chan string, 1)
			serve(t, n, func(c *pipenet.Conn) {
				heads <- readHead(c)
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
				c.Close()
			})
			pingIn(t, n, ping.Target{Want: ping.Good, Path: tt.path, Host: tt.host})
			if head := <-heads; !strings.HasPrefix(head, tt.line) || !strings.Contains(head, tt.wantHost) {
				t.Errorf("request head %q, want it to begin with %q and hold %q", head, tt.line, tt.wantHost)
			}
		})
	}
}

func TestAPingCalledOffWasNotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := pipenet.New(1)
		serve(t, n, hang)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		time.AfterFunc(100*time.Millisecond, cancel)
		start := time.Now()
		got := ping.Ping(ctx, n.Host("10.0.0.1").Dial, ping.Target{Address: address, Want: ping.Good})
		if took := time.Since(start); got != outlier.NotRun || took != 100*time.Millisecond {
			t.Errorf("Ping = %v after %v, want %v after 100ms", got, took, outlier.NotRun)
		}
	})
}

func TestAFaultOfThisMachineIsNoNewsOfTheEndpoint(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS} {
		dial := func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", errno)}
		}
		if got := ping.Ping(t.Context(), dial, ping.Target{Address: address}); got != outlier.NotRun {
			t.Errorf("Ping after %v = %v, want %v", errno, got, outlier.NotRun)
		}
	}
}

func TestALimiterAllowsABurstThenItsRate(t *testing.T) {
	l := ping.NewLimiter(10, 3)
	allowed := func(now time.Duration) (n int) {
		for l.Allow(now) {
			n++
		}
		return n
	}
	for _, tt := range []struct {
		now  time.Duration
		want int
	}{{0, 3}, {99 * time.Millisecond, 0}, {100 * time.Millisecond, 1}, {300 * time.Millisecond, 2}, {time.Hour, 3}} {
		if got := allowed(tt.now); got != tt.want {
			t.Errorf("allowed at %v: %d, want %d", tt.now, got, tt.want)
		}
	}
}

func TestASettingCannotWriteARequestOfItsOwn(t *testing.T) {
	for _, tt := range []struct {
		name, field string
		edit        func(*ping.Config)
	}{
		{"space in path", "path", func(c *ping.Config) { c.Path = "/a b" }},
		{"line end in path", "path", func(c *ping.Config) { c.Path = "/\r\nx: y" }},
		{"relative path", "path", func(c *ping.Config) { c.Path = "healthz" }},
		{"line end in host", "host", func(c *ping.Config) { c.Host = "a\r\nb" }},
		{"no timeout", "timeout", func(c *ping.Config) { c.Timeout = 0 }},
		{"unknown kind", "kind", func(c *ping.Config) { c.Kind = 99 }},
	} {
		cfg := ping.DefaultConfig()
		tt.edit(&cfg)
		err := strictyaml.Validate(cfg)
		if err == nil || !strings.Contains(err.Error(), tt.field+":") {
			t.Errorf("%s: error %v, want one about %q", tt.name, err, tt.field)
		}
	}
	if err := ping.DefaultConfig().Validate(); err != nil {
		t.Errorf("default: %v", err)
	}
}

func TestKindsAreReadAsTheyAreWritten(t *testing.T) {
	for _, k := range []ping.Kind{ping.TCP, ping.HTTP, ping.Off} {
		text, err := k.MarshalText()
		var got ping.Kind
		if err = errors.Join(err, got.UnmarshalText(text)); err != nil || got != k {
			t.Errorf("%v read back as %v, %v", k, got, err)
		}
	}
	var k ping.Kind
	if err := k.UnmarshalText([]byte("icmp")); err == nil {
		t.Error("icmp was taken for a kind of ping")
	}
}
