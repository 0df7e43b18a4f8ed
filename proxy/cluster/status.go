package cluster

import (
	"encoding/json"
	"log/slog"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// Snapshot is what a cluster believes at one time, for operators.
type Snapshot struct {
	Name     string
	Protocol Protocol
	// Panic: none of the endpoints in use is believed to be well.
	Panic     bool
	Overdue   time.Duration
	Endpoints []EndpointStatus
}

// EndpointStatus is one endpoint in a Snapshot.
type EndpointStatus struct {
	Spec
	State outlier.State
	// Share of its base weight that the endpoint gets; 0 if it is not picked.
	Share float64
	// Change is the latest change of belief, Refused the latest since then that was
	// decided and not made; the At of one that is not there is 0.
	Change   outlier.Change
	Refused  outlier.Change
	Counts   outlier.Counts
	Fresh    outlier.Counts // of attempts that began since the belief last changed
	Inflight int
	// Open and Idle connections.
	Open, Idle int
}

// status is the part of a Snapshot that only Run can know. It is immutable.
type status struct {
	protocol  Protocol
	panicking bool
	endpoints []standing
}

// standing is what Run knows of one endpoint.
type standing struct {
	spec            *Spec
	live            *upstream.Endpoint
	state           outlier.State
	share           float64
	change, refused *outlier.Change // nil: none
}

// newStatus tells what p and the views that it was made of say.
func (l *loop) newStatus(p *picker, views []outlier.Admission) *status {
	s := &status{protocol: l.cfg.Protocol, panicking: p.Panicking(), endpoints: make([]standing, len(l.records))}
	share := make(map[string]float64, len(views))
	for _, c := range p.First() {
		share[c.Admission.ID] = c.Admission.Weight
	}
	for i, r := range l.records {
		s.endpoints[i] = standing{
			spec: &r.spec, live: r.endpoint, state: views[i].State, share: share[r.spec.ID], change: r.change, refused: r.refused,
		}
	}
	return s
}

// Snapshot is what the cluster believes now; nil before Run has begun.
func (c *Cluster) Snapshot() *Snapshot {
	s := c.status.Load()
	if s == nil {
		return nil
	}
	out := &Snapshot{Name: c.name, Protocol: s.protocol, Panic: s.panicking, Overdue: c.Overdue()}
	out.Endpoints = make([]EndpointStatus, len(s.endpoints))
	for i := range s.endpoints {
		e := &s.endpoints[i]
		o := &out.Endpoints[i]
		o.Spec, o.State, o.Share = *e.spec, e.state, e.share
		if e.change != nil {
			o.Change = *e.change
		}
		if e.refused != nil {
			o.Refused = *e.refused
		}
		o.Counts, o.Fresh, o.Inflight = e.live.Stats.Counts(), e.live.Stats.Fresh(), e.live.Stats.Inflight()
		o.Open, o.Idle = e.live.Open(), e.live.Idle()
	}
	return out
}

// note remembers, counts and logs a change of belief.
func (l *loop) note(change outlier.Change) {
	l.c.metrics.changed(change)
	switch r := l.byID[change.ID]; {
	case r == nil:
	case change.Refused != "":
		r.refused = &change
	default:
		r.change, r.refused = &change, nil
	}
	level, message := slog.LevelInfo, "endpoint "+change.To.String()
	switch {
	case change.Refused != "":
		message = "endpoint kept"
	case change.To == outlier.Ejected, change.To == outlier.Suspended:
		level = slog.LevelWarn
	}
	attrs := []slog.Attr{
		slog.String("cluster", l.c.name), slog.String("endpoint", change.ID),
		slog.String("from", change.From.String()), slog.String("to", change.To.String()),
		slog.String("rule", change.Rule.String()),
	}
	if change.Refused != "" {
		attrs = append(attrs, slog.String("refused", change.Refused))
	}
	l.c.deps.Log.LogAttrs(l.ctx, level, message, append(attrs, slog.Any("why", why{change}))...)
}

// noteRoute logs that a route fails wherever it goes, or does no more.
func (l *loop) noteRoute(change outlier.RouteChange) {
	level, message := slog.LevelInfo, "route no longer fails on all endpoints"
	if change.Poison {
		level, message = slog.LevelWarn, "route fails on all endpoints, and counts against none"
	}
	l.c.deps.Log.LogAttrs(l.ctx, level, message,
		slog.String("cluster", l.c.name), slog.Int("route", int(change.Route)),
		slog.Int64("attempts", change.N), slog.Int64("failures", change.K))
}

// why is what a change rests on, in a log: an object in a JSON one, a sentence in
// one that people read.
type why struct{ outlier.Change }

func (w why) MarshalText() ([]byte, error) { return []byte(w.Sentence()), nil }

func (w why) MarshalJSON() ([]byte, error) { return json.Marshal(w.Explain) }
