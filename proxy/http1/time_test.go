package http1

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

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
			if took := r.clock.Now() - start; took < 2*time.Second || took > 2*time.Second+3*wheel.Tick {
				t.Errorf("took %v, want 2s and a little", took)
			}
			r.check(c.do(get), 504, "*", "UT", "10.0.1.1 timeout")
		}, hangs)
	})
	t.Run("in a body that stands still", func(t *testing.T) {
		inRig(t, func(o *options) { o.rule.Timeout = 5 * time.Second }, func(r *rig) {
			r.check(r.dial().do(get), 200, "half", "UT", "10.0.1.1 timeout")
		}, func(c net.Conn, _ int) {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
			_, _ = io.Copy(io.Discard, c)
		})
	})
	// A long answer is no fault of the endpoint's; Envoy counts a route's time-out
	// only against those that have not begun to answer.
	t.Run("in a body that flows", func(t *testing.T) {
		inRig(t, func(o *options) { o.rule.Timeout = 2 * time.Second }, func(r *rig) {
			got := r.dial().do(get)
			r.check(got, 200, strings.Repeat("x", 16), "UT", "10.0.1.1 ignore")
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
			if took := r.clock.Now() - start; took > 2*time.Second+3*wheel.Tick {
				t.Errorf("took %v, want 2s and a little", took)
			}
			r.net.Heal("10.0.0.1", "10.0.1.1")
			r.check(c.do(get), 200, "ok", "-", "10.0.1.1 ok")
		}, say(ok))
	})
}

func TestARequestTimeoutCountsAllAttempts(t *testing.T) {
	inRig(t, func(o *options) {
		o.rule.Timeout = 2 * time.Second
		o.cluster.Outlier.Mode = outlier.Shadow // or the one that hangs is left alone before the other is met
	}, func(r *rig) {
		for {
			start := r.clock.Now()
			got := r.dial().do(get)
			line := r.last()
			if line.Attempts[0] != "10.0.1.1 conn" {
				continue
			}
			r.check(got, 504, "*", "URX,UT", "10.0.1.1 conn", "10.0.1.2 timeout")
			if took := r.clock.Now() - start; took < 2*time.Second || took > 2*time.Second+3*wheel.Tick {
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

func TestABodyThatStandsStillWhileTheClientReadsIsGivenUpAsTheClusterSays(t *testing.T) {
	t.Run("the endpoint's fault", func(t *testing.T) {
		inRig(t, func(o *options) { o.rule.Timeout, o.cluster.Outlier.BodyIdleTimeout = 0, 2*time.Second }, func(r *rig) {
			c, start := r.dial(), r.clock.Now()
			got := c.do(get)
			r.check(got, 200, "half", "SI", "10.0.1.1 timeout")
			if took := r.clock.Now() - start; got.err == nil || took < 3*time.Second || took > 3*time.Second+3*wheel.Tick {
				t.Errorf("body: got %v after %v, want an error 2s after the last byte", got.err, took)
			}
		}, func(c net.Conn, _ int) {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nha")
			time.Sleep(time.Second)
			_, _ = io.WriteString(c, "lf")
			_, _ = io.Copy(io.Discard, c)
		})
	})
	t.Run("the client pauses", func(t *testing.T) {
		inRig(t, func(o *options) { o.rule.Timeout, o.cluster.Outlier.BodyIdleTimeout = 0, 2*time.Second }, func(r *rig) {
			c := r.dial()
			c.send(get)
			time.Sleep(time.Minute)
			r.check(c.read("GET"), 200, "*", "-", "10.0.1.1 ok")
		}, say("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 1000000)))
	})
	t.Run("the route knows better", func(t *testing.T) {
		inRig(t, func(o *options) {
			o.rule.Timeout, o.rule.IdleTimeout, o.cluster.Outlier.BodyIdleTimeout = 0, time.Minute, 2*time.Second
		}, func(r *rig) {
			r.check(r.dial().do(get), 200, "half", "-", "10.0.1.1 ok")
		}, func(c net.Conn, _ int) {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
			time.Sleep(10 * time.Second)
			_, _ = io.WriteString(c, "lf")
		})
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
		if took := r.clock.Now() - start; took < 10*time.Second || took > 10*time.Second+3*wheel.Tick {
			t.Errorf("took %v, want 10s and a little", took)
		}
		c.Close()

		idle := r.dial()
		start = r.clock.Now()
		if err := idle.ended(); err != nil {
			t.Errorf("end of an idle connection: %v", err)
		}
		if took := r.clock.Now() - start; took < 5*time.Minute || took > 5*time.Minute+3*wheel.Tick {
			t.Errorf("idle connection ended after %v, want 5m", took)
		}
		if n := len(r.log.all()); n != 1 {
			t.Errorf("log: got %d lines, want 1: nothing was asked on the other connection", n)
		}
	}, say(ok))
}

func TestAnIdleConnectionHoldsNoTask(t *testing.T) {
	inRig(t, nil, func(r *rig) {
		c := r.dial()
		for range 3 {
			r.check(c.do(get), 200, "ok", "-", "10.0.1.1 ok")
			time.Sleep(time.Minute)
			synctest.Wait()
			r.server.mu.Lock()
			for conn := range r.server.conns {
				if conn.task != nil {
					t.Error("it holds a task with its buffers, want none")
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
		if got := next.do(get); got.StatusCode != http.StatusOK || !got.Close {
			t.Errorf("request right after Drain: got %d, close %v, want 200 and close", got.StatusCode, got.Close)
		}
		if got := busy.read("GET"); got.StatusCode != http.StatusOK || !got.Close {
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
		if took := r.clock.Now() - start; took > 5*time.Second+3*wheel.Tick {
			t.Errorf("took %v, want no longer than the slowest request", took)
		}
		if got := r.dial().do(get); got.StatusCode != http.StatusOK || !got.Close {
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
		r.stop() // and inRig waits for ServeConn to return
		lines := r.log.all()
		if len(lines) != 2 {
			t.Fatalf("log: got %+v, want a line for each of two requests", lines)
		}
		for _, line := range lines {
			if line.Flags != "LR" || !slices.Equal(line.Attempts, []string{"10.0.1.1 ignore"}) {
				t.Errorf("log: got %s %s %q, want LR and an attempt that counts for nothing", line.Method, line.Flags, line.Attempts)
			}
		}
	}, hangs)
}

func TestTheTimeOfARequestGoesOnAfterAnAnswerThatIsNotPassedOn(t *testing.T) {
	for name, hedge := range map[string]bool{"repeated": false, "hedged": true} {
		edit := func(o *options) {
			o.rule.Timeout, o.rule.Retry.On = 4*time.Second, append(o.rule.Retry.On, resilience.GatewayError)
			o.rule.Retry.HedgeOnOverdue = hedge
		}
		first, second := late(0, bad), late(never, ok)
		if hedge {
			half := strings.Replace(ok, "ok", "o", 1)
			first, second = late(2*time.Second, bad), late(time.Second, half)
		}
		t.Run(name, func(t *testing.T) {
			hedged(t, edit, func(r *rig, c *client, _ time.Duration) {
				began := r.clock.Now()
				got := c.do(get)
				if took := r.clock.Now() - began; took < 4*time.Second || took > 4*time.Second+3*wheel.Tick {
					t.Errorf("got %d %q after %v, want it to end after 4s", got.StatusCode, got.body, took)
				}
			}, first, second)
		})
	}
}
