package merge

import "time"

const (
	// pollGap is the least time between two polls about one endpoint.
	pollGap = 50 * time.Millisecond
	// pollFresh is how long the answers to a poll hold.
	pollFresh = 100 * time.Millisecond
)

// polling is a count poll: those who have been silent are asked what they know.
// Failures are told at once and successes when there is time, so that without a
// poll every statistic is too high.
type polling struct {
	id      OrderID
	sent    time.Duration
	done    time.Duration
	waiting map[string]bool // nil: no poll is out
}

// settle ends a poll that is answered in full or has waited long enough; it says
// whether one is still out.
func (t *Table) pollRunning(e *endpoint, now time.Duration) bool {
	p := &e.poll
	if p.waiting == nil {
		return false
	}
	until := p.sent + e.group.service.policy.PollWait
	if len(p.waiting) > 0 && now < until {
		t.due(until)
		return true
	}
	// It ended when it was over, not when somebody cares to look.
	p.waiting, p.done = nil, min(now, until)
	return false
}

// polled says whether everybody's counts are known by now, and asks for them if
// not.
func (t *Table) polled(e *endpoint, since, now time.Duration) bool {
	p := &e.poll
	if t.pollRunning(e, now) {
		return false
	}
	if p.done != never && now-p.done <= pollFresh {
		return true
	}
	if p.sent != never && now < p.sent+pollGap {
		t.due(p.sent + pollGap)
		return false
	}
	return !t.poll(e, since, now, func(*reporter) bool { return true })
}

// pollTraffic asks those with recent traffic on e; it waits for nobody.
func (t *Table) pollTraffic(e *endpoint, since, now time.Duration) {
	if t.pollRunning(e, now) || e.poll.sent != never && now < e.poll.sent+pollGap {
		return
	}
	t.poll(e, since, now, t.speaks(e, now))
}

// stallTold says whether those with traffic on e have been asked, in this moment,
// for answers that they had: successes are told of when there is time, so that
// silence in the reports is not silence of the endpoint.
func (t *Table) stallTold(e *endpoint, now time.Duration) bool {
	p := &e.poll
	switch {
	case t.pollRunning(e, now):
		return false
	case p.done != never && now-p.done <= pollFresh:
		return true
	}
	return !t.poll(e, now, now, t.speaks(e, now))
}

// speaks admits the reporters with recent traffic on e. One that has come since may
// have some too: what goes well it tells with its first summary.
func (t *Table) speaks(e *endpoint, now time.Duration) func(*reporter) bool {
	since := now - t.cfg.ReporterHeard
	return func(r *reporter) bool {
		i, ok := e.index[r.slot]
		return r.joined > since || ok && e.cells[i].changed > since
	}
}

// poll asks the reporters of the service that can be asked; it says whether there
// were any.
func (t *Table) poll(e *endpoint, since, now time.Duration, want func(*reporter) bool) bool {
	p := &e.poll
	var ids []string
	for _, r := range e.group.service.reporters {
		if r.askable(t, now) && want(r) {
			ids = append(ids, r.ID)
		}
	}
	p.sent = now
	if len(ids) == 0 {
		p.done = now
		return false
	}
	waiting := make(map[string]bool, len(ids))
	for _, id := range ids {
		waiting[id] = true
	}
	p.id, p.waiting, p.done = t.id(), waiting, never
	t.out.Polls = append(t.out.Polls, Poll{ID: p.id, Key: e.Key, Reporters: ids, At: since})
	t.due(now + e.group.service.policy.PollWait)
	return true
}
