package world

import (
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/proxy/balancer"
)

// Scenario is a mesh, its load, and what goes wrong with it.
type Scenario struct {
	Name  string // of the file, without its ending
	About string // one line

	Callers   int
	Endpoints int
	Zones     int     // over which both are dealt in turn
	PerNode   int     // callers on one machine
	Rate      float64 // attempts per second into each endpoint, from all callers together
	Base      float64 // share of requests that fail in health
	Unsafe    float64 // share of requests that must not be sent twice
	Routes    int     // over which requests are spread evenly

	Latency  time.Duration // median that an endpoint needs
	Sigma    float64       // of its logarithm; 0.5 puts p99 at 3.2 times the median
	Timeout  time.Duration // of a request
	Patience time.Duration // after which a user leaves; 0: never before the timeout
	Near     time.Duration // one way within a zone
	Far      time.Duration // one way between zones, and to the control plane
	Jitter   float64       // share of the delay that is added at random, at most

	KeepAlive time.Duration // after which endpoints close an idle connection; 0: never

	Inbound    bool            // a sidecar of ours stands in front of each endpoint
	Ping       string          // tcp, http or off
	LeaveOut   int             // fault domains that may lie
	Balance    balancer.Policy // of overhear; the models have their own
	PreferZone bool            // use one's own zone before the others
	Backups    int             // endpoints of the second priority: the last ones
	Keys       int             // of requests, for balancers that hash; 0: the route is the key
	Control    bool            // there is a control plane
	Labels     []Label         // of endpoints

	ReportDelay  time.Duration // of each message to the control plane, beside the network's
	ReportJitter time.Duration // more of it, at random: what is late is overtaken by other streams

	Warmup time.Duration // before instant 0
	Length time.Duration // after it

	Steps []Step // in order of time
	Vary  []Variation
	Wants []Want

	Changed bool // it has settings that its text does not have, so that what it wants was not said of it
}

// Label is something that operators say of endpoints.
type Label struct {
	Key, Value string
	To         []int
}

// Step is one line of the story: from At on, What happens to the endpoints To, as
// seen by the callers From (nil: by all).
type Step struct {
	At    time.Duration
	From  []int // callers; nil: the endpoints themselves are at fault
	To    []int // endpoints; nil with OnControl
	Fault Fault
}

// FaultKind is what can go wrong.
type FaultKind uint8

// The kinds of fault. Those up to Errors make an endpoint or a path bad; the others
// are trouble that must take nobody out for good.
const (
	Heal        FaultKind = iota
	Crash                 // its listener is closed and all its connections are reset
	Listener              // its listener alone is gone; connections that stand still answer
	Hang                  // it accepts and never answers
	Blackhole             // nothing comes back from it, not even to a SYN
	Unreachable           // an ICMP error, at once
	Errors                // a share of its answers are 500
	Stall                 // a share of its answers stop after the headers
	Cut                   // a share of its answers are cut off in the body
	Trailers              // a share of its answers are gRPC's, with status UNAVAILABLE in the trailers
	NoTrailers            // a share of its answers are gRPC's, without any status
	Alternate             // every other answer is a 500
	Slow                  // a share of its answers take a multiple of the time
	Pause                 // it stands still now and then
	Overload              // a share of its answers are 503 with Retry-After
	Limit                 // a share of its answers are 429
	Capacity              // it can do so much a second, and queues the rest
	Poison                // one route fails
	Reset                 // all its connections are reset, once
	Drain                 // the registry says that it is leaving
	Undrain               // and that it is not
	Restart               // a new process under the same instance
	Replace               // another instance takes its place
	Clock                 // a caller's clock jumps
	ControlDown           // the control plane is killed
	ControlUp             // and started again
)

var faultNames = [...]string{
	"heal", "crash", "listener", "hang", "blackhole", "unreachable", "errors", "stall", "cut", "trailers", "no-trailers", "alternate",
	"slow", "pause", "overload", "limit", "capacity", "poison", "reset", "drain", "undrain", "restart", "replace", "clock", "down", "up",
}

func (k FaultKind) String() string { return faultNames[k] }

// bad says whether whoever has it should be left alone.
func (k FaultKind) bad() bool {
	switch k {
	case Crash, Hang, Blackhole, Unreachable, Errors, Stall, Cut, Trailers, NoTrailers, Alternate:
		return true
	}
	return false
}

// Fault is a kind with its measure.
type Fault struct {
	Kind   FaultKind
	Share  float64       // of the attempts; 1 unless told
	Factor float64       // of Slow
	For    time.Duration // of Pause; by which a Clock jumps
	Every  time.Duration // of Pause
	Number float64       // requests per second of Capacity, route of Poison
}

// Variation is a setting that takes several values: the scenario is run with each.
type Variation struct {
	Key    string
	Values []string
}

// Want is an expectation of Overhear.
type Want struct {
	Measure string // see Measures
	Stat    string // p50, p95, max, mean
	Below   bool   // at most; else at least
	Value   float64
	Without bool // Value is a part of what the same seeds give with detection off
	// Of is the variant, such as "callers 10", of whose figure Value is a part, for the
	// variants after it; empty: Value stands for itself.
	Of string
}

// Zone is the zone of the i-th caller or endpoint.
func (s *Scenario) Zone(i int) int { return i % s.Zones }

// Priority is that of the i-th endpoint: 0 is used first.
func (s *Scenario) Priority(i int) uint32 {
	if i < s.Endpoints-s.Backups {
		return 0
	}
	return 1
}

// labels are those of the i-th endpoint; nil: none.
func (s *Scenario) labels(i int) map[string]string {
	var all map[string]string
	for _, l := range s.Labels {
		if slices.Contains(l.To, i) {
			if all == nil {
				all = map[string]string{}
			}
			all[l.Key] = l.Value
		}
	}
	return all
}

// bends says whether the clocks of callers and control plane are apart by more than
// what the network does.
func (s *Scenario) bends() bool {
	return s.ReportDelay > 0 || s.ReportJitter > 0 || slices.ContainsFunc(s.Steps, func(x Step) bool { return x.Fault.Kind == Clock })
}

// Node is the machine of a caller. Those of one machine are of one zone.
func (s *Scenario) Node(caller int) int {
	return caller/s.Zones/s.PerNode*s.Zones + caller%s.Zones
}

// Default is what a scenario is that says nothing.
func Default() Scenario {
	return Scenario{
		Callers: 10, Endpoints: 10, Zones: 2, PerNode: 1, Rate: 50, Base: 0.001, Unsafe: 0, Routes: 1,
		Latency: 2 * time.Millisecond, Sigma: 0.5, Timeout: 15 * time.Second,
		Near: 200 * time.Microsecond, Far: time.Millisecond, Jitter: 0.5,
		Ping: "tcp", LeaveOut: 1, Control: true, Warmup: 60 * time.Second, Length: 30 * time.Second,
	}
}
