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
//	stall, refusal := x.Route(deps, now)   // x.Delay: wait, then Proceed
//	x.Endpoint = x.Pick(deps, now, false)
//	x.Begin(now, …)
//	…
//	x.End(deps, now, ended)            // of the attempt, exactly once
//	next, decision := x.Again(…)       // nil: no other attempt
//	…
//	x.Leave(now)
//	x.Account(deps, now)
//
// Beside an attempt that is overdue there may be a second one, x.Hedge: from HedgeAt on
// PickHedge says where, BeginHedge and EndHedge are for it what Begin and End are for
// the first, and Promote puts it in the place of a first that has ended.
//
// So the rules for retries and their budget, for what is an endpoint's fault, and
// for the flags of the access log exist once.
package exchange
