package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/test/openload"
)

// request is what a user saw of one.
type request struct {
	proxy   int
	at      time.Duration // when it was to begin, since the fault
	late    time.Duration // how much later it did
	took    time.Duration // since it was to begin
	why     string        // it failed; "": it did not
	backend int           // whose answer it was; nobody: none came
	doomed  bool          // it fails whatever its proxy does
}

// nobody is whose answer it is that a proxy or the network gives.
const nobody = -1

// arrival is a request that reached a backend.
type arrival struct {
	proxy, backend int
	at             time.Duration // since the fault
}

// trace is all that is known of a run.
type trace struct {
	requests  []request
	arrivals  []arrival // by time for each backend
	forgotten int       // arrivals that backends remember no more
	pings     int       // during the fault, of all backends
	said      said      // from the warm-up's end to that of the run
	skipped   int64
	cpu       time.Duration // of all proxies, without the control plane, from the warm-up's end to that of the run
	why       json.RawMessage
}

// play runs one product through one scenario, with everything new.
func play(ctx context.Context, p product, s scenario, t setting, bin, dir string) (*trace, error) {
	v, err := startService(ctx, p, s, t)
	if err != nil {
		return nil, err
	}
	defer v.close()
	f, err := startFleet(ctx, p, bin, dir, t, v.endpoints)
	if err != nil {
		return nil, err
	}
	defer f.stop()
	g := &generator{setting: t, scenario: s, product: p, entries: f.entries}
	if len(f.entries) == 0 {
		for _, e := range v.endpoints {
			g.direct = append(g.direct, e.Address)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	g.fault = began.Add(t.healthy() + s.silence)
	err = g.start(ctx)
	var out *trace
	if err == nil {
		if out, err = g.through(ctx, f, v); err != nil {
			err = cmp.Or(f.alive(), err) // who has ended does not answer
		}
	}
	cancel()
	g.wait()
	if err != nil {
		return nil, err
	}
	out.requests, out.skipped = g.requests, g.skipped.Load()
	for i, b := range v.backends {
		out.forgotten += b.Counts().Forgotten
		for _, a := range b.Arrivals(began) {
			if proxy, ok := proxyOf(a.Path); ok && !a.Ping {
				out.arrivals = append(out.arrivals, arrival{proxy, i, a.At.Sub(g.fault)})
			}
		}
	}
	return out, nil
}

// generator is the users.
type generator struct {
	setting
	scenario
	product product
	fault   time.Time // when it comes, or the silence ends
	entries []string  // of the proxies
	direct  []string  // of the backends, for callers without a proxy
	running sync.WaitGroup
	skipped atomic.Int64

	mu       sync.Mutex // guards requests
	requests []request
}

func (g *generator) start(ctx context.Context) error {
	for i := range g.Proxies {
		c, err := g.caller(i)
		if err != nil {
			return err
		}
		g.running.Go(func() { g.use(ctx, i, c) })
	}
	return nil
}

func (g *generator) wait() { g.running.Wait() }

// caller makes requests; from is the endpoint whose answer came, "": none's; why says how one
// failed, "": it did not.
type caller interface {
	get(path string, timeout time.Duration) (from, why string)
	close()
}

// through a proxy, or round the endpoints.
type round struct {
	client
	to   []string
	turn atomic.Uint64
}

func (c *round) get(path string, timeout time.Duration) (from, why string) {
	return c.client.get(c.to[c.turn.Add(1)%uint64(len(c.to))], path, timeout)
}

// caller is what the users of one proxy call with.
func (g *generator) caller(i int) (caller, error) {
	switch {
	case g.product.library != "":
		return dialRPC(g.product, callerIP(i), g.direct)
	case g.RPC:
		return dialRPC(g.product, nil, g.entries[i:i+1])
	}
	c := &round{to: g.direct}
	c.turn.Store(rand.Uint64N(1 << 32)) // callers do not go round in step
	if len(g.direct) == 0 {
		c.to = g.entries[i : i+1]
	} else {
		c.from = callerIP(i)
	}
	return c, nil
}

// use is the users of one proxy.
func (g *generator) use(ctx context.Context, i int, c caller) {
	defer c.close()
	skipped := openload.At(ctx, g.Rate/float64(g.Proxies), func(intended time.Time) {
		r := request{proxy: i, at: intended.Sub(g.fault), late: time.Since(intended)}
		if g.silent(r.at) {
			return
		}
		during := r.at >= 0 && r.at < g.Fault
		poisoned, aborted := rand.Float64() < g.poison, during && rand.Float64() < g.aborts
		r.doomed = poisoned || aborted || during && g.hopeless
		var from string
		from, r.why = c.get(path(i, poisoned), g.patience(aborted))
		r.took, r.backend = time.Since(intended), backendOf(from)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.requests = append(g.requests, r)
	})
	g.skipped.Add(skipped)
}

// silent says whether nobody asks anything at an instant.
func (s scenario) silent(at time.Duration) bool { return at >= -s.silence && at < 0 }

// patience is how long a user waits.
func (g *generator) patience(aborts bool) time.Duration {
	switch {
	case aborts:
		return max(g.Latency, time.Millisecond) / 2
	case g.impatient:
		return g.Timeout / 3
	case len(g.direct) == 0:
		return g.Timeout + time.Second // a proxy answers in the setting's time; this bound is for one that does not
	}
	return g.Timeout
}

// through lets the time of the run pass, and the fault come and go.
func (g *generator) through(ctx context.Context, f *fleet, v *service) (*trace, error) {
	out := &trace{}
	if err := f.until(ctx, g.fault.Add(-g.lead)); err != nil {
		return nil, err
	}
	began, err := f.cpu()
	if err != nil {
		return nil, err
	}
	if g.headless {
		f.behead()
	}
	said, err := f.say(ctx)
	if err != nil {
		return nil, err
	}
	before := v.pings()
	if err := v.harm(ctx, f); err != nil {
		return nil, err
	}
	if err := f.until(ctx, g.fault.Add(g.Fault)); err != nil {
		return nil, err
	}
	out.pings = v.pings() - before
	if err := v.heal(f); err != nil {
		return nil, err
	}
	out.why = f.explain(ctx) // takes a moment, in which what begins would count as one after the fault
	if err := f.until(ctx, g.fault.Add(g.Fault+g.After)); err != nil {
		return nil, err
	}
	ended, err := f.cpu()
	if err != nil {
		return nil, err
	}
	out.cpu = ended - began
	now, err := f.say(ctx)
	out.said = now.since(said)
	return out, err
}

// until waits, for as long as nobody of the fleet ends.
func (f *fleet) until(ctx context.Context, at time.Time) error {
	for {
		if err := f.alive(); err != nil {
			return err
		}
		wait := min(time.Until(at), time.Second)
		if wait <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// explain asks Overhear why it believes what it does of the endpoint that has the fault:
// the control plane, or the first sidecar.
func (f *fleet) explain(ctx context.Context) json.RawMessage {
	from := f.api + "/api/v1/why?endpoint=api-0"
	if f.api == "" {
		if len(f.admins) == 0 {
			return nil
		}
		from = f.admins[0] + "/clusters"
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	text, err := page(ctx, "http://"+from)
	if err != nil || !json.Valid(text) {
		return nil // another product, or one that has no time to talk
	}
	return text
}

func page(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(res.Status)
	}
	return io.ReadAll(res.Body)
}
