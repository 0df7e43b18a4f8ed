// Package balancer chooses one endpoint out of an immutable set.
//
// The default is the power of two choices (Mitzenmacher, "The Power of Two
// Choices in Randomized Load Balancing", 2001): draw two endpoints by weight,
// take the better one. What is better is told by peak-EWMA of latency and by the
// requests in flight, as in Finagle and Linkerd (but that a peak fades with each faster
// answer, too, not with time alone); both live in [outlier.Endpoint], so that the
// simulator runs this very code without a network.
//
// Three things set this picker apart from the textbook, because a detector
// listens to what the picker sends:
//
//   - Nobody is starved. Compared strictly, an endpoint that is 5 % slower than
//     the others loses every comparison while there is little load, and nothing
//     is overheard of it any more, good or bad. So latencies within a factor of
//     two count as equal, and the requests in flight decide, strictly; beyond,
//     the dearer of two is taken with a probability that falls with the square of
//     its cost: one that costs r times as much gets about 2/(1+r²) of a fair part;
//     and unless its answers are overdue by its own measure no less than a tenth of a
//     fair part, or than 2/(1+r) of it if it costs twenty times as much or more. Should
//     chance leave it with nothing for as long as lies between two requests of such a
//     part, its latency does not count until the next ([outlier.Endpoint.Latency]).
//   - A share is a promise. An endpoint that is kept below its base weight (a
//     ramp after recovery, a probation) is not compared at
//     all: it gets Weight / (sum of weights) of the picks, no more because its
//     queue is short, no less because its record is bad. Comparing it would
//     give a ramp of 10 % anything between nothing and 20 %. Only what was left to it
//     because it is slow is a most: who is found out must not get more than before.
//   - A share can be a trickle or one attempt at a time: see [Gate].
//
// A Set is built by the one goroutine that owns the cluster and read by all
// requests without a lock.
package balancer
