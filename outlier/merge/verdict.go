package merge

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Scope is whom a verdict is for: Fleet, or the name of a zone of observers.
type Scope string

// Fleet is the scope of all observers.
const Fleet Scope = ""

// String gives "fleet" or "zone NAME".
func (s Scope) String() string {
	if s == Fleet {
		return "fleet"
	}
	return "zone " + string(s)
}

// Verdict is what the observers in a scope should believe of an endpoint. An
// observer combines the verdict of the fleet with that of its own zone: the
// severer state holds.
type Verdict struct {
	Key   Key           `json:"key"`
	Scope Scope         `json:"scope,omitempty"`
	State outlier.State `json:"state"`
	// Epoch orders verdicts: a change has a higher one than everything before it.
	Epoch uint64       `json:"epoch"`
	Rule  outlier.Rule `json:"rule"`
	// N is the number of ejections on the endpoint's record.
	N int `json:"n"`
	// Since is the instant at which the state began.
	Since time.Duration `json:"since"`
	// RampFrom is the share of its weight with which a ramp starts, 0 to 1.
	RampFrom float64 `json:"ramp_from,omitempty"`
	// Age is how long ago Since was, when the verdict was read out by Verdicts. It
	// outlives the clock that Since belongs to.
	Age time.Duration `json:"age,omitempty"`
	// Override is what an operator ordered, nil if nobody did.
	Override *Override   `json:"override,omitempty"`
	Explain  Explanation `json:"explain"`
}

// Change is one step of one verdict, or one that was refused.
type Change struct {
	From    outlier.State
	To      outlier.State
	Verdict Verdict // after the change; if refused, what it would have been
	Refused string  // why nothing was done: "cap", "group", "shadow", ...; empty: it was done
	At      time.Duration
}

// OrderID identifies what the table asked of a reporter. Answers carry it.
type OrderID uint64

// PingKind is how an endpoint is pinged.
type PingKind string

// Kinds of ping. PingOff is no ping at all: idle endpoints are left alone.
const (
	PingOff  PingKind = "off"
	PingTCP  PingKind = "tcp"
	PingHTTP PingKind = "http"
	PingGRPC PingKind = "grpc"
)

// ProbeOrder asks a reporter for one probe on a fresh connection, now.
type ProbeOrder struct {
	ID       OrderID
	Reporter string
	Key      Key
	Level    outlier.Level // the level to reach, or the deepest that the prober can
	Ping     PingKind      // what LevelApp means for this service
	Timeout  time.Duration
	Epoch    uint64 // of the verdict that stood when the order was given
	Reason   string // "suspicion", "neighbour", "again", "recovery", "idle" or "validate"
}

// Cancel withdraws an order: its answer would no longer change anything.
type Cancel struct {
	ID       OrderID
	Reporter string
}

// Poll asks reporters for the counts of one endpoint, now and at an earlier
// instant.
type Poll struct {
	ID        OrderID
	Key       Key
	Reporters []string
	At        time.Duration // t_x: the earlier instant
}

// PollAnswer is a reporter's answer to a Poll: what a report of this moment would
// say of the endpoint.
type PollAnswer struct {
	ID       OrderID
	Reporter string
	Seq      uint64        // in one order with the reports
	At       time.Duration // instant of Cell
	Cell     Cell
	Then     Point // counters at the last whole second before the polled instant; zero: unknown
}

// Watch asks reporters what they have counted of an endpoint by now, and to tell of
// each failure at once for a while, at least 50 ms apart.
type Watch struct {
	Key       Key
	Reporters []string
	For       time.Duration
}

// PingLease assigns a reporter to ping an idle endpoint until the lease ends. A
// lease whose Until is not in the future ends one of the same ID.
type PingLease struct {
	ID       OrderID
	Reporter string
	Key      Key
	Kind     PingKind
	Every    time.Duration // between two pings of this reporter; others have turns between them
	Phase    time.Duration // when its first turn is, from now; a renewal moves none
	Timeout  time.Duration
	Until    time.Duration
}

