package http1

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

const (
	shake   = "GET /chat HTTP/1.1\r\nHost: a\r\nX-Request-Id: 1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: k\r\n\r\n"
	consent = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s\r\nKeep-Alive: 5\r\n\r\n"
	connect = "CONNECT b:80 HTTP/1.1\r\nHost: a\r\nX-Request-Id: 1\r\n\r\n"
)

// upgrading lets clients change to WebSocket, and to what else is named.
func upgrading(more ...string) func(*options) {
	return func(o *options) {
		o.upgrade = exchange.DefaultUpgrades()
		o.upgrade.Protocols = append(o.upgrade.Protocols, more...)
	}
}

// readHead reads a head as it stands.
func readHead(r *bufio.Reader) string {
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		b.WriteString(line)
		if err != nil || line == "\r\n" {
			return b.String()
		}
	}
}

// switching is a backend that reads a head, answers it, and goes on with what its
// client sends.
func switching(got *string, answer string, then func(*pipenet.Conn, *bufio.Reader)) func(net.Conn, int) {
	return func(c net.Conn, _ int) {
		r := bufio.NewReader(c)
		*got = readHead(r)
		if _, err := io.WriteString(c, answer); err == nil {
			then(c.(*pipenet.Conn), r)
		}
	}
}

// echo sends back what comes, and the end of it.
func echo(c *pipenet.Conn, r *bufio.Reader) {
	if _, err := io.Copy(c, r); err == nil {
		_ = c.CloseWrite()
	}
}

func (c *client) exchange(text string) {
	c.t.Helper()
	c.send(text)
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c.br, got); err != nil || string(got) != text {
		c.t.Errorf("echo: got %q, %v, want %q", got, err, text)
	}
}

func TestAnUpgradeThatIsAllowedBecomesATunnel(t *testing.T) {
	for _, tt := range []struct {
		name, ask, answer, asked, answered string
		inbound                            bool
	}{
		{"WebSocket", shake, consent,
			"GET /chat HTTP/1.1\r\nhost: a\r\nX-Request-Id: 1\r\nSec-WebSocket-Key: k\r\nconnection: upgrade\r\nupgrade: websocket\r\n" +
				"x-forwarded-for: 10.0.0.9\r\nx-forwarded-proto: http\r\nvia: 1.1 overhear\r\n\r\n",
			"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", false},
		{"the first of a list that is allowed, and no TE",
			"POST / HTTP/1.1\r\nHost: a\r\nX-Request-Id: 1\r\nTE: trailers\r\nConnection: TE, upgrade\r\nUpgrade: h2c, other\r\nUpgrade: SPDY/3.1, websocket\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 101 \r\nupgrade: SPDY/3.1\r\nconnection: upgrade\r\nContent-Length: 5\r\n\r\n",
			"POST / HTTP/1.1\r\nhost: a\r\nX-Request-Id: 1\r\ncontent-length: 0\r\nconnection: upgrade\r\nupgrade: spdy/3.1\r\n" +
				"x-forwarded-for: 10.0.0.9\r\nx-forwarded-proto: http\r\nvia: 1.1 overhear\r\n\r\n",
			"HTTP/1.1 101 \r\nconnection: upgrade\r\nupgrade: spdy/3.1\r\n\r\n", true},
		{"after other interim answers", strings.Replace(shake, "\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n", 1), "HTTP/1.1 100 Continue\r\n\r\n" + consent,
			"GET /chat HTTP/1.1\r\nhost: a\r\nX-Request-Id: 1\r\nSec-WebSocket-Key: k\r\nExpect: 100-continue\r\nconnection: upgrade\r\nupgrade: websocket\r\n" +
				"x-forwarded-for: 10.0.0.9\r\nx-forwarded-proto: http\r\nvia: 1.1 overhear\r\n\r\n",
			"HTTP/1.1 100 Continue\r\n\r\n", false},
		{"CONNECT, whose answer has no body whatever it says", connect, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Y: z\r\n\r\n",
			"CONNECT b:80 HTTP/1.1\r\nhost: b:80\r\nX-Request-Id: 1\r\nx-forwarded-for: 10.0.0.9\r\nx-forwarded-proto: http\r\nvia: 1.1 overhear\r\n\r\n",
			"HTTP/1.1 200 OK\r\nX-Y: z\r\n\r\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked string
			edit := func(o *options) {
				upgrading("spdy/3.1", exchange.Connect)(o)
				o.inbound = tt.inbound
			}
			inRig(t, edit, func(r *rig) {
				c := r.dial()
				c.send(tt.ask)
				answered := readHead(c.br)
				if diff := cmp.Diff([]string{tt.asked, tt.answered}, []string{asked, answered}); diff != "" {
					t.Fatalf("the heads that endpoint and client got (-want +got):\n%s", diff)
				}
				if strings.Contains(answered, "100 Continue") {
					readHead(c.br)
				}
				if n := r.metrics.Tunnels.Load(); n != 1 {
					t.Errorf("tunnels: got %d, want 1", n)
				}
				c.exchange("hello\r\n\r\n")
				c.exchange(strings.Repeat("GET /evil HTTP/1.1\r\nHost: evil\r\n\r\n", 1000)) // of no interest to anybody
				_ = c.CloseWrite()
				if err := c.ended(); err != nil {
					t.Errorf("end: %v", err)
				}
				line := r.last()
				want := logged{
					Method: line.Method, Host: line.Host, Path: line.Path, ID: "1", Status: line.Status, Flags: "-",
					Received: 9 + 34_000, Sent: 9 + 34_000, Attempts: []string{"10.0.1.1 ok"},
				}
				if diff := cmp.Diff(want, line); diff != "" || line.Status != 101 && line.Status != 200 || len(r.log.all()) != 1 {
					t.Errorf("log (-want +got), one line with 101 or 200:\n%s%+v", diff, r.log.all())
				}
			}, switching(&asked, tt.answer, echo))
		})
	}
}

