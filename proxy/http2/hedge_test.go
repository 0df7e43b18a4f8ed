package http2

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	xhttp2 "golang.org/x/net/http2"

	"github.com/overhear-mesh/overhear/proxy/resilience"
)

// duel is what two endpoints do: the one that is asked first, and the other.
type duel struct {
	t    *testing.T
	does [2]func(a *raw, id uint32)

	mu    sync.Mutex
	asked int
	saw   [2]string // of the request's body, and how it ended
}

func (d *duel) serve(c net.Conn, _ int) {
	misbehaves(d.t, func(a *raw) {
		turn := map[uint32]int{}
		for {
			f, err := a.ReadFrame()
			if err != nil {
				return
			}
			d.mu.Lock()
			switch f := f.(type) {
			case *xhttp2.MetaHeadersFrame:
				if _, known := turn[f.StreamID]; known {
					d.saw[turn[f.StreamID]] += "trailers"
					break
				}
				n := min(d.asked, 1)
				d.asked++
				turn[f.StreamID] = n
				go d.does[n](a, f.StreamID)
			case *xhttp2.DataFrame:
				d.saw[turn[f.StreamID]] += string(f.Data())
			case *xhttp2.RSTStreamFrame:
				d.saw[turn[f.StreamID]] += f.ErrCode.String()
			case *xhttp2.PingFrame:
				_ = a.WritePing(true, f.Data)
			}
			d.mu.Unlock()
		}
	})(c, 0)
}

func (d *duel) was(n int) string {
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.saw[n]
}

// What endpoints do.
func hangs(*raw, uint32) {}

func after(wait time.Duration, pairs ...string) func(*raw, uint32) {
	return func(a *raw, id uint32) {
		time.Sleep(wait)
		_ = a.open(id, true, a.fields(pairs...))
	}
}

func breaks(wait time.Duration) func(*raw, uint32) {
	return func(a *raw, id uint32) {
		time.Sleep(wait)
		_ = a.WriteRSTStream(id, xhttp2.ErrCodeInternal)
	}
}

// An answer that is overdue is asked for once more, elsewhere, and the first that comes
// is the client's.
func TestAnOverdueRequestIsHedged(t *testing.T) {
	const long = time.Minute
	for _, tt := range []struct {
		name          string
		first, second func(*raw, uint32)
		status        int
		from          string // who has answered
		classes       string
		cancelled     int // the attempt that is taken back; -1: none
	}{
		{"the first hangs", hangs, after(0, ":status", "200", "who", "second"), 200, "second", "censored ok", 0},
		{"the first wins after all", after(6*time.Second, ":status", "200", "who", "first"), hangs, 200, "first", "ok censored", 1},
		{"the first breaks", breaks(6 * time.Second), after(10*time.Second, ":status", "200", "who", "second"), 200, "second", "server ok", -1},
		{"the second breaks", after(20*time.Second, ":status", "200", "who", "first"), breaks(0), 200, "first", "ok server", -1},
		{"the second would be repeated", after(20*time.Second, ":status", "200", "who", "first"), after(0, ":status", "503"), 200, "first", "ok server", -1},
		{"the first would be repeated", after(6*time.Second, ":status", "503"), after(10*time.Second, ":status", "200", "who", "second"), 200, "second", "server ok", -1},
		{"neither answers", hangs, hangs, 504, "", "timeout timeout", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &duel{t: t, does: [2]func(*raw, uint32){tt.first, tt.second}}
			inRig(t, func(o *options) {
				o.rule.Timeout = long
				o.rule.Retry.On = append(o.rule.Retry.On, resilience.ServerError)
			}, func(r *rig) {
				got := r.get()
				if got.StatusCode != tt.status || got.Header.Get("Who") != tt.from {
					t.Errorf("got %d from %q, want %d from %q", got.StatusCode, got.Header.Get("Who"), tt.status, tt.from)
				}
				line := r.last()
				var classes, hosts []string
				for _, a := range line.Attempts {
					host, class, _ := strings.Cut(a, " ")
					hosts, classes = append(hosts, host), append(classes, class)
				}
				if fmt.Sprint(classes) != "["+tt.classes+"]" || len(hosts) == 2 && hosts[0] == hosts[1] {
					t.Errorf("attempts: got %v, want %s, of two endpoints", line.Attempts, tt.classes)
				}
				for n, saw := range []string{d.was(0), d.was(1)} {
					if want := tt.cancelled == n || tt.status == 504; (saw == "CANCEL") != want {
						t.Errorf("attempt %d saw %q, taken back: want %v", n+1, saw, want)
					}
				}
			}, d.serve, d.serve)
		})
	}
}

// Both endpoints get all of the request.
func TestAHedgeHasTheWholeRequest(t *testing.T) {
	body := strings.Repeat("0123456789", 6000)
	d := &duel{t: t, does: [2]func(*raw, uint32){hangs, after(0, ":status", "200")}}
	inRig(t, func(o *options) { o.rule.Retry.AnyMethod = true }, func(r *rig) {
		q, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, "http://api/", strings.NewReader(body))
		if err != nil {
			r.t.Fatal(err)
		}
		q.Trailer = http.Header{"T": {"u"}}
		q.ContentLength = -1
		if got := r.send(q); got.StatusCode != http.StatusOK {
			r.t.Errorf("got %d, %v; want 200", got.StatusCode, got.err)
		}
		if first, second := d.was(0), d.was(1); first != body+"trailersCANCEL" || second != body+"trailers" {
			r.t.Errorf("the endpoints got %d and %d bytes, want %d with trailers", len(first), len(second), len(body))
		}
	}, d.serve, d.serve)
}

func TestWhatIsNotHedged(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(*options)
		method string
		size   int
	}{
		{"POST", nil, "POST", 0},
		{"without time-out", func(o *options) { o.rule.Timeout = 0; o.rule.IdleTimeout = time.Minute }, "GET", 0},
		{"turned off", func(o *options) { o.rule.Retry.HedgeOnOverdue = false }, "GET", 0},
		{"larger than what is kept", func(o *options) { o.cfg.RetryBuffer = 1000; o.rule.Retry.AnyMethod = true }, "POST", 2000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &duel{t: t, does: [2]func(*raw, uint32){hangs, after(0, ":status", "200")}}
			inRig(t, tt.edit, func(r *rig) {
				got := r.do(tt.method, "/", strings.Repeat("x", tt.size))
				if line := r.last(); got.StatusCode != http.StatusGatewayTimeout || len(line.Attempts) != 1 {
					t.Errorf("got %d after %v, want 504 after one attempt", got.StatusCode, line.Attempts)
				}
			}, d.serve, d.serve)
		})
	}
}

// A client that leaves takes both attempts along.
func TestAClientThatLeavesEndsBothAttempts(t *testing.T) {
	d := &duel{t: t, does: [2]func(*raw, uint32){hangs, hangs}}
	inRig(t, nil, func(r *rig) {
		a := r.attacker()
		_ = a.open(1, true, a.head("GET"))
		time.Sleep(r.cluster.Overdue() + time.Second)
		_ = a.WriteRSTStream(1, xhttp2.ErrCodeCancel)
		if line := r.last(); line.Flags != "DC" || len(line.Attempts) != 2 {
			r.t.Errorf("log: got %+v, want DC of two attempts", line)
		}
		if saw := []string{d.was(0), d.was(1)}; !slices.Equal(saw, []string{"CANCEL", "CANCEL"}) {
			r.t.Errorf("the endpoints saw %q, want CANCEL twice", saw)
		}
	}, d.serve, d.serve)
}
