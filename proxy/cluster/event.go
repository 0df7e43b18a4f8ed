package cluster

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Event is what Run tells its subscribers after a step that had something to say.
type Event struct {
	Cluster *Cluster
	At      time.Duration
	// Changes of belief, also the refused ones.
	Changes []outlier.Change
	// Urgency is how soon the control plane should hear of the evidence.
	Urgency outlier.Urgency
	// Pings that have ended since the last event.
	Pings []Pinged
	// Members is set when the set of endpoints changed.
	Members bool
}

// Pinged is one idle ping that was run.
type Pinged struct {
	Probed
	// Leased: on the control plane's behalf, not on this sidecar's own.
	Leased bool
}
