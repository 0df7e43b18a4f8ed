package cluster

import (
	"context"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/balancer"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

const (
	maxGap   = time.Second      // the longest time between two steps while requests run, whatever the detector says
	minGap   = time.Millisecond // the shortest
	tidyGap  = time.Second      // between two looks for connections to close
	longLast = -time.Duration(1 << 62)
)

// loop is what belongs to Run's goroutine alone.
type loop struct {
	c        *Cluster
	ctx      context.Context // ends all that Run has started
	wg       sync.WaitGroup  // counts it
	cfg      Config
	timeout  time.Duration // of the routes
	options  *upstream.Options
	detector *outlier.Detector
	rng      *rand.Rand

	records []*record // in the order of the specs
	byID    map[string]*record
	settled bool // a set of endpoints has been there before: who comes is new
	links   map[Link]bool
	alone   bool // no control plane is heard

	rebuild bool              // the picker is out of date whatever the detector says
	picked  map[string]bool   // who is in the picker
	last    time.Duration     // the latest step
	next    time.Duration     // the next one at the latest
	dirty   bool              // a step is wanted as soon as the gap allows
	tidy    time.Duration     // the next look for old connections
	event   Event             // what to tell after the step
	applied []chan<- struct{} // who waits for the picker that the step makes

	probes probes
	idle   idle
}

// record is one endpoint.
type record struct {
	spec     Spec // does not change
	endpoint *upstream.Endpoint
	gate     *balancer.Gate
	hash     uint64          // of the ID
	rank     uint64          // of the ID and this sidecar's name
	change   *outlier.Change // the latest; nil: none
	refused  *outlier.Change // the latest since that was not made
}

// Run keeps the cluster's picker current until ctx ends, and returns nil when
// all that it started has ended. It may be called once.
func (c *Cluster) Run(ctx context.Context) error {
	defer close(c.done)
	ctx, cancel := context.WithCancel(ctx)
	l := newLoop(ctx, c)
	defer l.close(cancel)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
			l.dirty = true
		case <-c.mail:
			l.collect(c.deps.Clock.Now())
		case fn := <-c.asks:
			fn(l)
			l.dirty = true // fn may have told the detector something
		case r := <-l.probes.results:
			r()
			l.dirty = true
		case <-timer.C:
		}
		now := c.deps.Clock.Now()
		l.work(now)
		timer.Reset(l.due() - now)
	}
}

func newLoop(ctx context.Context, c *Cluster) *loop {
	rng := rand.New(rand.NewPCG(c.deps.Seed, seed(c.name)))
	l := &loop{
		c:      c,
		ctx:    ctx,
		rng:    rng,
		byID:   make(map[string]*record),
		links:  make(map[Link]bool),
		picked: make(map[string]bool),
		last:   longLast,
	}
	l.probes.results, l.probes.asked = make(chan func()), make(map[string]int)
	l.collect(c.deps.Clock.Now())
	return l
}

// close ends what Run started and leaves nothing to pick connections from.
func (l *loop) close(cancel context.CancelFunc) {
	cancel()
	l.wg.Wait()
	for _, r := range l.records {
		r.endpoint.Retire()
	}
}

// due is when there is something to do next without being called.
func (l *loop) due() time.Duration {
	if l.dirty {
		return l.last + minGap
	}
	return min(l.next, l.idle.Next())
}

// work does what is due at now.
func (l *loop) work(now time.Duration) {
	if now >= l.idle.Next() {
		l.ping(now)
	}
	if now >= l.tidy {
		l.tidy = now + tidyGap
		for _, r := range l.records {
			r.endpoint.Expire(now)
		}
	}
	if now >= l.next || l.dirty && now-l.last >= minGap {
		l.step(now)
	}
}

