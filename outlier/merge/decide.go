package merge

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

const (
	// gatherFor is how long a verdict waits when many of its group have a score as
	// well, so that those who fail together are judged together (the low and high
	// watermarks of Rapid, Suresh et al. 2018).
	gatherFor = 300 * time.Millisecond
	// othersFor is how long a verdict for one zone waits until the other zones have
	// seen the endpoint well.
	othersFor = time.Second
	// alikeFor is how long after errors took an endpoint from the observers of one zone
	// less evidence does for the others. A fault of the endpoint begins for all
	// of them at once, and it was chance who saw it first; what others see much later
	// is a fault of its own.
	alikeFor = 30 * time.Second
	// leastAlike is the least of it: an endpoint that always fails a little more than
	// its neighbours would reach half a threshold within that time.
	leastAlike = 8 * nat
	// fullFor is how long a verdict is not tried again for which there was no room,
	// guardedFor one that a guard has stopped.
	fullFor    = time.Second
	guardedFor = 100 * time.Millisecond
	// pollGuarded is how long after a poll a guard may stop a verdict without another
	// one: it would bring more successes, if anything.
	pollGuarded = 5 * time.Second
	// watchFor is how long reporters of an endpoint tell of each failure at once when
	// its statistic is at a quarter of the threshold.
	watchFor = 2 * time.Second
)

// candidate is a verdict that has not passed the guards yet.
type candidate struct {
	e      *endpoint
	rule   outlier.Rule
	scope  Scope
	kind   kind
	row    *row // nil for a hard one
	score  int64
	guards []Guard
	reason string
}

func (c *candidate) guard(name string, pass bool, format string, args ...any) bool {
	c.guards = append(c.guards, Guard{Name: name, Pass: pass, Detail: fmt.Sprintf(format, args...)})
	return pass
}

// refusal remembers what was refused last, so that it is told once.
type refusal struct {
	rule  outlier.Rule
	why   string
	scope Scope
	until time.Duration
	told  time.Duration
	// What each guard said then, for Explain.
	guards []Guard
}

// decide judges one group: candidates, guards, scope, caps, changes.
func (t *Table) decide(g *group, look []*endpoint, now time.Duration) {
	var list []*candidate
	if t.hardReady(g, now) {
		for _, e := range g.endpoints {
			if e.susp.confirmed != never {
				list = append(list, t.hardCandidate(e))
			}
		}
	}
	g.scores = scores{}
	for _, e := range look {
		g.scores.move(e, -1)
		if c := t.rowCandidate(e, now); c != nil {
			list = append(list, c)
		}
		g.scores.move(e, 1)
	}
	slices.SortFunc(list, func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(hardFirst(a.rule), hardFirst(b.rule)), -cmp.Compare(a.score, b.score), compareEndpoints(a.e, b.e))
	})
	var left []*endpoint
	for _, c := range list {
		if slices.Contains(left, c.e) {
			continue // by a harder rule: one fault is one ejection on its record
		}
		if ok, detail := t.census(g).mayLeave(c.e, c.scope, c.rule == outlier.RuleHard, now); !c.guard("cap", ok, "%s", detail) {
			t.refuse(c, "cap", now)
			continue
		}
		if c.row != nil && c.row.held != never && now-c.row.held >= outlier.HeldFor {
			c.e.closeRows(Fleet, now)
			continue
		}
		t.commit(c, now)
		left = append(left, c.e)
	}
	t.takeBack(g, now)
}

func hardFirst(r outlier.Rule) int {
	if r == outlier.RuleHard {
		return 0
	}
	return 1
}

func (t *Table) hardCandidate(e *endpoint) *candidate {
	s := &e.susp
	c := &candidate{e: e, rule: outlier.RuleHard, scope: t.promote(e, Scope(s.zone)), score: math.MaxInt64}
	n := t.domainsOf(s.zone, s.hard)
	c.reason = fmt.Sprintf("%s cannot reach it, and no attempt since has succeeded", machines(n))
	if s.storm {
		c.reason = "its whole zone fails at once, and the endpoints of it that were probed are down"
	}
	return c
}

