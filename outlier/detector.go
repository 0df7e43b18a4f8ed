package outlier

import (
	"math"
	"math/rand/v2"
	"time"
)

// Never is an instant that did not happen.
const Never = time.Duration(math.MinInt64)

// Member is one endpoint of the cluster, as discovery knows it.
type Member struct {
	// ID is its identity: the same ID keeps counters and record across updates.
	ID string
	// Zone is where it runs; empty if unknown.
	Zone string
	// Priority is its failover level; 0 is used first. Baselines and caps are
	// kept for each priority.
	Priority uint32
	// Weight is its base weight. The Detector does not use it: see [Admission].
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
	// Probes are to be run now; each comes back through [Detector.Probed].
	Probes []Probe
	// Urgency says how soon the control plane should hear.
	Urgency Urgency
	// Changed says that View differs from what it was at the last Step.
	Changed bool
	// Next is the latest instant of the next Step.
	Next time.Duration
}

// Change is one change of belief, or one decision that was not carried out.
type Change struct {
	ID       string
	From, To State
	Rule     Rule
	// Refused is empty for what happened, else why From stayed: "cap",
	// "group", "gather", "small group", "evidence", "last".
	Refused string
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
}

// Evidence is what this sidecar counted about one endpoint.
type Evidence struct {
	ID     string
	Counts Counts
	// Excursion says that the score is above 0.
	Excursion bool
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
	// Witness is the level of a hard failure, at most 1 s old, that is newer
	// than any answer; LevelNone if there is none. WitnessAt is its end.
	Witness   Level
	WitnessAt time.Duration
	// History are up to three readings from before the excursion, oldest
	// first, one second apart: where a merged row may begin.
	History []Point
	// Score is s1 in milli-nats.
	Score int64
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
}

// LatencyCount is one bucket of a sparse histogram; see [BucketUpper].
type LatencyCount struct {
	Bucket int
	Count  uint32
}

// IdleMember is an endpoint that lacks signs of life.
type IdleMember struct {
	ID string
	// Silent is the time since its last answer or good ping.
	Silent time.Duration
	// Belief is how far it is believed down: [BeliefRest] to [BeliefMax].
	Belief int64
	// Due is when to ping it next; in the past if it is overdue for a ping.
	Due time.Duration
}

// Explanation is why something was decided, as data.
type Explanation struct {
	Rule   Rule   `json:"rule"`
	Counts Counts `json:"counts"`
}

// Detector is one observer's belief about one cluster. One goroutine owns it;
// it starts none, reads no clock and holds no lock. Only the Endpoints that it
// hands out are shared.
type Detector struct {
	cfg Config
	rng *rand.Rand
}

// New makes a detector without members. rng is its dice, for jitter alone.
func New(cfg Config, rng *rand.Rand) *Detector { return &Detector{cfg: cfg, rng: rng} }

// SetConfig changes the policy; what is believed stays.
func (d *Detector) SetConfig(cfg Config) { d.cfg = cfg }

// SetMembers replaces the membership. A known ID keeps its counters and its
// record; one that is gone loses all of it.
func (d *Detector) SetMembers(ms []Member, now time.Duration) {}

// Endpoint is the hot path's side of a member; nil if there is no such member.
func (d *Detector) Endpoint(id string) *Endpoint { return nil }

// Step looks at the counters and decides. It is to be called at the latest at
// Result.Next, and soon after an Endpoint asked for it; never less than 1 ms apart.
func (d *Detector) Step(now time.Duration) Result { return Result{} }

// Probed brings back the result of a probe, our own or one that the control
// plane ordered; start and end are its instants.
func (d *Detector) Probed(id string, level Level, r ProbeResult, start, end time.Duration) {}

// Pinged brings back the result of an idle ping.
func (d *Detector) Pinged(id string, ok bool, r ProbeResult, now time.Duration) {}

// Fleet brings a central verdict about one member.
func (d *Detector) Fleet(id string, v Verdict, now time.Duration) {}

// Share lets this sidecar use an endpoint that is out for the others: on
// probation with this weight, or suspended with this many attempts per second.
// It counts only with a verdict of the same epoch, until it lapses.
func (d *Detector) Share(id string, epoch uint64, weight float64, until time.Duration) {}

// CentralGone says that the control plane cannot be reached, CentralBack that it can again.
func (d *Detector) CentralGone(now time.Duration) {}

// CentralBack ends CentralGone.
func (d *Detector) CentralBack(now time.Duration) {}

// View is what the picker may use, in the order of the members. The slice is
// never changed afterwards.
func (d *Detector) View() []Admission { return nil }

// Evidence is what there is to report, one for each endpoint that ever had an
// attempt, in the order of the members.
func (d *Detector) Evidence(now time.Duration) []Evidence { return nil }

// Summary sums the cluster up.
func (d *Detector) Summary(now time.Duration) Summary { return Summary{} }

// Overdue is D_over: the age at which an unanswered attempt is overdue.
func (d *Detector) Overdue() time.Duration { return d.cfg.OverdueMax }

// Idle lists the members that lack signs of life, most urgent first.
func (d *Detector) Idle(now time.Duration) []IdleMember { return nil }
