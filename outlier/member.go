package outlier

import "time"

// snapshots is how many whole seconds of counts are kept: windows reach back
// 30 s at most.
const (
	snapshots  = 32
	windowMin  = time.Second
	windowMax  = 30 * time.Second
	young      = 5 * time.Second // younger endpoints do not enter the baseline
	wholeLife  = -1              // the snapshot before the first
	minFailed  = 3               // failures that a verdict of the fast test takes
	minApart   = 100 * time.Millisecond
	minSources = 2 // connections
)

// member is all that the detector believes of one endpoint. Removing it from
// Detector.byID removes all of it.
type member struct {
	Member
	at     int // place in the membership
	ep     *Endpoint
	group  *group
	joined time.Duration

	now       Counts // at this Step
	before    Counts // at the last Step
	second    Counts // at the last whole second
	started   uint32 // attempts ever begun, at the last Step
	quiet     bool   // then: none was under way, and none had begun since the Step before
	history   *history
	firstSnap int // the first of Detector.snapped that this member has

	held     uint32 // failures of this excursion that are not reported: see holdBack
	withheld uint32 // the same of earlier ones
	aside    uint32 // failures taken back: see Counts.Route
	served   uint32 // routes that it answered in the last 10 s

	odds      Odds    // of its fast test
	w         float64 // what the group suffers, as odds has it
	errorRate float64
	rate, oks average // attempts and answers per second

	exc excursion
	// excursions counts them: each is one trouble, decided about once.
	excursions uint64
	slow       slowness
	wait       waiting
	doubted    bool // turned bad within this second

	record  record
	suspect suspicion
	idle    idleness
	fleet   central

	refused map[Rule]refusal // what was told last
}

// history is what was read at whole seconds, by [Detector.snapped] modulo its length.
type history struct {
	counts [snapshots]Counts
	held   [snapshots]uint32
}

// keep remembers what is read at a whole second. A member that nobody has called has
// nothing to remember, and most of a large mesh is never called by this caller.
func (m *member) keep(snapped int) {
	if m.history == nil {
		if m.now == (Counts{}) {
			return
		}
		m.history = new(history)
	}
	m.history.counts[snapped%snapshots] = m.now
	m.history.held[snapped%snapshots] = m.withheld + m.held
}

// snap is what was read then, and what of it was held back.
func (m *member) snap(n int) (counts Counts, held uint32) {
	if m.history == nil {
		return Counts{}, 0
	}
	return m.history.counts[n%snapshots], m.history.held[n%snapshots]
}

// refusal is why a removal did not happen, and when that was told.
type refusal struct {
	why string
	at  time.Duration
}

// excursion is the time while the score is above 0.
type excursion struct {
	open    bool
	since   time.Duration
	base    Counts // before its first failure
	first   time.Duration
	conn    uint32 // the first failure's connection
	sources int    // distinct connections among the failures, counted to 2
	routes  []RouteCount
	told    bool          // nothing is held back any more
	held    time.Duration // since when it is refused for the sake of the others; 0: it is not
}

// maxRoutes is how many failing routes of an excursion are told apart.
const maxRoutes = 8

// note adds a failure. One without a connection, a refused connect, is a
// connection of its own.
func (x *excursion) note(f failure) {
	switch {
	case x.sources == 0:
		x.sources, x.conn = 1, f.conn
	case x.sources == 1 && (f.conn == 0 || f.conn != x.conn):
		x.sources = minSources
	}
	for i := range x.routes {
		if x.routes[i].Route == f.route {
			x.routes[i].Failures++
			return
		}
	}
	if len(x.routes) < maxRoutes {
		x.routes = append(x.routes, RouteCount{Route: f.route, Failures: 1})
	}
}

