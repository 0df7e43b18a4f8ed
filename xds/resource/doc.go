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
// What is suspended or on probation is HEALTHY for Envoys and gRPC clients, with a small
// weight, while they are among those who try it ([Endpoint.Trial]). The weight of an
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
// LEAST_REQUEST and ROUND_ROBIN follow. gRPC's round_robin takes no weights of
// endpoints, so that there is nothing to tell it.
//
// Weights are published times [WeightScale], so that a ramp can be expressed to
// clients that only know integers.
//
// # Envoy's outlier_detection
//
// A cluster from another control plane, which brings no policy of ours, may bring
// Envoy's outlier_detection. It is read over our defaults, as near as it can be said
// here; where a field is left out ours holds and not Envoy's, because a sidecar without
// rules of consecutive errors detects more than Envoy does with them. What is set and
// ignored is listed ([Cluster].Ignored, /config_dump of a sidecar). Fields of the
// policy are those of [outlier.Config]:
//
//	field of outlier_detection                  field of the policy   how it is read
//	consecutive_5xx                             run_any               failures of any kind in a row; 0 or left out: no such rule
//	enforcing_consecutive_5xx                   run_any_enforced      share of such runs that eject, the rest is only told; left out: all
//	consecutive_gateway_failure                 run_gateway           502, 503, 504 and no answer; left out: 5 where it is enforced, else no rule
//	enforcing_consecutive_gateway_failure       run_gateway_enforced  left out: none
//	split_external_local_origin_errors          run_local             whether the next two count; a run of any kind includes attempts without an answer in both cases
//	consecutive_local_origin_failure            run_local             attempts without an answer; 0: no such rule; left out: 5
//	enforcing_consecutive_local_origin_failure  run_local_enforced    left out: all
//	base_ejection_time                          hold_base             it doubles with each ejection here, and probes and a test follow it
//	max_ejection_time                           hold_max              both are bounded by 1h
//	max_ejection_time_jitter                    hold_jitter           added to each hold-off
//	max_ejection_percent                        max_out               rounded down, but one of two or more; what refuses connections may exceed it
//	always_eject_one_host                       always_eject_one      left out: true where max_ejection_percent is set
//	interval                                    -                     evidence is judged when it arrives
//	enforcing_success_rate                      -                     the sequential tests take the place of outliers in the success rate
//	success_rate_minimum_hosts                  -                     the same
//	success_rate_request_volume                 -                     the same
//	success_rate_stdev_factor                   -                     the same
//	enforcing_local_origin_success_rate         -                     the same
//	failure_percentage_threshold                -                     the same; what is normal is measured
//	enforcing_failure_percentage                -                     the same
//	enforcing_failure_percentage_local_origin   -                     the same
//	failure_percentage_minimum_hosts            -                     the same
//	failure_percentage_request_volume           -                     the same
//	successful_active_health_check_uneject_host -                     a passing health check brings nothing back by itself
//	monitors                                    -                     extensions of Envoy
//	detect_degraded_hosts                       -                     slow or degraded is a matter of weight
//
// # Checks
//
// Decoding checks before it believes. Each error names the resource and the
// field ([FieldError]), so that a NACK tells the other side what to mend.
package resource
