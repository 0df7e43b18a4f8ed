package exchange

import (
	"math/rand/v2"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/resilience"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// Failure is what Again must know beside the exchange itself.
type Failure struct {
	Ending   outlier.Ending
	Answered bool // the attempt brought an answer, with a status that may be worth another one
	// Replayable is that the whole request can be sent again.
	Replayable bool
	// Unprocessed is a promise of the peer that the ending does not imply.
	Unprocessed bool
	// Over is that the request's own time is up, or nobody waits for it.
	Over bool
}

// Again decides whether an attempt is followed by another one, and on which
// endpoint; nil is none.
func (x *Exchange) Again(d *Deps, now time.Duration, f Failure) (*upstream.Endpoint, resilience.Decision) {
	failure := resilience.Failure{Ending: f.Ending, Unprocessed: f.Unprocessed || !x.Sent}
	if f.Answered {
		failure = x.failure()
	}
	failure.Answered, failure.Replayable = x.Interim > 0, f.Replayable
	failure.Safe, failure.Attempts = x.repeatable(f.Ending), x.tries()
	decision := x.Retry.Decide(failure)
	switch {
	case decision == resilience.GiveUp, f.Over:
		return nil, decision
	case decision == resilience.RetryFresh:
		x.replays++
		return x.Endpoint, decision
	}
	next := x.Pick(d, now, decision == resilience.Retry)
	if next == nil && decision == resilience.Retry { // there is nobody else
		if x.Reused && !f.Answered {
			x.replays++
			return x.Endpoint, resilience.RetryFresh // which may do better
		}
		next, decision = x.spare(f.Ending), resilience.AskBudget
	}
	if decision == resilience.AskBudget && next != nil && !x.mayRetry(now) {
		return nil, decision
	}
	return next, decision
}

// spare is an endpoint that is out, for a request that no other would take. It may be in
// trouble still, so it is asked after a pause, and as the budget allows.
func (x *Exchange) spare(ending outlier.Ending) *upstream.Endpoint {
	ours := ending == outlier.EndLocalLimit || ending == outlier.EndOwnErrno // and the same elsewhere
	if x.Cluster == nil || ours {
		return nil
	}
	return x.Cluster.Spare(&x.tried)
}

// failure is what an answer is to a policy, if it is none that the client should get.
func (t *Try) failure() resilience.Failure {
	f := resilience.Failure{Ending: outlier.EndComplete, Status: t.Answer.Status}
	if t.Answer.GRPC && t.Answer.GRPCSeen {
		f.GRPC = t.Answer.GRPCStatus
	}
	switch t.Answer.Origin {
	case outlier.OriginRefused:
		f.Unprocessed = true
	case outlier.OriginReset:
		// The sidecar there stands between, but the news is the same.
		f.Ending = outlier.EndResetBeforeHeaders
	}
	return f
}

// tries is how many attempts count against the policy's most. That a server had
// closed an idle connection costs none.
func (x *Exchange) tries() int { return len(x.Record.Attempts) - x.replays }

// repeatable says whether the request may be repeated although it may have been
// processed. After a reset only what is safe and has no body is: that a server
// does its work twice is harmless only where it does none. The race with the
// close of an idle connection is one that the protocol itself asks to repeat
// (RFC 9112, section 9.3.1), for all idempotent methods.
func (x *Exchange) repeatable(ending outlier.Ending) bool {
	race := ending == outlier.EndKeepAliveRace
	if x.safe() {
		return race || !x.HasBody
	}
	switch string(x.Record.Method) {
	case "PUT", "DELETE":
		return race
	}
	return false
}

// safe says that the method changes nothing (RFC 9110, section 9.2.1).
func (x *Exchange) safe() bool {
	switch string(x.Record.Method) {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return true
	}
	return false
}

// mayRetry asks for what a retry costs.
func (x *Exchange) mayRetry(now time.Duration) bool {
	if x.Cluster == nil || !x.Cluster.Budget().Withdraw(now) {
		return false
	}
	if !x.retrying {
		x.retrying = x.Cluster.Limits().Retries.Acquire()
	}
	return x.retrying
}

// dice draws from the runtime's own source, which any goroutine may use.
var dice = rand.New(source{})

type source struct{}

func (source) Uint64() uint64 { return rand.Uint64() }

// Backoff is how long to wait before the next attempt.
func (x *Exchange) Backoff() time.Duration { return x.Retry.Backoff(len(x.Record.Attempts), dice) }
