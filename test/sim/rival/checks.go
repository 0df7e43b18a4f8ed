package rival

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/test/sim/world"
)

// Where the rules of this file are documented.
const (
	activeSource  = "https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/health_checking"
	haproxySource = "https://docs.haproxy.org/3.0/configuration.html#5.2-observe"
	nginxSource   = "https://nginx.org/en/docs/http/ngx_http_upstream_module.html#max_fails"
)

// probe asks an endpoint: to accept a connection, or to answer a request.
func (c *caller) probe(e int, app bool, timeout time.Duration, then func(ok bool)) {
	level := outlier.LevelConnect
	if app {
		level = outlier.LevelApp
	}
	id := c.ids[e]
	c.m.w.Probe(c.index, e, level, timeout, func(a world.Answer) {
		if c.ids[e] == id {
			then(a.Result == outlier.ProbeOK)
		}
	})
}

// check is an active health check of one endpoint: fall failures in a row take it
// out, rise successes bring it back.
type check struct {
	interval   time.Duration
	timeout    time.Duration
	fall, rise int
	app        bool
}

type checked struct {
	bad, good int
	down      bool
}

// active checks every endpoint from every caller, at all times.
type active struct {
	silent
	check check
	hosts []checked
}

// Active models active health checks at an interval, with Kubernetes' and Envoy's
// usual thresholds: three failures in a row, two successes to come back. The check
// is a request that a hung application does not answer, and that one with failing
// requests does.
func Active(name string, b Balance, interval time.Duration) world.Maker {
	return maker(name, activeSource, b, 0.5, func(c *caller) rule {
		r := &active{check: check{interval: interval, timeout: min(interval, time.Second), fall: 3, rise: 2, app: true}, hosts: make([]checked, len(c.out))}
		for e := range r.hosts {
			c.after(time.Duration(c.m.w.Rand().Float64()*float64(interval)), uint32(e))
		}
		return r
	})
}

func (r *active) renewed(_ *caller, e int) { r.hosts[e] = checked{} }

func (r *active) timer(c *caller, what uint32) {
	e := int(what)
	c.after(r.check.interval, what)
	c.probe(e, r.check.app, r.check.timeout, func(ok bool) {
		if r.hosts[e].saw(ok, r.check) {
			c.set(e, r.hosts[e].down)
		}
	})
}

// saw takes in a result and says whether the verdict has changed.
func (h *checked) saw(ok bool, k check) bool {
	if ok {
		h.bad = 0
		h.good++
	} else {
		h.good = 0
		h.bad++
	}
	switch {
	case !h.down && h.bad >= k.fall, h.down && h.good >= k.rise:
		h.down = !h.down
		h.bad, h.good = 0, 0
		return true
	}
	return false
}

// HAProxyConfig is a server line: check inter 2s fall 3 rise 2 observe layer7
// error-limit 10 on-error mark-down.
type HAProxyConfig struct {
	ErrorLimit int
	Check      time.Duration
	Fall, Rise int
}

// HAProxyDefault has the defaults, but for on-error, whose default (fail-check) only
// brings the next check forward.
func HAProxyDefault() HAProxyConfig {
	return HAProxyConfig{ErrorLimit: 10, Check: 2 * time.Second, Fall: 3, Rise: 2}
}

// HAProxy models observe layer7 (src/check.c, __health_adjust): errors in a row mark
// a server down, and its TCP checks bring it back.
func HAProxy(name string, b Balance, cfg HAProxyConfig) world.Maker {
	return maker(name, haproxySource, b, 0, func(c *caller) rule {
		r := &haproxy{limit: cfg.ErrorLimit, runs: make([]int, len(c.out))}
		r.hosts = make([]checked, len(c.out))
		r.check = check{interval: cfg.Check, timeout: cfg.Check, fall: cfg.Fall, rise: cfg.Rise}
		for e := range r.hosts {
			c.after(time.Duration(c.m.w.Rand().Float64()*float64(cfg.Check)), uint32(e))
		}
		return r
	})
}

type haproxy struct {
	active
	limit int
	runs  []int
}

func (r *haproxy) renewed(c *caller, e int) {
	r.active.renewed(c, e)
	r.runs[e] = 0
}

func (r *haproxy) ended(c *caller, e int, o outcome) {
	switch {
	case o.ignored:
	case !o.failed, o.grpc: // it reads no trailers
		r.runs[e] = 0
	default:
		if r.runs[e]++; r.runs[e] >= r.limit {
			r.runs[e] = 0
			r.hosts[e] = checked{down: true}
			c.set(e, true)
		}
	}
}

// NginxConfig is a server line: max_fails=1 fail_timeout=10s.
type NginxConfig struct {
	MaxFails    int
	FailTimeout time.Duration
	HTTP5xx     bool // proxy_next_upstream lists http_500 and its like
}

// NginxDefault has the defaults: one failure, and only connections and timeouts are
// failures.
func NginxDefault() NginxConfig { return NginxConfig{MaxFails: 1, FailTimeout: 10 * time.Second} }

// Nginx models max_fails of one worker
// (src/http/ngx_http_upstream_round_robin.c).
func Nginx(name string, b Balance, cfg NginxConfig) world.Maker {
	return maker(name, nginxSource, b, 0, func(c *caller) rule { return &nginx{cfg: cfg, hosts: make([]nginxPeer, len(c.out))} })
}

type nginx struct {
	silent
	cfg   NginxConfig
	hosts []nginxPeer
}

// nginxPeer has nginx's own names: accessed is the newest failure, checked that or
// the newest time at which the peer was tried after a whole fail_timeout.
type nginxPeer struct {
	fails             int
	accessed, checked time.Duration
}

func (r *nginx) renewed(_ *caller, e int) { r.hosts[e] = nginxPeer{} }

// show: a peer with max_fails failures is left out for fail_timeout since it was
// checked; then one request may check it.
func (r *nginx) show(c *caller, e int) {
	p := &r.hosts[e]
	out := p.fails >= r.cfg.MaxFails && c.m.w.Now()-p.checked <= r.cfg.FailTimeout
	if out {
		c.after(p.checked+r.cfg.FailTimeout+time.Millisecond-c.m.w.Now(), uint32(e))
	}
	c.set(e, out)
}

func (r *nginx) picked(c *caller, e int) {
	if p := &r.hosts[e]; c.m.w.Now()-p.checked > r.cfg.FailTimeout {
		p.checked = c.m.w.Now()
		r.show(c, e)
	}
}

func (r *nginx) ended(c *caller, e int, o outcome) {
	p := &r.hosts[e]
	switch now := c.m.w.Now(); {
	case o.ignored:
	case o.connect || o.failed && !o.grpc && r.cfg.HTTP5xx:
		p.fails++
		p.accessed, p.checked = now, now
		r.show(c, e)
	case p.accessed < p.checked && p.fails > 0:
		p.fails = 0
		r.show(c, e)
	}
}

func (r *nginx) timer(c *caller, what uint32) { r.show(c, int(what)) }
