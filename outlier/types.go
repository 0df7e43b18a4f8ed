package outlier

import "time"

// Member is one endpoint of the cluster, as discovery knows it.
type Member struct {
	// ID is its identity: the same ID keeps counters and record across updates.
	ID string
	// Zone is where it runs; empty if unknown.
	Zone string
	// Priority is its failover level; 0 is used first. Baselines and caps are
	// kept for each priority.
	Priority uint32
	// Weight is its base weight; 0 is taken as 1. Verdicts do not depend on it, how often
	// an attempt is to be expected does: see [Endpoint.Latency] and [Admission].
	Weight uint32
	// Draining takes it out on purpose, without a record.
	Draining bool
	// New says that the instance has just started: it enters by the ramp.
	New bool
	// Fleet is the central verdict that came with the membership.
	Fleet Verdict
	// Inbound says that a sidecar of ours stands before it.
	Inbound bool
}

// Verdict is a control plane's belief of an endpoint, as this sidecar got it.
// The zero Verdict is In.
type Verdict struct {
	State State
	// Epoch grows with each verdict; an older one is ignored.
	Epoch  uint64
	Rule   Rule
	Reason string
	// RampFrom (share) and RampAge say where a ramp began and how long ago.
	RampFrom float64
	RampAge  time.Duration
}

// Result is what one Step found.
type Result struct {
	// Changes are the changes of belief, and what was refused, by ID.
	Changes []Change
	// Routes are those that were found to be poison, or to be well again.
	Routes []RouteChange
	// Probes are to be run now; each comes back through [Detector.Probed].
	Probes []Probe
	// Urgency says how soon the control plane should hear.
	Urgency Urgency
	// Changed says that View differs from what it was at the last Step.
	Changed bool
	// Next is the latest instant of the next Step.
	Next time.Duration
	// Rest says that nothing has happened for a while: see [Detector.Rest].
	Rest bool
}

// RouteChange is that a route was found to fail wherever it is served, or not to do
// so any more. While it does, its SERVER and TIMEOUT failures count against nobody.
type RouteChange struct {
	Route  uint16
	Poison bool
	// N and K are its attempts and failures of the last ten seconds, N an estimate.
	N, K int64
	At   time.Duration
}

// Change is one change of belief, or one decision that was not carried out.
type Change struct {
	ID       string
	From, To State
	Rule     Rule
	// Refused is empty for what happened, else why From stayed: "cap",
	// "group", "gather", "small group", "evidence", "last".
	Refused string
	// Fleet says that the change is the control plane's.
	Fleet bool
	// Shadow says that the change is believed but not acted upon.
	Shadow  bool
	At      time.Duration
	Explain Explanation
}

// Probe is a probe of our own, to be run at once.
type Probe struct {
	ID string
	// Level is how deep it should reach; the deepest that is available, if less.
	Level   Level
	Timeout time.Duration
	// N counts the probes of one suspicion or one recovery from 1.
	N int
}

// Admission is what the picker may do with one member.
type Admission struct {
	ID string
	// State is the combined local and central belief.
	State State
	// Weight multiplies the member's base weight; 0 is not picked.
	Weight float64
	// Trickle > 0 takes the place of Weight: the member gets one attempt as
	// soon as Trickle has passed since its last, and none before.
	Trickle time.Duration
	// Panic says that it is used although it is out, for want of better.
	Panic bool
}

// Point is a cumulative count at an instant. The counts wrap.
type Point struct {
	At   time.Duration
	N, K uint32
	// N90 and N99 are those of [Counts]; they are known only if Paced.
	N90, N99 uint32
	Paced    bool
}

// PointAt is the point of a reading.
func PointAt(at time.Duration, c Counts) Point {
	return Point{At: at, N: c.N, K: c.K(), N90: c.N90, N99: c.N99, Paced: true}
}

// Evidence is what this sidecar counted about one endpoint.
type Evidence struct {
	ID     string
	Counts Counts
	// Excursion says that the score is above 0.
	Excursion bool
	// Slow says that its answers have lately been slower than the group's usual ones,
	// so that the fleet should hear of it.
	Slow bool
	// Overdue is how many attempts wait longer than D_over, the recently
	// censored among them.
	Overdue int
	// LastOK and LastHard are the ends of the newest answer (OK or Overload)
	// and of the newest hard failure, the others their starts; [Never] if there
	// was none.
	LastOK, LastOKStart, LastHard, LastHardStart time.Duration
	// State is the local belief.
	State State
	Rule  Rule
	// Relief says that LastOK is later than the fleet's suspension, which it ends.
	Relief bool
	// Witness is the level of a hard failure, at most 1 s old, that is newer
	// than any answer; LevelNone if there is none. WitnessAt is its end.
	Witness   Level
	WitnessAt time.Duration
	// History are up to three readings from before the excursion, oldest first:
	// whole seconds, and last the counts just before its first failure. A merged
	// row may begin at any of them.
	History []Point
	// Score is s1 in milli-nats.
	Score int64
	// Routes are the routes whose requests failed in the excursion, at most 8.
	Routes []RouteCount
}

// RouteCount is how many failures a route had.
type RouteCount struct {
	Route    uint16 `json:"route"`
	Failures uint32 `json:"failures"`
}

// Summary is what this sidecar counted about the whole cluster.
type Summary struct {
	// N and K are all attempts and failures since the start, of members past and present.
	N, K uint64
	// Pg is the baseline error rate of the first priority that has members.
	Pg float64
	// Overdue is D_over.
	Overdue time.Duration
	// LHM is the self-doubt, 0 to 7.
	LHM int
	// Latency is the cumulative histogram of sampled OKs, sparse.
	Latency []LatencyCount
	// P50, P90, P99 are the group's percentiles, 0 while unknown.
	P50, P90, P99 time.Duration
	// Slower is how many times as long as usual the cluster's answers took within the
	// last two seconds; 0 while unknown.
	Slower float64
}

// LatencyCount is one bucket of a sparse histogram; see [BucketUpper].
type LatencyCount struct {
	Bucket int
	Count  uint32
}

// IdleMember is an endpoint that lacks signs of life.
type IdleMember struct {
	ID string
	// Silent is the time since it last answered a request, or joined.
	Silent time.Duration
	// Belief is how far it is believed down: [BeliefRest] to [BeliefMax].
	Belief int64
	// Due is when to ping it next, if nobody else arranges its pings: after its
	// last sign of life, or sooner after a miss.
	Due time.Duration
}
