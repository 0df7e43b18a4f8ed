package grpcstats

import (
	"net/netip"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report"
	"github.com/overhear-mesh/overhear/xds/report/cadence"
)

// maxResults is how many results of probes wait; the newest win.
const maxResults = 256

// source is the reporter as the client of the stream sees it.
type source struct{ *Reporter }

// Ready is where the client waits.
func (s source) Ready() <-chan struct{} { return s.ready }

// Hello says who reports, and forgets what was told on an earlier stream.
func (s source) Hello() report.Hello {
	r := s.Reporter
	r.mu.Lock()
	defer r.mu.Unlock()
	r.schedule.Begin(r.id.Node.ID, r.now())
	for _, c := range r.channels {
		c.topic.Rename()
		c.memory = cadence.Memory{}
	}
	r.results = nil
	r.asked.Forget()
	clear(r.leases)
	return report.Hello{
		Node: r.id.Node.ID, Region: r.id.Node.Locality.Region, Zone: r.id.Node.Locality.Zone,
		Labels: r.labels(), Observes: true,
	}
}

// Link notes whether a control plane listens.
func (s source) Link(up bool) {
	r := s.Reporter
	r.mu.Lock()
	defer r.mu.Unlock()
	r.linked = up
	if up {
		r.schedule.Wake(0) // what came since Hello has no name yet
		r.wake()
	}
}

// Build makes the next message from the counters of now.
func (s source) Build() report.Message {
	r := s.Reporter
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	turn := r.schedule.Turn(now)
	m := report.Message{Probes: r.results, Last: r.closing}
	r.results = nil
	if r.closing {
		turn.Summary, turn.Tell = true, true
	}
	asked := r.asked.Take(&turn)
	var told merge.Report
	for _, c := range r.channels {
		due, name := turn.Due(&c.topic, asked.Of(c.service))
		if !due {
			continue
		}
		if name {
			m.Known = append(m.Known, c.keysLocked()...)
		}
		if r.closing {
			c.detector.Step(now) // with what calls have counted since the last
		}
		seen := cadence.Observe(c.detector, c.service, asked.Polls(c.service), now)
		m.Polls = append(m.Polls, seen.Answers...)
		c.memory.Weigh(&turn, &c.topic, &seen, &asked, &told)
		turn.Asked(&c.topic)
	}
	if turn.Tell {
		m.Report = &told
		for _, cell := range told.Cells {
			r.channels[cell.Key.Service].memory.Sent(cell, now)
		}
	}
	turn.Answers = len(m.Probes)+len(m.Polls) > 0
	r.schedule.End(&turn)
	r.wake()
	return m
}

// keysLocked are all endpoints, also those that were never called.
func (c *channel) keysLocked() []merge.Key {
	keys := make([]merge.Key, 0, len(c.members))
	for at := range c.members {
		keys = append(keys, merge.Key{Service: c.service, Instance: at.String()})
	}
	return keys
}

// Handle takes orders. Shares and weights come with the endpoints, to the xDS client; a
// probe that is called off is over soon.
func (s source) Handle(o report.Orders) {
	r := s.Reporter
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range o.Probes {
		r.probeLocked(p, now)
	}
	for _, p := range o.Polls {
		r.asked.Poll(p)
		r.schedule.Wake(0)
	}
	for _, w := range o.Watches {
		r.asked.Watch(w.Key, now+w.For)
		r.schedule.Watch(now + w.For)
	}
	for _, l := range o.Leases {
		r.leaseLocked(l, now)
	}
	for _, set := range o.Settings {
		if c := r.channels[set.Service]; c != nil {
			c.detector.SetLatency(set.Latency)
		}
	}
	if o.Mute != nil {
		r.self.Mute(o.Mute.Until)
	}
	r.wake()
}

// lease is an order to ping an endpoint now and then.
type lease struct {
	merge.PingLease
	due time.Duration
}

// leaseLocked begins, renews or ends one. A renewal moves no turn.
func (r *Reporter) leaseLocked(l merge.PingLease, now time.Duration) {
	held := r.leases[l.Key]
	switch {
	case l.Until > now && held != nil:
		held.PingLease = l
	case l.Until > now:
		r.leases[l.Key] = &lease{PingLease: l, due: now + l.Phase}
	case held != nil && held.ID == l.ID:
		delete(r.leases, l.Key)
	}
}

// pingLocked makes the pings that are due, and says when the next one is.
func (r *Reporter) pingLocked(now time.Duration) (next time.Duration) {
	next = now + idlest
	for k, l := range r.leases {
		if now >= l.Until {
			delete(r.leases, k)
			continue
		}
		if now >= l.due {
			l.due = now + max(l.Every, askGap)
			r.probeLocked(merge.ProbeOrder{ID: l.ID, Key: k, Timeout: probeTimeout}, now)
		}
		next = min(next, l.due)
	}
	return next
}

// probeLocked runs a probe by order. It is answered in any case: nobody should wait for one
// that is not run.
func (r *Reporter) probeLocked(o merge.ProbeOrder, now time.Duration) {
	answer := report.Probed{ID: o.ID, Key: o.Key, Level: outlier.LevelConnect, Result: outlier.NotRun, Start: now, End: now, Epoch: o.Epoch}
	c := r.channels[o.Key.Service]
	at, err := netip.ParseAddrPort(o.Key.Instance)
	ran := err == nil && c != nil && c.members[at] != nil && r.runLocked(at, o.Timeout, func(p probe) {
		answer.Result, answer.Start, answer.End = p.result, p.start, p.end
		c.probedLocked(o.Key.Instance, p)
		r.resultLocked(answer)
	})
	if !ran {
		r.resultLocked(answer)
	}
}

// resultLocked has a result told at once; of too many the newest win.
func (r *Reporter) resultLocked(p report.Probed) {
	if len(r.results) == maxResults {
		r.results = slices.Delete(r.results, 0, 1)
	}
	r.results = append(r.results, p)
	r.schedule.Wake(0)
}
