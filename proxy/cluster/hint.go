package cluster

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/ping"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// looks are the waits before an endpoint that took a connection is asked again. The
// kernel closes what a dying process has open one by one, the listener often last, and
// until then the backlog takes connections: mostly for some milliseconds, and for a
// quarter of a second after 3 000 connections.
var looks = [...]time.Duration{10 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond}

// hint says that e has closed an idle connection as one does that dies. Servers close
// idle connections for many a reason, so that it is no evidence: it is worth a probe.
func (c *Cluster) hint(e *upstream.Endpoint) {
	c.metrics.hints.Add(1)
	c.post(func(l *letter) { l.hints = append(l.hints, e) })
}

// hinted probes who gave a hint, unless nobody uses it.
func (l *loop) hinted(e *upstream.Endpoint, now time.Duration) {
	if l.hintable(e) && l.c.deps.Pacing.Hints.Allow(now) {
		l.look(e, looks[:])
	}
}

// hintable reports whether a hint of e is of use: not if what it is about is being found
// out already.
func (l *loop) hintable(e *upstream.Endpoint) bool {
	r := l.byID[e.ID]
	return r != nil && r.endpoint == e && !r.spec.Draining && !l.state(r).Out() &&
		l.probes.asked[e.ID] == 0 && l.probes.running < maxProbes && !l.detector.Suspects(e.ID)
}

// look probes e, which is hintable, and after each of the waits again while it is well.
func (l *loop) look(e *upstream.Endpoint, waits []time.Duration) {
	r := l.byID[e.ID]
	q := l.query(r, outlier.LevelConnect, false)
	q.holds = l.holds(r, q.Want)
	l.send(l.ctx, q, min(l.cfg.Outlier.ProbeTimeout, l.detector.Overdue()), func(p Probed) {
		accepted := p.Result == outlier.ProbeOK && q.Want <= ping.Held // an answer takes more than a backlog
		switch {
		case p.Result == outlier.NotRun:
		case accepted && len(waits) > 0:
			l.later(l.jittered(waits[0]), func() {
				if l.hintable(e) {
					l.look(e, waits[1:])
				}
			})
		default:
			l.c.metrics.hintProbes.add(p.Result)
			e.Hinted(p.Result == outlier.ProbeOK, p.End)
			l.detector.Hinted(e.ID, p.Level, p.Result, p.Start, p.End)
		}
	})
}

// later has Run call then after a while.
func (l *loop) later(wait time.Duration, then func()) {
	l.wg.Go(func() {
		select {
		case <-time.After(wait):
			l.hand(then)
		case <-l.ctx.Done():
		}
	})
}
