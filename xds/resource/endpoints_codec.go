package resource

import endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"

// EncodeEndpoints tells clients of kind k what is known of the endpoints, in
// their terms.
func EncodeEndpoints(e Endpoints, k Kind) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{ClusterName: e.Service}
}

// DecodeEndpoints checks an assignment and returns what it says. The error joins
// a [FieldError] for each thing that is wrong.
func DecodeEndpoints(m *endpointv3.ClusterLoadAssignment) (Endpoints, error) {
	return Endpoints{Service: m.GetClusterName()}, nil
}
