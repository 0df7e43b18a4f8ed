package reporting

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/proxy/vigil"
	"github.com/overhear-mesh/overhear/xds/report"
	"github.com/overhear-mesh/overhear/xds/report/cadence"
)

// Handle takes orders.
func (s source) Handle(o report.Orders) {
	r := s.Reporter
	now := r.deps.Clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range o.Probes {
		r.probeLocked(p, now)
	}
	for _, id := range o.Cancels {
		if cancel := r.running[id]; cancel != nil {
			cancel()
		}
	}
	for _, p := range o.Polls {
		r.asked.Poll(p)
		r.wakeLocked()
	}
	for _, w := range o.Watches {
		r.asked.Watch(w.Key, now+w.For)
		r.movedLocked(r.schedule.Watch(now + w.For))
	}
	for _, l := range o.Leases {
		r.leaseLocked(l, now)
	}
	for _, sh := range o.Shares {
		r.shareLocked(sh, now)
	}
	for _, w := range o.Weights {
		if m := r.findLocked(w.Key.Service); m != nil {
			m.SetWeight(w.Key.Instance, outlier.Weight{Share: w.Weight, Until: now + w.For}, w.Reason)
		}
	}
	for _, s := range o.Settings {
		if m := r.findLocked(s.Service); m != nil {
			m.SetLatency(s.Latency)
		}
	}
	if m := o.Mute; m != nil {
		r.muteLocked(m, now)
	}
}

// muteLocked sets aside what this sidecar observes, or ends that.
func (r *Reporter) muteLocked(m *merge.Mute, now time.Duration) {
	for _, c := range r.members {
		c.Mute(m.Until)
	}
	if m.Until <= now {
		r.deps.Log.LogAttrs(r.ctx, slog.LevelInfo, "the control plane hears this sidecar's evidence again")
		return
	}
	r.stats.mutes.Add(1)
	r.deps.Log.LogAttrs(r.ctx, slog.LevelWarn, "the control plane sets this sidecar's evidence aside: what merely fails keeps its traffic",
		slog.String("reason", m.Reason), slog.Duration("for", m.Until-now))
}

// probeLocked starts a probe. It is answered in any case: nobody should wait for one
// that is not run.
func (r *Reporter) probeLocked(p merge.ProbeOrder, now time.Duration) {
	m := r.findLocked(p.Key.Service)
	answer := report.Probed{ID: p.ID, Key: p.Key, Level: p.Level, Result: outlier.NotRun, Start: now, End: now, Epoch: p.Epoch}
	if m == nil || r.running[p.ID] != nil || r.ctx.Err() != nil {
		r.resultLocked(answer)
		return
	}
	select {
	case r.sem <- struct{}{}:
	default:
		r.resultLocked(answer)
		return
	}
	ctx, cancel := context.WithCancel(r.ctx)
	r.running[p.ID] = cancel
	r.wg.Go(func() {
		got := m.Probe(ctx, p.Key.Instance, p.Level, p.Timeout)
		cancel()
		<-r.sem
		answer.Level, answer.Result, answer.Start, answer.End = got.Level, got.Result, got.Start, got.End
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.running, p.ID)
		r.resultLocked(answer)
	})
}

// resultLocked has a result told at once; of too many the newest win.
func (r *Reporter) resultLocked(p report.Probed) {
	if len(r.results) == maxResults {
		r.results = slices.Delete(r.results, 0, 1)
		r.stats.overrun.Add(1)
	}
	r.results = append(r.results, p)
	r.wakeLocked()
}

// leaseLocked makes this sidecar a pinger, or ends that.
func (r *Reporter) leaseLocked(l merge.PingLease, now time.Duration) {
	m := r.findLocked(l.Key.Service)
	if m == nil {
		return
	}
	lease := vigil.Lease{Level: outlier.LevelConnect, Phase: l.Phase, Every: l.Every, Until: l.Until}
	if l.Kind != merge.PingTCP {
		lease.Level = outlier.LevelApp
	}
	switch ends := l.Until <= now; {
	case !ends:
		r.leases[l.Key] = l.ID
	case r.leases[l.Key] == l.ID:
		delete(r.leases, l.Key)
	default:
		return // the end of a lease that another has followed
	}
	m.Lease(l.Key.Instance, lease)
}

// pingedLocked tells of a ping that was made under a lease.
func (r *Reporter) pingedLocked(m *member, p cluster.Pinged) {
	k := merge.Key{Service: m.service, Instance: p.ID}
	id, held := r.leases[k]
	if !p.Leased || !held {
		return
	}
	r.resultLocked(report.Probed{ID: id, Key: k, Level: p.Level, Result: p.Result, Start: p.Start, End: p.End})
}

// shareLocked lets the cluster use an endpoint, and counts from here.
func (r *Reporter) shareLocked(s merge.Share, now time.Duration) {
	m := r.findLocked(s.Key.Service)
	if m == nil {
		return
	}
	m.Share(s.Key.Instance, s.Epoch, cadence.Weight(s), now+s.For)
	t := cadence.Lend(r.trials[s.Key], s, now, func() outlier.Counts {
		stands, _ := standing(m, s.Key.Instance)
		return stands.Counts
	})
	if t != nil {
		r.trials[s.Key] = t
	}
	r.movedLocked(r.schedule.WakeShare(now))
}

// standing is how an endpoint stands now; false: there is none.
func standing(m *member, id string) (cadence.Standing, bool) {
	if s := m.Snapshot(); s != nil {
		for _, e := range s.Endpoints {
			if e.ID == id {
				return cadence.Standing{Epoch: e.Verdict.Epoch, Counts: e.Fresh, Inflight: e.Inflight}, true
			}
		}
	}
	return cadence.Standing{}, false
}

// countTrialsLocked tells what the trials have shown since they began.
func (r *Reporter) countTrialsLocked(p *plan) {
	for k, t := range r.trials {
		var stands cadence.Standing
		m, known := r.findLocked(k.Service), false
		if m != nil {
			stands, known = standing(m, k.Instance)
		}
		if !known {
			delete(r.trials, k)
			continue
		}
		since, news, over := t.Count(&p.Turn, stands)
		if news {
			p.message.Probations = append(p.message.Probations, report.Probation{Key: k, Epoch: t.Epoch, Counts: since})
		}
		if over {
			delete(r.trials, k)
		}
	}
}