// Share lets one reporter send a part of its usual traffic to an endpoint that
// is out for everybody else: the test share of a probation, or the trickle that
// notices the end of a suspend. It counts while the reporter holds a verdict of
// the same epoch and lapses unless renewed; weight 0 ends it.
type Share struct {
	Reporter string
	Key      Key
	Epoch    uint64
	Weight   float64       // of the endpoint's usual weight, 0 to 1
	Trickle  time.Duration // smallest gap between two attempts; 0: none
	For      time.Duration
}

// Mute tells a reporter that its evidence is set aside until an instant. Until
// zero ends it.
type Mute struct {
	Reporter string
	Domain   string
	Until    time.Duration
	Reason   string
}

// Weight has reporters give an endpoint that is slow for all callers a part of its
// weight, until it lapses; what they believe themselves may lower it further. 1 ends it.
type Weight struct {
	Key       Key
	Reporters []string
	Weight    float64
	For       time.Duration
	Reason    string
}

// Settings tells reporters what all of them together know of a service: how long its
// answers take. It serves those who have seen too few to know.
type Settings struct {
	Service   string
	Reporters []string
	Latency   outlier.Percentiles
}

// EventKind is what an Event tells.
type EventKind string

// Kinds of events.
const (
	EventSuspicion    EventKind = "suspicion"         // a round of probes began
	EventContradicted EventKind = "contradicted"      // a success began after the failure: the round is over
	EventExpired      EventKind = "suspicion_expired" // a round ended undecided
	EventStorm        EventKind = "storm"             // a large part of a group is suspected at once
	EventDropped      EventKind = "probe_dropped"     // a round was not begun for want of probes
	EventMuted        EventKind = "reporter_muted"
	EventUnmuted      EventKind = "reporter_unmuted"
	EventReplaced     EventKind = "prober_replaced" // one sidecar alone spoke against an endpoint in probation
	EventRestarted    EventKind = "endpoint_restarted"
	EventPingPath     EventKind = "ping_path_invalid"
	EventGroup        EventKind = "group_fails" // so many fail alike that none is ejected for it
	EventPace         EventKind = "pace"        // an endpoint gets another weight, being slow for all callers or no longer
	EventPaceHeld     EventKind = "pace_held"   // it is slow, and keeps its weight: so are its neighbours
)

// Event is news for people that changes no verdict.
type Event struct {
	Kind     EventKind     `json:"kind"`
	At       time.Duration `json:"at"`
	Key      Key           `json:"key,omitzero"`
	Reporter string        `json:"reporter,omitempty"`
	Text     string        `json:"text,omitempty"`
}

// Result is what a Step decided. Slices are sorted: nothing in them depends on
// the order in which reports came.
type Result struct {
	Changes []Change // ejections before readmissions
	Orders  []ProbeOrder
	Cancels []Cancel
	Polls   []Poll
	Watches []Watch
	Leases  []PingLease
	Shares  []Share
	Mutes   []Mute
	Weights []Weight
	// Settings of services whose latencies have changed.
	Settings []Settings
	Events   []Event
	Samples  []Sample
	// Next is when Step must run again at the latest.
	Next time.Duration
}

// OverrideKind is what an operator can order.
type OverrideKind string

// Orders of an operator.
const (
	OverrideEject OverrideKind = "eject" // out, whatever the evidence says
	OverridePin   OverrideKind = "pin"   // in, whatever the evidence says
)

// Override is an operator's order about one endpoint. It stands until it is
// released or Until has passed; then the endpoint is judged as usual, and one
// that was ejected comes back by probation.
type Override struct {
	Kind   OverrideKind  `json:"kind"`
	Reason string        `json:"reason"`
	By     string        `json:"by,omitempty"`
	Until  time.Duration `json:"until"`          // instant; 0: until released
	Left   time.Duration `json:"left,omitempty"` // time to Until when read out by Verdicts
}
