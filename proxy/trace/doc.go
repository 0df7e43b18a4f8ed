// Package trace decides what a request's place in a distributed trace is, and
// says it in the headers that others read: W3C Trace Context
// (https://www.w3.org/TR/trace-context/), and B3 in both its forms
// (https://github.com/openzipkin/b3-propagation) where that is asked for.
//
// It makes no spans: those are made from the record of a request when it is over
// (proxy/telemetry). What cannot wait until then is decided here, when the head
// of a request has come: which trace it belongs to, whether that is sampled, and
// the ids of the spans, because the upstream request carries them. Nothing here
// allocates.
package trace
