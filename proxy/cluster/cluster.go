package cluster

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/balancer"
	"github.com/overhear-mesh/overhear/proxy/clock"
	"github.com/overhear-mesh/overhear/proxy/ping"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/proxy/vigil"
)

// ErrStopped is returned to those who ask a cluster that no longer runs.
var ErrStopped = errors.New("cluster has stopped")

// Deps is what a cluster gets from the sidecar around it.
type Deps struct {
	Clock clock.Clock
	// Dial opens connections, for attempts and for probes. Default: net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Log gets one line per change of belief. Default: discarded.
	Log *slog.Logger
	// Seed of the detector's dice.
	Seed uint64
	// Node is this sidecar's name, by which it takes a subset of its own; Zone is
	// where it runs.
	Node, Zone string
	// Self is shared by all clusters of a sidecar: how far it distrusts what it
	// sees. Default: the cluster's own.
	Self *outlier.Self
	// Pacing is shared by all clusters of a sidecar. Default: the cluster's own.
	Pacing *Pacing
	// Watch notices for all clusters of a sidecar that servers close idle connections.
	// Default: nobody does.
	Watch *upstream.Watch
}

// Pacing bounds what the clusters of one sidecar send on their own account,
// whatever they are told.
type Pacing struct {
	// SelfProbes follow a failure that this sidecar saw: 10/s.
	SelfProbes *ping.Limiter
	// Hints are probes of endpoints that closed idle connections: 10/s.
	Hints *ping.Limiter
	// Orders are probes for the control plane: 10/s, burst 10.
	Orders *ping.Limiter
	// Idle pings of a sidecar without a control plane: 1/s.
	Idle *ping.Limiter
}

// NewPacing returns the bounds of one sidecar.
func NewPacing() *Pacing {
	return &Pacing{SelfProbes: ping.NewLimiter(10, 10), Hints: ping.NewLimiter(10, 10), Orders: ping.NewLimiter(10, 10), Idle: ping.NewLimiter(1, 1)}
}

// Cluster is a named set of endpoints. Its methods may be called from any
// goroutine, before, during and after Run.
type Cluster struct {
	name string
	deps Deps

	config  atomic.Pointer[Config]
	picker  atomic.Pointer[picker]
	keys    atomic.Pointer[balancer.Keys] // nil while the policy does not hash
	status  atomic.Pointer[status]
	overdue atomic.Int64
	resting atomic.Bool // Run waits for an attempt to begin, or until there is something else to do
	limits  *resilience.Limits
	breaker *resilience.Breaker
	budget  *resilience.Budget
	metrics metrics
	unknown atomic.Bool // see SetKnown

	wake chan struct{}    // something happened that the detector should see
	mail chan struct{}    // box has changed
	asks chan func(*loop) // to be run by Run
	done chan struct{}    // closed when Run has returned

	mu          sync.Mutex // guards what follows
	box         letter     // what Run has not collected yet
	subscribers []func(Event)
}

// letter carries news to Run; the newest of a kind wins.
type letter struct {
	specs   []Spec
	update  bool // specs are news
	cfg     *Config
	timeout *time.Duration
	links   map[Link]bool
	leases  map[string]vigil.Lease // by endpoint, like shares: no longer than the set
	shares  map[string]share
	weights map[string]weight
	latency *outlier.Percentiles
	hints   []*upstream.Endpoint // that closed idle connections: each at most once a second
	applied []chan<- struct{}    // to be closed when all that is in use
}

type share struct {
	epoch  uint64
	weight float64
	until  time.Duration
}

// Link is a way by which the control plane is heard.
type Link uint8

const (
	ADS     Link = iota // resources
	Reports             // orders
)

