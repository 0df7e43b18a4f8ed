package cluster

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/ping"
)

// Lease is the control plane's order to ping an idle endpoint now and then.
type Lease struct {
	// Level: outlier.LevelApp is the ping that the cluster is configured with,
	// anything less a connect.
	Level outlier.Level
	// Phase is when the first ping is due, from now; Every is the time between
	// two (0: outlier.Config.IdleAfter), give or take its jitter.
	Phase, Every time.Duration
	// Until is when the lease ends. One that has ended takes back the one
	// before.
	Until time.Duration
}

// idle pings those of whom no traffic tells.
type idle struct {
	next   time.Duration // when there is something to do
	leases map[string]*lease
	busy   map[string]bool // a ping is under way
	path   pathCheck
}

// lease is a Lease that was taken.
type lease struct {
	Lease
	at time.Duration // of the next ping
}

// ownGap is between two looks for endpoints that this sidecar pings on its own.
const ownGap = 250 * time.Millisecond

func (i *idle) lease(id string, l Lease, now time.Duration) {
	i.next = now
	if l.Until <= now {
		delete(i.leases, id)
		return
	}
	if held := i.leases[id]; held != nil {
		held.Lease = l // a renewal keeps the turn
		return
	}
	if i.leases == nil {
		i.leases = make(map[string]*lease)
	}
	i.leases[id] = &lease{Lease: l, at: now + l.Phase}
}

// keep forgets the endpoints that have left.
func (i *idle) keep(byID map[string]*record, now time.Duration) {
	i.next = now
	for id := range i.leases {
		if byID[id] == nil {
			delete(i.leases, id)
		}
	}
}

// ping starts the pings that are due.
func (l *loop) ping(now time.Duration) {
	i := &l.idle
	i.next = forever
	if l.cfg.Ping.Kind == ping.Off {
		return
	}
	l.checkPath(now)
	if len(i.leases) > 0 {
		l.pingLeased(now)
	}
	if l.standalone() {
		i.next = min(i.next, now+ownGap)
		l.pingOwn(now)
	}
}

// standalone reports whether nobody tells this sidecar whom to ping.
func (l *loop) standalone() bool { return l.alone || len(l.links) == 0 }

// pingLeased pings for the fleet. Traffic of this sidecar's own puts a ping off:
// it tells more, and the fleet hears it too.
func (l *loop) pingLeased(now time.Duration) {
	i := &l.idle
	silent := make(map[string]time.Duration, len(l.records))
	for _, m := range l.detector.Idle(now) {
		silent[m.ID] = m.Silent
	}
	for _, r := range l.records { // in the order of the set, not of a map
		id := r.spec.ID
		t := i.leases[id]
		if t == nil {
			continue
		}
		if t.Until <= now {
			delete(i.leases, id)
			continue
		}
		if now >= t.at && !i.busy[id] {
			every := t.Every
			if every <= 0 {
				every = l.cfg.Outlier.IdleAfter
			}
			t.at = now + l.jittered(every)
			if _, idle := silent[id]; idle {
				l.sendPing(r, t.Level, true)
			}
		}
		i.next = min(i.next, max(t.at, now+minGap), t.Until)
	}
}

// pingOwn pings one endpoint that could be picked, the one in greatest need of
// it, if the sidecar may ping at all.
func (l *loop) pingOwn(now time.Duration) {
	for _, m := range l.detector.Idle(now) {
		if m.Due > now || l.idle.busy[m.ID] || !l.picked[m.ID] {
			continue
		}
		if l.c.deps.Pacing.Idle.Allow(now) {
			l.sendPing(l.byID[m.ID], outlier.LevelApp, false)
		}
		return
	}
}

// sendPing starts a ping.
func (l *loop) sendPing(r *record, level outlier.Level, leased bool) {
	if l.probes.running >= maxProbes {
		return
	}
	i, id := &l.idle, r.spec.ID
	if i.busy == nil {
		i.busy = make(map[string]bool)
	}
	i.busy[id] = true
	l.send(l.ctx, l.query(r, level, leased), l.cfg.Ping.Timeout, func(p Probed) {
		delete(i.busy, id)
		l.c.metrics.pings.add(p.Result)
		if p.Result == outlier.NotRun {
			return
		}
		l.detector.Pinged(id, p.Result == outlier.ProbeOK, p.Result, p.End)
		l.event.Pings = append(l.event.Pings, Pinged{Probed: p, Leased: leased})
	})
}

// jittered spreads d, so that sidecars do not act in step.
func (l *loop) jittered(d time.Duration) time.Duration {
	j := l.cfg.Outlier.Jitter
	return time.Duration(float64(d) * (1 - j + 2*j*l.rng.Float64()))
}
