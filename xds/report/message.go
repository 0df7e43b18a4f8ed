package report

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// Hello is what a sidecar says of itself when a stream begins.
type Hello struct {
	// Node is the xDS node id of the same connection.
	Node         string
	Region, Zone string
	// Labels: "node" names the machine, the others are for people.
	Labels map[string]string
	// Observes says that no sidecar speaks but a client of xDS that only tells what its
	// calls came to. It knows a service by the target that it dials and an endpoint by its
	// address, and follows its xDS client in everything: shares and weights are not for it.
	Observes bool
	// Own are the instances beside which the sidecar stands.
	Own []Own
	// Held are the verdicts that it knows, with Key, State, Epoch, Rule and RampFrom,
	// the most important first: only so many are told as fit into one message.
	Held []merge.Verdict
}

// Own is an instance beside which a sidecar stands.
type Own struct {
	Key merge.Key
	Age time.Duration // since it began to run
}

// Message is what a sidecar has to say at one moment. Its times are instants of the
// sidecar's clock; the collector's Sink gets the same types with the table's.
type Message struct {
	// Known are endpoints that the control plane should be able to name in orders
	// though nothing has happened there. To name one again costs nothing.
	Known []merge.Key
	// Report holds cells, totals and own data; nil: none. An empty one says that the
	// sidecar is alive. Reporter, Incarnation, Seq, At, Received and Jitter are
	// filled in on the way.
	Report     *merge.Report
	Probes     []Probed
	Polls      []merge.PollAnswer // Reporter and Seq are filled in on the way
	Probations []Probation
	// Last says that nothing follows: the client ends the stream in order, so that the
	// message arrives, and its Run returns.
	Last bool
}

// Probed is the result of an ordered probe, or of one ping under a lease.
type Probed struct {
	ID         merge.OrderID // of the order or the lease
	Key        merge.Key
	Level      outlier.Level
	Result     outlier.ProbeResult
	Start, End time.Duration
	Epoch      uint64 // as in the order
}

// Probation is what the attempts on an endpoint came to that a sidecar began while it
// held a share, in one probation.
type Probation struct {
	Key    merge.Key
	Epoch  uint64         // of the share
	Counts outlier.Counts // since its first share began
}

// Orders are what the control plane had to say at one moment. Instants are of the
// sidecar's clock, Reporter fields are empty.
type Orders struct {
	Probes  []merge.ProbeOrder
	Cancels []merge.OrderID
	Polls   []merge.Poll
	Leases  []merge.PingLease
	Watches []merge.Watch
	Shares  []merge.Share
	Weights []merge.Weight
	// Settings of the sidecar's services.
	Settings []merge.Settings
	Mute     *merge.Mute
}

// Refusal is a reason for which something that a reporter said was set aside.
type Refusal string

// Reasons of refusal. Where a whole stream is refused it ends with a gRPC status.
const (
	BadHello        Refusal = "bad_hello"        // none, a second one, or one without a name
	BadVersion      Refusal = "bad_version"      // another major version
	ForeignReporter Refusal = "foreign_reporter" // the id is in use by another principal
	OldIncarnation  Refusal = "old_incarnation"  // a newer life of the reporter is here
	TooManyStreams  Refusal = "too_many_streams" // of one principal
	SlowReader      Refusal = "slow_reader"      // did not take its orders for two seconds
	TooLarge        Refusal = "too_large"        // a message, a name or a list beyond its bound
	BadRef          Refusal = "bad_ref"          // declared twice, or not among the first 20 000
	UnknownRef      Refusal = "unknown_ref"      // not declared
	NotSent         Refusal = "not_sent"         // xDS has not sent that service to this node
	NotOwner        Refusal = "not_owner"        // the registry does not bind the instance to this reporter
	BadCounts       Refusal = "bad_counts"       // parts that exceed their whole
	BadTime         Refusal = "bad_time"         // no time at all; or later than the message that tells of it, and taken as now
)

// Dropped is a reason for which an order did not reach a sidecar.
type Dropped string

// Reasons for dropping an order.
const (
	NotNamed Dropped = "not_named" // the stream has no name for the endpoint
	Overrun  Dropped = "overrun"   // 256 newer orders came before it could be sent
)
