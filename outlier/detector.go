package outlier

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Never is an instant that did not happen.
const Never = time.Duration(math.MinInt64)

const (
	busyStep  = 100 * time.Millisecond // between two Steps at most
	calmStep  = 250 * time.Millisecond // the same while nothing is wrong
	restStep  = 5 * time.Second        // the same at rest
	restAfter = 20                     // whole seconds without any news after which a rest may begin: all that looks back has seen them
	busyFrom  = 4                      // attempts on one endpoint between two Steps: what is new there may be much
	leastStep = time.Millisecond
	lateStep  = 50 * time.Millisecond  // a Step later than that is our own trouble
	slotLead  = 100 * time.Millisecond // how far into an epoch a slot may still be moved
)

// Detector is one observer's belief about one cluster. One goroutine owns it:
// it starts none, reads no clock and holds no lock. Only the Endpoints that it
// hands out are shared.
type Detector struct {
	cfg    Config
	rng    *rand.Rand
	self   *Self
	shared *shared

	members []*member
	byID    map[string]*member
	bySlot  map[uint32]*member
	groups  []*group // by priority
	slots   uint32   // handed out so far

	now     time.Duration // the latest instant that was heard of
	next    time.Duration // as the last Step promised
	astray  bool          // the clock has gone back: ages cannot be told until it is where it was
	read    uint32        // failures taken out of shared
	active  bool          // something happened since the last Step
	pending []Change      // to be told by the next Step
	past    Tally         // of members that are gone

	snapped  int // snapshots taken so far
	snapAt   [snapshots]time.Duration
	second   time.Duration // the last tick
	nextTick time.Duration
	still    int // ticks since anything was counted

	sorted  map[windowOf]Ratios    // of this Step
	slows   map[windowOf][2]Ratios // of this Step
	tallies []Tally                // room for those of a group
	common  Odds                   // of the member looked at last
	steps   Steps                  // of these
	conf    *conf                  // handed out last

	latency latencies
	routes  routes
	hashed  bool        // requests go where a key sends them
	keys    int         // active ones per endpoint; 0: nobody counts
	fleetP  Percentiles // the control plane's, until our own are known
	stalls  []stall     // by minute; nil while there was none
	overdue time.Duration
	// overdueLate is the same for routes that are slow by nature.
	overdueLate time.Duration

	probes tokens
	gone   bool // the control plane
	goneAt time.Duration

	view  []Admission
	spare []Admission // the next view is built in it
	stale bool        // view may differ from what is believed
	plain bool        // at the last Step every member had its full share
}

// stall is the longest stall that ended within a minute, by route.
type stall struct {
	minute int64
	length [routeSlots]time.Duration
}

// stallMinutes is for how many minutes a stall is remembered.
const stallMinutes = 10

// New makes a detector without members. rng is its dice, for jitter alone.
func New(cfg Config, rng *rand.Rand) *Detector {
	return &Detector{
		cfg:     cfg,
		rng:     rng,
		self:    NewSelf(),
		shared:  new(shared),
		byID:    make(map[string]*member),
		bySlot:  make(map[uint32]*member),
		sorted:  make(map[windowOf]Ratios),
		slows:   make(map[windowOf][2]Ratios),
		overdue: cfg.overdueMost(),
		stale:   true,
	}
}

// ShareSelf makes the detector share its self-doubt with the others of its
// process. To be called before the first Step.
func (d *Detector) ShareSelf(s *Self) { d.self = s }

// SetConfig changes the policy; what is believed stays.
func (d *Detector) SetConfig(cfg Config) {
	d.cfg = cfg
	d.stale = true
	d.nextTick = min(d.nextTick, d.now) // thresholds follow at the next Step
}

// SetLatency hands in the group's percentiles as the control plane knows them.
// They serve until this sidecar has seen enough to know its own.
func (d *Detector) SetLatency(p Percentiles) { d.fleetP = p }

