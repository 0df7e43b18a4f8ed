package reporting

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// told remembers what the control plane knows of an endpoint from this sidecar.
type told struct {
	cell  merge.Cell
	at    time.Duration // when it was told; 0: never
	seen  time.Duration // when the evidence was looked at
	hard  time.Duration // newest hard failure that was looked at
	began time.Duration // of the present hard news
	news  time.Duration // when there were any last; 0: never
}

// temper is how much the news of an endpoint matter.
type temper uint8

const (
	calm    temper = iota
	suspect        // a score above 0, or not in
	hard           // a hard failure lately, or an overdue attempt
)

// look takes in evidence and says how much it matters.
func (t *told) look(e *outlier.Evidence, now time.Duration) temper {
	t.seen = now
	fresh := e.LastHard > t.hard && now-e.LastHard < newsFor
	t.hard = max(t.hard, e.LastHard)
	switch {
	case fresh, e.Overdue > 0, e.Witness != outlier.LevelNone:
		if t.news == 0 || now-t.news > newsFor {
			t.began = now
		}
		t.news = now
		return hard
	case e.Excursion, e.State.Out():
		return suspect
	}
	return calm
}

// gap is between two reports of the endpoint.
func (t *told) gap(w temper, cfg *Config, now time.Duration) time.Duration {
	switch {
	case w == hard && now-t.began < fastFor:
		return cfg.UrgentGap
	case w == hard:
		return cfg.UrgentGapSlow
	case w == suspect:
		return cfg.Full
	}
	return cfg.Summary
}

// due says whether its temper alone is a reason to report the endpoint now.
func (t *told) due(w temper, cfg *Config, now time.Duration) bool {
	if w == hard && t.at < t.began {
		return true // the first of it
	}
	return w > calm && now-t.at >= t.gap(w, cfg, now)
}

// stale says whether the control plane knows less than it could. That an attempt is
// still overdue is news each time: only repetition tells it from a lost report.
func (t *told) stale(c *merge.Cell) bool {
	was := &t.cell
	return t.at == 0 || c.Overdue > 0 || c.Counts != was.Counts || c.Overdue != was.Overdue ||
		c.State != was.State || c.Witness != was.Witness || c.LastOK != was.LastOK || c.LastHard != was.LastHard
}

// cellOf puts evidence in the words of a report.
func cellOf(k merge.Key, e *outlier.Evidence) merge.Cell {
	return merge.Cell{
		Key: k, Counts: e.Counts, Overdue: e.Overdue,
		LastOK: e.LastOK, LastOKStart: e.LastOKStart, LastHard: e.LastHard, LastHardStart: e.LastHardStart,
		State: e.State, Witness: e.Witness, History: e.History, Score: e.Score,
	}
}
