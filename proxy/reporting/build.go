package reporting

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/proxy/cluster"
	"github.com/overhear-mesh/overhear/xds/report"
)

// plan is one message under construction.
type plan struct {
	now       time.Duration
	summary   bool // tell all that has changed
	soft      bool // soft news may go
	questions []*question
	watched   map[merge.Key]bool

	message report.Message
	report  merge.Report
	tell    bool          // there is a reason to report
	next    time.Duration // when there may be another
}

// question is what to ask one cluster, and its answer.
type question struct {
	*member
	service string
	list    bool // name all its endpoints
	polls   []merge.Poll

	evidence   []outlier.Evidence
	sum        outlier.Summary
	answers    []merge.PollAnswer
	err        error
	suspicious bool // it must be asked again before the summary
}

// Build makes the next message. It asks the clusters for their counters of now.
func (s source) Build() report.Message {
	r := s.Reporter
	p := r.plan()
	for _, q := range p.questions {
		q.ask(r.ctx)
		if q.err == nil {
			r.weigh(p, q)
		}
	}
	r.close(p)
	return p.message
}

// plan takes what waits, and sees who is to be asked.
func (r *Reporter) plan() *plan {
	now := r.deps.Clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looked = now
	p := &plan{
		now: now, next: never, watched: map[merge.Key]bool{},
		summary: r.everything || now >= r.summary,
		soft:    r.soft > 0 && now >= r.soft,
	}
	p.tell = p.summary // also an empty one: it says that we live
	if p.soft {
		r.soft = 0
	}
	for r.summary <= now {
		r.summary += r.cfg.Summary
	}
	r.everything = false
	p.message.Probes, r.results = r.results, nil

	wanted := map[string]bool{} // services with a watched endpoint
	for k, until := range r.watches {
		if until <= now {
			delete(r.watches, k)
			continue
		}
		p.watched[k], wanted[k.Service] = true, true
		p.next = now + r.cfg.UrgentGap
	}
	polls := map[string][]merge.Poll{}
	for k, poll := range r.polls {
		polls[k.Service] = append(polls[k.Service], poll)
	}
	clear(r.polls)
	for _, m := range r.members {
		if p.summary || m.hot || !m.listed || wanted[m.service] || len(polls[m.service]) > 0 {
			p.questions = append(p.questions, &question{member: m, service: m.service, list: !m.listed, polls: polls[m.service]})
			m.hot, m.listed = false, true
		}
	}
	r.countSharesLocked(p)
	r.ownLocked(p)
	return p
}

// ask has the cluster's own goroutine read its counters.
func (q *question) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	q.err = q.Ask(ctx, func(d *outlier.Detector, now time.Duration) {
		q.evidence, q.sum = d.Evidence(now), d.Summary(now)
		for _, p := range q.polls {
			then, ok := d.History(p.Key.Instance, p.At)
			if !ok {
				then.At = outlier.Never
			}
			q.answers = append(q.answers, merge.PollAnswer{ID: p.ID, Cell: q.cell(p.Key), Then: then})
		}
	})
}

// cell is what there is to tell of an endpoint, even if that is nothing.
func (q *question) cell(k merge.Key) merge.Cell {
	for i := range q.evidence {
		if e := &q.evidence[i]; e.ID == k.Instance {
			return cellOf(k, e)
		}
	}
	return cellOf(k, &outlier.Evidence{
		LastOK: outlier.Never, LastOKStart: outlier.Never, LastHard: outlier.Never, LastHardStart: outlier.Never,
	})
}

// weigh chooses what is worth telling of a cluster.
func (r *Reporter) weigh(p *plan, q *question) {
	p.report.LHM = max(p.report.LHM, q.sum.LHM)
	p.message.Polls = append(p.message.Polls, q.answers...)
	if q.list {
		p.message.Known = append(p.message.Known, q.endpoints()...)
	}
	if p.summary {
		t := merge.ClusterTotals{Service: q.service, N: q.sum.N, K: q.sum.K, Overdue: q.sum.Overdue}
		if t != r.totals[q.service] {
			r.totals[q.service] = t
			p.report.Clusters = append(p.report.Clusters, t)
		}
	}
	for i := range q.evidence {
		e := &q.evidence[i]
		k := merge.Key{Service: q.service, Instance: e.ID}
		t := r.told[k]
		if t == nil {
			t = &told{hard: outlier.Never}
			r.told[k] = t
		}
		w := t.look(e, p.now)
		watched := p.watched[k]
		if w > calm {
			q.suspicious = true
			p.next = min(p.next, p.now+t.gap(w, &r.cfg, p.now))
		}
		c := cellOf(k, e)
		if !t.stale(&c) || w == calm && !watched && !p.summary {
			continue
		}
		// Whatever the reason to report, all news under suspicion go with it.
		p.report.Cells = append(p.report.Cells, c)
		p.tell = p.tell || watched && p.now-t.at >= r.cfg.UrgentGap || p.soft && w == suspect || t.due(w, &r.cfg, p.now)
	}
	if p.summary {
		maps.DeleteFunc(r.told, func(k merge.Key, t *told) bool { return k.Service == q.service && t.seen != p.now })
	}
}

// endpoints are all that the cluster has, also those that were never tried.
func (q *question) endpoints() []merge.Key {
	s := q.Snapshot()
	if s == nil {
		return nil
	}
	keys := make([]merge.Key, len(s.Endpoints))
	for i, e := range s.Endpoints {
		keys[i] = merge.Key{Service: q.service, Instance: e.ID}
	}
	return keys
}

// close completes the message and says when to build the next one.
func (r *Reporter) close(p *plan) {
	if p.tell {
		p.message.Report = &p.report
		for _, c := range p.report.Cells {
			t := r.told[c.Key]
			t.cell, t.at = c, p.now
		}
		r.stats.reports.Add(1)
		r.stats.cells.Add(uint64(len(p.report.Cells)))
	}
	r.stats.polls.Add(uint64(len(p.message.Polls)))
	r.stats.probes.Add(uint64(len(p.message.Probes)))

	r.mu.Lock()
	defer r.mu.Unlock()
	if p.tell {
		r.reported = p.now
	}
	for _, q := range p.questions {
		switch {
		case errors.Is(q.err, cluster.ErrStopped):
			r.members = slices.DeleteFunc(r.members, func(m *member) bool { return m == q.member })
		case q.err != nil:
			q.hot, q.listed = true, q.listed && !q.list
			p.next = min(p.next, p.now+r.cfg.Full)
		default:
			q.hot = q.hot || q.suspicious
		}
	}
	if r.soft > 0 {
		p.next = min(p.next, r.soft)
	}
	r.wakeLocked(min(p.next, r.summary))
}
