package merge

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// order is something a reporter was asked to do.
type order struct {
	id       OrderID
	endpoint *endpoint
	reporter *reporter
	reason   string
	scope    Scope
	level    outlier.Level
	sent     time.Duration
	deadline time.Duration
	done     bool
	result   outlier.ProbeResult
	reached  outlier.Level
	start    time.Duration
	end      time.Duration
}

// Probed takes the result of an ordered probe, or of a ping under a lease. start
// and end are instants of the table's clock.
func (t *Table) Probed(id OrderID, reporter string, level outlier.Level, res outlier.ProbeResult, start, end, now time.Duration) Refusal {
	t.now = max(t.now, now)
	r := t.reporters[reporter]
	if r == nil {
		return UnknownReporter
	}
	o := t.orders[id]
	switch {
	case o == nil || o.reporter != r:
		return UnknownOrder
	case end > now+aheadLimit || start > end:
		return BadTime
	}
	r.heard = max(r.heard, now)
	t.touch(o.endpoint)
	if o.reason == reasonLease {
		o.endpoint.idle.hear(o, res, level, start, end)
		return ""
	}
	if o.done {
		return ""
	}
	o.done, o.result, o.reached, o.start, o.end = true, res, level, start, end
	return ""
}

// Reasons of orders.
const (
	reasonSuspicion = "suspicion"
	reasonNeighbour = "neighbour"
	reasonAgain     = "again"
	reasonRecovery  = "recovery"
	reasonIdle      = "idle"
	reasonValidate  = "validate"
	reasonLease     = "lease"
)

// depth is the level that a probe of e should reach. Behind an inbound sidecar a
// connection says nothing of the application.
func (e *endpoint) depth(level outlier.Level) outlier.Level {
	if e.Inbound {
		return outlier.LevelApp
	}
	if level == outlier.LevelNone {
		return outlier.LevelConnect
	}
	return level
}

// order asks r for a probe of e.
func (t *Table) order(e *endpoint, r *reporter, level outlier.Level, reason string, scope Scope, now time.Duration) *order {
	p := &e.group.service.policy
	timeout := p.Outlier.ProbeTimeout
	if u := r.services[e.Key.Service]; u != nil && u.overdue > 0 {
		timeout = min(timeout, u.overdue)
	}
	o := &order{
		id: t.id(), endpoint: e, reporter: r, reason: reason, scope: scope, level: e.depth(level),
		sent: now, deadline: now + timeout + answerSlack,
	}
	t.orders[o.id] = o
	r.probes.fill(now)
	r.probes.take(1)
	t.probes.fill(now)
	t.probes.take(1)
	t.out.Orders = append(t.out.Orders, ProbeOrder{
		ID: o.id, Reporter: r.ID, Key: e.Key, Level: o.level, Ping: e.group.service.ping.kind(p.Ping),
		Timeout: timeout, Epoch: e.record(scope).epoch, Reason: reason,
	})
	t.due(o.deadline)
	return o
}

// cancel withdraws orders that are still out.
func (t *Table) cancel(orders []*order) {
	for _, o := range orders {
		if _, out := t.orders[o.id]; !out {
			continue
		}
		delete(t.orders, o.id)
		if !o.done {
			t.out.Cancels = append(t.out.Cancels, Cancel{ID: o.id, Reporter: o.reporter.ID})
		}
	}
}

// news turns answered orders of e into news of their reporters.
func (t *Table) news(e *endpoint, orders []*order, now time.Duration) {
	for _, o := range orders {
		if !o.done {
			continue
		}
		delete(t.orders, o.id)
		if o.result != outlier.NotRun {
			t.probeNews(e, o.reporter, o.result, o.reached, o.start, o.end, now)
		}
	}
}

// probeNews notes the newest probe of a reporter.
func (t *Table) probeNews(e *endpoint, r *reporter, res outlier.ProbeResult, level outlier.Level, start, end, now time.Duration) {
	x := e.cell(r.slot).extra()
	if end < x.probeEnd || end == x.probeEnd && res < x.probe {
		return
	}
	x.probe, x.probeLevel, x.probeStart, x.probeEnd = res, level, start, end
	if res != outlier.ProbeOK && end > now-hotFor {
		e.heat(e.index[r.slot])
	}
}

// probeAnswers are how orders stand.
func probeAnswers(orders []*order, now time.Duration) []ProbeAnswer {
	all := make([]ProbeAnswer, len(orders))
	for i, o := range orders {
		all[i] = o.answer(now)
	}
	return all
}

func (o *order) answer(now time.Duration) ProbeAnswer {
	a := ProbeAnswer{Reporter: o.reporter.ID, Client: o.reporter.Labels["client"], Zone: o.reporter.Zone, Level: o.level.String(), Result: "waiting"}
	if o.done {
		a.Result, a.Level, a.Took = o.result.String(), o.reached.String(), Span(o.end-o.start)
		a.Age = Span(max(0, now-o.end))
	}
	return a
}
