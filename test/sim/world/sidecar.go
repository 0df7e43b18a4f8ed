package world

import (
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/proxy/balancer"
	"github.com/overhear-mesh/overhear/proxy/ping"
	"github.com/overhear-mesh/overhear/proxy/tiers"
	"github.com/overhear-mesh/overhear/proxy/vigil"
	"github.com/overhear-mesh/overhear/xds/report/cadence"
)

// What proxy/cluster leaves between two steps, at least and at most.
const (
	stepLeast = time.Millisecond
	stepMost  = time.Second
)

// never is an instant that does not come; outlier.Never is one that did not.
const never = forever

// sidecar is one caller's: its Detector, and what proxy/cluster makes of a view.
type sidecar struct {
	o        *overhear
	w        *World
	index    int
	detector *outlier.Detector
	doubt    *outlier.Self
	ids      []string            // by endpoint
	stats    []*outlier.Endpoint // by endpoint
	gates    []*balancer.Gate
	hashes   []uint64          // of the ids
	keys     balancer.Keys     // of requests, where they are hashed
	verdicts []outlier.Verdict // as told by the control plane

	picker  *tiers.Picker
	choices []tiers.Choice
	view    []Removal

	dirty      bool
	last, next time.Duration
	timerAt    time.Duration // of the pending step
	gen        uint32

	self, orders, own, hints *ping.Limiter

	running int            // probes under way
	asked   []int          // of these, by endpoint
	closes  []vigil.Closes // by endpoint
	idle    vigil.Schedule
	orderOf map[string]merge.OrderID // of the leases held, by endpoint
	pingAt  time.Duration
	pingGen uint32

	connected bool
	skew      time.Duration // of all that it says of time
	reporter  reporter
}

// maxProbes is how many probes and pings of one cluster may be under way.
const maxProbes = 8

func newSidecar(o *overhear, index int) *sidecar {
	n := o.w.Scenario.Endpoints
	s := &sidecar{
		o: o, w: o.w, index: index,
		ids: make([]string, n), stats: make([]*outlier.Endpoint, n), gates: make([]*balancer.Gate, n), hashes: make([]uint64, n),
		verdicts: make([]outlier.Verdict, n), view: make([]Removal, n),
		last: -time.Hour, timerAt: never, pingAt: never,
		self: ping.NewLimiter(10, 10), orders: ping.NewLimiter(10, 10), own: ping.NewLimiter(1, 1), hints: ping.NewLimiter(10, 10),
		asked: make([]int, n), closes: make([]vigil.Closes, n),
		orderOf: map[string]merge.OrderID{},
	}
	cfg := o.policy.Outlier
	cfg.Timeout = o.w.Timeout
	s.detector, s.doubt = outlier.New(cfg, o.dice()), outlier.NewSelf()
	s.detector.ShareSelf(s.doubt)
	s.detector.SetHashed(o.balancer.Policy.Hashes(), 0)
	s.reporter = newReporter(s)
	return s
}

// members takes over what the registry says.
func (s *sidecar) members() {
	known := s.stats[0] != nil
	members := make([]outlier.Member, 0, len(s.ids))
	for i, e := range s.w.Endpoints {
		fresh := s.ids[i] != e.ID
		if fresh {
			s.ids[i], s.gates[i], s.verdicts[i] = e.ID, balancer.NewGate(0, false), outlier.Verdict{}
			s.hashes[i], s.reporter.told[i], s.closes[i] = xxhash.Sum64String(e.ID), cadence.Told{}, vigil.Closes{}
		}
		members = append(members, outlier.Member{
			ID: e.ID, Weight: 1, Priority: s.w.Priority(i), Zone: zoneName(s.w.Zone(i)), Draining: e.Draining, New: known && fresh, Inbound: s.w.Inbound, Fleet: s.verdicts[i],
		})
	}
	s.detector.SetMembers(members, s.w.now)
	for i := range s.ids {
		s.stats[i] = s.detector.Endpoint(s.ids[i])
	}
	s.reporter.topic.Rename()
	s.idle.Keep(func(id string) bool { return s.find(id) >= 0 }, s.w.now)
	s.pingSoon()
	s.soon()
}

// wake asks for a step as soon as the gap allows.
func (s *sidecar) wake() {
	if s.dirty {
		return
	}
	s.dirty = true
	s.schedule()
}

