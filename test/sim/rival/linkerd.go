package rival

import (
	"time"

	"github.com/overhear-mesh/overhear/test/sim/world"
)

// LinkerdConfig is the failure accrual of a Service, by its annotations
// balancer.linkerd.io/failure-accrual-*.
type LinkerdConfig struct {
	MaxFailures int           // consecutive-max-failures
	MinPenalty  time.Duration // consecutive-min-penalty
	MaxPenalty  time.Duration // consecutive-max-penalty
	Jitter      float64       // consecutive-jitter-ratio

	// Unified adds the breaker on the success rate of a trailing window
	// (failure-accrual: unified; linkerd2-proxy 4561).
	Unified     bool
	Threshold   float64       // success-rate-threshold
	Window      time.Duration // success-rate-window
	MinRequests int           // success-rate-min-requests
}

// LinkerdDefault has the defaults of the annotations.
func LinkerdDefault(unified bool) LinkerdConfig {
	return LinkerdConfig{
		MaxFailures: 7, MinPenalty: time.Second, MaxPenalty: time.Minute, Jitter: 0.5,
		Unified: unified, Threshold: 0.8, Window: 10 * time.Second, MinRequests: 5,
	}
}

// Linkerd models the circuit breakers of linkerd2-proxy
// (linkerd/app/outbound/src/http/breaker).
func Linkerd(name string, b Balance, cfg LinkerdConfig) world.Maker {
	source := "https://linkerd.io/2/reference/circuit-breaking/"
	if cfg.Unified {
		source = "https://github.com/linkerd/linkerd2-proxy/pull/4561"
	}
	return maker(name, source, b, 0, func(c *caller) rule {
		n := len(c.out)
		return &linkerd{cfg: cfg, hosts: make([]breaker, n)}
	})
}

// windowBuckets is how finely the trailing window moves.
const windowBuckets = 10

type linkerd struct {
	cfg   LinkerdConfig
	hosts []breaker
}

type breaker struct {
	run     int
	shut    bool // failing, or waiting for the answer to the probe
	probing bool // the next request is the probe
	sent    bool // it is under way
	penalty time.Duration
	down    bool // no connection: the endpoint is not ready
	n, k    [windowBuckets]int
	epoch   int64
}

func (r *linkerd) renewed(_ *caller, e int) { r.hosts[e] = breaker{} }

func (r *linkerd) show(c *caller, e int) {
	h := &r.hosts[e]
	c.set(e, h.down || h.shut && (!h.probing || h.sent))
}

// picked: in probation one request is let through.
func (r *linkerd) picked(c *caller, e int) {
	if h := &r.hosts[e]; h.shut && h.probing && !h.sent {
		h.sent = true
		r.show(c, e)
	}
}

// slide moves the window to now.
func (r *linkerd) slide(h *breaker, now time.Duration) int {
	epoch := int64(now / (r.cfg.Window / windowBuckets))
	for range min(epoch-h.epoch, windowBuckets) {
		h.epoch++
		at := h.epoch % windowBuckets
		h.n[at], h.k[at] = 0, 0
	}
	h.epoch = epoch
	return int(epoch % windowBuckets)
}

func (r *linkerd) ended(c *caller, e int, o outcome) {
	if o.ignored {
		return
	}
	h := &r.hosts[e]
	if o.refused {
		// The balancer's matter and not the breaker's: without a connection an
		// endpoint is not ready.
		h.sent = false
		r.lost(c, e)
		return
	}
	if h.shut {
		if !h.sent {
			return // from before it tripped
		}
		h.sent, h.probing = false, false
		if o.failed {
			r.penalise(c, e)
			return
		}
		*h = breaker{down: h.down, epoch: h.epoch}
		r.show(c, e)
		return
	}
	trip := false
	if r.cfg.Unified {
		at := r.slide(h, c.m.w.Now())
		h.n[at]++
		if o.failed || o.limited {
			h.k[at]++
		}
		n, k := 0, 0
		for i := range h.n {
			n += h.n[i]
			k += h.k[i]
		}
		trip = n >= r.cfg.MinRequests && float64(n-k) < r.cfg.Threshold*float64(n)
	}
	if h.run++; !o.failed {
		h.run = 0
	}
	if trip || h.run >= r.cfg.MaxFailures {
		h.shut, h.penalty = true, 0
		r.penalise(c, e)
	}
}

// penalise keeps the endpoint out: twice as long as before, and a random part.
func (r *linkerd) penalise(c *caller, e int) {
	h := &r.hosts[e]
	if h.penalty == 0 {
		h.penalty = r.cfg.MinPenalty
	} else {
		h.penalty = min(2*h.penalty, r.cfg.MaxPenalty)
	}
	r.show(c, e)
	c.after(h.penalty+time.Duration(c.m.w.Rand().Float64()*r.cfg.Jitter*float64(h.penalty)), uint32(e)<<1)
}

// lost: an endpoint whose connection broke is not ready, and is connected again each
// 100 to 500 ms.
func (r *linkerd) lost(c *caller, e int) {
	if r.hosts[e].down {
		return
	}
	r.hosts[e].down = true
	r.show(c, e)
	c.after(0, uint32(e)<<1|1)
}

func (r *linkerd) timer(c *caller, what uint32) {
	e := int(what >> 1)
	h := &r.hosts[e]
	if what&1 == 0 {
		if h.shut {
			h.probing, h.sent = true, false
			r.show(c, e)
		}
		return
	}
	if !h.down {
		return
	}
	c.probe(e, false, time.Second, func(ok bool) {
		if !ok {
			c.after(time.Duration(float64(100*time.Millisecond)*(1+4*c.m.w.Rand().Float64())), what)
			return
		}
		r.hosts[e].down = false
		r.show(c, e)
	})
}
