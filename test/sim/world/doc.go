// Package world is a mesh in virtual time, on one goroutine: users, a network,
// endpoints with faults, and whatever product balances and detects between them.
// It simulates about a million attempts a second on one core, so that months of
// endpoints' lives fit into minutes.
//
// # What is real and what is modelled
//
// [Overhear], the product of this repository, runs its real rules: one
// [outlier.Detector] with its [outlier.Endpoint] counters for each caller, one
// [merge.Table], the [balancer.Set] that picks, and the retry rules of package
// resilience. Two things that its shells do are mirrored here, because shells own
// goroutines: the cadence of reports (proxy/reporting) and what a cluster makes of
// a view (proxy/cluster). Endpoints, users and the network are models: a latency
// drawn from a log-normal distribution, a one-way delay with jitter, connections
// that are counted and not carried. Whole sidecars over an in-memory network are
// simulated by the package beside this one, a thousand times more slowly.
//
// Everything that another product decides is a model of its rules: see package
// rival.
//
// # Determinism
//
// A World reads no clock and starts no goroutine. All dice come from its seed; two
// runs of one scenario, product and seed are equal in every number.
//
// # Scenarios
//
// A [Scenario] is a text file that says who there is, what load they make, and what
// breaks when: see [Parse] for the language.
package world
