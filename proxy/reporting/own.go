package reporting

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report/cadence"
)

// Instance is one that this sidecar stands beside.
type Instance struct {
	// Service and Instance are what the registry calls it.
	Service, Instance string
	// Stats counts what the application answered.
	Stats *outlier.Endpoint
	// Opened is how many connections the application has ever taken; nil: unknown.
	Opened func() uint32
}

// Own has an instance reported at first hand. The returned function is to be called
// with each hard failure; it neither blocks nor allocates. To name an instance again
// replaces its counters. One of no service is not reported: no registry knows it.
func (r *Reporter) Own(i Instance) (wake func()) {
	if i.Service == "" {
		r.deps.Log.Warn("nobody is told of the application: set service of the inbound listener, or node.cluster", "instance", i.Instance)
		return func() {}
	}
	o := cadence.NewOwn(merge.Key{Service: i.Service, Instance: i.Instance}, i.Stats, i.Opened)
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, before := range r.own {
		if before.Key == o.Key {
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
		if o.Look(now) {
			r.movedLocked(r.schedule.WakeUrgent())
		}
	}
}

// ownLocked adds the own instances to a report, if there is news.
func (r *Reporter) ownLocked(p *plan) {
	for _, o := range r.own {
		if c, news := o.Weigh(&p.Turn, r.drain.Load()); news {
			p.report.Own = append(p.report.Own, c)
		}
	}
}
