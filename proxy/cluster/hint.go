package cluster

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// hint says that e has closed an idle connection as one does that dies. Servers close
// idle connections for many a reason, so that it is no evidence: it is worth a probe.
func (c *Cluster) hint(e *upstream.Endpoint) {
	c.metrics.hints.Add(1)
	c.post(func(l *letter) { l.hints = append(l.hints, e) })
}

// hinted probes who gave a hint, unless that is being found out or nobody uses it.
func (l *loop) hinted(e *upstream.Endpoint, now time.Duration) {
	id := e.ID
	r := l.byID[id]
	switch {
	case r == nil, r.endpoint != e, r.spec.Draining, l.state(r).Out():
		return
	case l.probes.asked[id] > 0, l.probes.running >= maxProbes, l.detector.Suspects(id):
		return
	case !l.c.deps.Pacing.Hints.Allow(now):
		return
	}
	q := l.query(r, outlier.LevelConnect, false)
	q.holds = l.holds(r, q.Want)
	l.send(l.ctx, q, min(l.cfg.Outlier.ProbeTimeout, l.detector.Overdue()), func(p Probed) {
		l.c.metrics.hintProbes.add(p.Result)
		if p.Result == outlier.NotRun {
			return
		}
		e.Hinted(p.Result == outlier.ProbeOK, p.End)
		l.detector.Hinted(id, p.Level, p.Result, p.Start, p.End)
	})
}
