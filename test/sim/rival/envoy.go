package rival

import (
	"math"
	"time"

	"github.com/overhear-mesh/overhear/test/sim/world"
)

// EnvoyConfig is config.cluster.v3.OutlierDetection, as far as HTTP clusters without
// split_external_local_origin_errors use it.
type EnvoyConfig struct {
	Consecutive5xx int           // consecutive_5xx; 0: not enforced
	Interval       time.Duration // interval
	Base, Max      time.Duration // base_ejection_time, max_ejection_time
	MaxPercent     float64       // max_ejection_percent
	AlwaysOne      bool          // always_eject_one_host

	SuccessHosts, SuccessVolume int     // success_rate_minimum_hosts, success_rate_request_volume
	StdevFactor                 float64 // success_rate_stdev_factor / 1000; 0: not enforced

	FailureThreshold            float64 // failure_percentage_threshold; 0: not enforced
	FailureHosts, FailureVolume int     // failure_percentage_minimum_hosts, ..._request_volume
	Panic                       float64 // healthy_panic_threshold
}

// EnvoyDefault is what an empty outlier_detection: {} means.
func EnvoyDefault() EnvoyConfig {
	return EnvoyConfig{
		Consecutive5xx: 5, Interval: 10 * time.Second, Base: 30 * time.Second, Max: 300 * time.Second, MaxPercent: 10,
		SuccessHosts: 5, SuccessVolume: 100, StdevFactor: 1.9, Panic: 0.5,
	}
}

// EnvoyEager is tuned for speed: small volumes, a sweep that is as frequent as five
// requests a second per host and proxy allow, an absolute threshold, short ejections, half
// of the hosts. At base errors of 0.1 % and more it ejects hosts in health.
func EnvoyEager() EnvoyConfig {
	return EnvoyConfig{
		Consecutive5xx: 3, Interval: 5 * time.Second, Base: 10 * time.Second, Max: 60 * time.Second, MaxPercent: 50, AlwaysOne: true,
		SuccessHosts: 3, SuccessVolume: 10, StdevFactor: 1.9,
		FailureThreshold: 30, FailureHosts: 3, FailureVolume: 10, Panic: 0.5,
	}
}

const envoySource = "https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier"

// Envoy models Envoy's outlier detection (source/common/upstream/outlier_detection_impl.cc).
func Envoy(name string, b Balance, cfg EnvoyConfig) world.Maker {
	return maker(name, envoySource, b, cfg.Panic, func(c *caller) rule { return newEnvoy(c, cfg) })
}

type envoy struct {
	silent
	cfg   EnvoyConfig
	hosts []envoyHost
}

type envoyHost struct {
	run       int
	n, ok     int // of this interval
	backoff   int // eject_time_backoff
	ejectedAt time.Duration
}

func newEnvoy(c *caller, cfg EnvoyConfig) *envoy {
	r := &envoy{cfg: cfg, hosts: make([]envoyHost, len(c.out))}
	c.after(time.Duration(c.m.w.Rand().Float64()*float64(cfg.Interval)), 0)
	return r
}

func (r *envoy) renewed(_ *caller, e int) { r.hosts[e] = envoyHost{} }

func (r *envoy) ended(c *caller, e int, o outcome) {
	if o.ignored {
		return
	}
	h := &r.hosts[e]
	h.n++
	if !o.failed {
		h.ok++
		h.run = 0
		return
	}
	if h.run++; r.cfg.Consecutive5xx > 0 && h.run == r.cfg.Consecutive5xx {
		h.run = 0
		r.eject(c, e)
	}
}

// eject keeps to max_ejection_percent: the host to be ejected counts.
func (r *envoy) eject(c *caller, e int) {
	if c.out[e] {
		return
	}
	outs := c.outs()
	if 100*float64(outs+1)/float64(len(c.out)) > r.cfg.MaxPercent && (!r.cfg.AlwaysOne || outs > 0) {
		return
	}
	h := &r.hosts[e]
	h.ejectedAt = c.m.w.Now()
	h.backoff++
	c.set(e, true)
}

// timer is the sweep: hosts come back by the clock, then rates are looked at.
func (r *envoy) timer(c *caller, _ uint32) {
	now := c.m.w.Now()
	for e := range r.hosts {
		h := &r.hosts[e]
		switch {
		case !c.out[e]:
			h.backoff = max(0, h.backoff-1) // each interval in health takes one off
		case now-h.ejectedAt >= min(r.cfg.Base*time.Duration(h.backoff), max(r.cfg.Max, r.cfg.Base)):
			h.run = 0
			c.set(e, false)
		}
	}
	r.successRate(c)
	r.failurePercentage(c)
	for e := range r.hosts {
		r.hosts[e].n, r.hosts[e].ok = 0, 0
	}
	c.after(r.cfg.Interval, 0)
}

func (r *envoy) successRate(c *caller) {
	if r.cfg.StdevFactor <= 0 {
		return
	}
	threshold, rates := successThreshold(r.hosts, r.cfg.SuccessVolume, r.cfg.SuccessHosts, r.cfg.StdevFactor)
	for e, rate := range rates {
		if rate >= 0 && rate < threshold {
			r.eject(c, e)
		}
	}
}

// successThreshold is mean - factor x standard deviation of the success rates of the
// hosts with enough requests; rates are -1 for the others. Below 0: too few hosts.
func successThreshold(hosts []envoyHost, volume, least int, factor float64) (threshold float64, rates []float64) {
	rates = make([]float64, len(hosts))
	n, sum := 0, 0.0
	for e := range hosts {
		rates[e] = -1
		if h := &hosts[e]; h.n >= max(1, volume) {
			rates[e] = float64(h.ok) / float64(h.n)
			n++
			sum += rates[e]
		}
	}
	if n < max(1, least) {
		return -1, rates
	}
	mean, variance := sum/float64(n), 0.0
	for _, rate := range rates {
		if rate >= 0 {
			variance += (rate - mean) * (rate - mean)
		}
	}
	return mean - factor*math.Sqrt(variance/float64(n)), rates
}

func (r *envoy) failurePercentage(c *caller) {
	if r.cfg.FailureThreshold <= 0 {
		return
	}
	n := 0
	for e := range r.hosts {
		if r.hosts[e].n >= max(1, r.cfg.FailureVolume) {
			n++
		}
	}
	if n < r.cfg.FailureHosts {
		return
	}
	for e := range r.hosts {
		h := &r.hosts[e]
		if h.n >= max(1, r.cfg.FailureVolume) && 100*float64(h.n-h.ok)/float64(h.n) >= r.cfg.FailureThreshold {
			r.eject(c, e)
		}
	}
}
