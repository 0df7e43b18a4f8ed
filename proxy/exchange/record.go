package exchange

import (
	"net"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/router"
	"github.com/overhear-mesh/overhear/proxy/trace"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// Logger is told each request when it is over, on the goroutine that
// served it: it must neither block nor keep the record or anything in it.
type Logger interface{ Log(*Record) }

// Record is one request as it went. Byte slices and the slice of attempts
// are reused when Log has returned.
type Record struct {
	Start    time.Duration // when the head had come, by the sidecar's clock
	Duration time.Duration // from then to the last byte of the answer
	Client   net.Addr
	Inbound  bool // for the local application

	Method, Host, Path []byte // Path with its query; empty of CONNECT, and if the head was refused
	UserAgent          []byte
	RequestID          []byte
	Major, Minor       int // of the version that the client speaks

	// Status that the client got; 0 if it got none.
	Status int
	// GRPC says that the request was gRPC, and GRPCStatus what its answer came to;
	// -1: it said nothing.
	GRPC       bool
	GRPCStatus int
	Flags      Flags
	// Detail says in a few words what a flag cannot; often empty.
	Detail string
	// BodyReceived and BodySent count bytes of bodies without their framing, from
	// and to the client.
	BodyReceived, BodySent int64

	Route *router.Route // nil if none matched, and inbound
	// Trace is the request's place in a trace; the zero Context if there are none
	// here. The n-th attempt is its n-th child.
	Trace trace.Context
	// Attempts in the order in which they began. Attempts[Final], if there are any,
	// brought the answer, or was the last to fail.
	Attempts []AttemptRecord
	Final    int
}

// AttemptRecord is one try on one endpoint.
type AttemptRecord struct {
	Endpoint *upstream.Endpoint
	Offset   time.Duration // from the request's start
	Duration time.Duration
	Ending   outlier.Ending
	Class    outlier.Class
	Status   int  // of the response, 0 without
	Reused   bool // a connection that had carried other requests
	Hedge    bool // began while another one was overdue
}

// Flags are Envoy's response flags, those that the engines can raise.
type Flags uint32

const (
	NoHealthyUpstream       Flags = 1 << iota // UH
	UpstreamFailure                           // UF: no connection
	UpstreamOverflow                          // UO: a limit or the breaker
	NoRoute                                   // NR
	NoCluster                                 // NC
	RetriesExhausted                          // URX
	UpstreamTermination                       // UC: the connection ended too early
	UpstreamTimeout                           // UT
	UpstreamProtocolError                     // UPE
	LocalReset                                // LR: this sidecar was told to stop
	DownstreamTermination                     // DC: the client left
	DownstreamProtocolError                   // DPE
	StreamIdle                                // SI
	UpstreamReset                             // UR: the endpoint reset the stream
	RateLimited                               // RL
	DelayInjected                             // DI: a rule's fault
	FaultInjected                             // FI: a rule's fault, in place of an answer
)

var flagNames = [...]string{"UH", "UF", "UO", "NR", "NC", "URX", "UC", "UT", "UPE", "LR", "DC", "DPE", "SI", "UR", "RL", "DI", "FI"}

// String lists the flags as Envoy's access log does: "UF,URX", or "-".
func (f Flags) String() string {
	if f == 0 {
		return "-"
	}
	var names []string
	for i, name := range flagNames {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}
