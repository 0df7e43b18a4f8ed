package http1

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/exchange"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/test/pipenet"
)

// shift is a backend whose n-th request, of all connections of a rig, is answered by
// the n-th function; the last one answers the rest.
type shift struct {
	n     atomic.Int64
	turns []func(net.Conn, *http.Request)
}

func (s *shift) serve(c net.Conn, _ int) {
	r := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		n := int(s.n.Add(1)) - 1
		s.turns[min(n, len(s.turns)-1)](c, req)
	}
}

// late answers after a while.
func late(wait time.Duration, text string) func(net.Conn, *http.Request) {
	return func(c net.Conn, _ *http.Request) {
		time.Sleep(wait)
		_, _ = io.WriteString(c, text)
	}
}

func resets(wait time.Duration) func(net.Conn, *http.Request) {
	return func(c net.Conn, _ *http.Request) {
		time.Sleep(wait)
		_ = c.(*pipenet.Conn).Reset()
	}
}

const (
	never = time.Hour
	bad   = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nbad"
)

// hedged runs requests on two backends that share a shift: the first turn is of the
// attempt, the second of its hedge. It returns how long the answer took.
func hedged(t *testing.T, edit func(*options), body func(*rig, *client, time.Duration), turns ...func(net.Conn, *http.Request)) {
	t.Helper()
	s := &shift{turns: turns}
	inRig(t, edit, func(r *rig) {
		overdue := time.Duration(0)
		if err := r.cluster.Ask(r.t.Context(), func(d *outlier.Detector, _ time.Duration) { overdue = d.Overdue() }); err != nil {
			r.t.Fatal(err)
		}
		body(r, r.dial(), overdue)
		synctest.Wait()
		r.settled()
	}, s.serve, s.serve)
}

// settled checks that nothing is left of the requests so far.
func (r *rig) settled() {
	r.t.Helper()
	inflight := 0
	err := r.cluster.Ask(r.t.Context(), func(d *outlier.Detector, _ time.Duration) {
		for i := range r.backends {
			inflight += d.Endpoint(fmt.Sprintf("10.0.1.%d:80", i+1)).Inflight()
		}
	})
	if err != nil {
		r.t.Fatal(err)
	}
	l := r.cluster.Limits()
	if inflight+l.Requests.Held()+l.Pending.Held()+l.Retries.Held() != 0 {
		r.t.Errorf("left over: %d attempts, %d requests, %d that wait, %d retries", inflight, l.Requests.Held(), l.Pending.Held(), l.Retries.Held())
	}
}

// kinds are the classes of a line's attempts.
func (l logged) kinds() string {
	var kinds []string
	for _, a := range l.Attempts {
		_, kind, _ := strings.Cut(a, " ")
		kinds = append(kinds, kind)
	}
	return strings.Join(kinds, " ")
}

