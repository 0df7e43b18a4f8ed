package resource

import (
	"net/netip"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// WeightScale is what a base weight is multiplied with when it is published.
const WeightScale = 100

// DefaultRamp is how long a ramp lasts for an [Endpoints] that does not say.
const DefaultRamp = 10 * time.Second

// rampSteps is in how many steps a ramp is told to clients that cannot compute
// it: each step is a push to all of them.
const rampSteps = 5

// Endpoint is one instance of a service.
type Endpoint struct {
	Instance           string // the registry's own name for it; "" when it has none
	Address            netip.AddrPort
	Region, Zone, Node string
	Priority           uint32 // 0 is used first
	Weight             uint32 // base weight, relative to the others; 0 means 1
	Inbound            bool   // an inbound sidecar stands in front of it
	Draining           bool   // it is on its way out
	Labels             map[string]string
	// Share is the part of its weight that it gets for being slow, 0 to 1; 0 means 1.
	// Envoys are told: sidecars know it from their report streams, and gRPC's
	// round_robin takes no weights of endpoints.
	Share float64
	// Trial is the part of its weight that foreign clients give an endpoint on probation,
	// or one that is suspended, to try it; 0 to 1. Sidecars that try it are told so over
	// their report streams.
	Trial float64
	// Verdict is what the fleet believes of it; the zero Verdict is "in". An
	// encoder for sidecars publishes RampAge as it is given, so the caller keeps
	// the age of the moment of the verdict; an encoder for foreign clients
	// computes the weight of now from it, so there the caller gives the age of now.
	Verdict outlier.Verdict
}

// ID is the endpoint's identity within its service: the instance, else the
// address. A reused address with another instance is another endpoint.
func (e Endpoint) ID() string {
	if e.Instance != "" {
		return e.Instance
	}
	return e.Address.String()
}

// Endpoints are all endpoints of one service.
type Endpoints struct {
	Service   string
	Endpoints []Endpoint
	Ramp      time.Duration // how long a ramp lasts; 0 means [DefaultRamp]
	Ring      bool          // gRPC clients choose by ring_hash
}
