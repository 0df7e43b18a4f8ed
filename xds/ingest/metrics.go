package ingest

import (
	"sync"

	"github.com/overhear-mesh/overhear/xds/report"
)

// Refusal is a reason for which something that an Envoy said was set aside.
type Refusal = report.Refusal

// Reasons of refusal. Where a whole stream is refused it ends with a gRPC status.
const (
	BadNode          Refusal = "bad_node"             // the first message has no node id, or a long one
	ForeignReporter          = report.ForeignReporter // the id is in use by another principal
	TooManyStreams           = report.TooManyStreams  // of one principal
	NotEnvoy         Refusal = "not_envoy"            // a client that tells nothing of single endpoints
	BadInterval      Refusal = "bad_interval"         // a report of no, or of an absurd length of time
	UnknownCluster   Refusal = "unknown_cluster"      // no service of the mesh has that name
	UnknownEndpoint  Refusal = "unknown_endpoint"     // the service has no such address
	BadCounts        Refusal = "bad_counts"           // more requests than there can have been
	NoLoadReports    Refusal = "no_load_reports"      // a log of an Envoy that sends none
	SaysNothing      Refusal = "says_nothing"         // a record of no failure of an endpoint
	NotCounted       Refusal = "not_counted"          // a record of a failure that load reports do not have
	NoAnswer         Refusal = "no_answer"            // an admin page that is polled
	BadPage          Refusal = "bad_page"             // an admin page that is none
	Restarted        Refusal = "restarted"            // a polled Envoy; its counters begin again
	ReportsItself    Refusal = "reports_itself"       // a polled Envoy that sends load reports
	TooManyEndpoints Refusal = "too_many_endpoints"   // in a log, between two load reports
)

// Stats counts since the start.
type Stats struct {
	Streams   int // open now
	Messages  uint64
	Pages     uint64 // of Envoys that are polled
	Records   uint64 // of attempts, in logs
	Throttled uint64 // messages that were read late because there are too many of them
	Refused   map[Refusal]uint64
}

type metrics struct {
	mu sync.Mutex // guards what follows
	Stats
}

func (m *metrics) add(change func(*Stats)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.Stats)
}
