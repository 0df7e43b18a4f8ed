package http1

import (
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// scarce is one connection to an endpoint that takes a second for a request.
func scarce(o *options) { o.cluster.MaxConns = 1 }

func takesASecond(answer string) func(*http.Request) string {
	return func(*http.Request) string { time.Sleep(time.Second); return answer }
}

// Beyond max_connections requests wait for each other in the order in which they came,
// and of their wait nothing is counted as the endpoint's.
func TestRequestsWaitForAConnectionInTheirOrder(t *testing.T) {
	for name, answer := range map[string]string{
		"that is put back":              ok,
		"that is opened for a lost one": "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
	} {
		t.Run(name, func(t *testing.T) {
			const n = 4
			inRig(t, scarce, func(r *rig) {
				order := make(chan int, n)
				for i := range n {
					c := r.dial()
					c.send(get)
					go func() {
						if got := c.read("GET"); got.StatusCode != http.StatusOK {
							t.Errorf("request %d: got %d, want 200", i, got.StatusCode)
						}
						order <- i
					}()
					time.Sleep(10 * time.Millisecond)
				}
				for i := range n {
					if got := <-order; got != i {
						t.Errorf("answer %d: got that of request %d", i, got)
					}
				}
				lines := r.log.all()
				if len(lines) != n {
					t.Fatalf("access log: got %d lines, want %d", len(lines), n)
				}
				for i, line := range lines {
					if !slices.Equal(line.Attempts, []string{"10.0.1.1 ok"}) {
						t.Errorf("attempts of request %d: got %q, want one", i, line.Attempts)
					}
				}
				for i, took := range r.log.took {
					if took > time.Second+50*time.Millisecond {
						t.Errorf("the attempt of request %d took %v, want a second", i, took)
					}
				}
				if held := r.cluster.Limits().Pending.Held(); held != 0 {
					t.Errorf("requests that wait: got %d, want 0", held)
				}
			}, talk(takesASecond(answer)))
		})
	}
}

func TestNoMoreWaitForAConnectionThanMayBePending(t *testing.T) {
	inRig(t, func(o *options) {
		scarce(o)
		o.cluster.Limits.Pending = 2
	}, func(r *rig) {
		busy := r.dial()
		busy.send(get)
		synctest.Wait()
		first, second := r.dial(), r.dial()
		first.send(get)
		second.send(get)
		synctest.Wait()
		begun := r.clock.Now()
		r.check(r.dial().do(get), 503, "*", "UO", "10.0.1.1 ignore")
		if took := r.clock.Now() - begun; took > 100*time.Millisecond {
			t.Errorf("refused after %v, want at once", took)
		}
		for _, c := range []*client{busy, first, second} {
			if got := c.read("GET"); got.StatusCode != http.StatusOK {
				t.Errorf("got %d, want 200", got.StatusCode)
			}
		}
	}, talk(takesASecond(ok)))
}

// Who waits in vain has made no attempt that says anything of the endpoint, and gives his
// place up.
func TestAWaitForAConnectionEndsWithTheRequest(t *testing.T) {
	inRig(t, func(o *options) {
		scarce(o)
		o.rule.Timeout = 900 * time.Millisecond
	}, func(r *rig) {
		busy := r.dial()
		busy.send(get)
		time.Sleep(100 * time.Millisecond)
		gone, late := r.dial(), r.dial()
		gone.send(get)
		synctest.Wait()
		late.send("GET /quick HTTP/1.1\r\nHost: a\r\n\r\n")
		time.Sleep(100 * time.Millisecond)
		gone.Close()
		if got := busy.read("GET"); got.StatusCode != http.StatusGatewayTimeout {
			t.Errorf("who had the connection: got %d, want 504", got.StatusCode)
		}
		if got := late.read("GET"); got.StatusCode != http.StatusOK {
			t.Errorf("who waited behind one that left: got %d, want 200", got.StatusCode)
		}
		lines := r.log.all()
		if len(lines) != 3 {
			t.Errorf("access log: got %d lines, want 3", len(lines))
		}
		for _, line := range lines {
			if line.Status == 0 && (line.Flags != "DC" || !slices.Equal(line.Attempts, []string{"10.0.1.1 ignore"})) {
				t.Errorf("who left: got %+v, want DC and an attempt that is ignored", line)
			}
		}
	}, talk(quickOrNever))
	inRig(t, func(o *options) {
		scarce(o)
		o.rule.Timeout = 1500 * time.Millisecond
	}, func(r *rig) {
		busy := r.dial()
		busy.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n.") // its time has not begun
		time.Sleep(time.Second)
		begun := r.clock.Now()
		r.check(r.dial().do(get), 504, "*", "UT", "10.0.1.1 ignore")
		if took := r.clock.Now() - begun; took < 1500*time.Millisecond || took > 1600*time.Millisecond {
			t.Errorf("waited %v, want 1.5s", took)
		}
		busy.send(".")
		if got := busy.read("POST"); got.StatusCode != http.StatusOK {
			t.Errorf("who had the connection: got %d, want 200", got.StatusCode)
		}
	}, talk(takesASecond(ok)))
}

// quickOrNever answers /quick at once, and nothing else.
func quickOrNever(r *http.Request) string {
	if r.URL.Path != "/quick" {
		time.Sleep(time.Minute)
	}
	return ok
}