func TestAHedgeAnswersForAnAttemptThatIsOverdue(t *testing.T) {
	answer := func(text string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
	}
	const request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, tt := range []struct {
		name    string
		request string
		turns   []func(net.Conn, *http.Request)
		status  int
		body    string
		after   time.Duration // the attempt is overdue
		kinds   string        // classes of the attempts
		flags   string
	}{
		{"a hang", request, []func(net.Conn, *http.Request){late(never, ok), late(0, answer("hedge"))}, 200, "hedge", 0, "censored ok", "-"},
		{"a hang, with a body", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", []func(net.Conn, *http.Request){late(never, ok), late(0, answer("hedge"))}, 200, "hedge", 0, "censored ok", "-"},
		{"after interim answers", request, []func(net.Conn, *http.Request){late(never, ok), late(0, "HTTP/1.1 103 Early Hints\r\n\r\n"+answer("hedge"))}, 200, "hedge", 0, "censored ok", "-"},
		{"the attempt is faster after all", request, []func(net.Conn, *http.Request){late(1600*time.Millisecond, answer("first")), late(time.Second, answer("hedge"))}, 200, "first", 100 * time.Millisecond, "ok ignore", "-"},
		{"the hedge breaks off", request, []func(net.Conn, *http.Request){late(2*time.Second, answer("first")), resets(0)}, 200, "first", 500 * time.Millisecond, "ok conn", "-"},
		{"the hedge is nonsense", request, []func(net.Conn, *http.Request){late(2*time.Second, answer("first")), late(0, "nonsense\r\n\r\n")}, 200, "first", 500 * time.Millisecond, "ok server", "-"},
		{"the hedge changes the protocol", request, []func(net.Conn, *http.Request){late(2*time.Second, answer("first")), late(0, consent)}, 200, "first", 500 * time.Millisecond, "ok server", "-"},
		{"the hedge is no answer to keep", request, []func(net.Conn, *http.Request){late(2*time.Second, answer("first")), late(0, bad)}, 200, "first", 500 * time.Millisecond, "ok server", "-"},
		{"the attempt breaks off", request, []func(net.Conn, *http.Request){resets(1600 * time.Millisecond), late(time.Second, answer("hedge"))}, 200, "hedge", time.Second, "conn ok", "-"},
		{"the attempt is no answer to keep", request, []func(net.Conn, *http.Request){late(1600*time.Millisecond, bad), late(time.Second, answer("hedge"))}, 200, "hedge", time.Second, "server ok", "-"},
		{"neither is an answer to keep", request, []func(net.Conn, *http.Request){late(1600*time.Millisecond, bad), late(time.Second, bad)}, 503, "bad", time.Second, "server server", "-"},
		{"the attempt breaks off, and the hedge is no answer to keep", request, []func(net.Conn, *http.Request){resets(1600 * time.Millisecond), late(time.Second, bad)}, 503, "bad", time.Second, "conn server", "-"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			edit := func(o *options) {
				o.rule.Retry.MaxAttempts, o.rule.Retry.On = 2, append(o.rule.Retry.On, resilience.GatewayError)
			}
			hedged(t, edit, func(r *rig, c *client, overdue time.Duration) {
				began := r.clock.Now()
				got := c.do(tt.request)
				took := r.clock.Now() - began
				if got.StatusCode != tt.status || got.body != tt.body || got.err != nil {
					t.Errorf("got %d %q, %v, want %d %q", got.StatusCode, got.body, got.err, tt.status, tt.body)
				}
				if took < overdue+tt.after || took > overdue+tt.after+100*time.Millisecond {
					t.Errorf("took %v, want %v after it was overdue, at %v", took, tt.after, overdue)
				}
				line := r.last()
				if line.kinds() != tt.kinds || line.Flags != tt.flags || line.Attempts[0][:8] == line.Attempts[1][:8] {
					t.Errorf("log: got %s %q, want %s, %s, of two endpoints", line.Flags, line.Attempts, tt.flags, tt.kinds)
				}
				if n, won := r.metrics.Hedges.Load(), r.metrics.HedgesWon.Load(); n != 1 || won == 1 != (tt.body == "hedge") && tt.status == 200 {
					t.Errorf("got %d hedges of which %d won", n, won)
				}
				// The connection goes on, with requests of its own.
				if got := c.do(request); got.StatusCode == 0 || len(r.log.all()) != 2 {
					t.Errorf("the next request: got %d", got.StatusCode)
				}
			}, append(tt.turns, late(0, ok))...)
		})
	}
}

func TestWhatMayNotBeAtTwoEndpointsIsNotHedged(t *testing.T) {
	for _, tt := range []struct {
		name, request string
		edit          func(*options)
	}{
		{"a method that changes something", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", nil},
		{"an upgrade", shake, upgrading()},
		{"CONNECT, of whatever a policy says", connect, func(o *options) { upgrading(exchange.Connect)(o); o.rule.Retry.AnyMethod = true }},
		{"a body that is too large to keep", "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n" + strings.Repeat("x", 40000), func(o *options) { o.cfg.RetryBuffer = 4 << 10 }},
		{"by policy", get, func(o *options) { o.rule.Retry.HedgeOnOverdue = false }},
		{"without a time-out nothing is overdue", get, func(o *options) { o.rule.Timeout = 0 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hedged(t, tt.edit, func(r *rig, c *client, _ time.Duration) {
				began := r.clock.Now()
				if got := c.do(tt.request); got.StatusCode != http.StatusOK {
					t.Errorf("got %d, want 200", got.StatusCode)
				}
				if took := r.clock.Now() - began; took < 5*time.Second {
					t.Errorf("took %v, want the 5s of the only attempt", took)
				}
				if line := r.last(); len(line.Attempts) != 1 {
					t.Errorf("attempts: got %q, want one", line.Attempts)
				}
			}, late(5*time.Second, ok), late(0, ok))
		})
	}
}

// The time of a hedge that is over does not end what goes on without it.
func TestTheTimeOfAHedgeEndsWithIt(t *testing.T) {
	slow := func(c net.Conn, _ *http.Request) {
		time.Sleep(1600 * time.Millisecond)
		_, _ = io.WriteString(c, bad[:len(bad)-2])
		time.Sleep(5 * time.Second)
		_, _ = io.WriteString(c, bad[len(bad)-2:])
	}
	edit := func(o *options) {
		o.rule.Retry.MaxAttempts, o.rule.Retry.On = 2, append(o.rule.Retry.On, resilience.GatewayError)
		o.rule.PerTryTimeout = 3 * time.Second
	}
	hedged(t, edit, func(r *rig, c *client, _ time.Duration) {
		if got := c.do(get); got.StatusCode != http.StatusServiceUnavailable || got.body != "bad" || got.err != nil {
			t.Errorf("got %d %q, %v, want the first answer, whole", got.StatusCode, got.body, got.err)
		}
		if line := r.last(); line.kinds() != "server server" || line.Flags != "-" {
			t.Errorf("log: got %s %q, want two answers", line.Flags, line.Attempts)
		}
	}, slow, late(time.Second, bad))
}

// Whoever ends a request ends both attempts, and is told of once.
func TestTheEndOfARequestIsTheEndOfItsHedge(t *testing.T) {
	hang := late(never, ok)
	for _, tt := range []struct {
		name  string
		edit  func(*options)
		act   func(*rig, *client)
		flags string
		kinds string
	}{
		{"its time is up", func(o *options) { o.rule.Timeout = 2500 * time.Millisecond }, func(r *rig, c *client) {
			if got := c.read("GET"); got.StatusCode != http.StatusGatewayTimeout {
				r.t.Errorf("got %d, want 504", got.StatusCode)
			}
		}, "URX,UT", "timeout ignore"},
		{"so is that of each attempt", func(o *options) {
			o.rule.PerTryTimeout, o.rule.Retry.MaxAttempts = 2*time.Second, 2
		}, func(r *rig, c *client) {
			if got := c.read("GET"); got.StatusCode != http.StatusGatewayTimeout {
				r.t.Errorf("got %d, want 504", got.StatusCode)
			}
		}, "URX,UT", "timeout timeout"},
		{"the client leaves", nil, func(_ *rig, c *client) {
			time.Sleep(2 * time.Second)
			_ = c.Close()
		}, "URX,DC", "censored ignore"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hedged(t, tt.edit, func(r *rig, c *client, _ time.Duration) {
				c.send(get)
				tt.act(r, c)
				time.Sleep(time.Second)
				line := r.last()
				if line.Flags != tt.flags || line.kinds() != tt.kinds {
					t.Errorf("log: got %s %q, want %s, %s", line.Flags, line.Attempts, tt.flags, tt.kinds)
				}
			}, hang)
		})
	}
}

