package tcp

import (
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Flags say what was unusual about a connection.
type Flags uint16

// The flags bear Envoy's names in the access log.
const (
	NoHealthyUpstream      Flags = 1 << iota // UH: the cluster has no endpoint
	UpstreamConnectFailure                   // UF: nobody took the connection
	UpstreamRetryLimit                       // URX: and no more attempts were allowed
	UpstreamOverflow                         // UO: a limit or the breaker refused
	UpstreamTermination                      // UC: the server reset the connection
	UpstreamTimeout                          // UT: no first byte in time
	DownstreamTermination                    // DC: the client reset the connection
	IdleTimeout                              // SI: nothing moved
	LocalReset                               // LR: this sidecar had to stop
	NoRoute                                  // NR: nothing says where to
	NoCluster                                // NC: nobody has told of the cluster
)

var flagNames = [...]string{"UH", "UF", "URX", "UO", "UC", "UT", "DC", "SI", "LR", "NR", "NC"}

// String lists the flags, separated by commas; "-" if there are none.
func (f Flags) String() string {
	var names []string
	for i, name := range flagNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if names == nil {
		return "-"
	}
	return strings.Join(names, ",")
}

// Record is all that the access log says about a connection. Instants are time
// since the sidecar's epoch.
type Record struct {
	Start, End time.Duration
	Client     string // address
	Listener   string // address
	Meant      string // where a redirected connection was to go, if it could not
	Cluster    string // "" on the way in
	Endpoint   string // its id; "" if there was no connection
	Upstream   string // its address
	Sent       int64  // bytes from client to server
	Received   int64  // bytes from server to client
	Flags      Flags
	Attempts   []AttemptRecord
}

// AttemptRecord is one attempt to connect.
type AttemptRecord struct {
	Endpoint string        // id
	Offset   time.Duration // after the record's Start
	Ending   outlier.Ending
	Class    outlier.Class
}

// A Logger takes the record of a connection that has ended. It must not block,
// and must not keep the record.
type Logger interface{ LogTCP(r *Record) }