// SetMembers replaces the membership. A known ID keeps its counters and its
// record; one that is gone loses all of it. Of members with the same ID the
// first counts.
func (d *Detector) SetMembers(ms []Member, now time.Duration) {
	d.now = max(d.now, now)
	known := d.byID
	d.byID = make(map[string]*member, len(ms))
	d.members = make([]*member, 0, len(ms))
	for _, g := range d.groups {
		g.members = g.members[:0]
	}
	for _, spec := range ms {
		if d.byID[spec.ID] != nil {
			continue
		}
		m := known[spec.ID]
		if m == nil {
			m = d.join(spec)
		}
		delete(known, spec.ID)
		m.Member, m.at = spec, len(d.members)
		d.byID[m.ID] = m
		d.members = append(d.members, m)
		m.group = d.groupOf(m.Priority)
		m.group.members = append(m.group.members, m)
		d.applyFleet(m, spec.Fleet, d.now)
	}
	for _, m := range known {
		t := m.ep.Counts().Tally()
		d.past.N += t.N
		d.past.K += t.K
		delete(d.bySlot, m.ep.slot)
	}
	d.groups = slices.DeleteFunc(d.groups, func(g *group) bool { return len(g.members) == 0 })
	for _, m := range d.members {
		if m.ep.conf.Load() == nil {
			d.reconfigure(m, 0, m.group.size())
		}
	}
	d.stale = true
}

// join begins the life of a member.
func (d *Detector) join(spec Member) *member {
	for d.slots++; d.bySlot[d.slots%maxSlots] != nil; {
		d.slots++
	}
	m := &member{joined: d.now, firstSnap: d.snapped, errorRate: FirstErrorRate}
	m.ep = &Endpoint{slot: d.slots % maxSlots}
	m.idle.pinged, m.idle.life, m.idle.belief = Never, Never, BeliefRest
	m.record.since, m.record.healthy = d.now, d.now
	if spec.New {
		m.record.state, m.record.rampFrom, m.record.rampAt = Ramp, rampStart, d.now
	}
	d.bySlot[m.ep.slot] = m
	return m
}

func (d *Detector) groupOf(priority uint32) *group {
	i, found := slices.BinarySearchFunc(d.groups, priority, func(g *group, p uint32) int { return cmp.Compare(g.priority, p) })
	if !found {
		d.groups = slices.Insert(d.groups, i, &group{priority: priority, pg: FirstErrorRate})
	}
	return d.groups[i]
}

// Endpoint is the hot path's side of a member; nil if there is no such member.
func (d *Detector) Endpoint(id string) *Endpoint {
	if m := d.byID[id]; m != nil {
		return m.ep
	}
	return nil
}

// Overdue is D_over: the age at which an unanswered attempt is overdue.
func (d *Detector) Overdue() time.Duration { return d.overdue }

// Step looks at the counters and decides. It is to be called at the latest at
// Result.Next, or at what Rest allows, and soon after an Endpoint asked for it; at least
// 1 ms apart. The clock must be monotonic. Should it go back, time stands still here
// until it is where it was: failures still eject, but nobody is suspended and nobody
// comes back.
func (d *Detector) Step(now time.Duration) Result {
	d.astray = now < d.now-lateStep
	now = max(now, d.now)
	if d.next > 0 && now-d.next > lateStep {
		d.self.Trouble(now)
	}
	d.now = now
	// What begins now and hangs is overdue no sooner than that.
	usual := now + min(calmStep, max(busyStep, d.overdue))
	r := Result{Changes: d.pending, Next: usual}
	d.pending, d.active = nil, false
	clear(d.sorted)
	clear(d.slows)

	d.look(now, &r)
	if now >= d.nextTick {
		d.tick(now)
	}
	d.noteStall(now)
	// What handles changes has large frames. It is not called where nothing can change:
	// a thousand clusters at rest would each keep a stack for it.
	for _, m := range d.members {
		if m.fleet.state() != In {
			d.followFleet(m, now, &r)
		}
		d.watchWaiting(m, now, &r)
		d.watchSuspicion(m, now, &r)
		d.watchLatency(m, now, &r)
	}
	d.suspendOverdue(now, &r)
	d.ejectSuspects(now, &r)
	for _, m := range d.members {
		if m.record.state != In || m.record.ejections > 0 {
			d.recover(m, now, &r)
		}
	}
	plain, quiet := true, d.still >= restAfter && !d.active && d.self.LHM() == 0
	for _, m := range d.members {
		m.before = m.now
		quiet = quiet && m.quiet && !m.exc.open && m.wait.overdue == 0 && m.second == m.now
		plain = plain && m.plain()
	}
	r.Routes, d.routes.news = d.routes.news, nil
	if len(r.Changes) > 1 {
		slices.SortStableFunc(r.Changes, func(a, b Change) int { return cmp.Compare(a.ID, b.ID) })
	}
	if d.cfg.Mode == Shadow {
		for i := range r.Changes {
			r.Changes[i].Shadow = true
		}
	}
	if d.stale || !plain || !d.plain {
		r.Changed = d.refresh(now)
	}
	d.plain = plain
	if d.active || !plain {
		r.wakeAt(now + busyStep)
	}
	r.Rest = plain && quiet && r.Next == usual
	r.wakeAt(d.nextTick) // counts are kept of whole seconds
	r.Next = max(r.Next, now+leastStep)
	d.next = r.Next
	return r
}

