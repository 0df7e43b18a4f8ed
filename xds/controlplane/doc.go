// Package controlplane closes the loop: what all sidecars overhear comes in,
// verdicts are given, and endpoint sets go out to sidecars, Envoys and gRPC
// clients.
//
// # Model
//
// One goroutine, the loop, owns the evidence table and everything that follows
// from it. Report streams, the registry and operators hand it tasks through one
// bounded channel; a loop that is behind makes them wait, and flow control makes
// their sidecars wait, which build a message only when they can send it. The
// loop takes what there is, lets the table decide ([merge.Table.Step]), and then
//
//   - publishes what takes traffic away, at once;
//   - carries the table's orders (probes, polls, leases, shares) to the streams;
//   - publishes everything else at most 50 ms later, with what else changed.
//
// A view is what clients of one kind in one zone are told. A zone has a view of
// its own only for services of which it must be told something of its own.
//
// Envoys without a sidecar report their load on a service of its own (package ingest). An
// Envoy takes orders of probes and leases of pings, if it asks for them by health
// discovery, and no others; a share that the table gives it, to try an endpoint, is told
// to all Envoys as a low weight. Who makes no probes answers an order at once, with that.
//
// # Restart
//
// Nobody is readmitted by a restart. Verdicts are kept in one file, written
// atomically, and sidecars say what they hold when they come back. Until both
// the file and the mesh are loaded, and everybody who reported before is back or
// two seconds have passed, a gate is closed: no xDS request is answered, because
// an Envoy drops what an empty answer does not name, while it keeps everything
// under a server that is silent. Nothing is judged either, since the evidence of
// those who are not back yet would be missing.
//
// # API
//
//	GET  /live      the loop turns
//	GET  /ready     the gate is open
//	GET  /metrics   Prometheus
//	GET  /api/v1/status[?service=NAME]     Status
//	GET  /api/v1/why?endpoint=NAME         Why
//	GET  /api/v1/reporters                 Reporters
//	GET  /api/v1/clients                   Clients
//	GET  /api/v1/events[?after=CURSOR][&follow=true]   Events, as JSON lines or, if accepted, server-sent
//	POST /api/v1/eject|pin|release         Order in, Why out; only with a token
//
// What clients were sent, and what they said to that, is told by CSDS as well
// (envoy.service.status.v3.ClientStatusDiscoveryService, on the xDS address), with the
// resources themselves. It answers callers on the same machine, and others if they bear
// the token: whoever may read his own part of the mesh may not read everybody's.
//
// NAME of an endpoint is its instance, its address, or either after SERVICE/.
package controlplane
