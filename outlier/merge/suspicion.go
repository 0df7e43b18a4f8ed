package merge

import (
	"fmt"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

const (
	// witnessFor is how long news of a failure makes its bearer a witness.
	witnessFor = time.Second
	// clockMargin is what two corrected clocks may differ by before "later" means
	// anything.
	clockMargin = 20 * time.Millisecond
	// answerSlack is what a probe may take beyond its own timeout to be told of.
	answerSlack = 50 * time.Millisecond
	// roundGap is the least time between two rounds about one endpoint.
	roundGap = time.Second
	// shutFor is how long the hard path is shut after a contradiction, shutLong
	// after shutAfter of them in a row.
	shutFor   = time.Second
	shutLong  = 10 * time.Second
	shutAfter = 3
	// hardGather is how long a confirmed failure waits for neighbours of which the
	// answer is still out, so that a zone leaves in one push.
	hardGather = 20 * time.Millisecond
	// secondProbe is the gap between two probes of one witness where there is no
	// third to ask.
	secondProbe = 50 * time.Millisecond
	// stormSample is how many suspects of a zone are asked about in a storm.
	stormSample = 3
)

// suspicion is the question whether an endpoint is down, opened by a hard failure
// or an overdue attempt and answered by others.
type suspicion struct {
	active    bool // a round is running
	rounds    uint64
	last      time.Duration // start of the newest round
	deadline  time.Duration
	firstAt   time.Duration // of the failure that opened the round
	first     *reporter     // whose failure that was
	level     outlier.Level // an answer below it contradicts nothing
	zone      string        // the round is about the observers of this zone only
	m         int           // fault domains that can be asked, without the first
	second    bool          // the second probe was sent
	told      time.Duration // when old connections have had time to answer; never: not asked
	retold    bool          // and the second poll was sent
	listener  time.Duration // when old connections last answered although new ones failed
	shutUntil time.Duration
	streak    int    // contradicted rounds in a row
	nextZone  string // what the next round is limited to
	confirmed time.Duration
	storm     bool // confirmed by its neighbours
	answers   []ProbeAnswer
	orders    []*order

	hard, stalled []witness // of this Step
}

// witness is a reporter with bad news.
type witness struct {
	reporter *reporter
	at       time.Duration
	level    outlier.Level
	kind     string
}

// order is something a reporter was asked to do.
type order struct {
	id       OrderID
	endpoint *endpoint
	reporter *reporter
	reason   string
	scope    Scope
	level    outlier.Level
	sent     time.Duration
	deadline time.Duration
	done     bool
	result   outlier.ProbeResult
	reached  outlier.Level
	start    time.Duration
	end      time.Duration
}

// Probed takes the result of an ordered probe, or of a ping under a lease. start
// and end are instants of the table's clock.
func (t *Table) Probed(id OrderID, reporter string, level outlier.Level, res outlier.ProbeResult, start, end, now time.Duration) Refusal {
	t.now = max(t.now, now)
	r := t.reporters[reporter]
	if r == nil {
		return UnknownReporter
	}
	o := t.orders[id]
	switch {
	case o == nil || o.reporter != r:
		return UnknownOrder
	case end > now+aheadLimit || start > end:
		return BadTime
	}
	r.heard = max(r.heard, now)
	t.touch(o.endpoint)
	if o.reason == reasonLease {
		o.endpoint.idle.hear(o, res, level, start, end)
		return ""
	}
	if o.done {
		return ""
	}
	o.done, o.result, o.reached, o.start, o.end = true, res, level, start, end
	return ""
}

// Reasons of orders.
const (
	reasonSuspicion = "suspicion"
	reasonRecovery  = "recovery"
	reasonIdle      = "idle"
	reasonValidate  = "validate"
	reasonLease     = "lease"
)

// depth is the level that a probe of e should reach. Behind an inbound sidecar a
// connection says nothing of the application.
func (e *endpoint) depth(level outlier.Level) outlier.Level {
	if e.Inbound {
		return outlier.LevelApp
	}
	if level == outlier.LevelNone {
		return outlier.LevelConnect
	}
	return level
}

// order asks r for a probe of e.
func (t *Table) order(e *endpoint, r *reporter, level outlier.Level, reason string, scope Scope, now time.Duration) *order {
	p := &e.group.service.policy
	timeout := p.Outlier.ProbeTimeout
	if u := r.services[e.Key.Service]; u != nil && u.overdue > 0 {
		timeout = min(timeout, u.overdue)
	}
	o := &order{
		id: t.id(), endpoint: e, reporter: r, reason: reason, scope: scope, level: e.depth(level),
		sent: now, deadline: now + timeout + answerSlack,
	}
	t.orders[o.id] = o
	r.probes.fill(now)
	r.probes.take(1)
	t.probes.fill(now)
	t.probes.take(1)
	t.out.Orders = append(t.out.Orders, ProbeOrder{
		ID: o.id, Reporter: r.ID, Key: e.Key, Level: o.level, Ping: e.group.service.ping.kind(p.Ping),
		Timeout: timeout, Epoch: e.record(scope).epoch, Reason: reason,
	})
	t.due(o.deadline)
	return o
}

// cancel withdraws orders that are still out.
func (t *Table) cancel(orders []*order) {
	for _, o := range orders {
		if _, out := t.orders[o.id]; !out {
			continue
		}
		delete(t.orders, o.id)
		if !o.done {
			t.out.Cancels = append(t.out.Cancels, Cancel{ID: o.id, Reporter: o.reporter.ID})
		}
	}
}

// news turns answered orders of e into news of their reporters.
func (t *Table) news(e *endpoint, orders []*order, now time.Duration) {
	for _, o := range orders {
		if !o.done {
			continue
		}
		delete(t.orders, o.id)
		if o.result != outlier.NotRun {
			t.probeNews(e, o.reporter, o.result, o.reached, o.start, o.end, now)
		}
	}
}

// probeNews notes the newest probe of a reporter.
func (t *Table) probeNews(e *endpoint, r *reporter, res outlier.ProbeResult, level outlier.Level, start, end, now time.Duration) {
	x := e.cell(r.slot).extra()
	if end < x.probeEnd || end == x.probeEnd && res < x.probe {
		return
	}
	x.probe, x.probeLevel, x.probeStart, x.probeEnd = res, level, start, end
	if res != outlier.ProbeOK && end > now-hotFor {
		e.heat(e.index[r.slot])
	}
}

// witnesses lists who has bad news of e: those whose newest news is a hard
// failure, and those whose attempts hang.
func (t *Table) witnesses(e *endpoint, now time.Duration) {
	s := &e.susp
	s.hard, s.stalled = s.hard[:0], s.stalled[:0]
	e.cool(now)
	answered := e.zonesOut()
	for _, i := range e.hot {
		c := &e.cells[i]
		r := t.slots[c.reporter]
		if r.domain.muted(now) || slices.Contains(answered, t.observers[c.reporter].zone) {
			continue
		}
		x := c.x
		good := c.lastOK
		if x.probe == outlier.ProbeOK {
			good = max(good, x.probeEnd)
		}
		switch {
		case x.probe.Hard() && x.probeEnd > good && x.probeEnd > x.lastHard && now-x.probeEnd <= witnessFor:
			s.hard = append(s.hard, witness{r, x.probeEnd, x.probe.Level(), "probe"})
		case x.lastHard > good && now-x.lastHard <= witnessFor:
			s.hard = append(s.hard, witness{r, x.lastHard, e.depth(x.level), "traffic"})
		case x.probe == outlier.TimedOut && x.probeEnd > good && now-x.probeEnd <= witnessFor:
			s.stalled = append(s.stalled, witness{r, x.probeEnd, outlier.LevelApp, "probe"})
		case (x.overdue > 0 || x.state == outlier.Suspended) && now-x.overdueAt <= witnessFor:
			s.stalled = append(s.stalled, witness{r, x.overdueAt, outlier.LevelApp, "overdue"})
		}
	}
	// The sidecar beside the application knows first-hand that it refuses.
	if o := &e.own; o.reporter != nil && o.refused > o.lastOK && now-o.at <= witnessFor && !o.reporter.domain.muted(now) {
		s.hard = append(s.hard, witness{o.reporter, o.at, outlier.LevelApp, "own"})
	}
	byID := func(a, b witness) int { return compareReporters(a.reporter, b.reporter) }
	slices.SortStableFunc(s.hard, byID)
	slices.SortStableFunc(s.stalled, byID)
}

// domainsOf counts the fault domains of witnesses, of one zone if it is named.
func (t *Table) domainsOf(zone string, lists ...[]witness) int {
	t.stamp++
	n := 0
	for _, list := range lists {
		for _, w := range list {
			if d := w.reporter.domain; d.stamp != t.stamp && (zone == "" || w.reporter.Zone == zone) {
				d.stamp = t.stamp
				n++
			}
		}
	}
	return n
}

// confirmers lists the reporters that may confirm a failure of e: they use the
// service, are fresh, sure of themselves and elsewhere.
func (t *Table) confirmers(e *endpoint, zone string, now time.Duration) []*reporter {
	var list []*reporter
	for _, r := range e.group.service.reporters {
		if r.askable(t, now) && r.LHM <= maxProbeLHM && (zone == "" || r.Zone == zone) && (r.Node == "" || r.Node != e.Node) {
			list = append(list, r)
		}
	}
	return list
}

// countDomains counts the fault domains of reporters and witnesses together.
func (t *Table) countDomains(list []*reporter, zone string, witnesses ...[]witness) int {
	n := t.domainsOf(zone, witnesses...)
	for _, r := range list {
		if r.domain.stamp != t.stamp {
			r.domain.stamp = t.stamp
			n++
		}
	}
	return n
}

// choose takes up to k reporters, each of another fault domain and, as far as
// that goes, of another zone, in the order of a hash.
func (t *Table) choose(list []*reporter, k int, hash func(*reporter) uint64) []*reporter {
	type ranked struct {
		r *reporter
		h uint64
	}
	order := make([]ranked, 0, len(list))
	for _, r := range list {
		order = append(order, ranked{r, hash(r)})
	}
	slices.SortFunc(order, func(a, b ranked) int {
		if a.h != b.h {
			if a.h < b.h {
				return -1
			}
			return 1
		}
		return compareReporters(a.r, b.r)
	})
	var chosen []*reporter
	used := func(same func(*reporter) bool) bool { return slices.ContainsFunc(chosen, same) }
	for _, otherZone := range []bool{true, false} {
		for _, o := range order {
			if len(chosen) == k {
				return chosen
			}
			if used(func(c *reporter) bool { return c.domain == o.r.domain || otherZone && c.Zone == o.r.Zone }) {
				continue
			}
			chosen = append(chosen, o.r)
		}
	}
	return chosen
}

// suspectGroup looks at the bad news of a group: whom to ask about, and what is
// confirmed by now.
func (t *Table) suspectGroup(g *group, now time.Duration) {
	var involved, suspects []*endpoint
	for _, e := range g.endpoints {
		s := &e.susp
		if len(e.hot) == 0 && !s.active && e.own.refused == never && s.confirmed == never {
			continue
		}
		t.news(e, s.orders, now)
		t.witnesses(e, now)
		if !e.judgeable() {
			t.endRound(e)
			s.confirmed = never
			continue
		}
		involved = append(involved, e)
		if len(s.hard) > 0 && now >= s.shutUntil {
			suspects = append(suspects, e)
		}
	}
	storm := len(suspects) >= 3 && float64(len(suspects)) > g.service.policy.Storm*float64(g.judged())
	var sample map[*endpoint]bool
	if storm {
		sample = t.sample(suspects)
		if !g.storm {
			t.event(EventStorm, suspects[0], "", fmt.Sprintf("%d of %d endpoints are suspected at once: a sample is asked about", len(suspects), g.judged()), now)
		}
	}
	g.storm = storm
	for _, e := range involved {
		t.question(e, !storm || sample[e] || len(e.susp.hard) == 0, now)
	}
	if storm {
		t.confirmByNeighbours(suspects, sample, now)
	}
}

// sample takes of each zone the few suspects that stand for all of it.
func (t *Table) sample(suspects []*endpoint) map[*endpoint]bool {
	hash := func(e *endpoint) uint64 { return hash64(t.seed, "storm", e.Key.Service, e.Key.Instance) }
	order := slices.Clone(suspects)
	slices.SortStableFunc(order, func(a, b *endpoint) int {
		if ha, hb := hash(a), hash(b); ha < hb {
			return -1
		} else if ha > hb {
			return 1
		}
		return 0
	})
	zones := make(map[string]int)
	sample := make(map[*endpoint]bool)
	for _, e := range order {
		if zones[e.Zone] < stormSample {
			zones[e.Zone]++
			sample[e] = true
		}
	}
	return sample
}

// confirmByNeighbours lets the suspects of a zone of which the whole sample is
// confirmed go with it.
func (t *Table) confirmByNeighbours(suspects []*endpoint, sample map[*endpoint]bool, now time.Duration) {
	failed := make(map[string]bool)
	for e := range sample {
		if _, seen := failed[e.Zone]; !seen {
			failed[e.Zone] = true
		}
		if e.susp.confirmed == never || e.susp.zone != "" {
			failed[e.Zone] = false
		}
	}
	for _, e := range suspects {
		s := &e.susp
		if sample[e] || s.confirmed != never || !failed[e.Zone] {
			continue
		}
		t.first(e, "")
		if by, _ := t.contradiction(e, "", now); by == "" {
			s.confirmed, s.storm, s.zone = now, true, ""
		}
	}
}

// first finds the failure that everything else is compared with.
func (t *Table) first(e *endpoint, zone string) {
	s := &e.susp
	s.first, s.firstAt, s.level = nil, never, outlier.LevelConnect
	for _, list := range [][]witness{s.hard, s.stalled} {
		for _, w := range list {
			if zone != "" && w.reporter.Zone != zone {
				continue
			}
			if s.first == nil || w.at < s.firstAt {
				s.first, s.firstAt = w.reporter, w.at
			}
			s.level = max(s.level, w.level)
		}
		if s.first != nil {
			break // overdue attempts matter only where nothing is hard
		}
	}
	s.level = e.depth(s.level)
}

// contradiction finds a success that began after the failure: of real traffic, or
// of a probe that reached at least as deep as the failure. By what two clocks say
// it must be clearly later. A probe of this round is later by nature, because it
// was ordered when the failure was known, and so is an attempt that its reporter
// began after he answered this round's poll. It answers with who contradicts, and
// the zones of all who do.
func (t *Table) contradiction(e *endpoint, zone string, now time.Duration) (by string, zones []string) {
	s := &e.susp
	if s.first == nil {
		return "", nil
	}
	for i := range e.cells {
		c := &e.cells[i]
		r := t.slots[c.reporter]
		if zone != "" && r.Zone != zone || r.domain.muted(now) {
			continue
		}
		after := s.firstAt + max(clockMargin, r.jitter, s.first.jitter)
		x := c.x
		traffic := c.okStart > after || x != nil && s.active && x.polledRound == s.rounds && c.okStart > x.polledAt
		probe := x != nil && x.probe == outlier.ProbeOK && x.probeLevel >= s.level && x.probeStart > after
		if !probe && x != nil {
			probe = slices.ContainsFunc(s.orders, func(o *order) bool {
				return o.reporter == r && o.done && o.result == outlier.ProbeOK && o.reached >= s.level
			})
		}
		if traffic || probe {
			if by == "" || r.ID < by {
				by = r.ID
			}
			zones = append(zones, r.Zone)
		}
	}
	return by, zones
}

// question brings the suspicion of one endpoint to the next stage.
func (t *Table) question(e *endpoint, mayAsk bool, now time.Duration) {
	s := &e.susp
	if s.confirmed != never {
		// It waits for its neighbours; a contradiction still counts.
		if by, _ := t.contradiction(e, s.zone, now); by != "" && !s.storm {
			s.confirmed = never
			t.contradicted(e, by, nil, now)
		}
		return
	}
	if now < s.shutUntil {
		t.due(s.shutUntil)
		return
	}
	if len(s.hard)+len(s.stalled) == 0 && !s.active {
		return
	}
	if !s.active {
		s.zone = s.nextZone
		t.first(e, s.zone)
		if s.first == nil {
			s.nextZone = "" // nobody of that zone complains any more
			return
		}
		s.m = t.countDomains(t.confirmers(e, s.zone, now), s.zone, s.hard, s.stalled) - 1
		if s.m < 1 {
			return // nobody else can tell: the observer's own rule must do
		}
	}
	if by, zones := t.contradiction(e, s.zone, now); by != "" {
		t.contradicted(e, by, zones, now)
		return
	}
	if !s.active && mayAsk {
		t.ask(e, now)
	}
	need := 1 + min(2, s.m)
	switch {
	case t.domainsOf(s.zone, s.hard) >= need && t.twice(e, now):
		if t.pollRunning(e, now) || !t.oldConnectionsTold(e, now) {
			return
		}
		s.confirmed, s.streak = now, 0
		t.keepAnswers(e)
	case t.domainsOf(s.zone, s.stalled, s.hard) >= need && len(s.stalled) > 0:
		silent := t.answered(e, Scope(s.zone), now) + e.group.service.policy.Outlier.StallSilence
		if now < silent {
			t.due(silent)
		} else {
			t.keepAnswers(e)
			t.suspend(e, Scope(s.zone), now)
			return
		}
	}
	if s.confirmed == never && s.active && now >= s.deadline {
		t.event(EventExpired, e, "", "no agreement in time", now)
		t.keepAnswers(e)
		t.endRound(e)
		s.streak, s.nextZone = 0, ""
	}
}

const (
	// toldAnswers are expected of connections that still stand before a listener
	// that is gone counts as a crash; toldLongest bounds the wait for them, and
	// toldAgain is the wait if they have answered within listenerMemory.
	toldAnswers    = 4
	toldLongest    = 60 * time.Millisecond
	toldAgain      = 250 * time.Millisecond
	listenerMemory = time.Minute
	// toldRate is the traffic per second below which waiting would show nothing,
	// unless an answer has come within toldRecent.
	toldRate   = 8
	toldRecent = 500 * time.Millisecond
)

// oldConnectionsTold tells a crash from a listener that is gone. A crash resets
// the connections that stand; if that was seen, there is nothing to wait for. If
// new connections fail and nothing else, requests on old ones may still be
// answered: they get the time in which some would have been, then everybody is
// asked again.
func (t *Table) oldConnectionsTold(e *endpoint, now time.Duration) bool {
	s := &e.susp
	died := func(w witness) bool {
		x := e.cell(w.reporter.slot).x
		return w.kind == "own" || x != nil && x.diedAt >= now-witnessFor
	}
	again := s.listener != never && now-s.listener < listenerMemory
	switch {
	case slices.ContainsFunc(s.hard, died), !s.active, e.rate < toldRate && e.lastOK < now-toldRecent && !again:
		return true
	case s.told == never:
		wait := toldLongest
		if again {
			wait = toldAgain
		} else if e.rate > toldRate {
			wait = min(wait, time.Duration(toldAnswers/e.rate*float64(time.Second)))
		}
		s.told, s.retold = s.last+wait, false
		s.deadline = max(s.deadline, s.told+clockMargin+answerSlack)
	}
	if now < s.told {
		t.due(s.told)
		return false
	}
	if !s.retold {
		s.retold = true
		return !t.poll(e, s.firstAt, now, t.speaks(e, now))
	}
	return true
}

// twice holds where only one other fault domain can be asked: then one failed
// probe is not enough, because two observers may share one bad moment.
func (t *Table) twice(e *endpoint, now time.Duration) bool {
	s := &e.susp
	if s.m > 1 {
		return true
	}
	failed := 0
	var last *order
	for _, o := range s.orders {
		if o.done && o.result.Hard() && o.reporter.domain != s.first.domain {
			failed++
			last = o
		}
	}
	for _, w := range s.hard {
		if w.kind == "traffic" && w.reporter.domain != s.first.domain {
			failed++
			break
		}
	}
	if failed >= 2 || last == nil {
		return failed >= 2
	}
	switch {
	case now < last.end+secondProbe:
		t.due(last.end + secondProbe)
	case !s.second:
		s.second = true
		o := t.order(e, last.reporter, s.level, reasonSuspicion, Scope(s.zone), now)
		s.orders = append(s.orders, o)
		s.deadline = o.deadline
	}
	return false
}

// ask begins a round: one probe each by reporters elsewhere, now.
func (t *Table) ask(e *endpoint, now time.Duration) {
	s := &e.susp
	p := &e.group.service.policy
	if s.last != never && now < s.last+roundGap {
		t.due(s.last + roundGap)
		return
	}
	var list []*reporter
	for _, r := range t.confirmers(e, s.zone, now) {
		same := func(w witness) bool { return w.reporter.domain == r.domain }
		if !slices.ContainsFunc(s.hard, same) && !slices.ContainsFunc(s.stalled, same) && r.probes.has(now, 1) {
			list = append(list, r)
		}
	}
	round := fmt.Sprint(s.rounds)
	chosen := t.choose(list, p.ConfirmProbers, func(r *reporter) uint64 {
		return hash64(t.seed, "suspicion", e.Key.Service, e.Key.Instance, round, r.ID)
	})
	if len(chosen) > 0 && !t.probes.has(now, len(chosen)) {
		s.last = now
		t.event(EventDropped, e, "", "the fleet's probes are used up", now)
		return
	}
	s.active, s.last, s.second, s.told = true, now, false, never
	s.rounds++
	s.deadline = now + p.Outlier.ProbeTimeout + answerSlack
	s.orders, s.answers = nil, nil
	for _, r := range chosen {
		s.orders = append(s.orders, t.order(e, r, s.level, reasonSuspicion, Scope(s.zone), now))
	}
	t.pollTraffic(e, s.firstAt, now)
	t.due(s.deadline)
	t.event(EventSuspicion, e, s.first.ID, fmt.Sprintf("%s; %d asked to confirm at level %s", suspicionText(s), len(chosen), s.level), now)
}

func suspicionText(s *suspicion) string {
	if len(s.hard) > 0 {
		return "hard failure"
	}
	return "attempts are overdue"
}

// contradicted ends a round: somebody began later and succeeded.
func (t *Table) contradicted(e *endpoint, by string, zones []string, now time.Duration) {
	s := &e.susp
	s.streak++
	s.shutUntil = now + shutFor
	if s.streak >= shutAfter {
		s.shutUntil = now + shutLong
	}
	t.due(s.shutUntil)
	// If all who fail are of one zone and all who succeed of others, the fault may
	// lie between: the next round asks within that zone.
	s.nextZone = ""
	if zone, one := oneZone(s.hard); one && s.zone == "" && len(zones) > 0 && !slices.Contains(zones, zone) {
		s.nextZone = zone
	}
	if s.told != never {
		s.listener = now
	}
	t.event(EventContradicted, e, by, "a success began after the failure", now)
	t.keepAnswers(e)
	t.endRound(e)
}

// oneZone says whether all witnesses are of one named zone.
func oneZone(list []witness) (string, bool) {
	if len(list) == 0 || list[0].reporter.Zone == "" {
		return "", false
	}
	zone := list[0].reporter.Zone
	return zone, !slices.ContainsFunc(list, func(w witness) bool { return w.reporter.Zone != zone })
}

// keepAnswers remembers what was asked and answered, for Explain.
func (t *Table) keepAnswers(e *endpoint) {
	if s := &e.susp; len(s.orders) > 0 {
		s.answers = s.answers[:0]
		for _, o := range s.orders {
			s.answers = append(s.answers, o.answer())
		}
	}
}

func (o *order) answer() ProbeAnswer {
	a := ProbeAnswer{Reporter: o.reporter.ID, Zone: o.reporter.Zone, Level: o.level.String(), Result: "waiting"}
	if o.done {
		a.Result, a.Level, a.Took = o.result.String(), o.reached.String(), Span(o.end-o.start)
	}
	return a
}

// endRound withdraws what is still asked.
func (t *Table) endRound(e *endpoint) {
	t.cancel(e.susp.orders)
	e.susp.active, e.susp.orders = false, nil
}

// hardReady says whether the confirmed failures of a group may be acted upon: no
// neighbour's answer is still out, or the wait for it is over.
func (t *Table) hardReady(g *group, now time.Duration) bool {
	first := forever
	waiting := false
	for _, e := range g.endpoints {
		s := &e.susp
		if s.confirmed != never {
			first = min(first, s.confirmed)
		} else if s.active && len(s.hard) > 0 {
			waiting = true
		}
	}
	if !waiting || first == forever || now >= first+hardGather {
		return true
	}
	t.due(first + hardGather)
	return false
}

func (t *Table) event(kind EventKind, e *endpoint, reporter, text string, now time.Duration) {
	ev := Event{Kind: kind, At: now, Reporter: reporter, Text: text}
	if e != nil {
		ev.Key = e.Key
	}
	t.out.Events = append(t.out.Events, ev)
}
