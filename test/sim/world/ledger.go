package world

import (
	"slices"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Ledger is what happened in one run, judged where it hurts: at the endpoints and at
// the users.
type Ledger struct {
	w     *World
	begun bool // instant 0 is past

	requests, attempts   int64 // ever
	probes, pings        int64
	counted              int64 // attempts since instant 0
	failedCounted        int64
	onBad, failedBad     int64 // attempts on bad endpoints, or by bad ways
	userFailed           int64 // requests since instant 0 that failed
	harmed, harmedUnsafe int64 // of these on what is bad, or for want of any endpoint; those not to be repeated
	goodRequests         int64
	requestsSinceZero    int64
	pingsZero            int64
	probesZero           int64
	reports, reportsZero int64

	culprits []culprit // by endpoint
	pathBad  []time.Duration
	healed   time.Duration // the last heal of a culprit; -1
	struck   time.Duration // the first fault; -1
	first    time.Duration // start of the first failed attempt on a culprit after struck; -1

	view    []Removal     // by caller and endpoint
	missing int           // pairs of a sound caller and a culprit that are not out yet
	off     time.Duration // when none was missing any more; -1
	half    time.Duration // when half of the callers had it out; -1
	gone    int
	goneOf  int
	changes int
	flips   int // how often a caller's view of a culprit came back to use

	falseOut, falseSuspend          int64 // of pairs
	falseFleet, falseFleetSuspend   int64
	fleetOuts, fleetSuspends, mutes int64
	falseSeconds                    float64 // endpoint-seconds that callers went without a good one, in shares
	falseSince                      []time.Duration
	bins                            []bin
	recoveryFailed                  int64
	unserved                        int64 // requests for which there was no endpoint
	firstHeal                       time.Duration
}

// culprit is the truth about an endpoint.
type culprit struct {
	bad   bool
	ever  bool          // it was bad once
	since time.Duration // of its first fault of any kind
	until time.Duration // grace after it healed
}

// bin is the traffic of a tenth of a second.
type bin struct{ all, bad, failed int32 }

const binWidth = 100 * time.Millisecond

// grace is how long after a fault has ended its endpoint may still be taken out
// without that being called a mistake.
const grace = 3 * time.Second

func newLedger(w *World) *Ledger {
	pairs := w.Callers * w.Scenario.Endpoints
	return &Ledger{
		w: w, culprits: make([]culprit, w.Scenario.Endpoints), healed: -1, struck: -1, first: -1, off: -1, half: -1, firstHeal: -1,
		view: make([]Removal, pairs), falseSince: make([]time.Duration, pairs),
	}
}

// begin is instant 0.
func (l *Ledger) begin() {
	l.begun = true
	l.pingsZero, l.probesZero, l.reportsZero = l.pings, l.probes, l.reports
	if len(l.w.Steps) > 0 {
		l.bins = make([]bin, l.w.Length/binWidth+1)
	}
}

// note takes in a step of the story.
func (l *Ledger) note(s Step) {
	now := l.w.now
	if l.struck < 0 && s.Fault.Kind != Heal {
		l.struck = now
	}
	n := l.w.Scenario.Endpoints
	if s.From != nil {
		if l.pathBad == nil {
			l.pathBad = make([]time.Duration, l.w.Callers*n)
		}
		for _, c := range s.From {
			for _, e := range s.To {
				switch {
				case s.Fault.Kind.bad():
					l.pathBad[c*n+e] = forever
				case l.pathBad[c*n+e] == forever:
					l.pathBad[c*n+e] = now + grace
				}
			}
		}
		return
	}
	// A fault of all of them is nobody's in particular; but what is dead is dead,
	// whoever else is.
	one := len(s.To) < n
	for _, e := range s.To {
		c := &l.culprits[e]
		switch {
		case s.Fault.Kind.bad() && one, s.Fault.Kind == Crash:
			c.bad, c.ever, c.since = true, true, now
		case s.Fault.Kind == Slow && one:
			c.since = now
		case s.Fault.Kind == Heal && c.bad:
			c.bad, c.until = false, now+grace
			l.healed = now
			if l.firstHeal < 0 {
				l.firstHeal = now
			}
		}
	}
	l.recount()
}

const forever = time.Duration(1<<63 - 1)

// recount counts who still uses a culprit.
func (l *Ledger) recount() {
	n := l.w.Scenario.Endpoints
	l.missing, l.goneOf, l.gone = 0, 0, 0
	for e := range l.culprits {
		if !l.culprits[e].bad {
			continue
		}
		for c := range l.w.Callers {
			l.goneOf++
			if l.view[c*n+e] == Used {
				l.missing++
			} else {
				l.gone++
			}
		}
	}
}

func (l *Ledger) bad(caller, endpoint int) bool {
	c := &l.culprits[endpoint]
	if c.bad || l.w.now < c.until {
		return true
	}
	return l.pathBad != nil && l.pathBad[caller*l.w.Scenario.Endpoints+endpoint] > l.w.now
}

// Saw takes in that a caller's view of an endpoint is now this.
func (l *Ledger) Saw(caller, endpoint int, now Removal) {
	i := caller*l.w.Scenario.Endpoints + endpoint
	was := l.view[i]
	if was == now {
		return
	}
	l.view[i] = now
	l.changes++
	bad := l.bad(caller, endpoint)
	if l.culprits[endpoint].bad && (was == Used) != (now == Used) {
		if now == Used {
			l.missing++
			l.gone--
			l.flips++
		} else {
			l.missing--
			l.gone++
			if l.half < 0 && 2*l.gone >= l.goneOf {
				l.half = l.w.now
			}
			if l.off < 0 && l.missing == 0 {
				l.off = l.w.now
			}
		}
	}
	if was == Used && now != Used {
		if !bad && l.begun {
			if now == Suspended {
				l.falseSuspend++
			} else {
				l.falseOut++
			}
			l.falseSince[i] = l.w.now
		}
	} else if was == Suspended && now == Removed && !bad && l.begun {
		l.falseOut++
	}
	if now == Used && l.falseSince[i] > 0 {
		l.falseSeconds += (l.w.now - l.falseSince[i]).Seconds() / float64(l.w.Callers)
		l.falseSince[i] = 0
	}
}

// Fleet takes in a verdict for all callers, or for those of one zone.
func (l *Ledger) Fleet(endpoint int, callers func(int) bool, suspended bool) {
	if !l.begun {
		return
	}
	bad := false
	for c := range l.w.Callers {
		bad = bad || callers(c) && l.bad(c, endpoint) && (l.culprits[endpoint].bad || l.w.now < l.culprits[endpoint].until || l.most(endpoint, callers))
	}
	switch {
	case suspended:
		l.fleetSuspends++
		if !bad {
			l.falseFleetSuspend++
		}
	default:
		l.fleetOuts++
		if !bad {
			l.falseFleet++
		}
	}
}

// most says whether most of the callers have a bad way to an endpoint: then a
// verdict for them is right although the endpoint is well.
func (l *Ledger) most(endpoint int, callers func(int) bool) bool {
	all, bad := 0, 0
	for c := range l.w.Callers {
		if callers(c) {
			all++
			if l.bad(c, endpoint) {
				bad++
			}
		}
	}
	return 2*bad > all
}

// Muted takes in that a caller's evidence was set aside.
func (l *Ledger) Muted() { l.mutes++ }

// Pinged takes in a ping of an idle endpoint.
func (l *Ledger) Pinged() { l.pings++ }

// Reported takes in a message to the control plane.
func (l *Ledger) Reported() { l.reports++ }

func (l *Ledger) started(r *Request) {
	l.attempts++
	if !l.begun {
		return
	}
	l.counted++
	c := &l.culprits[r.Endpoint]
	bad := c.bad
	if bad || l.pathBad != nil && l.bad(r.Caller, r.Endpoint) {
		l.onBad++
	}
	if l.bins != nil {
		if b := int((l.w.now - l.w.zero) / binWidth); b < len(l.bins) {
			l.bins[b].all++
			if c.since > 0 {
				l.bins[b].bad++
			}
		}
	}
}

func (l *Ledger) ended(r *Request, good bool) {
	if !l.begun {
		return
	}
	if good {
		l.goodRequests++
		return
	}
	l.failedCounted++
	c := &l.culprits[r.Endpoint]
	if c.bad || l.w.now < c.until || l.pathBad != nil && l.bad(r.Caller, r.Endpoint) {
		l.failedBad++
		if l.first < 0 && l.struck >= 0 && c.since > 0 {
			l.first = max(r.Started, l.struck)
		}
		if l.bins != nil {
			if b := int((l.w.now - l.w.zero) / binWidth); b < len(l.bins) {
				l.bins[b].failed++
			}
		}
	}
}

// failedRequest takes in that a user got no good answer.
func (l *Ledger) failedRequest(r *Request) {
	if !l.begun {
		return
	}
	l.userFailed++
	if r.Attempts > 0 && !l.bad(r.Caller, r.Endpoint) && r.how.Ending == outlier.EndComplete {
		return // the base rate's
	}
	if r.Unsafe {
		l.harmedUnsafe++
	} else {
		l.harmed++
	}
	if l.firstHeal >= 0 && r.Attempts > 0 && l.culprits[r.Endpoint].since > 0 {
		l.recoveryFailed++
	}
}

func (l *Ledger) finish() {
	l.requestsSinceZero = l.goodRequests + l.userFailed
	for i, since := range l.falseSince {
		if since > 0 {
			l.falseSeconds += (l.w.now - since).Seconds() / float64(l.w.Callers)
			l.falseSince[i] = 0
		}
	}
}

// Attempts is how many attempts were simulated.
func (l *Ledger) Attempts() int64 { return l.attempts }

// measure is one figure of a run; false: it has none in this run.
type measure struct {
	name, help string
	of         func(l *Ledger) (float64, bool)
}

var measures = []measure{
	{"off", "s from the start of the first failed attempt until every caller was off", func(l *Ledger) (float64, bool) {
		return l.sinceFirst(l.off)
	}},
	{"off-fault", "s from the fault until every caller was off", func(l *Ledger) (float64, bool) { return since(l.struck, l.off) }},
	{"half", "s from the start of the first failed attempt until half of the callers were off", func(l *Ledger) (float64, bool) {
		return l.sinceFirst(l.half)
	}},
	{"found", "1 if every caller was off before the end", func(l *Ledger) (float64, bool) {
		return b2f(l.off >= 0), slices.ContainsFunc(l.culprits, func(c culprit) bool { return c.ever })
	}},
	{"harm", "failed attempts on what is bad, beyond the base rate", func(l *Ledger) (float64, bool) {
		return float64(l.failedBad) - l.w.Base*float64(l.onBad), true
	}},
	{"failed", "requests of users that failed on what is bad and might have been repeated", func(l *Ledger) (float64, bool) { return float64(l.harmed), true }},
	{"failed-unsafe", "the same, that must not be repeated", func(l *Ledger) (float64, bool) { return float64(l.harmedUnsafe), l.w.Unsafe > 0 }},
	{"unserved", "requests for which there was no endpoint at all", func(l *Ledger) (float64, bool) { return float64(l.unserved), true }},
	{"avoided", "part of the bad ways and endpoints that their callers leave alone at the end", func(l *Ledger) (float64, bool) { return l.avoided() }},
	{"share-late", "traffic of what is bad in the second half, as part of its fair share", func(l *Ledger) (float64, bool) {
		return l.share(l.w.zero+l.w.Length/2, l.w.end), l.struck >= 0 && l.bins != nil
	}},
	{"goodput", "share of all requests that succeeded", func(l *Ledger) (float64, bool) {
		return float64(l.goodRequests) / float64(max(1, l.requestsSinceZero)), true
	}},
	{"false-fleet", "verdicts for all callers, or for those of a zone, on what is well for them", func(l *Ledger) (float64, bool) { return float64(l.falseFleet), true }},
	{"false-fleet-suspends", "the same, reversible", func(l *Ledger) (float64, bool) { return float64(l.falseFleetSuspend), true }},
	{"false-outs", "times that a caller took out what is well for it", func(l *Ledger) (float64, bool) { return float64(l.falseOut), true }},
	{"false-suspends", "the same, reversible", func(l *Ledger) (float64, bool) { return float64(l.falseSuspend), true }},
	{"false-seconds", "endpoint-seconds without a good endpoint", func(l *Ledger) (float64, bool) { return l.falseSeconds, true }},
	{"fleet-outs", "verdicts, right ones too", func(l *Ledger) (float64, bool) { return float64(l.fleetOuts), true }},
	{"mutes", "callers whose evidence was set aside", func(l *Ledger) (float64, bool) { return float64(l.mutes), true }},
	{"flips", "times that a caller used what is bad again", func(l *Ledger) (float64, bool) { return float64(l.flips) / float64(l.w.Callers), true }},
	{"share-1s", "traffic of what is bad from 1 s to 3 s after the fault, as part of its fair share", func(l *Ledger) (float64, bool) {
		return l.share(l.struck+time.Second, l.struck+3*time.Second), l.struck >= 0
	}},
	{"back", "s from the end of the fault until 90 % of the fair share", func(l *Ledger) (float64, bool) { return l.back() }},
	{"overshoot", "largest share after the fault, as part of the fair one", func(l *Ledger) (float64, bool) { return l.overshoot() }},
	{"recovery-failed", "requests of users that failed on what was bad, after it healed", func(l *Ledger) (float64, bool) { return float64(l.recoveryFailed), l.firstHeal >= 0 }},
	{"pings", "pings of idle endpoints, per endpoint and second", func(l *Ledger) (float64, bool) {
		return float64(l.pings-l.pingsZero) / l.w.Length.Seconds() / float64(l.w.Scenario.Endpoints), true
	}},
	{"probes", "probes on suspicion, for recovery and of health checks, per endpoint and second", func(l *Ledger) (float64, bool) {
		return float64(l.probes-l.probesZero) / l.w.Length.Seconds() / float64(l.w.Scenario.Endpoints), true
	}},
	{"reports", "messages per caller and second", func(l *Ledger) (float64, bool) {
		return float64(l.reports-l.reportsZero) / l.w.Length.Seconds() / float64(l.w.Callers), true
	}},
}

func measureOf(name string) *measure {
	i := slices.IndexFunc(measures, func(m measure) bool { return m.name == name })
	if i < 0 {
		return nil
	}
	return &measures[i]
}

// MeasureNames are the names of all figures.
func MeasureNames() []string {
	var names []string
	for _, m := range measures {
		names = append(names, m.name)
	}
	return names
}

// MeasureHelp says what each figure means, a line each.
func MeasureHelp() string {
	var b strings.Builder
	for _, m := range measures {
		b.WriteString("  " + m.name + strings.Repeat(" ", max(1, 22-len(m.name))) + m.help + "\n")
	}
	return b.String()
}

// Figures are all figures that the run has.
func (l *Ledger) Figures() map[string]float64 {
	f := make(map[string]float64, len(measures))
	for _, m := range measures {
		if v, ok := m.of(l); ok {
			f[m.name] = v
		}
	}
	return f
}

// sinceFirst is the time from the first failed attempt; none where somebody was
// quicker than any failure.
func (l *Ledger) sinceFirst(to time.Duration) (float64, bool) {
	if l.first < 0 && to >= 0 {
		return 0, true
	}
	return since(l.first, to)
}

func since(from, to time.Duration) (float64, bool) {
	if from < 0 || to < 0 {
		return 0, false
	}
	return max(0, (to - from).Seconds()), true
}

func b2f(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// sum adds up the traffic between two instants: all of it, and that of culprits.
func (l *Ledger) sum(from, to time.Duration) (all, bad int64) {
	a := max(0, int((from-l.w.zero)/binWidth))
	b := min(len(l.bins), int((to-l.w.zero)/binWidth))
	for i := a; i < b; i++ {
		all += int64(l.bins[i].all)
		bad += int64(l.bins[i].bad)
	}
	return all, bad
}

// fair is the part of the traffic that culprits get in health.
func (l *Ledger) fair() float64 {
	n := 0
	for i := range l.culprits {
		if l.culprits[i].since > 0 {
			n++
		}
	}
	return float64(n) / float64(len(l.culprits))
}

func (l *Ledger) share(from, to time.Duration) float64 {
	all, bad := l.sum(from, to)
	if all == 0 || l.fair() == 0 {
		return 0
	}
	return float64(bad) / float64(all) / l.fair()
}

// window is how long traffic must be watched for a share to mean something: 400
// attempts of a fair share, at least 2 s.
func (l *Ledger) window() time.Duration {
	bad := 0
	for i := range l.culprits {
		if l.culprits[i].since > 0 {
			bad++
		}
	}
	need := time.Duration(400 / (l.w.Rate * float64(max(1, bad))) * float64(time.Second))
	return max(2*time.Second, need).Round(binWidth)
}

// avoided looks at every pair of a caller and an endpoint that is bad for it.
func (l *Ledger) avoided() (float64, bool) {
	n, out := 0, 0
	for c := range l.w.Callers {
		for e := range l.culprits {
			if l.culprits[e].bad || l.pathBad != nil && l.pathBad[c*len(l.culprits)+e] == forever {
				n++
				if l.view[c*len(l.culprits)+e] != Used {
					out++
				}
			}
		}
	}
	return float64(out) / float64(max(1, n)), n > 0
}

func (l *Ledger) back() (float64, bool) {
	if l.healed < 0 || l.bins == nil {
		return 0, false
	}
	width := l.window()
	for at := l.healed; at+width <= l.w.end; at += binWidth {
		if l.share(at, at+width) >= 0.9 {
			return (at - l.healed).Seconds(), true
		}
	}
	return 0, false
}

func (l *Ledger) overshoot() (float64, bool) {
	if l.healed < 0 || l.bins == nil {
		return 0, false
	}
	width := l.window()
	most := 0.0
	for at := l.healed; at+width <= l.w.end; at += binWidth {
		most = max(most, l.share(at, at+width))
	}
	return most, true
}
