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
	leases map[string]*turn
	own    map[string]*turn // of a sidecar without a control plane
	path   pathCheck
}

// turn is when one endpoint is pinged next.
type turn struct {
	lease Lease
	at    time.Duration
	busy  bool // a ping is under way
	miss  int  // in a row
}

// again is how soon after a miss an own ping is repeated (Quan et al., Trinocular,
// 2013, probes adaptively for the same reason: one miss is little, a row is much).
var again = [...]time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second}

// ownGap is between two looks for endpoints that an own ping is due for.
const ownGap = 250 * time.Millisecond

func (i *idle) lease(id string, lease Lease, now time.Duration) {
	i.next = now
	if lease.Until <= now {
		delete(i.leases, id)
		return
	}
	if t := i.leases[id]; t != nil {
		t.lease = lease // a renewal keeps the turn
		return
	}
	if i.leases == nil {
		i.leases = make(map[string]*turn)
	}
	i.leases[id] = &turn{lease: lease, at: now + lease.Phase}
}

// keep forgets the turns of endpoints that have left.
func (i *idle) keep(byID map[string]*record, now time.Duration) {
	i.next = now
	for _, turns := range []map[string]*turn{i.leases, i.own} {
		for id := range turns {
			if byID[id] == nil {
				delete(turns, id)
			}
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
	silence := l.silence(now)
	for _, r := range l.records { // in the order of the set, not of a map
		id := r.spec.ID
		t := i.leases[id]
		switch {
		case t == nil:
		case t.lease.Until <= now:
			delete(i.leases, id)
		case !l.spoken(t, silence[id], now) && now >= t.at && !t.busy:
			l.sendPing(r, t, t.lease.Level, true)
			fallthrough
		default:
			i.next = min(i.next, max(t.at, now+minGap), t.lease.Until)
		}
	}
	if l.standalone() {
		l.pingOwn(silence, now)
	}
}

// standalone: nobody tells this sidecar whom to ping.
func (l *loop) standalone() bool { return l.alone || len(l.links) == 0 }

// silence is for how long each endpoint has given no sign of life.
func (l *loop) silence(now time.Duration) map[string]time.Duration {
	out := make(map[string]time.Duration, len(l.records))
	for _, m := range l.detector.Idle(now) {
		out[m.ID] = m.Silence
	}
	return out
}

// spoken puts the turn off when traffic has told of the endpoint since.
func (l *loop) spoken(t *turn, silence, now time.Duration) bool {
	quiet := l.jittered(l.cfg.Outlier.IdleAfter)
	if silence >= l.cfg.Outlier.IdleAfter || t.miss > 0 {
		return false
	}
	t.at = max(t.at, now-silence+quiet)
	return true
}

// pingOwn pings one endpoint that could be picked, the one whose turn it is, if
// the sidecar may ping at all.
func (l *loop) pingOwn(silence map[string]time.Duration, now time.Duration) {
	i := &l.idle
	if i.own == nil {
		i.own = make(map[string]*turn)
	}
	var first *record
	for _, e := range l.c.picker.Load().endpoints {
		t := i.own[e.ID]
		if t == nil {
			t = &turn{at: now}
			i.own[e.ID] = t
		}
		if t.busy || l.spoken(t, silence[e.ID], now) {
			continue
		}
		if first == nil || t.at < i.own[first.spec.ID].at {
			first = l.byID[e.ID]
		}
	}
	i.next = min(i.next, now+ownGap)
	if first == nil {
		return
	}
	if t := i.own[first.spec.ID]; now >= t.at && l.c.deps.Pacing.Idle.Allow(now) {
		l.sendPing(first, t, outlier.LevelApp, false)
	}
}

// sendPing starts a ping of r whose turn is t.
func (l *loop) sendPing(r *record, t *turn, level outlier.Level, leased bool) {
	if l.probes.running >= maxProbes {
		return
	}
	t.busy = true
	target, level := l.target(r, level)
	l.send(l.ctx, target, l.cfg.Ping.Timeout, func(result outlier.ProbeResult, start, end time.Duration) {
		t.busy = false
		t.next(result, end, l)
		l.idle.next = end
		l.c.metrics.pings.add(result)
		if result == outlier.NotRun || l.byID[r.spec.ID] == nil {
			return
		}
		l.detector.Pinged(r.spec.ID, result == outlier.ProbeOK, result, end)
		l.event.Pings = append(l.event.Pings, Pinged{
			Probed: Probed{ID: r.spec.ID, Level: level, Result: result, Start: start, End: end},
			Leased: leased,
		})
	})
}

// next sets when the turn comes again after a ping that ended at now.
func (t *turn) next(result outlier.ProbeResult, now time.Duration, l *loop) {
	every := t.lease.Every
	if every <= 0 {
		every = l.cfg.Outlier.IdleAfter
	}
	t.at = now + l.jittered(every)
	switch {
	case result == outlier.NotRun:
	case result == outlier.ProbeOK:
		t.miss = 0
	default:
		if t.lease == (Lease{}) {
			// On its own a sidecar is its own second pinger.
			t.at = now + again[min(t.miss, len(again)-1)]
		}
		t.miss++
	}
}

// jittered spreads d, so that sidecars do not act in step.
func (l *loop) jittered(d time.Duration) time.Duration {
	j := l.cfg.Outlier.Jitter
	return time.Duration(float64(d) * (1 - j + 2*j*l.rng.Float64()))
}
