package outlier

import (
	"slices"
	"time"
)

// Explanation is why something was decided, or why not, as data.
type Explanation struct {
	// Rule is the rule that spoke.
	Rule Rule `json:"rule"`
	// Reason is the control plane's or a person's, in words; often empty.
	Reason string `json:"reason,omitempty"`
	// Epoch is that of the central verdict.
	Epoch uint64 `json:"epoch,omitempty"`

	// Counts are those of the window, which is Window long.
	Counts Counts        `json:"counts"`
	Window time.Duration `json:"window"`
	// Score and Threshold are the test's, in milli-nats.
	Score     int64 `json:"score"`
	Threshold int64 `json:"threshold"`
	// Routes are the routes whose requests failed in the excursion, at most 8.
	Routes []RouteCount `json:"routes,omitempty"`
	// P0 and P1 are its hypotheses, Pg and W what they rest on.
	P0 float64 `json:"p0"`
	P1 float64 `json:"p1"`
	Pg float64 `json:"pg"`
	W  float64 `json:"w"`
	// Guard is what the group guard said; nil where it is not asked.
	Guard *GuardResult `json:"guard,omitempty"`

	// Overdue attempts are older than OverdueAfter; Silence is the time since
	// the last answer, -1 if there was none.
	Overdue      int           `json:"overdue"`
	OverdueAfter time.Duration `json:"overdue_after"`
	Silence      time.Duration `json:"silence"`
	// ProbesFailed of ProbesBack probes failed hard in the suspicion.
	ProbesBack   int `json:"probes_back,omitempty"`
	ProbesFailed int `json:"probes_failed,omitempty"`
	// Belief is the idle belief, in milli-nats.
	Belief int64 `json:"belief,omitempty"`
	// Weight is the weight that slowness left.
	Weight float64 `json:"weight,omitempty"`

	// Members of the priority, of which Out are out and Cap may be.
	Members int `json:"members"`
	Out     int `json:"out"`
	Cap     int `json:"cap"`
	// LHM is the self-doubt.
	LHM int `json:"lhm"`

	// Ejections on record, and the hold-off drawn from them.
	Ejections int           `json:"ejections,omitempty"`
	Hold      time.Duration `json:"hold,omitempty"`
	// Next is what happens next, NextAt when, 0 if no time is set.
	Next   string        `json:"next,omitempty"`
	NextAt time.Duration `json:"next_at,omitempty"`
}

// explain collects what a decision about a member rests on.
func (d *Detector) explain(m *member, rule Rule, now time.Duration) Explanation {
	from := d.window(m, now)
	counts := d.countsSince(m, from)
	ratios := d.ratios(m.group, from)
	w := ratios.Without(counts.Tally())
	members := m.group.size()
	odds := d.odds(m, w, members)
	e := Explanation{
		Rule: rule, Counts: counts, Window: now - m.joined,
		Score: m.score(), Threshold: d.threshold(m),
		P0: odds.P0, P1: odds.P1, Pg: m.group.pg, W: w,
		Overdue: m.wait.overdue, OverdueAfter: d.overdue, Silence: -1,
		ProbesBack: m.suspect.back, ProbesFailed: m.suspect.failed,
		Routes: slices.Clone(m.exc.routes),
		LHM:    d.self.LHM(), Ejections: m.record.ejections,
	}
	if from >= m.firstSnap {
		e.Window = now - d.snapAt[from%snapshots]
	}
	if rule == RuleFast {
		g := Guard(counts.Tally(), w, false)
		e.Guard = &g
	}
	if rule == RuleIdle {
		e.Belief = m.idle.belief
	}
	if end := m.answerEnd(); end != Never {
		e.Silence = now - end
	}
	for _, o := range m.group.members {
		if o.counted() && o.out() {
			e.Out++
		}
	}
	e.Members, e.Cap = members, int(d.cfg.MaxOut*float64(members))
	return e
}
