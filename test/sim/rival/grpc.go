package rival

import (
	"time"

	"github.com/overhear-mesh/overhear/test/sim/world"
)

// GRPCConfig is the outlier_detection of gRFC A50, and the back-off of connections.
type GRPCConfig struct {
	Interval, Base, Max time.Duration
	MaxPercent          float64

	StdevFactor                 float64
	SuccessHosts, SuccessVolume int

	FailureThreshold            float64
	FailureHosts, FailureVolume int

	// Subchannels that lost their connection are no longer picked, and are connected
	// again after a back-off (doc/connection-backoff.md).
	BackoffBase, BackoffMax time.Duration
}

// GRPCDefault has both algorithms at the defaults of the gRFC.
func GRPCDefault() GRPCConfig {
	return GRPCConfig{
		Interval: 10 * time.Second, Base: 30 * time.Second, Max: 300 * time.Second, MaxPercent: 10,
		StdevFactor: 1.9, SuccessHosts: 5, SuccessVolume: 100,
		FailureThreshold: 85, FailureHosts: 5, FailureVolume: 50,
		BackoffBase: time.Second, BackoffMax: 120 * time.Second,
	}
}

const grpcSource = "https://github.com/grpc/proposal/blob/master/A50-xds-outlier-detection.md"

// GRPC models a proxyless gRPC client with outlier detection.
func GRPC(name string, b Balance, cfg GRPCConfig) world.Maker {
	return maker(name, grpcSource, b, 0, func(c *caller) rule {
		r := &grpc{cfg: cfg, hosts: make([]envoyHost, len(c.out)), ejected: make([]bool, len(c.out)), down: make([]bool, len(c.out)), wait: make([]time.Duration, len(c.out))}
		c.after(time.Duration(c.m.w.Rand().Float64()*float64(cfg.Interval)), sweep)
		return r
	})
}

// sweep is the timer of the interval; smaller numbers are endpoints to connect to.
const sweep = 1<<timerBits - 1

type grpc struct {
	silent
	cfg     GRPCConfig
	hosts   []envoyHost
	ejected []bool
	down    []bool
	wait    []time.Duration
}

func (r *grpc) show(c *caller, e int) { c.set(e, r.ejected[e] || r.down[e]) }

func (r *grpc) renewed(_ *caller, e int) {
	r.hosts[e], r.ejected[e], r.down[e] = envoyHost{}, false, false
}

// lost: the subchannel leaves READY as soon as its connection breaks.
func (r *grpc) lost(c *caller, e int) {
	if r.down[e] {
		return
	}
	r.down[e], r.wait[e] = true, r.cfg.BackoffBase
	r.show(c, e)
	c.after(0, uint32(e)) // the first connect is tried at once
}

func (r *grpc) ended(c *caller, e int, o outcome) {
	if o.ignored {
		return
	}
	if o.refused {
		r.lost(c, e)
		return
	}
	r.hosts[e].n++
	if !o.failed {
		r.hosts[e].ok++
	}
}

func (r *grpc) timer(c *caller, what uint32) {
	if what != sweep {
		r.connect(c, int(what))
		return
	}
	now := c.m.w.Now()
	// A50: success rate, then failure percentage, then who has served his time.
	threshold, rates := successThreshold(r.hosts, r.cfg.SuccessVolume, r.cfg.SuccessHosts, r.cfg.StdevFactor)
	for e, rate := range rates {
		if rate >= 0 && rate < threshold {
			r.eject(c, e, now)
		}
	}
	r.failures(c, now)
	for e := range r.hosts {
		h := &r.hosts[e]
		h.n, h.ok = 0, 0
		switch {
		case !r.ejected[e]:
			h.backoff = max(0, h.backoff-1)
		case now > h.ejectedAt && now-h.ejectedAt >= min(r.cfg.Base*time.Duration(h.backoff), max(r.cfg.Base, r.cfg.Max)):
			r.ejected[e] = false
			r.show(c, e)
		}
	}
	c.after(r.cfg.Interval, sweep)
}

func (r *grpc) failures(c *caller, now time.Duration) {
	n := 0
	for e := range r.hosts {
		if r.hosts[e].n >= r.cfg.FailureVolume {
			n++
		}
	}
	if n < r.cfg.FailureHosts {
		return
	}
	for e := range r.hosts {
		h := &r.hosts[e]
		if h.n >= r.cfg.FailureVolume && 100*float64(h.n-h.ok)/float64(h.n) > r.cfg.FailureThreshold {
			r.eject(c, e, now)
		}
	}
}

// eject stops when the ejected are at max_ejection_percent already: unlike Envoy, one
// more may go beyond it.
func (r *grpc) eject(c *caller, e int, now time.Duration) {
	out := 0
	for _, ejected := range r.ejected {
		if ejected {
			out++
		}
	}
	if r.ejected[e] || 100*float64(out)/float64(len(r.ejected)) >= r.cfg.MaxPercent {
		return
	}
	r.ejected[e] = true
	r.hosts[e].ejectedAt = now
	r.hosts[e].backoff++
	r.show(c, e)
}

// connect tries to connect again; refused, it waits 1.6 times as long, with jitter.
func (r *grpc) connect(c *caller, e int) {
	if !r.down[e] {
		return
	}
	c.probe(e, false, 20*time.Second, func(ok bool) {
		if ok {
			r.down[e] = false
			r.show(c, e)
			return
		}
		jitter := 0.8 + 0.4*c.m.w.Rand().Float64()
		c.after(time.Duration(jitter*float64(r.wait[e])), uint32(e))
		r.wait[e] = min(r.cfg.BackoffMax, r.wait[e]*16/10)
	})
}
