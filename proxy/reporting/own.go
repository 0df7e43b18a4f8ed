package reporting

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// Instance is one that this sidecar stands beside.
type Instance struct {
	// Service and Instance are what the registry calls it.
	Service, Instance string
	// Stats counts what the application answered.
	Stats *outlier.Endpoint
}

// instance is an Instance with what its counters have shown.
type instance struct {
	key   merge.Key
	stats *outlier.Endpoint

	ok, conn uint32        // at the last look
	lastOK   time.Duration // outlier.Never: not yet
	refused  time.Duration // since when nothing but refusals; outlier.Never: not so
	told     merge.OwnCell
	ever     bool
}

// Own has an instance reported at first hand. The returned function is to be called
// with each hard failure; it neither blocks nor allocates. To name an instance again
// replaces its counters.
func (r *Reporter) Own(i Instance) (wake func()) {
	o := &instance{
		key: merge.Key{Service: i.Service, Instance: i.Instance}, stats: i.Stats,
		lastOK: outlier.Never, refused: outlier.Never,
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, before := range r.own {
		if before.key == o.key {
			r.own[n] = o
			return r.failed
		}
	}
	r.own = append(r.own, o)
	return r.failed
}

// failed says that a local application has failed hard.
func (r *Reporter) failed() {
	select {
	case r.moved <- struct{}{}:
	default:
	}
}

// lookLocked reads the counters of the own instances, and has news told at once: that
// an application refuses connections, or does no more.
func (r *Reporter) lookLocked(now time.Duration) {
	for _, o := range r.own {
		was := o.refused != outlier.Never
		o.look(now)
		is := o.refused != outlier.Never
		if is != was {
			r.wakeLocked(r.reported + r.cfg.UrgentGap)
		}
	}
}

// look compares the counters with those of the last look. Each hard failure calls for
// one, so that a failure found here is the newest thing that happened.
func (o *instance) look(now time.Duration) {
	c := o.stats.Counts()
	ok, conn := c.N-c.K(), c.Conn
	answered, failed := ok != o.ok, conn != o.conn
	o.ok, o.conn = ok, conn
	if answered {
		o.lastOK, o.refused = now, outlier.Never
	}
	if failed && o.refused == outlier.Never {
		o.refused = now
		if answered {
			o.lastOK = now - time.Millisecond // before it, also on the wire
		}
	}
}

// cell is what there is to tell.
func (o *instance) cell(draining bool) merge.OwnCell {
	c := o.stats.Counts()
	return merge.OwnCell{
		Key: o.key, N: c.N, K: c.K(), Draining: draining, LastOK: o.lastOK, Refused: o.refused,
	}
}

// ownLocked adds the own instances to a report, if there is news.
func (r *Reporter) ownLocked(p *plan) {
	for _, o := range r.own {
		o.look(p.now)
		c := o.cell(r.drain.Load())
		refusing := o.refused != outlier.Never
		changed := !o.ever || c.Draining != o.told.Draining || refusing != (o.told.Refused != outlier.Never)
		switch {
		case changed:
			p.tell = true
		case !refusing && !p.summary, c == o.told && !refusing:
			continue
		}
		// A refusal is told for as long as it lasts: the control plane believes it for a
		// second only.
		if refusing {
			p.next = min(p.next, p.now+refusedGap)
			p.tell = p.tell || p.now-r.reported >= r.cfg.Full/2
		}
		p.report.Own = append(p.report.Own, c)
		o.told, o.ever = c, true
	}
}