// Each request gets its own answer, and everything is told once and given back, whatever
// two backends do and clients give up.
func TestHedgesLeaveNothingBehind(t *testing.T) {
	moods := func(seed uint64) func(net.Conn, int) {
		var mu sync.Mutex
		rng := rand.New(rand.NewPCG(seed, 1))
		dice := func(n int) int {
			mu.Lock()
			defer mu.Unlock()
			return rng.IntN(n)
		}
		return func(c net.Conn, _ int) {
			r := bufio.NewReader(c)
			for {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				if wait := dice(8); wait > 4 {
					time.Sleep(time.Duration(dice(3000)) * time.Millisecond)
				}
				answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(req.URL.Path), req.URL.Path)
				switch dice(12) {
				case 0:
					_ = c.(*pipenet.Conn).Reset()
					return
				case 1:
					answer = bad
				case 2:
					answer = answer[:len(answer)/2]
				case 3:
					time.Sleep(never)
				}
				if _, err := io.WriteString(c, answer); err != nil {
					return
				}
			}
		}
	}
	var hedges, won uint64
	for seed := range uint64(4) {
		inRig(t, func(o *options) {
			o.rule.Timeout, o.rule.PerTryTimeout = 8*time.Second, 5*time.Second
			o.cluster.Outlier.Mode = outlier.Shadow
		}, func(r *rig) {
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(seed, uint64(i)))
					for n := range 40 {
						c := r.dial()
						want := fmt.Sprintf("/%d/%d", i, n)
						_, _ = io.WriteString(c, "GET "+want+" HTTP/1.1\r\nHost: a\r\n\r\n")
						if rng.IntN(5) == 0 {
							time.Sleep(time.Duration(rng.IntN(4000)) * time.Millisecond)
							c.Close()
							continue
						}
						resp, err := http.ReadResponse(c.br, nil)
						if err == nil {
							body, err := io.ReadAll(resp.Body)
							resp.Body.Close()
							if resp.StatusCode == http.StatusOK && err == nil && string(body) != want {
								t.Errorf("got %q, want %q", body, want)
							}
						}
						c.Close()
					}
				})
			}
			wg.Wait()
			time.Sleep(10 * time.Second)
			r.settled()
			hedges += r.metrics.Hedges.Load()
			won += r.metrics.HedgesWon.Load()
			if n := len(r.log.all()); n != 8*40 {
				t.Errorf("requests in the log: got %d, want %d", n, 8*40)
			}
		}, moods(seed), moods(seed+100))
	}
	if hedges == 0 || won == 0 || won == hedges {
		t.Errorf("%d hedges of which %d won: want some of each", hedges, won)
	}
}