// rowCandidate reads the rows of e; nil if none is over its threshold or if it has
// to wait.
func (t *Table) rowCandidate(e *endpoint, now time.Duration) *candidate {
	if !e.judgeable() {
		e.closeRows(Fleet, now)
		e.onItsWay = false
		return nil
	}
	fast := t.judge(e, &e.fast, fastRow, nil, now)
	slow := t.judge(e, &e.slow, slowRow, nil, now)
	t.watch(e, now)
	var c *candidate
	switch {
	case fast:
		c = &candidate{e: e, rule: outlier.RuleFast, kind: fastRow, row: &e.fast}
	case slow:
		c = &candidate{e: e, rule: outlier.RuleSlow, kind: slowRow, row: &e.slow}
	}
	for _, z := range e.zones {
		if z.rec.state.Out() {
			z.row.close(now)
			continue
		}
		if over := t.judge(e, &z.row, zoneRow, z, now); over && c == nil && len(e.zones) > 1 && t.aloneIn(e, z.name, now) {
			c = &candidate{e: e, rule: outlier.RuleFast, scope: Scope(z.name), kind: zoneRow, row: &z.row}
		}
	}
	e.onItsWay = c != nil || e.warm()
	if c == nil {
		e.gatherAt, e.scopeAt = never, never
		return nil
	}
	c.score = c.row.last.t
	if now < e.refusal.until {
		return nil
	}
	// What all suffer is plain for a while after a poll. That spares each sidecar of a
	// group that is down ten questions a second for each endpoint.
	if e.poll.done != never && now-e.poll.done <= pollGuarded && !t.ownFault(c, now) {
		return nil
	}
	if !t.polled(e, c.row.since, now) {
		return nil
	}
	c.guards = nil
	c.guard("poll", true, "all sidecars have told what they had counted by then")
	return t.guards(c, now)
}

// ownFault says whether the evidence is good, and the fault the endpoint's rather than
// everybody's.
func (t *Table) ownFault(c *candidate, now time.Duration) bool {
	e := c.e
	if t.once(e, c.row, c.kind) && !c.guard("moment", false, "most of its failures are connections that broke within %v, which is one event, however many saw it", oneMoment) {
		t.refuse(c, "moment", now)
		return false
	}
	// The endpoint is read over the very window of its neighbours: a fault that has
	// just hit all of them looks weaker there than in its row. The window may be short:
	// where there are hundreds of requests a second a fault shows within a tenth of one,
	// and over half a second would be taken for what everybody has.
	own := window(c.row.since, now, latestWidth)
	res := outlier.Guard(e.tally(own, now), t.surroundings(c, own, now), c.kind == slowRow)
	if !c.guard("group", res.Pass, "%v", res) {
		t.refuse(c, "group", now)
		if g := e.group; g.toldFails == never || now-g.toldFails >= tellFails {
			g.toldFails = now
			t.event(EventGroup, e, "", fmt.Sprintf("the whole group does badly, and nobody is ejected for what all suffer: %v", res), now)
		}
		return false
	}
	return true
}

// guards applies what must hold before a soft verdict; nil if it does not.
func (t *Table) guards(c *candidate, now time.Duration) *candidate {
	e, g := c.e, c.e.group
	if !t.ownFault(c, now) {
		return nil
	}
	if ok, detail := t.smallGroup(e, now); !ok {
		c.guard("small_group", false, "%s", detail)
		t.refuse(c, "small_group", now)
		return nil
	}
	if c.kind != zoneRow {
		c.scope = t.scope(e, c.row, now)
	}
	c.scope = t.promote(e, c.scope)
	if c.scope != Fleet && !t.othersTold(c, now) {
		return nil
	}
	if zone := c.row.last.spared; zone != "" {
		c.guard("zones", true, "the callers in zone %s have left it less than %v ago for the same: less evidence does for the others", zone, alikeFor)
	}
	return t.gather(c, g, now)
}

// gather waits a moment if many others have a score as well.
func (t *Table) gather(c *candidate, g *group, now time.Duration) *candidate {
	e := c.e
	others, scored := g.scores.besides(e)
	wanted := max(2, int(math.Ceil(0.3*float64(others))))
	if others < 2 {
		wanted = others
	}
	if others == 0 || scored < wanted {
		return c
	}
	if e.gatherAt == never {
		e.gatherAt = now + gatherFor
	}
	if now < e.gatherAt {
		c.guard("gather", false, "%d of its %d neighbours look bad as well: they are judged together in a moment", scored, others)
		t.tell(c, "gather", now)
		t.due(e.gatherAt)
		return nil
	}
	c.guard("gather", true, "%d of its %d neighbours look bad as well, and were judged together with it", scored, others)
	return c
}