// soon asks for a step at once, whatever the gap.
func (s *sidecar) soon() {
	s.dirty, s.next = true, s.w.now
	s.schedule()
}

// schedule sets the timer for the next step, if it is sooner than before.
func (s *sidecar) schedule() {
	at := s.next
	if s.dirty {
		at = min(at, s.last+stepLeast)
	}
	at = max(at, s.w.now)
	if at >= s.timerAt {
		return
	}
	s.timerAt = at
	s.gen++
	s.w.Timer(at, uint32(s.index)*timerKinds+timerStep, s.gen)
}

func (s *sidecar) stepTimer(gen uint32) {
	if gen != s.gen {
		return
	}
	s.timerAt = never
	s.step()
}

func (s *sidecar) step() {
	now := s.w.now
	if each, news := s.keys.Turn(now, len(s.ids)); news {
		s.detector.SetHashed(true, each) // as package cluster does
	}
	r := s.detector.Step(now)
	s.last, s.dirty = now, false
	s.next = min(max(r.Next, now+stepLeast), now+stepMost)
	if r.Changed || len(r.Changes) > 0 || s.picker == nil {
		s.publish()
	}
	for _, p := range r.Probes {
		s.selfProbe(p)
	}
	if s.o.opts.OnLocal != nil {
		for _, c := range r.Changes {
			s.o.opts.OnLocal(s.index, c)
		}
	}
	s.reporter.hear(r.Urgency)
	s.schedule()
}

// publish makes the new view the picker's, as proxy/cluster does.
func (s *sidecar) publish() {
	views := s.detector.View()
	s.choices = s.choices[:0]
	for i, a := range views {
		removal := Used
		switch {
		case a.Panic:
		case a.State == outlier.Probation && a.Weight > 0:
			removal = Trial
		case a.Trickle > 0 || a.State == outlier.Suspended:
			removal = Suspended
		case a.Weight == 0 && a.State != outlier.Draining:
			removal = Removed
		}
		if s.view[i] != removal {
			s.view[i] = removal
			s.w.Ledger.Saw(s.index, i, removal)
		}
		s.choices = append(s.choices, tiers.Choice{
			Stats: s.stats[i], Gate: s.gates[i], Priority: s.w.Priority(i), Weight: 1,
			Away: s.w.Zone(i) != s.w.Zone(s.index), Hash: s.hashes[i], Admission: a,
		})
	}
	s.picker = tiers.New(s.choices, s.o.balancer, s.picker)
}

// find is the index of an instance; -1: it has left.
func (s *sidecar) find(id string) int { return slices.Index(s.ids, id) }

func (s *sidecar) selfProbe(p outlier.Probe) {
	i := s.find(p.ID)
	if i < 0 || s.running >= maxProbes || !s.self.Allow(s.w.now) {
		s.detector.Probed(p.ID, p.Level, outlier.NotRun, s.w.now, s.w.now)
		s.wake()
		return
	}
	s.ask(i, p.Level, p.Timeout, func(a Answer) {
		s.detector.Probed(p.ID, a.Level, a.Result, a.Start, a.End)
		s.wake()
	})
}

// reach is the depth to which a probe goes that should reach level.
func (s *sidecar) reach(level outlier.Level) outlier.Level {
	if level >= outlier.LevelApp && s.o.policy.Ping == merge.PingHTTP || s.w.Inbound {
		return outlier.LevelApp
	}
	return outlier.LevelConnect
}

// ask probes. A refusal while connections stand is one of the listener alone.
func (s *sidecar) ask(i int, level outlier.Level, timeout time.Duration, then func(Answer)) {
	s.running++
	s.asked[i]++
	id := s.ids[i]
	s.w.Probe(s.index, i, s.reach(level), timeout, func(a Answer) {
		s.running--
		s.asked[i]--
		if s.ids[i] != id {
			return
		}
		// As in proxy/cluster: what is out comes back by connections that it takes.
		holds := s.view[i] == Used || s.view[i] == Suspended
		if a.Result == outlier.Refused && holds && s.w.Stands(s.index, i) {
			a.Result, a.Level = outlier.ProbeOK, outlier.LevelConnect
		}
		then(a)
	})
}

