package rival

import (
	"math"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/test/sim/world"
)

// Balance is how an endpoint is chosen among those that are used.
type Balance uint8

// The ways to choose.
const (
	RoundRobin Balance = iota
	P2C                // the one of two with fewer requests in flight
	PeakEWMA           // the one of two with the smaller latency times requests in flight
)

// outcome is how an attempt looks to a proxy that knows statuses and connections.
type outcome struct {
	failed  bool // 5xx, or what a proxy answers with 5xx in its place
	connect bool // no whole answer came
	refused bool // there was not even a connection
	limited bool // the endpoint asks for patience
	ignored bool // the user left
	grpc    bool // the answer is a 200 that failed by its trailers
}

func outcomeOf(how outlier.HTTPResult) outcome {
	switch how.Ending {
	case outlier.EndComplete:
		if how.GRPC {
			return outcome{failed: true, grpc: true}
		}
		return outcome{failed: how.Status >= 500 && how.Status != 501 && how.Status != 505, limited: how.Status == 429}
	case outlier.EndClientAbort:
		return outcome{ignored: true}
	case outlier.EndConnectRefused, outlier.EndUnreachable, outlier.EndConnectTimeout:
		return outcome{failed: true, connect: true, refused: true}
	}
	return outcome{failed: true, connect: true}
}

// rule decides, for one caller, which endpoints are used.
type rule interface {
	// ended takes in an outcome.
	ended(c *caller, e int, o outcome)
	// lost says that the connections to an endpoint broke, to a rule that keeps some.
	lost(c *caller, e int)
	// picked says that an endpoint gets a request.
	picked(c *caller, e int)
	// timer runs what the rule has asked for with caller.after.
	timer(c *caller, what uint32)
	// renewed says that another instance has taken an endpoint's place.
	renewed(c *caller, e int)
}

// silent is the part of a rule that most rules do not need.
type silent struct{}

func (silent) lost(*caller, int)           {}
func (silent) picked(*caller, int)         {}
func (silent) timer(*caller, uint32)       {}
func (silent) renewed(*caller, int)        {}
func (silent) ended(*caller, int, outcome) {}

// model is a product: the same rule for every caller.
type model struct {
	w       *world.World
	balance Balance
	panics  float64 // share of used endpoints below which all are used
	callers []*caller
}

// caller is one process of the product.
type caller struct {
	m        *model
	index    int
	rule     rule
	out      []bool
	draining []bool
	ids      []string
	usable   []int
	turn     int
	inflight []int32
	ewma     []float64
	stamped  []time.Duration
}

// maker makes a model with a rule for each caller; source is where its product
// documents that rule.
func maker(name, source string, balance Balance, panics float64, rules func(c *caller) rule) world.Maker {
	return world.Maker{Name: name, Model: true, Source: source, New: func(w *world.World) world.Product {
		m := &model{w: w, balance: balance, panics: panics}
		n := w.Scenario.Endpoints
		for i := range w.Callers {
			c := &caller{
				m: m, index: i, out: make([]bool, n), draining: make([]bool, n), ids: make([]string, n),
				inflight: make([]int32, n), ewma: make([]float64, n), stamped: make([]time.Duration, n),
			}
			for e := range c.ids {
				c.ids[e] = w.Endpoints[e].ID
			}
			c.turn = w.Rand().IntN(n)
			c.rebuild()
			m.callers = append(m.callers, c)
		}
		for _, c := range m.callers {
			c.rule = rules(c)
		}
		return m
	}}
}

// set takes an endpoint out or back in.
func (c *caller) set(e int, out bool) {
	if c.out[e] == out {
		return
	}
	c.out[e] = out
	c.rebuild()
	now := world.Used
	if out {
		now = world.Removed
	}
	c.m.w.Ledger.Saw(c.index, e, now)
}

// outs is how many endpoints are out.
func (c *caller) outs() int {
	n := 0
	for _, out := range c.out {
		if out {
			n++
		}
	}
	return n
}

func (c *caller) rebuild() {
	c.usable = c.usable[:0]
	for e, out := range c.out {
		if !out && !c.draining[e] {
			c.usable = append(c.usable, e)
		}
	}
	if float64(len(c.usable)) >= c.m.panics*float64(len(c.out)) && len(c.usable) > 0 {
		return
	}
	c.usable = c.usable[:0]
	for e := range c.out {
		if !c.draining[e] {
			c.usable = append(c.usable, e)
		}
	}
}

// timerBits is how much of a timer's id says what it is about.
const timerBits = 12

