// Package vigil decides when an endpoint of which no traffic tells is pinged.
//
// Two orders there are. Under a [Lease] of the control plane few sidecars ping for
// all, each in its turn. A sidecar that hears no control plane pings what its own
// picker could choose, the one in greatest need first, as often as its pace allows.
// What has traffic is pinged by nobody.
//
// Nothing here starts a goroutine, reads a clock or sends a packet: package cluster
// asks it when its timer fires, and so does the simulator in virtual time.
package vigil

import (
	"iter"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Never is an instant after everything.
const Never = time.Duration(1<<63 - 1)

const (
	ownGap  = 250 * time.Millisecond // between two pings on its own
	lookGap = time.Second            // between two looks for endpoints to ping on its own, at most
	// denyGap is the same while others have the pings that the pace allows: a thousand
	// clusters that wait for one a second need not all ask four times a second.
	denyGap = 4 * time.Second
	minGap  = time.Millisecond // before a ping that could not be sent is tried again
)

// Lease is the control plane's order to ping an idle endpoint now and then.
type Lease struct {
	// Level: outlier.LevelApp is the ping that the cluster is configured with,
	// anything less a connect.
	Level outlier.Level
	// Phase is when the first ping is due, from now; Every is the time between two,
	// to be kept, because the other pingers have their turns between them. 0:
	// outlier.Config.IdleAfter, give or take its jitter.
	Phase, Every time.Duration
	// Until is when the lease ends. One that has ended takes back the one
	// before.
	Until time.Duration
}

// Schedule is the pings of one cluster. Its zero value has none. It is not safe for
// concurrent use.
type Schedule struct {
	next   time.Duration
	denied time.Duration // the latest wait for the pace; 0: it allowed
	leases map[string]*lease
	busy   map[string]bool // a ping is under way
}

// lease is a Lease that was taken.
type lease struct {
	Lease
	at time.Duration // of the next ping
}

// Next is when to call Due.
func (s *Schedule) Next() time.Duration { return s.next }

// Wake has Due called at this time at the latest.
func (s *Schedule) Wake(at time.Duration) { s.next = min(s.next, at) }

// Rest has Due called no more until something changes.
func (s *Schedule) Rest() { s.next = Never }

// Lend takes a lease of an endpoint over.
func (s *Schedule) Lend(id string, l Lease, now time.Duration) {
	s.Wake(now)
	if l.Until <= now {
		delete(s.leases, id)
		return
	}
	if held := s.leases[id]; held != nil {
		held.Lease = l // a renewal keeps the turn
		return
	}
	if s.leases == nil {
		s.leases = make(map[string]*lease)
	}
	s.leases[id] = &lease{Lease: l, at: now + l.Phase}
}

// Keep forgets the leases of endpoints that have left.
func (s *Schedule) Keep(known func(id string) bool, now time.Duration) {
	s.Wake(now)
	for id := range s.leases {
		if !known(id) {
			delete(s.leases, id)
		}
	}
}

// Begun says that a ping that Due asked for is under way, Ended that it is no more.
func (s *Schedule) Begun(id string) {
	if s.busy == nil {
		s.busy = make(map[string]bool)
	}
	s.busy[id] = true
}

// Ended: see Begun.
func (s *Schedule) Ended(id string) { delete(s.busy, id) }

// Cluster is what Due needs to know of the cluster.
type Cluster struct {
	// IDs are its endpoints, always in the same order.
	IDs iter.Seq[string]
	// Idle are those of which no traffic tells, the one in greatest need first.
	Idle []outlier.IdleMember
	// Alone: no control plane says whom to ping.
	Alone bool
	// Picked says whether requests could choose an endpoint.
	Picked func(id string) bool
	// Allow takes a token for a ping on the sidecar's own account.
	Allow func() bool
	// Every is between two pings of a lease that does not say so.
	Every time.Duration
	// Jittered spreads a duration, so that sidecars do not act in step.
	Jittered func(time.Duration) time.Duration
}

// Ping is one to be sent now.
type Ping struct {
	ID     string
	Level  outlier.Level
	Leased bool // on the control plane's behalf
}

// Due returns the pings to send now, and sets Next.
func (s *Schedule) Due(c *Cluster, now time.Duration) []Ping {
	s.next = Never
	var pings []Ping
	if len(s.leases) > 0 {
		pings = s.leased(c, now)
	}
	if c.Alone {
		pings = s.own(c, now, pings)
	}
	return pings
}

// leased are pings for the fleet. Traffic of this sidecar's own puts one off: it
// tells more, and the fleet hears it too.
func (s *Schedule) leased(c *Cluster, now time.Duration) []Ping {
	var pings []Ping
	for id := range c.IDs {
		l := s.leases[id]
		if l == nil {
			continue
		}
		if l.Until <= now {
			delete(s.leases, id)
			continue
		}
		if now >= l.at && !s.busy[id] {
			l.pass(c, now)
			if slices.ContainsFunc(c.Idle, func(m outlier.IdleMember) bool { return m.ID == id }) {
				pings = append(pings, Ping{ID: id, Level: l.Level, Leased: true})
			}
		}
		s.Wake(min(max(l.at, now+minGap), l.Until))
	}
	return pings
}

// pass leaves the turn that is due for the next one.
func (l *lease) pass(c *Cluster, now time.Duration) {
	if l.Every <= 0 {
		l.at = now + c.Jittered(c.Every)
		return
	}
	l.at += ((now-l.at)/l.Every + 1) * l.Every // a late ping moves no later turn
}

// own adds the ping of one endpoint that could be picked, the one in greatest need of
// it, if the sidecar may ping at all and does not just do so for the fleet.
func (s *Schedule) own(c *Cluster, now time.Duration, pings []Ping) []Ping {
	next := now + lookGap
	for _, m := range c.Idle {
		leased := slices.ContainsFunc(pings, func(p Ping) bool { return p.ID == m.ID })
		switch {
		case leased || !c.Picked(m.ID):
			continue
		case s.busy[m.ID]: // if it fails, another one is due soon
			next = min(next, now+ownGap)
			continue
		case m.Due > now:
			next = min(next, m.Due)
			continue
		}
		if !c.Allow() {
			s.denied = min(max(2*s.denied, ownGap), denyGap)
			s.Wake(now + c.Jittered(s.denied))
			return pings
		}
		s.denied = 0
		s.Wake(now + ownGap)
		return append(pings, Ping{ID: m.ID, Level: outlier.LevelApp})
	}
	s.Wake(next)
	return pings
}