// step asks the detector what to believe, and acts on it.
func (l *loop) step(now time.Duration) {
	l.countKeys(now)
	result := l.detector.Step(now)
	l.last, l.dirty = now, false
	l.next = min(max(result.Next, now+minGap), now+maxGap)
	if l.c.resting.Store(false); result.Rest {
		l.rest()
	}
	l.c.overdue.Store(int64(l.detector.Overdue()))
	l.publish(result)
	for _, route := range result.Routes {
		l.noteRoute(route)
	}
	for _, done := range l.applied {
		close(done)
	}
	l.applied = nil
	for _, p := range result.Probes {
		l.selfProbe(p, now)
	}
	l.event.Changes, l.event.Urgency = result.Changes, result.Urgency
	l.tell(now)
}

// rest lets the next step wait if nothing has happened for a while: of a thousand
// clusters, most have no requests at most times, and looking at each four times a
// second took a twentieth of a core. The attempt that begins next wakes the cluster,
// before its outcome counts.
func (l *loop) rest() {
	l.c.resting.Store(true)
	until, ok := l.detector.Rest()
	if !ok { // one has just begun
		l.c.resting.Store(false)
		return
	}
	l.next = until
	if slices.ContainsFunc(l.records, func(r *record) bool { return r.endpoint.Open() > 0 }) {
		l.next = min(l.next, l.tidy)
	}
}

// publish makes the new belief visible to requests, then to people.
func (l *loop) publish(result outlier.Result) {
	if !result.Changed && len(result.Changes) == 0 && !l.rebuild {
		return
	}
	l.rebuild = false
	views := l.detector.View()
	p := l.newPicker(views, l.c.picker.Load())
	l.c.picker.Store(p)
	clear(l.picked)
	for c := range p.All() {
		l.picked[c.Admission.ID] = true
	}
	for _, change := range result.Changes {
		l.note(change)
	}
	l.c.status.Store(l.newStatus(p, views))
}

// tell gives the subscribers what has happened.
func (l *loop) tell(now time.Duration) {
	e := l.event
	l.event = Event{}
	if len(e.Changes) == 0 && len(e.Pings) == 0 && !e.Members && e.Urgency == outlier.UrgencyNone {
		return
	}
	e.Cluster, e.At = l.c, now
	l.c.mu.Lock()
	subscribers := l.c.subscribers
	l.c.mu.Unlock()
	for _, fn := range subscribers {
		fn(e)
	}
}

// collect applies what has been posted.
func (l *loop) collect(now time.Duration) {
	l.c.mu.Lock()
	news := l.c.box
	l.c.box = letter{}
	l.c.mu.Unlock()
	l.applied = append(l.applied, news.applied...)
	if news.timeout != nil {
		l.timeout = *news.timeout
	}
	if news.cfg != nil || news.timeout != nil {
		cfg := l.cfg
		if news.cfg != nil {
			cfg = *news.cfg
		}
		l.configure(cfg)
	}
	if news.links != nil {
		l.setLinks(news.links, now)
	}
	if news.update {
		l.setMembers(news.specs, now)
	}
	if p := news.latency; p != nil {
		l.detector.SetLatency(*p)
	}
	for id, w := range news.weights {
		l.detector.SetWeight(id, w.Weight, w.reason, now)
	}
	for id, s := range news.shares {
		if l.byID[id] != nil {
			l.detector.Share(id, s.epoch, s.weight, s.until)
		}
	}
	for id, lease := range news.leases {
		if l.byID[id] != nil {
			l.idle.Lend(id, lease, now)
		}
	}
	for _, e := range news.hints {
		l.hinted(e, now)
	}
	l.dirty, l.next = true, now // at once, whatever the gap
}

