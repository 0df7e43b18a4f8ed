package exchange

import (
	"time"

	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/upstream"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// A hedge is a second attempt beside one that has been without an answer for so long
// that the detector calls it overdue ("The Tail at Scale", Dean and Barroso, 2013).
// It turns a hang into latency, while that of a slow answer is left alone: D_over is
// at least four times the group's p99. The first final head is the request's answer.

// HedgeAt is when an attempt that got the whole request at from becomes overdue, and
// PickHedge is to be asked; wheel.Never if there will be no hedge.
func (x *Exchange) HedgeAt(from time.Duration) time.Duration {
	if !x.hedgeable() {
		return wheel.Never
	}
	overdue := x.Endpoint.Stats.Overdue(x.route)
	if overdue <= 0 {
		return wheel.Never
	}
	return from + overdue
}

// hedgeable says whether the request may be at two endpoints at once. One that nobody
// will give up on, such as a long poll, is never overdue. PUT and DELETE are idempotent,
// and yet not hedged unless the route says that it does no harm: what a hung endpoint
// does of them late would undo what others have done since.
func (x *Exchange) hedgeable() bool {
	p := x.Retry
	return p.HedgeOnOverdue && p.MaxAttempts > 1 && x.Cluster != nil && (x.Request > 0 || x.PerTry > 0) &&
		(p.AnyMethod || x.safe())
}

// PickHedge chooses where a second attempt goes beside the one under way, now that
// this one is overdue; nil: there is none. The engine has seen to it that the whole
// request can be sent again. A hedge costs what a retry does. None is made where it
// would only wait as well: not in a panic, nor on an endpoint that owes answers itself.
func (x *Exchange) PickHedge(now time.Duration) *upstream.Endpoint {
	if !x.hedgeable() || !x.Runs() || x.Headed || x.Hedge.Runs() || x.Interim > 0 || x.tries() >= x.Retry.MaxAttempts || x.Cluster.Panicking() {
		return nil
	}
	ep := x.prompt(now)
	if ep == nil || !x.mayRetry(now) {
		return nil
	}
	return ep
}

// prompt finds an endpoint where the request has not been, and which answers.
func (x *Exchange) prompt(now time.Duration) *upstream.Endpoint {
	const most = 3 // who has met three that hang need not look further
	tried := x.tried
	for range most {
		ep := x.pick(now, &tried)
		if ep == nil || tried.Has(ep) {
			return nil
		}
		if !ep.Stats.Stalled(x.Begun, now) {
			return ep
		}
		tried.Add(ep)
	}
	return nil
}

// BeginHedge starts x.Hedge on an endpoint that PickHedge chose.
func (x *Exchange) BeginHedge(ep *upstream.Endpoint, now time.Duration) {
	x.Hedge = Try{Endpoint: ep}
	x.begin(&x.Hedge, now, true)
	x.Record.Attempts[x.Hedge.place].Hedge = true
}

// EndHedge is End for x.Hedge.
func (x *Exchange) EndHedge(d *Deps, now time.Duration, e Ended) { x.end(&x.Hedge, d, now, e) }

// Promote makes the hedge the attempt under way, after End: it has brought an answer,
// or that of before none.
func (x *Exchange) Promote() { x.Try, x.Hedge = x.Hedge, Try{} }

// Rejects reports whether the answer that an attempt has brought is one for which the
// request would be repeated, so that it is not final while another attempt runs.
func (x *Exchange) Rejects(t *Try) bool {
	f := t.failure()
	f.Replayable, f.Safe, f.Attempts = true, x.safe(), 1
	return x.Retry.Decide(f) != resilience.GiveUp
}

// countHedges counts those of a request, and whether one has brought its answer.
func (x *Exchange) countHedges(m *Metrics) {
	for i := range x.Record.Attempts {
		if !x.Record.Attempts[i].Hedge {
			continue
		}
		m.Hedges.Add(1)
		if i == x.place && x.Headed {
			m.HedgesWon.Add(1)
		}
	}
}
