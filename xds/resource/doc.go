// Package resource turns xDS messages into checked values, and back.
//
// The values ([Endpoints], [Cluster], [Listener], [Route]) are what the mesh
// talks about; the messages are what a client understands. There are three
// kinds of clients, and each is told the same verdict in its own terms:
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
// Weights are published times [WeightScale], so that a ramp can be expressed to
// clients that only know integers.
//
// Decoding checks before it believes. Each error names the resource and the
// field ([FieldError]), so that a NACK tells the other side what to mend.
package resource
