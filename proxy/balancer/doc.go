// Package balancer chooses one endpoint out of an immutable set.
//
// The default is the power of two choices (Mitzenmacher, "The Power of Two
// Choices in Randomized Load Balancing", 2001): draw two endpoints, take the
// one whose cost is lower. The cost is peak-EWMA of latency x requests in
// flight, as in Finagle and Linkerd; it lives in [outlier.Endpoint], so that
// the simulator runs this very code without a network.
//
// Three things set this picker apart from the textbook, because a detector
// listens to what the picker sends:
//
//   - A share is a promise. An endpoint that is kept below its base weight (a
//     ramp after recovery, a probation, a latency weight) is not compared at
//     all: it gets Weight / (sum of weights) of the picks, no more because its
//     queue is short, no less because its record is bad. Comparing it would
//     give a ramp of 10 % anything between nothing and 20 %.
//   - A share can be a trickle or one attempt at a time: see [Gate].
//   - Nobody is starved. One pick in eight takes the first draw without
//     comparing, because an endpoint that always loses the comparison is one
//     of which nothing is overheard any more, good or bad.
//
// A Set is built by the one goroutine that owns the cluster and read by all
// requests without a lock.
package balancer
