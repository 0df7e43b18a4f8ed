package merge

import (
	"cmp"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Key names an endpoint: the service it belongs to, and its instance id or, if
// the registry knows none, its address. A reused address with another instance
// is another endpoint.
type Key struct {
	Service  string `json:"service"`
	Instance string `json:"instance"`
}

// String gives "service/instance".
func (k Key) String() string { return k.Service + "/" + k.Instance }

func (k Key) compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Service, o.Service), cmp.Compare(k.Instance, o.Instance))
}

// Reporter is an observer as its report stream introduced it.
type Reporter struct {
	ID          string            `json:"id"`          // xDS node id
	Incarnation uint64            `json:"incarnation"` // grows when the reporter restarts
	Principal   string            `json:"principal"`   // TLS identity of the peer, else its IP address
	Node        string            `json:"node"`        // machine that it runs on; empty: unknown
	Zone        string            `json:"zone"`        // empty: it takes part in fleet verdicts only
	Region      string            `json:"region"`
	LHM         int               `json:"lhm"` // self-doubt, 0 to 7
	Labels      map[string]string `json:"labels,omitempty"`

	// Observes says that it only tells what it counts, as an Envoy does. To take part in a
	// test it is told a weight with the endpoints, and of results it tells none.
	Observes bool `json:"-"`
}

// Domain is the fault domain of the reporter: its node if that is known, else its
// principal, because reporters of unknown node behind one address may all be one
// machine; a reporter that has neither stands for itself.
func (r Reporter) Domain() string {
	switch {
	case r.Node != "":
		return "node:" + r.Node
	case r.Principal != "":
		return "principal:" + r.Principal
	}
	return "reporter:" + r.ID
}

// Endpoint is what the registry says of one endpoint.
type Endpoint struct {
	Key      Key
	Zone     string // where the endpoint is
	Node     string // machine that it runs on; reporters there do not confirm its failures
	Priority uint32
	Weight   uint32
	Draining bool // gets no new request; its failures count for nothing
	Inbound  bool // a sidecar stands before the application: probes must reach the application
	Labels   map[string]string
	// Started is when this instance began to run, if the registry knows it. When it
	// changes, the instance was restarted. Zero: unknown.
	Started time.Duration
}

// Report is what one reporter says at one moment. All times are instants of the
// table's clock: the caller has already mapped the reporter's own clock.
type Report struct {
	Reporter    string
	Incarnation uint64
	Seq         uint64        // grows with each report of an incarnation
	At          time.Duration // when the report was built
	Received    time.Duration // when it arrived
	Jitter      time.Duration // spread of the mapping between the two clocks
	LHM         int
	Cells       []Cell
	Clusters    []ClusterTotals
	Own         []OwnCell
}

// Cell is what a reporter knows of one endpoint.
type Cell struct {
	Key    Key
	Counts outlier.Counts // cumulative since the incarnation began
	// Overdue is the number of attempts that wait for their headers longer than
	// they should.
	Overdue int
	// Instants of the newest success and the newest hard failure, and of the start
	// of each; negative: never.
	LastOK, LastOKStart, LastHard, LastHardStart time.Duration
	State                                        outlier.State // what the reporter itself believes
	Witness                                      outlier.Level // level at which an answer would contradict the failure
	History                                      []Point       // earlier counters, oldest first; at most three
	Score                                        int64         // local score in milli-nats; above 0 the reporter is in an excursion
}

// Point is the counters of a cell at an earlier instant: n attempts of which k
// failed.
type Point = outlier.Point

// ClusterTotals is what a reporter knows of a service as a whole.
type ClusterTotals struct {
	Service string
	N, K    uint64        // attempts and failures, cumulative
	Overdue time.Duration // age from which the reporter calls an attempt overdue; 0: unknown
	// Slower is how many times as long as usual the endpoints took to answer within the
	// last two seconds, all together; 0: unknown.
	Slower float64
	// Latency is the cumulative histogram of sampled answers, by bucket; buckets that
	// have not changed since the last report may be missing.
	Latency []outlier.LatencyCount
}

// OwnCell is what the sidecar beside an endpoint knows first-hand of the
// application that it stands before. The caller has checked that the reporter
// owns the instance.
type OwnCell struct {
	Key      Key
	N, K     uint32        // inbound requests and failures, cumulative
	Relayed  uint32        // failures that came with a failed outbound call
	Draining bool          // the application is being shut down in peace
	LastOK   time.Duration // newest inbound success; negative: never
	Refused  time.Duration // since when the application refuses connections; negative: it does not
	Started  time.Duration // when the application began to run; zero: unknown
}

// Applied says what became of a report.
type Applied struct {
	Accepted    int             // cells taken over
	Refused     map[Refusal]int // cells set aside, by reason; nil: none
	Reincarnate bool            // the counters make no sense: the reporter must begin a new incarnation
	Urgent      bool            // Step should run now and not at its next time
}

func (a *Applied) refuse(why Refusal, n int) {
	if n == 0 {
		return
	}
	if a.Refused == nil {
		a.Refused = make(map[Refusal]int)
	}
	a.Refused[why] += n
}

// Refusal is a reason for which a cell, an answer or a whole report was set
// aside.
type Refusal string

// Reasons of refusal.
const (
	UnknownReporter  Refusal = "unknown_reporter"  // no Join, or it has left
	WrongIncarnation Refusal = "wrong_incarnation" // older or newer than the one that joined
	OldReport        Refusal = "old_report"        // a newer or equal one is already here
	UnknownEndpoint  Refusal = "unknown_endpoint"  // the registry has no such endpoint
	NotSubscribed    Refusal = "not_subscribed"    // the reporter does not use that service
	Backwards        Refusal = "backwards"         // a cumulative counter fell
	Jump             Refusal = "jump"              // more attempts than can have been made since
	BadTime          Refusal = "bad_time"          // from the future, or older than the table remembers
	BadCounts        Refusal = "bad_counts"        // parts that exceed their whole
	UnknownOrder     Refusal = "unknown_order"     // an answer to nothing that is (still) asked of this reporter
)