// Rest lets the next Step wait until an instant beyond Result.Next, for a caller who
// calls Step as soon as an attempt begins. It is for after a Step whose Result.Rest is
// true, and for when the caller already listens for attempts: if one has begun since
// that Step, there is no rest.
func (d *Detector) Rest() (until time.Duration, ok bool) {
	for _, m := range d.members {
		if m.ep.started.Load() != m.started {
			return 0, false
		}
	}
	d.next = d.now + restStep
	return d.next, true
}

// wakeAt brings the next Step forward.
func (r *Result) wakeAt(t time.Duration) { r.Next = min(r.Next, t) }

// look reads all counters once, so that every rule of this Step sees the same.
func (d *Detector) look(now time.Duration, r *Result) {
	for _, m := range d.members {
		started := m.ep.started.Load()
		m.quiet = started == m.started && m.ep.Inflight() == 0 // before the counts, which then have all that has ended
		m.now = m.ep.Counts()
		m.now.Route = m.aside
		d.active = d.active || started-m.started >= busyFrom || m.exc.open && m.now.K() != m.before.K()
		m.started = started
		m.idle.heard(max(m.answerEnd(), m.joined), d)
		s := m.score()
		switch {
		case s > 0 && !m.exc.open:
			m.excursions++
			first := time.Duration(m.ep.lastFail.Load())
			m.exc = excursion{open: true, since: min(now, first), first: first, base: m.before}
			failed := m.now.Sub(m.before)
			if failed.K() == 1 {
				m.exc.base.N += failed.N - 1 // what went well since the last Step was before it
			}
			if m.judged() {
				r.Urgency = max(r.Urgency, UrgencySoft)
			}
		case s > 0 && int32(m.now.K()-m.before.K()) > 0 && m.judged():
			r.Urgency = max(r.Urgency, UrgencyRising)
		case s <= 0 && m.exc.open:
			m.closeExcursion()
			clear(m.refused)
		}
	}
	d.readFailures()
	d.holdBack()
}

// readFailures takes the newest failures out of the ring. If more than its
// size came since the last Step, the oldest are lost.
func (d *Detector) readFailures() {
	head := d.shared.head.Load()
	if head == d.read {
		return
	}
	ring := d.shared.ring.Load() // it is there before head moves
	size := uint32(len(ring))
	if head-d.read > size {
		d.read = head - size
	}
	for ; d.read != head; d.read++ {
		word := ring[d.read%size].Swap(0)
		if word == 0 {
			continue // not written yet; lost
		}
		f := unfailure(word)
		m := d.bySlot[f.slot]
		if m == nil {
			continue
		}
		if m.exc.open && !f.aside {
			m.exc.note(f)
		}
		d.routeFailed(m, f)
	}
}
