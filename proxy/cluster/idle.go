package cluster

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/ping"
	"github.com/overhear-mesh/overhear/proxy/vigil"
)

// idle pings those of whom no traffic tells.
type idle struct {
	vigil.Schedule
	path pathCheck
}

// ping starts the pings that are due.
func (l *loop) ping(now time.Duration) {
	if l.cfg.Ping.Kind == ping.Off {
		l.idle.Rest()
		return
	}
	pings := l.idle.Due(&vigil.Cluster{
		IDs: l.ids, Idle: l.detector.Idle(now), Alone: l.standalone(),
		Picked:   func(id string) bool { return l.picked[id] },
		Allow:    func() bool { return l.c.deps.Pacing.Idle.Allow(now) },
		Every:    l.cfg.Outlier.IdleAfter,
		Jittered: l.jittered,
	}, now)
	l.checkPath(now)
	for _, p := range pings {
		l.sendPing(l.byID[p.ID], p.Level, p.Leased)
	}
}

// ids are the endpoints in the order of the set.
func (l *loop) ids(yield func(string) bool) {
	for _, r := range l.records {
		if !yield(r.spec.ID) {
			return
		}
	}
}

// standalone reports whether nobody tells this sidecar whom to ping.
func (l *loop) standalone() bool { return l.alone || len(l.links) == 0 }

// sendPing starts a ping.
func (l *loop) sendPing(r *record, level outlier.Level, leased bool) {
	if l.probes.running >= maxProbes {
		return
	}
	id := r.spec.ID
	l.idle.Begun(id)
	l.send(l.ctx, l.query(r, level, leased), l.cfg.Ping.Timeout, func(p Probed) {
		l.idle.Ended(id)
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
