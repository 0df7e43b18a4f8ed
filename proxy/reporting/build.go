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
	"github.com/overhear-mesh/overhear/xds/report/cadence"
)

// plan is one message under construction.
type plan struct {
	cadence.Turn
	questions []*question
	watched   map[merge.Key]bool

	message report.Message
	report  merge.Report
}

// question is what to ask one cluster, and its answer.
type question struct {
	*member
	service string
	list    bool // name all its endpoints
	polls   []merge.Poll

	evidence []outlier.Evidence
	sum      outlier.Summary
	answers  []merge.PollAnswer
	err      error
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
	p := &plan{Turn: r.schedule.Turn(now), watched: map[merge.Key]bool{}}
	p.message.Probes, r.results = r.results, nil

	wanted := map[string]bool{} // services with a watched endpoint
	for k, until := range r.watches {
		if !p.Watched(until) {
			delete(r.watches, k)
			continue
		}
		p.watched[k], wanted[k.Service] = true, true
	}
	polls := map[string][]merge.Poll{}
	for k, poll := range r.polls {
		polls[k.Service] = append(polls[k.Service], poll)
	}
	clear(r.polls)
	for _, m := range r.members {
		if due, name := p.Due(&m.topic, wanted[m.service] || len(polls[m.service]) > 0); due {
			p.questions = append(p.questions, &question{member: m, service: m.service, list: name, polls: polls[m.service]})
		}
	}
	r.countTrialsLocked(p)
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
			return cadence.Cell(k, e)
		}
	}
	return cadence.Nothing(k)
}

// weigh chooses what is worth telling of a cluster.
func (r *Reporter) weigh(p *plan, q *question) {
	p.report.LHM = max(p.report.LHM, q.sum.LHM)
	p.message.Polls = append(p.message.Polls, q.answers...)
	if q.list {
		p.message.Known = append(p.message.Known, q.endpoints()...)
	}
	total := r.totals[q.service]
	if total == nil {
		total = new(cadence.Totals)
		r.totals[q.service] = total
	}
	if t, tell := total.Weigh(&p.Turn, q.service, &q.sum); tell {
		p.report.Clusters = append(p.report.Clusters, t)
	}
	for i := range q.evidence {
		e := &q.evidence[i]
		k := merge.Key{Service: q.service, Instance: e.ID}
		t := r.told[k]
		if t == nil {
			t = new(cadence.Told)
			r.told[k] = t
		}
		if c := cadence.Cell(k, e); t.Weigh(&p.Turn, &q.topic, e, &c, p.watched[k]) {
			p.report.Cells = append(p.report.Cells, c)
		}
	}
	if p.Summary {
		maps.DeleteFunc(r.told, func(k merge.Key, t *cadence.Told) bool { return k.Service == q.service && t.Gone(&p.Turn) })
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
	if p.Tell {
		p.message.Report = &p.report
		for _, c := range p.report.Cells {
			r.told[c.Key].Sent(c, p.Now)
		}
		r.stats.reports.Add(1)
		r.stats.cells.Add(uint64(len(p.report.Cells)))
	}
	p.Answers = len(p.message.Probes)+len(p.message.Polls)+len(p.message.Probations) > 0
	r.stats.polls.Add(uint64(len(p.message.Polls)))
	r.stats.probes.Add(uint64(len(p.message.Probes)))

	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range p.questions {
		switch {
		case errors.Is(q.err, cluster.ErrStopped):
			r.members = slices.DeleteFunc(r.members, func(m *member) bool { return m == q.member })
		case q.err != nil:
			q.topic.Failed(&p.Turn, q.list)
		default:
			p.Asked(&q.topic)
		}
	}
	r.movedLocked(r.schedule.End(&p.Turn))
}
