// Package router matches a request to a cluster with its policy.
//
// A [Table] is immutable and made anew from its [Rule]s when they change. It is
// asked once per request, with the bytes as they came from the wire, and
// allocates nothing. The model is Envoy's, so that a table can also be made from
// xDS: first the host decides which rules compete (an exact host before the
// longest wildcard that fits, before rules for every host), then the first of
// those whose other conditions hold wins, in the order of the file.
package router
