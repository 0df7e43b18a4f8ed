package cluster

import (
	"log/slog"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// pathCheck keeps a mistyped ping path, or a gRPC server without a health
// service, from condemning healthy endpoints: a ping of the application is
// believed only after it has succeeded on an endpoint of which traffic says that
// it is well. Until then, and after it has failed on two such, pings connect only.
type pathCheck struct {
	good   bool
	busy   bool
	failed string        // the endpoint on which the path failed first
	next   time.Duration // the next sample
	counts map[string]outlier.Counts
}

const (
	pathWindow = 10 * time.Second // over which an endpoint must have shown itself well
	pathOKs    = 10               // by so many good attempts, and
	pathErrors = 0.05             // at most this share of failures
	pathRetry  = 5 * time.Minute  // before a path that failed is tried again
)

// checkPath tries the ping path on an endpoint that is known to be well.
func (l *loop) checkPath(now time.Duration) {
	p := &l.idle.path
	if !l.cfg.Ping.Asks() || p.good {
		return
	}
	if p.busy || now < p.next {
		l.idle.Wake(max(p.next, now+minGap))
		return
	}
	before := p.counts
	p.counts, p.next = make(map[string]outlier.Counts, len(l.records)), now+pathWindow
	l.idle.Wake(p.next)
	var busy *record
	for _, r := range l.records {
		id, counts := r.spec.ID, r.endpoint.Stats.Counts()
		p.counts[id] = counts
		if old, ok := before[id]; ok && id != p.failed && well(old, counts) {
			busy = r
		}
	}
	if busy == nil || l.probes.running >= maxProbes {
		return
	}
	p.busy = true
	cfg := l.cfg.Ping
	q := l.query(busy, outlier.LevelApp, true)
	q.Trial = true
	l.send(l.ctx, q, cfg.Timeout, func(a Probed) {
		if l.cfg.Ping == cfg { // else a new path is to be checked
			l.checked(a.ID, a.Result, a.End)
		}
	})
}

// checked takes in how the path did on an endpoint that is well.
func (l *loop) checked(id string, result outlier.ProbeResult, now time.Duration) {
	p := &l.idle.path
	p.busy = false
	switch {
	case result == outlier.NotRun:
	case result == outlier.ProbeOK:
		*p = pathCheck{good: true}
		l.idle.Wake(now)
	case p.failed == "" && len(l.records) > 1:
		p.failed = id
	default:
		*p = pathCheck{next: now + pathRetry}
		l.c.metrics.invalidPaths.Add(1)
		l.c.deps.Log.LogAttrs(l.ctx, slog.LevelWarn, "ping path invalid: endpoints are pinged by connecting only",
			slog.String("cluster", l.c.name), slog.String("kind", l.cfg.Ping.Kind.String()),
			slog.String("path", l.cfg.Ping.Path), slog.String("service", l.cfg.Ping.Service),
			slog.String("endpoint", id), slog.String("result", result.String()))
	}
}

// well reports whether what an endpoint did between two samples was well.
func well(old, now outlier.Counts) bool {
	c := now.Sub(old)
	return c.N-c.K() >= pathOKs && float64(c.K()) <= pathErrors*float64(c.N)
}