// What a client sends before it knows that it may is neither lost nor passed on.
func TestTheEndpointGetsNothingBeforeItHasConsented(t *testing.T) {
	inRig(t, upgrading(), func(r *rig) {
		c := r.dial()
		c.send(shake + "early")
		time.Sleep(10 * time.Millisecond)
		c.send(" bytes")
		if got := readHead(c.br); !strings.HasPrefix(got, "HTTP/1.1 101 ") {
			t.Fatalf("got %q, want a 101", got)
		}
		_ = c.CloseWrite()
		if got, err := io.ReadAll(c.br); string(got) != "first, then early bytes" || err != nil {
			t.Errorf("got %q, %v, want what the endpoint said and then the early bytes", got, err)
		}
	}, func(c net.Conn, _ int) {
		r := bufio.NewReader(c)
		readHead(r)
		time.Sleep(time.Second) // long enough for the client to be watched
		if r.Buffered() > 0 || c.(*pipenet.Conn).Readable() {
			t.Error("the endpoint got bytes before its consent")
		}
		_, _ = io.WriteString(c, consent+"first, then ")
		echo(c.(*pipenet.Conn), r)
	})
}

func TestAnUpgradeThatMayNotBeIsNotAskedFor(t *testing.T) {
	for name, ask := range map[string]string{
		"another protocol":        strings.Replace(shake, "WebSocket", "other", 1),
		"h2c":                     strings.Replace(shake, "WebSocket", "h2c", 1),
		"a longer name":           strings.Replace(shake, "WebSocket", "websockets", 1),
		"a version":               strings.Replace(shake, "WebSocket", "websocket/13", 1),
		"the method's name":       strings.Replace(shake, "WebSocket", "connect", 1),
		"an empty name":           strings.Replace(shake, "WebSocket", "", 1),
		"not named by Connection": strings.Replace(shake, "keep-alive, Upgrade", "keep-alive", 1),
		"HTTP/1.0":                strings.Replace(shake, "HTTP/1.1", "HTTP/1.0", 1),
		"with a body":             strings.Replace(shake, "\r\n\r\n", "\r\nContent-Length: 3\r\n\r\nabc", 1),
		"with chunks":             strings.Replace(shake, "\r\n\r\n", "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1),
	} {
		t.Run(name, func(t *testing.T) {
			for _, answer := range []string{ok, consent} {
				var got string
				inRig(t, upgrading("connect"), func(r *rig) {
					c := r.dial()
					if answer == ok {
						r.check(c.do(ask), 200, "ok", "-", "10.0.1.1 ok")
					} else {
						r.check(c.do(ask), 502, "*", "UPE", "10.0.1.1 server")
					}
					if strings.Contains(strings.ToLower(got), "upgrade") {
						t.Errorf("the endpoint got\n%s\nwant no Upgrade in it", got)
					}
				}, switching(&got, answer, func(*pipenet.Conn, *bufio.Reader) {}))
			}
		})
	}
}

func TestARefusedUpgradeIsAnOrdinaryAnswer(t *testing.T) {
	refused := "HTTP/1.1 426 Upgrade Required\r\nUpgrade: other\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nno"
	var j journal
	inRig(t, upgrading(), func(r *rig) {
		c := r.dial()
		r.check(c.do(shake), 426, "no", "-", "10.0.1.1 ok")
		r.check(c.do(get), 426, "no", "-", "10.0.1.1 ok") // the connection goes on
		// But not with what was meant for a tunnel, whether it comes along or while the
		// answer is awaited.
		for n, later := range []time.Duration{0, 2 * watchAfter} {
			c := r.dial()
			c.send(shake)
			time.Sleep(later)
			c.send("GET /evil HTTP/1.1\r\nHost: evil\r\n\r\n")
			if got := c.read("GET"); got.StatusCode != http.StatusUpgradeRequired || !got.Close {
				t.Errorf("response: got %d, close %v, want 426 and close", got.StatusCode, got.Close)
			}
			if err := c.ended(); err != nil {
				t.Errorf("end: %v", err)
			}
			if got := len(r.log.all()); got != 3+n {
				t.Errorf("requests: got %d, want %d", got, 3+n)
			}
		}
	}, talk(func(req *http.Request) string {
		j.add(req.URL.Path)
		time.Sleep(4 * watchAfter)
		return refused
	}))
	if diff := cmp.Diff([]string{"/chat", "/", "/chat", "/chat"}, j.lines); diff != "" {
		t.Errorf("what the endpoint saw (-want +got):\n%s", diff)
	}
}

func TestAConsentToSomethingElseIsMalformed(t *testing.T) {
	for _, answer := range []string{
		strings.Replace(consent, "websocket", "other", 1),
		strings.Replace(consent, "websocket", "websocket, other", 1),
		strings.Replace(consent, "Upgrade: websocket\r\n", "Upgrade: websocket\r\nUpgrade: other\r\n", 1),
		strings.Replace(consent, "Upgrade: websocket\r\n", "", 1),
		strings.Replace(consent, "Connection: Upgrade\r\n", "", 1),
		strings.Replace(consent, "HTTP/1.1", "HTTP/1.0", 1),
	} {
		var got string
		inRig(t, upgrading(), func(r *rig) {
			r.check(r.dial().do(shake), 502, "*", "UPE", "10.0.1.1 server")
		}, switching(&got, answer, echo))
	}
}

func TestCONNECTIsRefusedUnlessAllowed(t *testing.T) {
	const evil = "GET /evil HTTP/1.1\r\nHost: evil\r\n\r\n"
	var j journal
	// By the listener, and by the endpoint: after neither may what follows be read as
	// a request, for it is of whoever speaks through the client.
	for _, tt := range []struct {
		edit     func(*options)
		status   int
		flags    string
		attempts []string
	}{
		{upgrading(), 501, "DPE", nil},
		{upgrading(exchange.Connect), 403, "-", []string{"10.0.1.1 ok"}},
	} {
		for _, text := range []string{connect, connect + evil} {
			inRig(t, tt.edit, func(r *rig) {
				c := r.dial()
				c.send(text)
				got := c.read("GET")
				r.check(got, tt.status, "*", tt.flags, tt.attempts...)
				if !got.Close {
					t.Error("the connection goes on after a refusal")
				}
				if err := c.ended(); err != nil {
					t.Errorf("end: %v", err)
				}
			}, talk(func(req *http.Request) string {
				j.add(req.RequestURI)
				return "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
			}))
		}
	}
	if diff := cmp.Diff([]string{"b:80", "b:80"}, j.lines); diff != "" {
		t.Errorf("what the endpoint saw (-want +got):\n%s", diff)
	}
}

func TestARequestsTimeOutsEndWithTheConsent(t *testing.T) {
	edit := func(o *options) {
		upgrading()(o)
		o.rule.Timeout, o.rule.PerTryTimeout, o.rule.IdleTimeout = 2*time.Second, 2*time.Second, 3*time.Second
	}
	var got string
	inRig(t, edit, func(r *rig) {
		c := r.dial()
		c.send(shake)
		readHead(c.br)
		time.Sleep(30 * time.Minute)
		c.exchange("still there?")
		began := time.Now()
		if b, err := io.ReadAll(c.br); !errors.Is(err, syscall.ECONNRESET) || len(b) > 0 {
			t.Errorf("end: got %q, %v, want a reset", b, err)
		}
		if took := time.Since(began); took < time.Hour || took > 75*time.Minute {
			t.Errorf("idle time-out: got %v, want 1h to 1h15m", took)
		}
		if line := r.last(); line.Status != 101 || line.Flags != "SI" || line.Attempts[0] != "10.0.1.1 ok" {
			t.Errorf("log: got %+v, want 101, SI, ok", line)
		}
	}, switching(&got, consent, echo))
	// Until then they hold.
	inRig(t, edit, func(r *rig) {
		r.check(r.dial().do(shake), 504, "*", "UT", "10.0.1.1 timeout")
	}, hangs)
}

func TestWhatEndsATunnelIsPassedOn(t *testing.T) {
	var got string
	waits := func(c *pipenet.Conn, _ *bufio.Reader) { _, _ = io.Copy(io.Discard, c) }
	resets := func(c *pipenet.Conn, r *bufio.Reader) {
		_, _ = r.ReadByte()
		_ = c.Reset()
	}
	reset := func(c *client) error {
		b, err := io.ReadAll(c.br)
		if errors.Is(err, syscall.ECONNRESET) && len(b) == 0 {
			return nil
		}
		return errors.Join(err, errors.New("want a reset"))
	}
	for _, tt := range []struct {
		name, flags string
		then        func(*pipenet.Conn, *bufio.Reader)
		end         func(*rig, *client, context.CancelFunc) error
	}{
		{"the endpoint resets", "UC", resets, func(_ *rig, c *client, _ context.CancelFunc) error {
			c.send("x")
			return reset(c)
		}},
		{"the client resets", "DC", waits, func(_ *rig, c *client, _ context.CancelFunc) error { return c.Reset() }},
		{"the sidecar must stop", "LR", waits, func(_ *rig, c *client, stop context.CancelFunc) error {
			stop()
			return reset(c)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inRig(t, upgrading(), func(r *rig) {
				near, far := r.net.Host("10.0.0.9").Pair(r.t, r.net.Host("10.0.0.1"))
				ctx, stop := context.WithCancel(r.t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					r.server.ServeConn(ctx, far)
				}()
				c := &client{r.t, near, bufio.NewReader(near)}
				c.send(shake)
				readHead(c.br)
				r.server.Drain() // which a tunnel outlives
				time.Sleep(time.Minute)
				if err := tt.end(r, c, stop); err != nil {
					t.Error(err)
				}
				<-done
				stop()
				if line := r.last(); line.Status != 101 || line.Flags != tt.flags || line.Attempts[0] != "10.0.1.1 ok" {
					t.Errorf("log: got %+v, want 101, %s, ok", line, tt.flags)
				}
			}, switching(&got, consent, tt.then))
		})
	}
}

// An endpoint that crashes with a thousand tunnels must not be heard to succeed a
// thousand times as it does.
func TestAnUpgradeIsOneOutcomeAtItsBeginning(t *testing.T) {
	var got string
	inRig(t, upgrading(), func(r *rig) {
		c := r.dial()
		c.send(shake)
		readHead(c.br)
		if n := r.outcomes(); n != (outlier.Counts{N: 1}) {
			t.Errorf("outcomes while the tunnel is open: got %+v, want one success", n)
		}
		if n := r.inflight(); n != 1 {
			t.Errorf("attempts in flight while the tunnel is open: got %d, want 1", n)
		}
		if n, connections := r.cluster.Limits().Requests.Held(), r.cluster.Limits().Connections.Held(); n != 0 || connections != 1 {
			t.Errorf("held while the tunnel is open: got %d requests, %d connections, want 0 and 1", n, connections)
		}
		r.backends[0].crash()
		_, _ = io.ReadAll(c.br)
		if line := r.last(); line.Flags != "UC" {
			t.Errorf("flags: got %s, want UC", line.Flags)
		}
		if n := r.outcomes(); n != (outlier.Counts{N: 1}) {
			t.Errorf("outcomes after the end: got %+v, want the same one", n)
		}
		if n, held := r.inflight(), r.cluster.Limits().Connections.Held(); n != 0 || held != 0 {
			t.Errorf("after the end: got %d attempts in flight, %d connections held, want none", n, held)
		}
	}, switching(&got, consent, echo))
}

func (r *rig) inflight() (n int) {
	r.t.Helper()
	err := r.cluster.Ask(r.t.Context(), func(d *outlier.Detector, _ time.Duration) {
		n = d.Endpoint("10.0.1.1:80").Inflight()
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

func TestTunnelsCountAsConnectionsOfTheirCluster(t *testing.T) {
	var got string
	inRig(t, func(o *options) {
		upgrading()(o)
		o.cluster.Limits.Connections = 1
	}, func(r *rig) {
		first := r.dial()
		first.send(shake)
		readHead(first.br)
		r.check(r.dial().do(shake), 503, "*", "UO", "10.0.1.1 ok")
		_ = first.CloseWrite()
		_, _ = io.ReadAll(first.br)
		synctest.Wait() // the client hears of the end before it is booked
		second := r.dial()
		second.send(shake)
		if got := readHead(second.br); !strings.HasPrefix(got, "HTTP/1.1 101 ") {
			t.Errorf("after the first has ended: got %q, want a 101", got)
		}
		second.Close()
	}, switching(&got, consent, echo))
}

func TestAnUpgradeIsRepairedLikeAnyRequest(t *testing.T) {
	inRig(t, upgrading(exchange.Connect), func(r *rig) {
		r.backends[0].crash()
		for range 10 {
			for ask, status := range map[string]string{shake: "101", connect: "200"} {
				c := r.dial()
				c.send(ask)
				if got := readHead(c.br); !strings.HasPrefix(got, "HTTP/1.1 "+status) {
					t.Errorf("got %q, want %s", got, status)
				}
				c.exchange("hello")
				c.Close()
			}
		}
	}, say(ok), func(c net.Conn, _ int) {
		r, answer := bufio.NewReader(c), consent
		if strings.HasPrefix(readHead(r), "CONNECT") {
			answer = "HTTP/1.1 200 OK\r\n\r\n"
		}
		if _, err := io.WriteString(c, answer); err == nil {
			echo(c.(*pipenet.Conn), r)
		}
	})
}