// after has the rule's timer called.
func (c *caller) after(d time.Duration, what uint32) {
	c.m.w.Timer(c.m.w.Now()+d, uint32(c.index)<<timerBits|what, 0)
}

func (m *model) Wake(id, _ uint32) {
	c := m.callers[id>>timerBits]
	c.rule.timer(c, id&(1<<timerBits-1))
}

func (m *model) Pick(r *world.Request) int {
	c := m.callers[r.Caller]
	n := len(c.usable)
	if n == 0 {
		return -1
	}
	if m.balance == RoundRobin {
		for range n {
			c.turn++
			if e := c.usable[c.turn%n]; !r.HasTried(e) {
				return e
			}
		}
		return c.usable[c.turn%n]
	}
	a, b := c.draw(r), c.draw(r)
	if c.cost(b) < c.cost(a) {
		a = b
	}
	return a
}

// draw takes one at random, of those that the request has not been to if there is one.
func (c *caller) draw(r *world.Request) int {
	n := len(c.usable)
	at := c.m.w.Rand().IntN(n)
	for i := range n {
		if e := c.usable[(at+i)%n]; !r.HasTried(e) {
			return e
		}
	}
	return c.usable[at]
}

// ewmaDecay is Linkerd's default for the decay of its peak EWMA.
const ewmaDecay = 10 * time.Second

func (c *caller) cost(e int) float64 {
	load := float64(c.inflight[e] + 1)
	if c.m.balance == P2C {
		return load
	}
	age := c.m.w.Now() - c.stamped[e]
	return (c.ewma[e]*math.Exp(-float64(age)/float64(ewmaDecay)) + 1e-9) * load
}

func (m *model) Start(r *world.Request) {
	c := m.callers[r.Caller]
	c.inflight[r.Endpoint]++
	c.rule.picked(c, r.Endpoint)
}

func (m *model) Headers(*world.Request) {}

func (m *model) End(r *world.Request, how outlier.HTTPResult) {
	c := m.callers[r.Caller]
	e := r.Endpoint
	c.inflight[e] = max(0, c.inflight[e]-1)
	if m.balance == PeakEWMA {
		sample := how.Age.Seconds()
		now := m.w.Now()
		w := math.Exp(-float64(now-c.stamped[e]) / float64(ewmaDecay))
		if old := c.ewma[e]; sample > old {
			c.ewma[e] = sample
		} else {
			c.ewma[e] = old*w + sample*(1-w)
		}
		c.stamped[e] = now
	}
	c.rule.ended(c, e, outcomeOf(how))
}

// Lost says that the connections to an endpoint broke.
func (m *model) Lost(endpoint int) {
	for _, c := range m.callers {
		c.rule.lost(c, endpoint)
	}
}

func (m *model) Changed() {
	for _, c := range m.callers {
		for e, host := range m.w.Endpoints {
			c.draining[e] = host.Draining
			if c.ids[e] != host.ID {
				c.ids[e] = host.ID
				c.rule.renewed(c, e)
				c.set(e, false)
			}
		}
		c.rebuild()
	}
}

func (m *model) Control(bool) {}

// none detects nothing.
type none struct{ silent }

// All are the models with their defaults, by name.
func All() []world.Maker {
	var all []world.Maker
	for _, b := range []struct {
		suffix           string
		balance, linkerd Balance
	}{{" rr", RoundRobin, RoundRobin}, {" p2c", P2C, PeakEWMA}} {
		all = append(all,
			None("none"+b.suffix, b.balance),
			Envoy("envoy"+b.suffix, b.balance, EnvoyDefault()),
			Envoy("envoy-eager"+b.suffix, b.balance, EnvoyEager()),
			Linkerd("linkerd-consecutive"+b.suffix, b.linkerd, LinkerdDefault(false)),
			Linkerd("linkerd-unified"+b.suffix, b.linkerd, LinkerdDefault(true)),
			HAProxy("haproxy-observe"+b.suffix, b.balance, HAProxyDefault()),
			Nginx("nginx"+b.suffix, b.balance, NginxDefault()),
			GRPC("grpc-a50"+b.suffix, b.balance, GRPCDefault()),
			Active("active-1s"+b.suffix, b.balance, time.Second),
			Active("active-2s"+b.suffix, b.balance, 2*time.Second),
			Active("active-5s"+b.suffix, b.balance, 5*time.Second),
		)
	}
	return all
}

// None detects nothing: what remains are retries.
func None(name string, b Balance) world.Maker {
	return maker(name, "", b, 0, func(*caller) rule { return none{} })
}
