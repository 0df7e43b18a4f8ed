package reporting

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/xds/report"
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
		r.polls[p.Key] = p
		r.wakeLocked(0)
	}
	for _, w := range o.Watches {
		r.watches[w.Key] = now + w.For
		r.wakeLocked(r.reported + r.cfg.UrgentGap)
	}
	for _, l := range o.Leases {
		r.leaseLocked(l, now)
	}
	for _, sh := range o.Shares {
		r.shareLocked(sh, now)
	}
	if m := o.Mute; m != nil {
		r.stats.mutes.Add(1)
		r.deps.Log.LogAttrs(r.ctx, slog.LevelWarn, "the control plane sets this sidecar's evidence aside",
			slog.String("reason", m.Reason), slog.Duration("for", max(0, m.Until-now)))
	}
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
	r.wakeLocked(0)
}

// leaseLocked makes this sidecar a pinger, or ends that.
func (r *Reporter) leaseLocked(l merge.PingLease, now time.Duration) {
	m := r.findLocked(l.Key.Service)
	if m == nil {
		return
	}
	lease := cluster.Lease{Level: outlier.LevelConnect, Phase: l.Phase, Every: l.Every, Until: l.Until}
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

// share is a probation: a share in the traffic to an endpoint that is out for others,
// of which the outcomes decide. The trickle of a suspension is none.
type share struct {
	epoch uint64
	until time.Duration
	base  outlier.Counts // when it began
	told  outlier.Counts // since then
}

// shareLocked lets the cluster use an endpoint, and counts from here.
func (r *Reporter) shareLocked(s merge.Share, now time.Duration) {
	m := r.findLocked(s.Key.Service)
	if m == nil {
		return
	}
	weight := s.Weight
	if s.Trickle > 0 {
		weight = min(1, 1/s.Trickle.Seconds()) // suspended: attempts per second
	}
	until := now + s.For
	m.Share(s.Key.Instance, s.Epoch, weight, until)
	switch held := r.shares[s.Key]; {
	case held != nil && held.epoch == s.Epoch:
		held.until = until
		if weight == 0 {
			held.until = now
		}
	case weight > 0 && s.Trickle == 0:
		r.shares[s.Key] = &share{epoch: s.Epoch, until: until, base: counts(m, s.Key.Instance)}
	}
	r.wakeLocked(now + shareGap)
}

// counts are those of an endpoint, now.
func counts(m *member, id string) outlier.Counts {
	if s := m.Snapshot(); s != nil {
		for _, e := range s.Endpoints {
			if e.ID == id {
				return e.Counts
			}
		}
	}
	return outlier.Counts{}
}

// countSharesLocked tells what the shares have shown since they began.
func (r *Reporter) countSharesLocked(p *plan) {
	for k, s := range r.shares {
		m := r.findLocked(k.Service)
		if m == nil {
			delete(r.shares, k)
			continue
		}
		if c := counts(m, k.Instance).Sub(s.base); c != s.told {
			s.told = c
			p.message.Probations = append(p.message.Probations, report.Probation{Key: k, Epoch: s.epoch, Counts: c})
		}
		if s.until <= p.now {
			delete(r.shares, k)
			continue
		}
		p.next = min(p.next, p.now+shareGap)
	}
}
