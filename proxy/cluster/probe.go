package cluster

import (
	"context"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/ping"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// maxProbes is how many probes and pings of one cluster may be under way.
const maxProbes = 8

// maxTimeout bounds a probe whatever timeout an order asks for.
const maxTimeout = 5 * time.Second

// Probed is the outcome of a probe.
type Probed struct {
	ID string
	// Level that was reached for: what was asked, or the deepest below it that
	// this endpoint offers.
	Level      outlier.Level
	Result     outlier.ProbeResult
	Start, End time.Duration
}

// probes counts those under way and takes them back in.
type probes struct {
	running int
	asked   map[string]int // of these, by endpoint
	results chan func()    // what Run does with one that has ended, or in whose place another is due
}

// Probe asks the endpoint once, over a connection of its own, and tells the
// detector what came out. It is outlier.NotRun when the endpoint is unknown,
// when too many probes are under way or were ordered in the last second, when
// ctx ends first, and when the cluster has stopped.
func (c *Cluster) Probe(ctx context.Context, id string, level outlier.Level, timeout time.Duration) Probed {
	now := c.deps.Clock.Now()
	none := Probed{ID: id, Level: level, Result: outlier.NotRun, Start: now, End: now}
	answer := make(chan Probed, 1)
	err := c.ask(ctx, func(l *loop) {
		if !c.deps.Pacing.Orders.Allow(now) {
			answer <- none
			return
		}
		l.probe(ctx, id, level, true, timeout, func(p Probed) { answer <- p })
	})
	if err != nil {
		return none
	}
	select {
	case p := <-answer:
		return p
	case <-ctx.Done():
	case <-c.done:
	}
	none.End = c.deps.Clock.Now()
	return none
}

// selfProbe runs what the detector itself wants to know.
func (l *loop) selfProbe(p outlier.Probe, now time.Duration) {
	if !l.c.deps.Pacing.SelfProbes.Allow(now) {
		l.detector.Probed(p.ID, p.Level, outlier.NotRun, now, now)
		return
	}
	l.probe(l.ctx, p.ID, p.Level, false, p.Timeout, func(Probed) {})
}

// probe starts a probe; it ends in the detector, then in tell. ctx is the
// caller's, beside the loop's own; ordered: the control plane wants it.
func (l *loop) probe(ctx context.Context, id string, level outlier.Level, ordered bool, timeout time.Duration, tell func(Probed)) {
	done := func(p Probed) {
		l.c.metrics.probes.add(p.Result)
		l.detector.Probed(p.ID, p.Level, p.Result, p.Start, p.End)
		tell(p)
	}
	now := l.c.deps.Clock.Now()
	r := l.byID[id]
	if r == nil || l.probes.running >= maxProbes {
		done(Probed{ID: id, Level: level, Result: outlier.NotRun, Start: now, End: now})
		return
	}
	q := l.query(r, level, ordered)
	q.holds = l.holds(r, q.Want)
	l.send(ctx, q, timeout, done)
}

// query is what to ask of an endpoint.
type query struct {
	ping.Target
	id    string
	level outlier.Level // that an answer speaks for
	// holds is the endpoint whose open connections contradict a refusal; nil: a
	// refusal stands.
	holds *upstream.Endpoint
}

// ask asks once.
func (q query) ask(ctx context.Context, dial ping.Dial) (outlier.ProbeResult, outlier.Level) {
	result := ping.Ping(ctx, dial, q.Target)
	if result != outlier.Refused || q.holds == nil {
		return result, q.level
	}
	switch stands := q.holds.Stands(ctx); {
	case stands:
		// The server lives: a crash would have reset what stands. The probe was to
		// tell just that, so it succeeds, at the level of the refusal. There it
		// contradicts those that others had, here and in the fleet; a suspicion that
		// goes deeper, of a reset or of silence, it leaves as it is.
		return outlier.ProbeOK, outlier.LevelConnect
	case ctx.Err() != nil:
		return outlier.NotRun, q.level // it was called off before that was known
	}
	return result, q.level
}

// holds is r's endpoint, if connections to it that stand say that it lives. Those
// that an HTTP sidecar in front of it took say only that this sidecar does. And an
// endpoint that is out comes back by connections that it takes, not by old ones.
func (l *loop) holds(r *record, want ping.Want) *upstream.Endpoint {
	if r.spec.Inbound && want != ping.Held {
		return nil
	}
	switch l.state(r) {
	case outlier.Ejected, outlier.Probing, outlier.Probation:
		return nil
	}
	return r.endpoint
}

// state is what is believed of r, here and in the fleet.
func (l *loop) state(r *record) outlier.State {
	if s := l.c.status.Load(); s != nil {
		for i := range s.endpoints {
			if s.endpoints[i].spec.ID == r.spec.ID {
				return s.endpoints[i].state
			}
		}
	}
	return outlier.In
}

// send asks, and hands the answer to then, on Run's goroutine.
func (l *loop) send(ctx context.Context, q query, timeout time.Duration, then func(Probed)) {
	l.probes.running++
	l.probes.asked[q.id]++
	own, cancel := context.WithTimeout(l.ctx, min(timeout, maxTimeout))
	stop := context.AfterFunc(ctx, cancel)
	l.wg.Go(func() {
		defer cancel()
		defer stop()
		p := Probed{ID: q.id, Start: l.c.deps.Clock.Now()}
		p.Result, p.Level = q.ask(own, l.c.dial)
		p.End = l.c.deps.Clock.Now()
		l.hand(func() {
			l.probes.running--
			if l.probes.asked[q.id]--; l.probes.asked[q.id] == 0 {
				delete(l.probes.asked, q.id)
			}
			then(p)
		})
	})
}

// hand has Run call then, if it still does anything.
func (l *loop) hand(then func()) {
	select {
	case l.probes.results <- then:
	case <-l.ctx.Done():
	}
}

// query is what to ask of r to learn about it at level, or at the deepest below
// that there is. Whether the ping path is any good this sidecar finds out for
// itself, but for what is ordered: then the control plane has, or wants to.
func (l *loop) query(r *record, level outlier.Level, ordered bool) query {
	q := query{id: r.spec.ID, level: outlier.LevelConnect, Target: ping.Target{
		Address: r.spec.Address, GRPC: l.cfg.Ping.Kind == ping.GRPC, Path: l.cfg.Ping.Path,
		Service: l.cfg.Ping.Service, Host: l.cfg.Ping.Host, Inbound: r.spec.Inbound,
	}}
	http := l.cfg.Protocol != TCP
	switch {
	case level >= outlier.LevelApp && l.cfg.Ping.Asks() && (ordered || l.idle.path.good):
		q.Want, q.level = ping.Good, outlier.LevelApp
	case r.spec.Inbound && http:
		// Whoever accepts is the sidecar; only an answer comes from the
		// application.
		q.Want = ping.Answered
		q.GRPC = q.GRPC || l.cfg.Protocol == HTTP2 // any answer will do, and this is asked in HTTP/2
		if level >= outlier.LevelApp {
			q.level = outlier.LevelApp
		}
	case r.spec.Inbound:
		q.Want = ping.Held
	}
	return q
}
