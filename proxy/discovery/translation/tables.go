package translation

import (
	"slices"
	"time"
)

// tables say what becomes of every field of every message that is read here. A field
// that is in none of them refuses the resource in which it is set.
var tables = slices.Concat(listenerTables, routeTables, filterTables, clusterTables, endpointTables, valueTables)

// Reasons that several fields share.
const (
	informational = "informational"
	statistics    = "names or counts only"
	extensionName = "the type of typed_config says what it is"
	ownFile       = "a setting of the sidecar's file"
)

// noTime is a duration of zero, by which Envoy means none.
const noTime = time.Duration(0)
