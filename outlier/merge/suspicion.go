package merge

import (
	"cmp"
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
	// shutFor is how long a fault domain whose complaint was contradicted is not
	// heard about the endpoint, shutLong after shutAfter of them in a row.
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
	replaced  time.Duration // when one was begun early, because all who were asked had left
	deadline  time.Duration
	firstAt   time.Duration // of the failure that opened the round
	first     *reporter     // whose failure that was
	level     outlier.Level // an answer below it contradicts nothing
	zone      string        // the round is about the observers of this zone only
	m         int           // fault domains that can be asked, without the first
	second    bool          // the second probe was sent
	agreed    bool          // enough witnesses, though old connections may still speak
	told      time.Duration // when old connections have had time to answer; never: not asked
	retold    bool          // and the second poll was sent
	listener  time.Duration // when old connections last answered although new ones failed
	shutUntil time.Duration
	doubted   map[*domain]doubt // whose complaints were contradicted
	nextZone  string            // what the next round is limited to, if it is soon
	confirmed time.Duration
	storm     bool          // confirmed by its neighbours
	unsettled int           // rounds of the present storm that ended undecided
	answered  []*order      // of the newest round that is over
	denied    string        // who last contradicted, by id; for Explain
	deniedAt  time.Duration // when
	orders    []*order
	checks    []*order      // probes without a round: a neighbour is suspected, or a round ran out
	checked   time.Duration // when the newest was sent; never
	unsolved  unsolved

	hard, stalled []witness // of this Step
}

// unsolved are the hard failures that nothing has explained.
type unsolved struct {
	at       time.Duration // the newest; never: there is none
	level    outlier.Level // the deepest
	patience time.Duration // before the endpoint is looked at again; 0: it has not been
	again    time.Duration // when
}

var solved = unsolved{at: never}

// doubt is what a contradiction leaves behind. It is held against those who
// complained and not against the question: one broken observer, which everybody
// contradicts, must not keep the others from being heard about a real crash.
type doubt struct {
	until  time.Duration
	streak int // contradictions in a row
}

// doubts says whether the complaints of d about the endpoint are not heard now.
func (s *suspicion) doubts(d *domain, now time.Duration) bool { return now < s.doubted[d].until }

// doubt holds a contradiction against the witnesses.
func (s *suspicion) doubt(now time.Duration, lists ...[]witness) (until time.Duration) {
	if s.doubted == nil {
		s.doubted = make(map[*domain]doubt)
	}
	for d, old := range s.doubted {
		if now >= old.until+shutLong {
			delete(s.doubted, d)
		}
	}
	for _, list := range lists {
		for _, w := range list {
			d := s.doubted[w.reporter.domain]
			if now < d.until {
				continue // another reporter of the same domain was seen to already
			}
			d.streak++
			d.until = now + shutFor
			if d.streak >= shutAfter {
				d.until = now + shutLong
			}
			s.doubted[w.reporter.domain] = d
			until = max(until, d.until)
		}
	}
	return until
}

// suspectGroup looks at the bad news of a group: whom to ask about, and what is
// confirmed by now.
func (t *Table) suspectGroup(g *group, now time.Duration) {
	var involved, suspects []*endpoint
	for _, e := range g.endpoints {
		s := &e.susp
		s.agreed = false // until those who speak now have been counted
		if !g.storm {
			s.unsettled = 0
		}
		if len(s.checks) > 0 {
			t.settleChecks(e, now)
		}
		t.lookAgain(e, now)
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
			for _, w := range s.hard {
				s.unsolved.at, s.unsolved.level = max(s.unsolved.at, w.at), max(s.unsolved.level, w.level)
			}
		}
	}
	storm := len(suspects) >= 3 && float64(len(suspects)) > g.service.policy.Storm*float64(g.judged())
	var sample map[*endpoint]bool
	if storm {
		sample = t.sample(suspects)
		if !g.storm {
			t.event(EventStorm, suspects[0], "", fmt.Sprintf("%d of %d endpoints of the service are suspected at once: a sample of each zone is probed for all", len(suspects), g.judged()), now)
		}
	}
	g.storm = storm
	// Where probes are short, hard failures come first, then what has waited longer.
	slices.SortStableFunc(involved, func(a, b *endpoint) int { return a.susp.compare(&b.susp) })
	for _, e := range involved {
		t.question(e, !storm || sample[e] || len(e.susp.hard) == 0, now)
	}
	for _, e := range involved { // a neighbour's agreement may have ended the wait
		if e.susp.agreed && e.susp.confirmed == never {
			t.question(e, false, now)
		}
	}
	if storm {
		t.confirmByNeighbours(suspects, sample, now)
	}
}

