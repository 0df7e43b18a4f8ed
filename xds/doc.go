// Package xds is the documentation of the packages below it, the wires and the control
// plane. It has no code.
//
//	resource      turns xDS messages into checked values, and back
//	server        serves them: state of the world and delta, aggregated and per type
//	client        is the sidecar's end of that
//	report        carries what was overheard up, and orders to probe down
//	ingest        hears the same of unmodified Envoys: LRS, ALS, HDS, admin pages
//	registry      knows which endpoints exist when all is well
//	controlplane  closes the loop: evidence in, verdicts and endpoint health out
//	replay        says what a policy would have done with what was recorded
//
// # A verdict, told to three kinds of clients
//
// Who asks is known by its node. Each kind is told the same verdict in its own terms:
//
//	our state   sidecar                       Envoy                  gRPC
//	in          HEALTHY                       HEALTHY                HEALTHY
//	suspended   UNHEALTHY + state             DRAINING               UNHEALTHY
//	ejected     UNHEALTHY + state, reason     DRAINING               UNHEALTHY
//	probing     UNHEALTHY + state             DRAINING               UNHEALTHY
//	probation   UNHEALTHY + state             DRAINING               UNHEALTHY
//	ramp        HEALTHY + where it began      HEALTHY, weight rises  HEALTHY, weight rises
//	draining    DRAINING                      DRAINING               DRAINING
//
// Real ones of each are taken through the rows in test/e2e.
//
// What is suspended or on probation is HEALTHY for Envoys and gRPC clients, with a small
// weight, while they are among those who try it (Endpoint.Trial in package resource). The weight of an
// endpoint means nothing to gRPC's round_robin, that of a locality does: an endpoint that
// gets a part of its share there, also by a ramp, is in a locality (sub_zone) of its own,
// unless most are that way and have nobody to rise to.
//
// An endpoint that must get no traffic is marked in place and never removed:
// a removed endpoint loses its connections and its history in Envoy, and goes on
// getting traffic there while its active health checks pass.
//
// Envoy is told DRAINING and not UNHEALTHY because an UNHEALTHY host stays in
// the denominator of Envoy's panic threshold: six of ten UNHEALTHY, and Envoy
// sends to all ten. gRPC drops what is not HEALTHY or UNKNOWN (gRFC A27) and has
// no panic at all, so an assignment without a usable endpoint would fail every
// call; the encoder therefore never makes one for a foreign client, it publishes
// the least bad endpoints as HEALTHY. Our own sidecar does that by itself.
//
// An endpoint that is slow for all callers gets a part of its weight. Sidecars are told
// so over their report streams, an Envoy by the weight in its assignment, which
// LEAST_REQUEST and ROUND_ROBIN follow. One that hashes is not told, unless the mesh file
// asks for it: each change moves keys. gRPC's round_robin takes no weights of
// endpoints, so that there is nothing to tell it.
//
// # A balancer, told to three kinds of clients
//
// The mesh file's balancer of a service, in the terms of each:
//
//	balancer       sidecar        Envoy          gRPC
//	p2c (default)  p2c            LEAST_REQUEST  ROUND_ROBIN
//	least_request  least_request  LEAST_REQUEST  least request, or ROUND_ROBIN
//	round_robin    round_robin    ROUND_ROBIN    ROUND_ROBIN
//	random         random         ROUND_ROBIN    ROUND_ROBIN
//	ring_hash      ring_hash      RING_HASH      RING_HASH, or ROUND_ROBIN
//	maglev         maglev         MAGLEV         RING_HASH, or ROUND_ROBIN
//
// An Envoy's RANDOM heeds no weights, by which endpoints are tried and rise. A gRPC client
// is offered least request as a list (gRFC A52), for only some know it and an lb_policy
// that it does not know refuses the whole cluster. Hashing goes by the key that a route
// names: in sidecars' files and Envoys' own configuration, and by hash of the service in
// the routes that this control plane gives. Without a key an endpoint is chosen by chance;
// gRPC, which knows no keys but header fields, goes round then. On a ring it multiplies the
// weight of an endpoint by that of its locality, so that all are told to be in one, and it
// has no bounded_load. A sidecar from before there was a choice goes on with p2c.
package xds
