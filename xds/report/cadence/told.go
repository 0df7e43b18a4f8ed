package cadence

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// Told remembers what the control plane knows of an endpoint from this sidecar.
type Told struct {
	cell   merge.Cell
	at     time.Duration // when it was told; 0: never
	looked bool          // its evidence was ever looked at
	seen   time.Duration // when it was
	hard   time.Duration // newest hard failure that was looked at
	began  time.Duration // of the present hard news
	news   time.Duration // when there were any last; 0: never
	// watched says that it was at the last look.
	watched bool
}

// temper is how much the news of an endpoint matter.
type temper uint8

const (
	calm    temper = iota
	suspect        // a score above 0, slow, or not in
	hard           // a hard failure lately, an overdue attempt, or an answer that ends a suspension
)

// Weigh takes in the evidence of an endpoint, and says whether its cell, which is c,
// belongs into the report. The turn learns whether that is a reason to report, and
// when to look again.
func (t *Told) Weigh(turn *Turn, topic *Topic, e *outlier.Evidence, c *merge.Cell, watched bool) bool {
	w := t.look(e, turn.Now)
	watched, t.watched = watched && t.watchedNews(c, turn), watched
	if w > calm {
		topic.suspicious = true
		turn.Again(turn.Now + t.gap(w, turn.cfg, turn.Now))
	}
	if !t.stale(c) || w == calm && !watched && !turn.Summary {
		return false
	}
	// Whatever the reason to report, all news under suspicion go with it.
	turn.urgent = turn.urgent || w == hard
	turn.Tell = turn.Tell || watched || turn.Soft && w == suspect || t.due(w, turn.cfg, turn.Now)
	return true
}

// Sent notes that the cell was told.
func (t *Told) Sent(c merge.Cell, now time.Duration) { t.cell, t.at = c, now }

// Gone reports whether the endpoint was not among those that the turn has weighed.
func (t *Told) Gone(turn *Turn) bool { return t.seen != turn.Now }

// look takes in evidence and says how much it matters.
func (t *Told) look(e *outlier.Evidence, now time.Duration) temper {
	if !t.looked {
		t.looked, t.hard = true, outlier.Never
	}
	t.seen = now
	fresh := e.LastHard > t.hard && now-e.LastHard < newsFor
	t.hard = max(t.hard, e.LastHard)
	switch {
	case fresh, e.Overdue > 0, e.Witness != outlier.LevelNone, e.Relief && e.LastOK > t.cell.LastOK:
		if t.news == 0 || now-t.news > newsFor {
			t.began = now
		}
		t.news = now
		return hard
	case e.Excursion, e.Slow, e.State.Out():
		return suspect
	}
	return calm
}

// gap is between two reports of the endpoint.
func (t *Told) gap(w temper, cfg *Config, now time.Duration) time.Duration {
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
func (t *Told) due(w temper, cfg *Config, now time.Duration) bool {
	if w == hard && t.at < t.began {
		return true // the first of it
	}
	return w > calm && now-t.at >= t.gap(w, cfg, now)
}

// watchedNews says whether what there is to tell of a watched endpoint is to be told
// now: all of it when that begins, then each failure at once and the rest now and then.
func (t *Told) watchedNews(c *merge.Cell, turn *Turn) bool {
	return !t.watched || c.Counts.K() != t.cell.Counts.K() || turn.Now-t.at >= turn.cfg.Full
}

// stale says whether the control plane knows less than it could. That an attempt is
// still overdue is news each time: only repetition tells it from a lost report.
func (t *Told) stale(c *merge.Cell) bool {
	was := &t.cell
	return t.at == 0 || c.Overdue > 0 || c.Counts != was.Counts || c.Overdue != was.Overdue ||
		c.State != was.State || c.Witness != was.Witness || c.LastOK != was.LastOK || c.LastHard != was.LastHard
}

// Cell puts evidence in the words of a report.
func Cell(k merge.Key, e *outlier.Evidence) merge.Cell {
	return merge.Cell{
		Key: k, Counts: e.Counts, Overdue: e.Overdue,
		LastOK: e.LastOK, LastOKStart: e.LastOKStart, LastHard: e.LastHard, LastHardStart: e.LastHardStart,
		State: e.State, Witness: e.Witness, History: e.History, Score: e.Score,
	}
}
