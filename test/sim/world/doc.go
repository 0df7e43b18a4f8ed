// Package world is a mesh in virtual time, on one goroutine: users, a network,
// endpoints with faults, and whatever product balances and detects between them.
// It simulates about a million attempts a second on one core, so that months of
// endpoints' lives fit into minutes.
//
// # What is real and what is modelled
//
// [Overhear], the product of this repository, runs its real rules: one
// [outlier.Detector] with its [outlier.Endpoint] counters for each caller, one
// [merge.Table], the [tiers.Picker] that picks, the retry rules of package resilience,
// what package cadence says of reports and package vigil of pings, and the map of
// clocks of package report. Mirrored are the loops around all that, because those own
// goroutines: when a cluster steps, how deep its probes reach (an HTTP ping's path is
// always good here), and how the control plane publishes. Endpoints, users and the
// network are models: a latency drawn from a log-normal distribution, a one-way delay
// with jitter, connections that are counted and not carried. Whole sidecars over an
// in-memory network are simulated by package mesh, a thousand times more slowly, and
// a test there holds both to the same story.
//
// Everything that another product decides is a model of its rules: see package
// rival.
//
// # Where the two modes differ
//
// In what is known before the fault, and in little else. From a fault of 50 % errors
// until the fleet is off, at 50/s, with 10 callers and base errors of 1 % (medians of
// 100 runs of this mode; of 2 times 20, with 6 and 10 endpoints, and of 14 whole meshes):
//
//	the fault comes after   this mode   whole            till a request fails   from verdict to the last caller
//	12 s                    0.60 s      0.82 s, 0.60 s   0.03 s                 2 ms
//	30 s                    0.48 s      0.49 s           0.03 s                 2 ms
//	60 s                    0.48 s
//
// The rest is the score's way to its threshold. Before the usual error rate is measured,
// p0 is 0.04 here and not 0.024, so that each failure counts for less. Scenarios warm up
// for a minute, and the tests of package mesh for 5 to 12 s, or for 30 s with -long.
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
