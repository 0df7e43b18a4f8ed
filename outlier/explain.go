package outlier

import (
	"fmt"
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
	// Checks are what a removal had to pass, in the order in which they were asked.
	// One that did not pass is the last: it held the removal back.
	Checks []Check `json:"checks,omitempty"`

	// Run is the run of failures, where the rule is run.
	Run *Run `json:"run,omitempty"`

	// Overdue attempts are older than OverdueAfter; Silence is the time since
	// the last answer, -1 if there was none.
	Overdue      int           `json:"overdue"`
	OverdueAfter time.Duration `json:"overdue_after"`
	Silence      time.Duration `json:"silence"`
	// ProbesFailed of ProbesBack probes failed hard in the suspicion.
	ProbesBack   int `json:"probes_back,omitempty"`
	ProbesFailed int `json:"probes_failed,omitempty"`
	// Hinted: no attempt opened the suspicion, but a probe for a hint ([Detector.Hinted]).
	Hinted bool `json:"hinted,omitempty"`
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

// Run is a number of failures with no success between them. Kind says which counted:
// "any", "gateway" or "local".
type Run struct {
	Kind     string `json:"kind"`
	Failures int    `json:"failures"`
}

// Check is one thing that a removal had to pass.
type Check struct {
	// Name is "self-doubt", "muted", "evidence", "group", "gather", "last", "small group" or
	// "cap", "share", "route", and "shadow" where nothing is acted upon; [Change.Refused] has the same.
	Name   string `json:"name"`
	Pass   bool   `json:"pass"`
	Detail string `json:"detail"`
}

// checks says what each check saw, up to the one that refused; refusal is "" for a
// removal that happens.
func (d *Detector) checks(m *member, rule Rule, refusal string, e *Explanation) []Check {
	var all []Check
	ask := func(name, format string, args ...any) (more bool) {
		all = append(all, Check{Name: name, Pass: name != refusal, Detail: fmt.Sprintf(format, args...)})
		return name != refusal
	}
	if rule == RuleStalled && !ask(refusedDoubt, "this sidecar distrusts itself %d of %d; from %d on it suspends nobody", e.LHM, lhmMax, doubtNoSuspend) {
		return all
	}
	if refusal == refusedMuted {
		ask(refusedMuted, "the control plane has set what this sidecar observes aside: it alone fails towards many endpoints")
		return all
	}
	if refusal == refusedShare {
		ask(refusedShare, "not all such runs eject: the endpoint and the number of its excursion draw which, and this one does not")
		return all
	}
	if rule == RuleFast {
		failed, apart := m.now.Sub(m.exc.base).K(), time.Duration(m.ep.lastFail.Load())-m.exc.first
		from := "one connection"
		if m.exc.sources >= minSources {
			from = "several connections"
		}
		if !ask(refusedEvidence, "%d failures on %s within %v, wanted are %d on %d connections or %v apart",
			failed, from, apart.Round(time.Millisecond), minFailed, minSources, minApart) {
			return all
		}
	}
	if rule.asksGroup() {
		if d.hashed && !ask(refusedRoute, "requests are hashed, and its errors lie on %d of the routes that it serves", len(m.exc.routes)) {
			return all
		}
		if g := e.Guard; g != nil {
			if !ask(refusedGroup, "%v", g) {
				return all
			}
		}
		if high, others := d.scored(m); !ask(refusedGather, "%d of its %d neighbours look bad as well", high, others) {
			return all
		}
	}
	left := e.Members - e.Out - 1
	if !ask(refusedLast, "%d of %d endpoints would be left", max(left, 0), e.Members) {
		return all
	}
	if e.Members == 2 && !ask(refusedSmall, "the only other endpoint must do better, and have answered within %v", partnerLife) {
		return all
	}
	detail := fmt.Sprintf("%d of %d endpoints are out without it, and %d may be", e.Out, e.Members, e.Cap)
	if rule == RuleHard && e.Out+1 > e.Cap {
		detail += fmt.Sprintf("; what takes no connection may exceed that, while each of the rest carries at most %.1f times its healthy peak", d.cfg.Headroom)
	}
	if ask(refusedCap, "%s", detail) && d.cfg.Mode == Shadow {
		all = append(all, Check{Name: "shadow", Detail: "the cluster is in shadow mode, so that it keeps its traffic"})
	}
	return all
}

// afterRefusal says what becomes of a removal that was held back.
func (d *Detector) afterRefusal(m *member, refusal string, e *Explanation) {
	switch refusal {
	case refusedGather:
		e.Next, e.NextAt = "it is judged together with its neighbours", m.group.gather+gatherWait
	case refusedCap, refusedLast:
		e.Next = "it goes when there is room, unless it recovers"
	case refusedSmall:
		e.Next = "it goes when the other one is seen to be well, unless it recovers"
	default:
		e.Next = "it is judged again with more evidence"
	}
}

// explain collects what a decision about a member rests on.
func (d *Detector) explain(m *member, rule Rule, now time.Duration) Explanation {
	from := d.window(m, now)
	counts := d.countsSince(m, from)
	w := d.others(m, counts.Tally(), from)
	members := m.group.size()
	odds := d.odds(m, w, members)
	e := Explanation{
		Rule: rule, Counts: counts, Window: now - m.joined,
		Score: m.score(), Threshold: d.threshold(m),
		P0: odds.P0, P1: odds.P1, Pg: m.group.pg, W: w,
		Overdue: m.wait.overdue, OverdueAfter: d.overdue, Silence: -1,
		ProbesBack: m.suspect.back, ProbesFailed: m.suspect.failed, Hinted: m.suspect.hinted,
		Routes: slices.Clone(m.exc.routes),
		LHM:    d.self.LHM(), Ejections: m.record.ejections,
	}
	if from >= m.firstSnap {
		e.Window = now - d.snapAt[from%snapshots]
	}
	if rule == RuleRun {
		e.Run = d.run(m)
	}
	if rule.asksGroup() {
		g := Guard(counts.Tally(), d.surroundings(m, from, now), false)
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
	e.Members, e.Cap = members, d.cfg.Cap(members)
	return e
}
