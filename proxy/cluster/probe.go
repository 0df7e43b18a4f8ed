package cluster

import (
	"context"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/ping"
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
	results chan func() // what Run does with one that has ended
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
	target, level := l.target(r, level, ordered)
	l.send(ctx, target, timeout, func(result outlier.ProbeResult, start, end time.Duration) {
		done(Probed{ID: id, Level: level, Result: result, Start: start, End: end})
	})
}

// send runs one ping and hands the result to then, on Run's goroutine.
func (l *loop) send(ctx context.Context, t ping.Target, timeout time.Duration, then func(r outlier.ProbeResult, start, end time.Duration)) {
	l.probes.running++
	own, cancel := context.WithTimeout(l.ctx, min(timeout, maxTimeout))
	stop := context.AfterFunc(ctx, cancel)
	l.wg.Go(func() {
		defer cancel()
		defer stop()
		start := l.c.deps.Clock.Now()
		result := ping.Ping(own, l.c.dial, t)
		end := l.c.deps.Clock.Now()
		select {
		case l.probes.results <- func() {
			l.probes.running--
			then(result, start, end)
		}:
		case <-l.ctx.Done():
		}
	})
}

// target is what to ask of r to learn about it at level, and the level that
// this answers. Whether the ping path is any good this sidecar finds out for
// itself, but for what is ordered: then the control plane has, or wants to.
func (l *loop) target(r *record, level outlier.Level, ordered bool) (ping.Target, outlier.Level) {
	t := ping.Target{Address: r.spec.Address, Path: l.cfg.Ping.Path, Host: l.cfg.Ping.Host, Inbound: r.spec.Inbound}
	http := l.cfg.Protocol == HTTP1
	switch {
	case level >= outlier.LevelApp && l.cfg.Ping.Kind == ping.HTTP && (ordered || l.idle.path.good):
		t.Want = ping.Good
		return t, outlier.LevelApp
	case r.spec.Inbound && http:
		// Whoever accepts is the sidecar; only an answer comes from the
		// application.
		t.Want = ping.Answered
		if level >= outlier.LevelApp {
			return t, outlier.LevelApp
		}
	case r.spec.Inbound:
		t.Want = ping.Held
	}
	return t, outlier.LevelConnect
}