// closed probes an endpoint that has closed an idle connection, as proxy/cluster does.
func (s *sidecar) closed(i int, idle time.Duration) {
	now, id := s.w.now, s.ids[i]
	if !s.closes[i].Hint(idle, now) || s.w.Endpoints[i].Draining || s.view[i] != Used {
		return
	}
	if s.asked[i] > 0 || s.running >= maxProbes || s.detector.Suspects(id) || !s.hints.Allow(now) {
		return
	}
	s.ask(i, outlier.LevelConnect, min(s.o.policy.Outlier.ProbeTimeout, s.detector.Overdue()), func(a Answer) {
		s.closes[i].Settle(a.Result == outlier.ProbeOK, a.End)
		s.detector.Hinted(id, a.Level, a.Result, a.Start, a.End)
		s.wake()
	})
}

// lend takes a lease over, or ends one, as package reporting does.
func (s *sidecar) lend(id string, l merge.PingLease) {
	now := s.w.now
	switch {
	case l.Until > now:
		s.orderOf[id] = l.ID
	case s.orderOf[id] == l.ID:
		delete(s.orderOf, id)
	default:
		return // the end of a lease that another has followed
	}
	level := outlier.LevelConnect
	if l.Kind != merge.PingTCP {
		level = outlier.LevelApp
	}
	s.idle.Lend(id, vigil.Lease{Level: level, Phase: l.Phase, Every: l.Every, Until: l.Until}, now)
	s.pingSoon()
}

// pingSoon sets the timer for the next look at who is idle.
func (s *sidecar) pingSoon() {
	at := max(s.idle.Next(), s.w.now)
	if at >= s.pingAt {
		return
	}
	s.pingAt = at
	s.pingGen++
	s.w.Timer(at, uint32(s.index)*timerKinds+timerPing, s.pingGen)
}

func (s *sidecar) pingTimer(gen uint32) {
	if gen != s.pingGen {
		return
	}
	now := s.w.now
	s.pingAt = never
	if s.o.policy.Ping == merge.PingOff {
		return
	}
	for _, p := range s.idle.Due(&vigil.Cluster{
		IDs: slices.Values(s.ids), Idle: s.detector.Idle(now), Alone: !s.connected,
		Picked: func(id string) bool {
			for c := range s.picker.All() {
				if c.Admission.ID == id {
					return true
				}
			}
			return false
		},
		Allow: func() bool { return s.own.Allow(now) }, Every: s.o.policy.Outlier.IdleAfter, Jittered: s.jittered,
	}, now) {
		s.sendPing(p)
	}
	s.pingSoon()
}

func (s *sidecar) jittered(d time.Duration) time.Duration {
	j := s.o.policy.Outlier.Jitter
	return time.Duration(float64(d) * (1 - j + 2*j*s.w.rng.Float64()))
}

func (s *sidecar) sendPing(p vigil.Ping) {
	i := s.find(p.ID)
	if s.running >= maxProbes {
		return
	}
	s.idle.Begun(p.ID)
	s.w.Ledger.Pinged()
	s.w.Ledger.probes-- // it is counted as a ping
	s.ask(i, p.Level, s.o.policy.PingTimeout, func(a Answer) {
		s.idle.Ended(p.ID)
		s.detector.Pinged(p.ID, a.Result == outlier.ProbeOK, a.Result, a.End)
		s.wake()
		if order, held := s.orderOf[p.ID]; p.Leased && held {
			s.reporter.result(probed{order, a})
		}
	})
}

// connect opens the report stream.
func (s *sidecar) connect() {
	if s.connected || s.o.control == nil || !s.o.control.running {
		return
	}
	s.connected = true
	s.detector.CentralBack(s.w.now)
	s.reporter.hello()
	s.soon()
}

// disconnect is the loss of both streams.
func (s *sidecar) disconnect() {
	s.connected = false
	s.detector.CentralGone(s.w.now)
	s.reporter.lost()
	s.idle.Wake(s.w.now)
	s.pingSoon()
	s.soon()
}

// told takes a verdict over that came with an update of the endpoints.
func (s *sidecar) told(i int, id string, v outlier.Verdict) {
	if s.ids[i] != id {
		return
	}
	s.verdicts[i] = v
	s.detector.Fleet(id, v, s.w.now)
	s.soon()
}
