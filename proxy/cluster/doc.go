// Package cluster owns a named set of endpoints and keeps its picker current.
//
// One goroutine, [Cluster.Run], is the only writer: it applies updates of the
// set, steps the detector when an outcome wakes it and when the detector asked
// for it, runs probes and idle pings, and publishes what may be picked as an
// immutable picker. A request loads one pointer and counts; it never waits for
// Run.
//
// An endpoint keeps its identity across updates: while its ID stays in the set
// and its address is the same, it is the same *upstream.Endpoint with the same
// counters and connections. A changed address under the same ID keeps the
// counters (it is the same instance) and gets new connections. What is removed
// loses its idle connections; attempts in flight end in their own time.
package cluster
