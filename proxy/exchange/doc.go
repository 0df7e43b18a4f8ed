// Package exchange decides what becomes of one request, whatever version of HTTP
// carries it: where it goes, whether it is admitted, what each attempt says about
// its endpoint, whether another one follows, what the client is told if none
// brings an answer, and how all that is written down.
//
// It moves no byte and waits for nothing. An engine (proxy/http1, proxy/http2) has
// an [Exchange] for each request under way, on whose goroutine, or under whose
// lock, all of its methods are called:
//
//	x.Open(…)
//	stall, refusal := x.Route(deps, now)
//	ep := x.Pick(deps, now, false)
//	x.Begin(ep, now, …)
//	…
//	x.End(ending, facts)               // of the attempt, exactly once
//	next, decision := x.Again(…)       // nil: no other attempt
//	…
//	x.Leave(now)
//	x.Account(deps, now)
//
// So the rules for retries and their budget, for what is an endpoint's fault, and
// for the flags of the access log exist once.
package exchange
