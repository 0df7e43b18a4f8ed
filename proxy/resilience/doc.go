// Package resilience decides what may be tried again, how often, how long, and
// when it is better not to try at all.
//
// [RetryPolicy] is a pure function of how an attempt failed. [Budget] keeps
// retries from multiplying the load of a system that is failing because of its
// load. [Breaker] fails fast when a whole cluster refuses connections. [Limits]
// bound what one cluster may hold of this sidecar.
//
// None of them knows a protocol, an endpoint or a clock: instants come in as
// time since the sidecar's epoch.
package resilience
