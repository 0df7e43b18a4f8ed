// Package telemetry turns what the engines tell of each request into an access
// log and metrics, off the path of the request.
//
// A [Recorder] stands behind one listener. On the request's goroutine it does no
// more than add to a few atomics and, if there is an access log, append one line
// to a buffer that it hands on; a goroutine of its own writes. When that cannot
// keep up, lines are dropped and counted: a slow disk must not slow requests.
//
// A [Collector] reads the numbers of all rooms when Prometheus asks. Nothing is
// counted twice: clusters, engines and listeners keep their own atomics, and a
// series exists as long as what it speaks of.
package telemetry