// record is the local belief and what it rests on.
type record struct {
	state State
	rule  Rule // what led to state
	cause Rule // what it was ejected for
	level Level
	since time.Duration

	ejections int           // on record: each doubles the hold-off
	healthy   time.Duration // since when it has earned the next one's removal
	charges   *charges      // what it was ejected for, if that was statistical
	fault     float64       // the error rate that a trial must tell; 1 where that was not the cause

	severity int64         // the score at the ejection: panic takes back the lowest
	hold     time.Duration // the hold-off drawn
	until    time.Duration // its end

	probeWait time.Duration // after the next failed probe
	probeAt   time.Duration // next probe
	probeLost time.Duration // when the one under way is given up; 0: none is
	probes    int           // of this recovery
	good      int           // of these answered
	failed    bool          // one failed on probation
	vouched   bool          // the fleet has let it back in

	trial   Counts // at the start of probation
	earlier int64  // attempts that were in flight then
	trialAt time.Duration
	share   float64
	doubled time.Duration

	rampFrom float64
	rampAt   time.Duration

	resume    State  // where a suspension goes back to
	suspended uint64 // the newest answer when it began
}

// waiting is how the attempts in flight look at this Step.
type waiting struct {
	overdue  int           // older than D_over, recently censored among them
	young    int           // others that await headers
	newest   time.Duration // no overdue attempt began later; Never if there is none in the ring
	censored []censored
	late     []lateMark
}

// lateMark is how many attempts on slow routes had begun at an instant.
type lateMark struct {
	at    time.Duration
	begun uint32
}

type censored struct {
	until time.Duration
	n     int
}

// group is the endpoints of one priority: those that are compared.
type group struct {
	priority uint32
	members  []*member

	pg       float64
	usual    Usual // of pg
	attempts int64 // ever

	gather    time.Duration // when the last gathering of suspects began
	peaks     [10]peak      // healthy load per endpoint, by minute
	rate      float64       // attempts/s of the last 10 s
	perWeight float64       // attempts/s for each unit of base weight, while all are well
}

type peak struct {
	minute int64
	rate   float64
}

func (m *member) out() bool { return m.record.state.Out() || m.fleet.state().Out() }

// counts says whether the member counts in its group at all.
func (m *member) counted() bool { return !m.Draining }

// judged says whether the local rules apply: not to what drains, nor to what
// the control plane has taken over.
func (m *member) judged() bool { return !m.Draining && !m.fleet.state().Out() }

// score is s1.
func (m *member) score() int64 { return m.ep.score.Load() }

// forget begins a new life of the score.
func (m *member) forget(now time.Duration) {
	m.ep.settle(now)
	m.acquit()
	clear(m.refused)
}

// acquit drops the evidence. The endpoint lives on: what it costs stays, and attempts that
// are under way count.
func (m *member) acquit() {
	m.ep.score.Store(0)
	m.ep.runs.Store(0)
	m.closeExcursion()
}

// closeExcursion ends it. What was held back stays so: it is over.
func (m *member) closeExcursion() {
	m.withheld += m.held
	m.held = 0
	m.exc = excursion{}
}

// answerEnd is the end of the newest answer, Never if there was none.
func (m *member) answerEnd() time.Duration {
	_, end := unspan(m.ep.answer.Load())
	return end
}

// alive is the newest sign of life: an answer or a good ping.
func (m *member) alive() time.Duration { return max(m.answerEnd(), m.idle.pinged) }

// becomes changes the local state and answers what to tell.
func (m *member) becomes(to State, rule Rule, now time.Duration) Change {
	c := Change{ID: m.ID, From: m.record.state, To: to, Rule: rule, At: now}
	m.record.state, m.record.rule, m.record.since = to, rule, now
	clear(m.refused)
	m.watch()
	return c
}

// watch makes the hot path wake Step where every outcome may decide.
func (m *member) watch() {
	var on uint32
	if m.record.state == Suspended || m.record.state == Probation || m.fleet.state() == Suspended {
		on = 1
	}
	m.ep.watched.Store(on)
}