// smallGroup guards the last two: with one neighbour there is no group to compare
// with, so the neighbour must be visibly well.
func (t *Table) smallGroup(e *endpoint, now time.Duration) (bool, string) {
	if t.census(e.group).judged != 2 {
		return true, ""
	}
	var other *endpoint
	for _, o := range e.group.endpoints {
		if o != e && !o.leaving() {
			other = o
		}
	}
	w, own := &other.fast, &e.fast.last
	switch {
	case w.open && 2*w.last.t >= w.last.h && w.last.h > 0:
		return false, "the only other endpoint looks bad as well"
	case w.open && 2*w.last.k*max(own.n, 1) > own.k*max(w.last.n, 1):
		return false, "the only other endpoint fails more than half as often as this one"
	case max(other.lastOK, other.idle.goodAt) < now-5*time.Second:
		return false, "the only other endpoint has not answered for 5 s"
	}
	return true, ""
}

// aloneIn says whether the observers of a zone are alone with their complaint.
// If the others lean the same way, the fleet's row will speak.
func (t *Table) aloneIn(e *endpoint, zone string, now time.Duration) bool {
	if zone == "" {
		return false
	}
	if !e.fast.open {
		return true
	}
	rest := t.read(e, &e.fast, e.fast.last.odds.Steps(), only{t.zones.id(zone), outside}, now)
	return rest.sum <= 0
}

// scope says whom a verdict is for. A fault of the endpoint is seen from
// everywhere, a fault of the path from one zone, while the others see the endpoint
// well. It is not enough that the others could not give the verdict by themselves:
// in a small fleet, without its loudest domain, a zone never can in time.
func (t *Table) scope(e *endpoint, w *row, now time.Duration) Scope {
	var zones []string
	for i := range e.cells {
		c := &e.cells[i]
		if zone := t.slots[c.reporter].Zone; c.changed > now-t.cfg.ReporterStale && !slices.Contains(zones, zone) {
			zones = append(zones, zone)
		}
	}
	if len(zones) < 2 {
		return Fleet
	}
	slices.Sort(zones)
	steps := w.last.odds.Steps()
	var loudest string
	var in reading
	for i, zone := range zones {
		if r := t.read(e, w, steps, only{t.zones.id(zone), within}, now); i == 0 || r.sum > in.sum {
			loudest, in = zone, r
		}
	}
	out := t.read(e, w, steps, only{t.zones.id(loudest), outside}, now)
	if loudest == "" || in.t < w.last.h || out.sum > steps.Fail {
		return Fleet
	}
	return Scope(loudest)
}

// othersTold says whether the observers outside a zone have seen the endpoint well
// since the trouble began, as well as it takes to end a row. If not, it may fail them
// too, and chance let one zone see it first: they get a moment to find out, before
// the verdict is for the zone alone.
func (t *Table) othersTold(c *candidate, now time.Duration) bool {
	e := c.e
	if !e.fast.open {
		return true // all in all it is seen well
	}
	// The row of another zone is open as long as failures outweigh answers there. The
	// row of all may have begun before the trouble, with answers of that time.
	leaning := slices.ContainsFunc(e.zones, func(z *zone) bool { return Scope(z.name) != c.scope && z.row.open })
	rest := t.read(e, &e.fast, e.fast.last.odds.Steps(), only{t.zones.id(string(c.scope)), outside}, now)
	if rest.sum <= clearAt && !leaning {
		return true
	}
	if e.scopeAt == never {
		e.scopeAt = now + othersFor
	}
	if now >= e.scopeAt {
		return true
	}
	t.due(e.scopeAt)
	return false
}

// leftLately names a zone whose observers errors have taken the endpoint from a moment
// ago; empty: there is none. Without zones their evidence would have counted with that
// of the others, and they would still give some.
func (e *endpoint) leftLately(now time.Duration) string {
	for _, z := range e.zones {
		r := &z.rec
		if r.state.Out() && now-r.away < alikeFor && (r.rule == outlier.RuleFast || r.rule == outlier.RuleSlow) {
			return z.name
		}
	}
	return ""
}