// New makes a cluster without endpoints. It starts nothing. cfg must be valid.
func New(cfg Config, deps Deps) *Cluster {
	if deps.Dial == nil {
		deps.Dial = new(net.Dialer).DialContext
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Self == nil {
		deps.Self = outlier.NewSelf()
	}
	if deps.Pacing == nil {
		deps.Pacing = NewPacing()
	}
	c := &Cluster{
		name:   cfg.Name,
		deps:   deps,
		limits: resilience.NewLimits(cfg.Limits),
		budget: resilience.NewBudget(cfg.Budget),
		wake:   make(chan struct{}, 1),
		mail:   make(chan struct{}, 1),
		asks:   make(chan func(*loop)),
		done:   make(chan struct{}),
		box:    letter{cfg: &cfg},
	}
	c.config.Store(&cfg)
	c.breaker = resilience.NewBreaker(cfg.Breaker, func(from, to resilience.BreakerState) {
		// That it looks whether anybody is back, ten times a second, is no news.
		if from == resilience.Closed || to == resilience.Closed {
			c.deps.Log.Warn("breaker "+to.String(), "cluster", c.name)
		}
	})
	return c
}

// Name is the name by which routes call the cluster.
func (c *Cluster) Name() string { return c.name }

// SetKnown says whether somebody has told of a cluster of this name, be it without
// endpoints; before, one has. Requests for an unknown one fail for another reason.
func (c *Cluster) SetKnown(known bool) { c.unknown.Store(!known) }

// Known is what SetKnown said last.
func (c *Cluster) Known() bool { return !c.unknown.Load() }

// Config is the newest policy.
func (c *Cluster) Config() Config { return *c.config.Load() }

// Pick chooses an endpoint for one attempt: nil if the cluster has none. tried
// may be nil. It loads one pointer, waits for nobody and allocates nothing.
func (c *Cluster) Pick(now time.Duration, tried *Tried) *upstream.Endpoint {
	p, seen := c.picker.Load(), tried.balancer()
	if p == nil {
		return nil
	}
	return p.endpoint(p.Pick(rand.Uint64(), now, seen))
}

// PickKeyed is Pick for a request with a key, such as the hash of a header:
// clusters whose policy hashes keep the requests of one key together.
func (c *Cluster) PickKeyed(key uint64, now time.Duration, tried *Tried) *upstream.Endpoint {
	p, seen := c.picker.Load(), tried.balancer()
	if p == nil {
		return nil
	}
	if k := c.keys.Load(); k != nil {
		k.See(key)
	}
	return p.endpoint(p.PickKeyed(key, rand.Uint64(), now, seen))
}

// Spare is an endpoint that is kept out of use, for a request that has been to all
// others and would be lost; nil: there is none.
func (c *Cluster) Spare(tried *Tried) *upstream.Endpoint {
	p := c.picker.Load()
	if p == nil {
		return nil
	}
	return p.endpoint(p.Spare(rand.Uint64(), tried.balancer()))
}

// Panicking reports whether requests go to endpoints that are believed to be ill, since
// there are not enough others.
func (c *Cluster) Panicking() bool {
	p := c.picker.Load()
	return p != nil && p.Panicking()
}

// dial is the Dial of all connections of the cluster. It notices when this
// machine is at fault: out of descriptors, of ports, of memory.
func (c *Cluster) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.deps.Dial(ctx, network, address)
	if err != nil && upstream.Ending(err) == outlier.EndOwnErrno {
		c.deps.Self.Trouble(c.deps.Clock.Now())
	}
	return conn, err
}

// Wake asks Run to look at the counters soon. It never blocks nor allocates.
func (c *Cluster) Wake() {
	select {
	case c.wake <- struct{}{}:
	default: // Run has not answered the last call yet, which does for both
	}
}

// Update replaces the set of endpoints. Run applies it; of several the newest
// counts. Specs with an ID that came before in the list are ignored.
func (c *Cluster) Update(specs []Spec) {
	c.post(func(l *letter) { l.specs, l.update = specs, true })
}

// SetConfig replaces the policy; the name stays. cfg must be valid.
func (c *Cluster) SetConfig(cfg Config) {
	cfg.Name = c.name
	c.config.Store(&cfg)
	c.post(func(l *letter) { l.cfg = &cfg })
}

// SetTimeout tells the shortest timeout, per try or whole, of the routes that
// lead to the cluster: an attempt must be overdue well before it times out. 0:
// there is none.
func (c *Cluster) SetTimeout(d time.Duration) {
	c.post(func(l *letter) { l.timeout = &d })
}

// Share lets the endpoint take weight, of its base weight, while it is out for
// all others: a probation, or the trickle that a suspension of the fleet leaves.
// It counts while the verdict of that epoch is held, and until the instant
// until.
func (c *Cluster) Share(id string, epoch uint64, weight float64, until time.Duration) {
	c.post(func(l *letter) {
		if l.shares == nil {
			l.shares = make(map[string]share)
		}
		l.shares[id] = share{epoch, weight, until}
	})
}

// weight is what the fleet makes of a slow endpoint, and why.
type weight struct {
	outlier.Weight
	reason string
}

// SetWeight gives an endpoint that is slow for all callers a part of its weight, beside
// what this sidecar believes itself, until it lapses.
func (c *Cluster) SetWeight(id string, w outlier.Weight, reason string) {
	c.post(func(l *letter) {
		if l.weights == nil {
			l.weights = make(map[string]weight)
		}
		l.weights[id] = weight{w, reason}
	})
}