// compare orders suspicions by how soon somebody should be asked about them.
func (s *suspicion) compare(o *suspicion) int {
	oldest := func(list []witness) time.Duration {
		at := forever
		for _, w := range list {
			at = min(at, w.at)
		}
		return at
	}
	return cmp.Or(cmp.Compare(oldest(s.hard), oldest(o.hard)), cmp.Compare(oldest(s.stalled), oldest(o.stalled)))
}

// sample takes of each zone the few suspects that stand for all of it. Of whom nobody
// could tell, they make room for others.
func (t *Table) sample(suspects []*endpoint) map[*endpoint]bool {
	order := slices.Clone(suspects)
	slices.SortStableFunc(order, func(a, b *endpoint) int {
		return cmp.Or(cmp.Compare(a.susp.unsettled, b.susp.unsettled), cmp.Compare(t.stormHash(a), t.stormHash(b)))
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

func (t *Table) stormHash(e *endpoint) uint64 {
	return hash64(t.seed, "storm", e.Key.Service, e.Key.Instance)
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
		if sample[e] || s.confirmed != never || !failed[e.Zone] || s.unsettled > 0 {
			continue
		}
		t.first(e, "")
		if by, _ := t.contradiction(e, "", now); by == "" {
			s.confirmed, s.storm, s.zone = now, true, ""
		}
	}
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
	if len(s.hard) == 0 && e.fleet.state == outlier.Suspended {
		t.endRound(e) // it hangs, as is known
		return
	}
	if s.active && now >= s.replaced+roundGap && t.askedLeft(s) {
		// Others are asked at once: not more often, for who comes and goes could have
		// probes made without end.
		t.endRound(e)
		s.last, s.replaced = now-roundGap, now
	}
	if !s.active && !t.mayOpen(e, now) {
		return // nobody else can tell: the observer's own rule must do
	}
	if by, zones := t.contradiction(e, s.zone, now); by != "" {
		t.contradicted(e, by, zones, now)
		return
	}
	if !s.active && mayAsk {
		t.ask(e, now)
	}
	need := 1 + min(2, s.m)
	answered := t.answered(e, Scope(s.zone), now)
	// What hung before an answer came says nothing of now: its own end is on its way.
	stalled := slices.DeleteFunc(slices.Clone(s.stalled), func(w witness) bool { return w.at <= answered })
	switch {
	case t.domainsOf(s.zone, s.hard) >= need && t.refusesAnew(e, now) && t.twice(e, now):
		s.agreed = true
		if t.pollRunning(e, now) || !t.oldConnectionsTold(e, now) {
			return
		}
		s.confirmed, s.doubted = now, nil
		t.keepAnswers(e)
	case t.domainsOf(s.zone, stalled, s.hard) >= need && len(stalled) > 0:
		since := t.hungLongEnough(e, answered, now)
		switch {
		case now < since:
			s.deadline = max(s.deadline, since+answerSlack)
			t.due(since)
		case !t.stallTold(e, now): // others may have had answers that they have not told of
		default:
			t.keepAnswers(e)
			t.suspend(e, Scope(s.zone), now)
			return
		}
	}
	if s.confirmed == never && s.active && now >= s.deadline {
		t.event(EventExpired, e, "", "the suspicion is dropped: not enough others saw the same in time", now)
		t.keepAnswers(e)
		t.endRound(e)
		s.nextZone = ""
		s.unsettled++
	}
}

// mayOpen says whether there is a complaint that others can confirm: observers of
// the zone to which the last round pointed, or else of any. A zone in which nobody
// is left to ask must not keep the others from being asked.
func (t *Table) mayOpen(e *endpoint, now time.Duration) bool {
	s := &e.susp
	zones := []string{""}
	// What is complained of long after such a round could begin is another fault.
	if s.nextZone != "" && now <= max(s.deniedAt, s.last+roundGap)+witnessFor {
		zones = []string{s.nextZone, ""}
	}
	for _, s.zone = range zones {
		t.first(e, s.zone)
		if s.first == nil {
			continue // nobody of that zone complains any more
		}
		s.m = t.countDomains(t.confirmers(e, s.zone, now), s.zone, s.hard, s.stalled) - 1
		if s.m >= 1 {
			return true
		}
	}
	s.nextZone = ""
	return false
}

// askedLeft says whether nobody is left of those who were asked: their streams have ended,
// and an order is withdrawn with its stream.
func (t *Table) askedLeft(s *suspicion) bool {
	return len(s.orders) > 0 && !slices.ContainsFunc(s.orders, func(o *order) bool { return o.done || t.orders[o.id] == o })
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
	list := slices.DeleteFunc(t.probers(e, s.zone, now), func(r *reporter) bool {
		same := func(w witness) bool { return w.reporter.domain == r.domain }
		return slices.ContainsFunc(s.hard, same) || slices.ContainsFunc(s.stalled, same)
	})
	round := fmt.Sprint(s.rounds)
	chosen := t.choose(list, p.ConfirmProbers, func(r *reporter) uint64 {
		return hash64(t.seed, "suspicion", e.Key.Service, e.Key.Instance, round, r.ID)
	})
	if len(chosen) > 0 && !t.probes.has(now, len(chosen)) {
		s.last = now
		t.event(EventDropped, e, "", "nobody is asked about it: the fleet has made as many probes as it may in a second", now)
		return
	}
	s.active, s.last, s.second, s.told = true, now, false, never
	s.rounds++
	s.deadline = now + p.Outlier.ProbeTimeout + answerSlack
	s.orders, s.answered = nil, nil
	for _, r := range chosen {
		s.orders = append(s.orders, t.order(e, r, s.level, reasonSuspicion, Scope(s.zone), now))
	}
	t.pollTraffic(e, s.firstAt, now)
	t.askNeighbours(e, now)
	t.due(s.deadline)
	t.event(EventSuspicion, e, s.first.ID, suspicionText(s, len(chosen)), now)
}

// suspicionText says what a reporter saw, and who is asked about it.
func suspicionText(s *suspicion, asked int) string {
	saw := "waits too long for an answer from it"
	if len(s.hard) > 0 {
		saw = "cannot reach it"
	}
	others := fmt.Sprintf("%s asked to probe it (%s level)", were(asked), s.level)
	if asked == 0 {
		others = "nobody needs to be asked, or can be: what other sidecars see of their own requests decides"
	}
	return saw + "; " + others
}

// contradicted ends a round: somebody began later and succeeded.
func (t *Table) contradicted(e *endpoint, by string, zones []string, now time.Duration) {
	s := &e.susp
	// If all who fail are of one zone and all who succeed of others, the fault may
	// lie between: the next round is about that zone, at once.
	s.nextZone = ""
	if zone, one := oneZone(s.hard, s.stalled); one && s.zone == "" && len(zones) > 0 && !slices.Contains(zones, zone) {
		s.nextZone = zone
		t.due(now)
	} else if until := s.doubt(now, s.hard, s.stalled); until > now { // witnesses may be gone by now
		t.due(until)
	}
	if s.told != never {
		s.listener = now
	}
	s.denied, s.deniedAt = by, now
	t.denied(now, s.hard, s.stalled)
	s.unsolved = solved
	t.event(EventContradicted, e, by, "has had an answer since: the suspicion is dropped", now)
	t.keepAnswers(e)
	t.endRound(e)
}

// keepAnswers remembers what was asked and answered, for Explain.
func (t *Table) keepAnswers(e *endpoint) {
	if s := &e.susp; len(s.orders) > 0 {
		s.answered = s.orders
	}
}

// endRound withdraws what is still asked.
func (t *Table) endRound(e *endpoint) {
	t.cancel(e.susp.orders)
	e.susp.active, e.susp.agreed, e.susp.told, e.susp.orders = false, false, never, nil
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
		} else if s.active && len(s.hard) > 0 || slices.ContainsFunc(s.checks, func(o *order) bool { return o.reason == reasonNeighbour }) {
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
