// Package resource turns xDS messages into checked values, and back.
//
// The values ([Endpoints], [Cluster], [Listener], [Route]) are what the mesh
// talks about; the messages are what a client understands. How a verdict is told to a
// sidecar, an Envoy and a gRPC client is a table in the documentation of package xds.
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
