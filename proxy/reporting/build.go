package reporting

import (
	"context"
	"errors"
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
	asked     cadence.Asked
	questions []*question

	message report.Message
	report  merge.Report
}

// question is what to ask one cluster, and its answer.
type question struct {
	*member
	service string
	list    bool // name all its endpoints
	polls   []merge.Poll

	answer cadence.Observation
	err    error
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
	p := &plan{Turn: r.schedule.Turn(now)}
	p.asked = r.asked.Take(&p.Turn)
	p.message.Probes, r.results = r.results, nil
	for _, m := range r.members {
		if due, name := p.Due(&m.topic, p.asked.Of(m.service)); due {
			p.questions = append(p.questions, &question{member: m, service: m.service, list: name, polls: p.asked.Polls(m.service)})
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
		q.answer = cadence.Observe(d, q.service, q.polls, now)
	})
}

// weigh chooses what is worth telling of a cluster.
func (r *Reporter) weigh(p *plan, q *question) {
	p.message.Polls = append(p.message.Polls, q.answer.Answers...)
	if q.list {
		p.message.Known = append(p.message.Known, q.endpoints()...)
	}
	m := r.memory[q.service]
	if m == nil {
		m = new(cadence.Memory)
		r.memory[q.service] = m
	}
	m.Weigh(&p.Turn, &q.topic, &q.answer, &p.asked, &p.report)
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
			r.memory[c.Key.Service].Sent(c, p.Now)
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
