package resource

import "time"

// Cluster is a named destination; its endpoints come separately, as [Endpoints]
// of its service.
type Cluster struct {
	Name           string
	Service        string        // name of its [Endpoints]; "" means Name
	ConnectTimeout time.Duration // 0 means [DefaultConnectTimeout]
	Policy         Policy
	Ring           bool // gRPC clients choose by ring_hash: their routes name a key to go by
	// Ignored are fields of another control plane's message that ask for something
	// which is not done here; see DecodeCluster.
	Ignored []string
}

// DefaultConnectTimeout is the connect timeout of a cluster that brings none.
const DefaultConnectTimeout = time.Second

// EDSName is the name of the cluster's [Endpoints].
func (c Cluster) EDSName() string {
	if c.Service != "" {
		return c.Service
	}
	return c.Name
}
