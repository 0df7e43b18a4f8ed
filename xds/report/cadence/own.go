package cadence

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// Own is an instance that the sidecar stands beside, told of at first hand.
type Own struct {
	Key   merge.Key
	stats *outlier.Endpoint

	ok, conn uint32        // at the last look
	lastOK   time.Duration // outlier.Never: not yet
	refused  time.Duration // since when nothing but refusals; outlier.Never: not so
	gone     bool          // the application took no connection when it was last tried
	opened   func() uint32 // connections that it has ever taken; nil: unknown
	before   uint32        // these, when it took none
	started  time.Duration // of the application, as far as this sidecar can know
	told     merge.OwnCell
	ever     bool
}

// NewOwn returns an instance whose application is counted by stats. Its start is that of
// the sidecar, whose clock begins then: the two are started together. It is started
// again when it answers after it has refused a connection, and has taken one since: an
// application that has lost its listener alone answers on old connections. opened is how
// many connections it has ever taken; nil: nobody counts them.
func NewOwn(k merge.Key, stats *outlier.Endpoint, opened func() uint32) *Own {
	// A start at 0 would be an unknown one.
	return &Own{Key: k, stats: stats, opened: opened, lastOK: outlier.Never, refused: outlier.Never, started: time.Millisecond}
}

// Look compares the counters with those of the last look, and says whether there is
// news to be told at once: that the application refuses connections, or does no more.
// Each hard failure calls for a look, so that a failure found here is the newest thing
// that happened.
func (o *Own) Look(now time.Duration) bool {
	was := o.refused != outlier.Never
	c := o.stats.Counts()
	ok, conn := c.N-c.K(), c.Conn
	answered, failed := ok != o.ok, conn != o.conn
	o.ok, o.conn = ok, conn
	if answered {
		o.lastOK, o.refused = now, outlier.Never
		if o.gone && (o.opened == nil || o.opened() != o.before) {
			o.gone, o.started = false, now
		}
	}
	if failed {
		// A connection that is reset, or lost, ends no process.
		level, _ := o.stats.LastHard()
		o.gone = level == outlier.LevelConnect
		if o.gone && o.opened != nil {
			o.before = o.opened()
		}
	}
	if failed && o.refused == outlier.Never {
		o.refused = now
		if answered {
			o.lastOK = now - time.Millisecond // before it, also on the wire
		}
	}
	return was != (o.refused != outlier.Never)
}

// Weigh says whether there is something to tell, and what.
func (o *Own) Weigh(t *Turn, draining bool) (merge.OwnCell, bool) {
	o.Look(t.Now)
	n := o.stats.Counts()
	c := merge.OwnCell{Key: o.Key, N: n.N, K: n.K(), Draining: draining, LastOK: o.lastOK, Refused: o.refused, Started: o.started}
	refusing := o.refused != outlier.Never
	changed := !o.ever || c.Draining != o.told.Draining || c.Started != o.told.Started || refusing != (o.told.Refused != outlier.Never)
	switch {
	case changed:
		t.Tell = true
	case !refusing && !t.Summary, c == o.told && !refusing:
		return c, false
	}
	// A refusal is told for as long as it lasts: the control plane believes it for a
	// second only.
	if refusing {
		t.Again(t.Now + refusedGap)
		t.Tell = t.Tell || t.Now-t.reported >= t.cfg.Full/2
	}
	o.told, o.ever = c, true
	return c, true
}