// SetLatency says how long answers take in all sidecars' eyes: for while this one has
// seen too few to know.
func (c *Cluster) SetLatency(p outlier.Percentiles) {
	c.post(func(l *letter) { l.latency = &p })
}

// Lease makes this sidecar one of the endpoint's pingers while no traffic tells
// of it. A new lease takes the place of an older one.
func (c *Cluster) Lease(id string, lease vigil.Lease) {
	c.post(func(l *letter) {
		if l.leases == nil {
			l.leases = make(map[string]vigil.Lease)
		}
		l.leases[id] = lease
	})
}

// Mute says that the control plane sets aside until an instant what this sidecar, and
// not this cluster alone, observes: see [outlier.Self.Mute].
func (c *Cluster) Mute(until time.Duration) {
	c.deps.Self.Mute(until)
	c.Wake()
}

// SetLink says whether the control plane is heard over a link that this sidecar
// is meant to have. Of a link that is never mentioned nothing is expected.
func (c *Cluster) SetLink(link Link, up bool) {
	c.post(func(l *letter) {
		if l.links == nil {
			l.links = make(map[Link]bool, 2)
		}
		l.links[link] = up
	})
}

// Sync returns when requests find all that was posted before: the endpoints of
// Update, the policy of SetConfig. The cluster must run or be about to.
func (c *Cluster) Sync(ctx context.Context) error {
	applied := make(chan struct{})
	c.post(func(l *letter) { l.applied = append(l.applied, applied) })
	select {
	case <-applied:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.done:
		return ErrStopped
	}
}

func (c *Cluster) post(write func(*letter)) {
	c.mu.Lock()
	write(&c.box)
	c.mu.Unlock()
	select {
	case c.mail <- struct{}{}:
	default:
	}
}

// Ask runs fn on Run's goroutine, where the detector may be used with the
// instant that fn is given, and returns when it has run. fn must be quick and
// must not ask the cluster in turn. If ctx ends first, fn does not run.
func (c *Cluster) Ask(ctx context.Context, fn func(d *outlier.Detector, now time.Duration)) error {
	ran := make(chan struct{})
	err := c.ask(ctx, func(l *loop) {
		defer close(ran)
		fn(l.detector, c.deps.Clock.Now())
	})
	if err != nil {
		return err
	}
	<-ran
	return nil
}

// ask hands fn to Run. Once it is handed over, Run does run it.
func (c *Cluster) ask(ctx context.Context, fn func(*loop)) error {
	select {
	case c.asks <- fn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.done:
		return ErrStopped
	}
}

// Subscribe has fn called after each step that has something to say, on Run's
// goroutine: it must not block, nor call Ask.
func (c *Cluster) Subscribe(fn func(Event)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subscribers = append(c.subscribers[:len(c.subscribers):len(c.subscribers)], fn)
}

// ProxyProtocol is the version of the PROXY header that its endpoints want; 0: none.
func (c *Cluster) ProxyProtocol() int { return c.config.Load().ProxyProtocol }

// Multiplexed reports whether its endpoints speak HTTP/2.
func (c *Cluster) Multiplexed() bool { return c.config.Load().Protocol == HTTP2 }

// BodyIdle is for how long the body of an answer may stand still.
func (c *Cluster) BodyIdle() time.Duration { return c.config.Load().Outlier.BodyIdleTimeout }

// Overdue is the age from which an attempt without an answer counts as overdue.
func (c *Cluster) Overdue() time.Duration { return time.Duration(c.overdue.Load()) }

// Limits are the cluster's limits and their present use.
func (c *Cluster) Limits() *resilience.Limits { return c.limits }

// Breaker is the cluster's breaker.
func (c *Cluster) Breaker() *resilience.Breaker { return c.breaker }

// Budget is the cluster's retry budget.
func (c *Cluster) Budget() *resilience.Budget { return c.budget }

// Tried is where one request has been already. The zero value is ready.
type Tried struct{ seen balancer.Tried }

// balancer is the same to the balancer; of nil, nil.
func (t *Tried) balancer() *balancer.Tried {
	if t == nil {
		return nil
	}
	return &t.seen
}

// Add remembers an endpoint.
func (t *Tried) Add(e *upstream.Endpoint) { t.seen.Add(e.Stats) }

// Has reports whether e is remembered.
func (t *Tried) Has(e *upstream.Endpoint) bool { return t.seen.Has(e.Stats) }

// Len is how many attempts were remembered.
func (t *Tried) Len() int { return t.seen.Len() }

// Reset forgets all, for the next request.
func (t *Tried) Reset() { t.seen.Reset() }