// promote widens a verdict that would hold in more than half of the zones.
func (t *Table) promote(e *endpoint, s Scope) Scope {
	if s == Fleet {
		return Fleet
	}
	out := 1
	for _, z := range e.zones {
		if Scope(z.name) != s && z.rec.state.Out() {
			out++
		}
	}
	if 2*out > len(e.zones) {
		return Fleet
	}
	return s
}

// watch asks for quick reports when the statistic is on its way.
func (t *Table) watch(e *endpoint, now time.Duration) {
	w := &e.fast
	if w.open && 4*w.last.t > w.last.h && 4*(w.last.t+e.unheard(w, now)) > w.last.h {
		t.watchFor(e, now)
	}
}

// watchFor asks for quick reports of e for a while.
func (t *Table) watchFor(e *endpoint, now time.Duration) {
	if now < e.watched {
		return
	}
	var ids []string
	for _, r := range e.group.service.reporters {
		if r.askable(t, now) {
			ids = append(ids, r.ID)
		}
	}
	if len(ids) == 0 {
		return
	}
	e.watched = now + watchFor
	t.out.Watches = append(t.out.Watches, Watch{Key: e.Key, Reporters: ids, For: watchFor})
}

// unheard is what the successes of a row would be worth that are still to be told of,
// if the endpoint were well: failures are told at once and successes when there is
// time. Without them any three failures would look like the beginning of more.
func (e *endpoint) unheard(w *row, now time.Duration) int64 {
	missing := e.rate*(now-w.since).Seconds() - float64(w.last.told)
	return int64(max(0, missing) * float64(w.last.odds.Steps().OK))
}

// refuse tells, once, that a candidate stays, and lets it rest for a moment.
func (t *Table) refuse(c *candidate, why string, now time.Duration) {
	c.e.refusal.until = now + guardedFor
	if why == "cap" {
		c.e.refusal.until = now + fullFor
	}
	t.tell(c, why, now)
	if why == "group" || why == "cap" {
		c.e.hold(now)
	}
	if c.rule == outlier.RuleHard {
		c.e.susp.confirmed, c.e.susp.storm = never, false
		c.e.susp.shutUntil = now + shutFor
		t.endRound(c.e)
	}
}

// tellFails is how often it is told, at most, that a whole group fails.
const tellFails = time.Minute

// tellAgain is how long the same refusal is not repeated.
const tellAgain = 10 * time.Second

func (t *Table) tell(c *candidate, why string, now time.Duration) {
	e := c.e
	r := &e.refusal
	if r.rule == c.rule && r.why == why && r.scope == c.scope && now-r.told < tellAgain {
		return
	}
	*r = refusal{rule: c.rule, why: why, scope: c.scope, until: r.until, told: now, guards: c.guards}
	rec := e.record(c.scope)
	v := rec.verdict(e)
	v.State, v.Rule, v.Since = outlier.Ejected, c.rule, now
	v.Explain = t.explainCandidate(c, now)
	v.Explain.State = rec.state.String()
	v.Explain.Next, v.Explain.ETA = t.afterRefusal(e, why, now)
	t.out.Changes = append(t.out.Changes, Change{From: rec.state, To: outlier.Ejected, Verdict: v, Refused: why, At: now})
}

// commit ejects.
func (t *Table) commit(c *candidate, now time.Duration) {
	e := c.e
	if e.shadowed() {
		c.guard("shadow", false, "the service is in shadow mode, so that it keeps its traffic")
		t.refuse(c, "shadow", now)
		e.closeRows(Fleet, now)
		return
	}
	t.eject(e, c.scope, c.rule, t.explainCandidate(c, now), now)
}

// hold notes that what the rows say was refused for the sake of the others.
func (e *endpoint) hold(now time.Duration) {
	note := func(w *row) {
		if w.open && w.held == never {
			w.held = now
		}
	}
	note(&e.fast)
	note(&e.slow)
	for _, z := range e.zones {
		note(&z.row)
	}
}

// closeRows lets the evidence for a verdict in a scope start from nothing. What other
// zones have seen by themselves is no part of a verdict for one.
func (e *endpoint) closeRows(s Scope, now time.Duration) {
	for _, w := range []*row{&e.fast, &e.slow} {
		if w.open {
			w.close(now)
		}
	}
	for _, z := range e.zones {
		if z.row.open && (s == Fleet || s == Scope(z.name)) {
			z.row.close(now)
		}
	}
}