func (l *loop) configure(cfg Config) {
	cfg.Outlier.Timeout = l.timeout
	if cfg.Ping != l.cfg.Ping {
		l.idle.path = pathCheck{}
		l.idle.Wake(0)
	}
	l.cfg = cfg
	options := upstream.DefaultOptions()
	options.Dial = l.c.dial
	options.ConnectTimeout, options.IdleTimeout = cfg.ConnectTimeout, cfg.IdleTimeout
	options.MaxIdle, options.MaxConns = cfg.MaxIdle, cfg.MaxConns
	options.HTTP2 = cfg.Protocol == HTTP2
	options.Lifetime, options.Now = cfg.Lifetime, l.c.deps.Clock.Now
	options.Watch, options.Hint, options.Resting = l.c.deps.Watch, l.c.hint, &l.c.resting
	l.options, l.rebuild = &options, true
	l.c.limits.SetConfig(cfg.Limits)
	l.c.breaker.SetConfig(cfg.Breaker)
	l.c.budget.SetConfig(cfg.Budget)
	for _, r := range l.records {
		r.endpoint.SetOptions(l.options)
	}
	if l.detector == nil {
		l.detector = outlier.New(cfg.Outlier, l.rng)
		l.detector.ShareSelf(l.c.deps.Self)
	} else {
		l.detector.SetConfig(cfg.Outlier)
	}
	switch hashes := cfg.Balancer.Policy.Hashes(); {
	case !hashes:
		l.c.keys.Store(nil)
		l.detector.SetHashed(false, 0)
	case l.c.keys.Load() == nil:
		l.c.keys.Store(new(balancer.Keys))
		l.detector.SetHashed(true, 0)
	}
}

// countKeys tells the detector how many keys the endpoints of a policy that hashes have.
func (l *loop) countKeys(now time.Duration) {
	if k := l.c.keys.Load(); k != nil {
		if each, news := k.Turn(now, len(l.records)); news {
			l.detector.SetHashed(true, each)
		}
	}
}

func (l *loop) setLinks(links map[Link]bool, now time.Duration) {
	maps.Copy(l.links, links)
	alone := slices.Contains(slices.Collect(maps.Values(l.links)), false)
	switch {
	case alone && !l.alone:
		l.detector.CentralGone(now)
	case !alone && l.alone:
		l.detector.CentralBack(now)
	}
	l.alone = alone
	l.idle.Wake(now) // who pings whom may have changed
}

// setMembers makes the endpoints those of specs.
func (l *loop) setMembers(specs []Spec, now time.Duration) {
	before := l.byID
	l.records, l.byID = make([]*record, 0, len(specs)), make(map[string]*record, len(specs))
	members := make([]outlier.Member, 0, len(specs))
	for _, s := range specs {
		if l.byID[s.ID] != nil {
			l.c.deps.Log.Warn("endpoint listed twice, the first counts", "cluster", l.c.name, "endpoint", s.ID)
			continue
		}
		r := &record{spec: s, hash: xxhash.Sum64String(s.ID), rank: xxhash.Sum64String(l.c.deps.Node + "\x00" + s.ID)}
		l.records = append(l.records, r)
		l.byID[s.ID] = r
		members = append(members, outlier.Member{
			ID: s.ID, Zone: s.Zone, Priority: s.Priority, Weight: s.Weight,
			Draining: s.Draining, Inbound: s.Inbound, Fleet: s.Verdict,
			New: l.settled && before[s.ID] == nil,
		})
	}
	l.detector.SetMembers(members, now)
	for _, r := range l.records {
		l.connect(r, before[r.spec.ID])
		delete(before, r.spec.ID)
	}
	for _, gone := range before {
		gone.endpoint.Retire()
	}
	l.settled = l.settled || len(l.records) > 0
	l.event.Members, l.rebuild = true, true
	l.idle.Keep(func(id string) bool { return l.byID[id] != nil }, now)
}

// connect gives r its connections: those of the record before, if that is the
// same endpoint in the same place.
func (l *loop) connect(r, before *record) {
	s := r.spec
	if before != nil {
		r.gate, r.change, r.refused, r.endpoint = before.gate, before.change, before.refused, before.endpoint
		if e := r.endpoint; e.Address == s.Address && e.Zone == s.Zone && e.Priority == s.Priority && e.Inbound == s.Inbound {
			return
		}
		before.endpoint.Retire()
	} else {
		r.gate = balancer.NewGate(0, false)
	}
	r.endpoint = upstream.NewEndpoint(s.ID, s.Address, s.Zone, s.Priority, s.Inbound, l.detector.Endpoint(s.ID), l.c.Wake, l.options)
}

// seed makes the dice of clusters differ that were given the same seed.
func seed(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()
}
