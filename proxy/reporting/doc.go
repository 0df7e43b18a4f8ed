// Package reporting carries what this sidecar has overheard to the control plane, and
// brings the control plane's orders to the clusters.
//
// # When it speaks
//
// Nothing waits in a queue: a report is built from the counters when it can be sent,
// and what decides is only when to build the next one: package cadence.
//
// All this goes on while no control plane listens if a recorder does.
//
// # Orders
//
// An order names an endpoint that this sidecar has told the control plane of, never an
// address, and the clusters keep to their own rates whatever they are told.
package reporting
