// Package rival has models of how other products keep traffic away from bad
// endpoints: Envoy's outlier detection, Linkerd's circuit breakers, HAProxy's
// observe, nginx's max_fails, gRPC's A50, active health checks, and none at all.
//
// They are models: their rules are written down here from the products'
// documentation and sources, each beside its rule, with the products' defaults. They
// share with Overhear the users, the network, the endpoints and the retry rules of
// package world, so that what differs is detection and balancing alone. What they
// do beyond (Linkerd's load biaser, HAProxy's slow start) is left out. All of them
// judge by what one process sees: there is one for each caller.
//
// Each comes with round robin and with the power of two choices. The latter compares
// requests in flight, as Envoy's LEAST_REQUEST, HAProxy's random(2) and nginx's
// random two do; Linkerd's compares peak EWMA of latency times requests in flight.
package rival
