// Package reporting carries what this sidecar has overheard to the control plane, and
// brings the control plane's orders to the clusters.
//
// # When it speaks
//
// Nothing waits in a queue: a report is built from the counters when it can be sent,
// and what decides is only when to build the next one.
//
//	the first hard failure or overdue attempt on an endpoint   at once
//	while that goes on                                         each 50 ms, after 500 ms each 250 ms
//	a score that has left 0                                    after 50 ms, at most one a second (burst 4)
//	endpoints that are watched by order                        each 50 ms
//	endpoints under suspicion or out                           each second
//	all that has changed                                       each ten seconds
//	results of probes, answers to polls                        at once
//	after the stream began                                     everything
//
// Reports are at least 50 ms apart, and each one speaks of every endpoint that is
// under suspicion and has news. At a base error rate of one percent a tenth of all
// endpoints is in some excursion at any time, which is why soft news have a budget.
// The ten-second report is also how the control plane knows that the sidecar lives.
//
// All this goes on while no control plane listens if a recorder does.
//
// # Orders
//
// An order names an endpoint that this sidecar has told the control plane of, never an
// address, and the clusters keep to their own rates whatever they are told.
package reporting
