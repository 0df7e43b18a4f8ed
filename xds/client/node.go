package client

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// Node is who this client says it is.
type Node struct {
	ID, Cluster  string
	Region, Zone string
	Version      string            // of this binary
	Labels       map[string]string // become node metadata, under [resource.MetadataKey]
}

func (n Node) message() *corev3.Node {
	m := &corev3.Node{
		Id: n.ID, Cluster: n.Cluster,
		Locality:             &corev3.Locality{Region: n.Region, Zone: n.Zone},
		UserAgentName:        "overhear",
		UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: n.Version},
	}
	fields := map[string]*structpb.Value{}
	for name, value := range n.Labels {
		fields[name] = structpb.NewStringValue(value)
	}
	if len(fields) > 0 {
		labels := &structpb.Struct{Fields: map[string]*structpb.Value{"labels": structpb.NewStructValue(&structpb.Struct{Fields: fields})}}
		m.Metadata = &structpb.Struct{Fields: map[string]*structpb.Value{resource.MetadataKey: structpb.NewStructValue(labels)}}
	}
	return m
}
