package merge

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// trial is real requests to an endpoint that is out for everybody else.
type trial struct {
	begun   time.Duration
	doubled int
	renewed time.Duration
	chosen  []*reporter
	turn    int                          // of the trickle: whose is the next
	next    time.Duration                // when that begins; never: at once
	tries   int                          // how many there were
	rate    float64                      // requests per second that the chosen have for it
	pings   int                          // of a suspend, in which they go before requests
	tried   int                          // how many there were when requests last tried
	pinged  bool                         // the newest was answered, or could not be made
	shut    []*domain                    // replaced: alone against all others
	results map[*reporter]outlier.Counts // what the reporters tell of the test
	bases   map[*reporter]*base          // of all who have taken part
	doubted bool                         // nothing has succeeded since the newest failure, or at all
	seen    int64                        // successes before that failure
	against []*domain                    // whose test requests have failed, by more than chance
	lost    bool                         // it was another table's, and with it what came of it
	told    int64                        // n a minute ago
	unaided bool                         // nobody took over from who was replaced, whose word decides
	score   int64
	n, k    int64
}

func newTest(now time.Duration) *trial {
	return &trial{
		begun: now, renewed: never, score: outlier.ProbationStart, doubted: true,
		results: make(map[*reporter]outlier.Counts), bases: make(map[*reporter]*base),
	}
}

func (t *Table) beginProbation(e *endpoint, r *record, reason string, now time.Duration) {
	t.endTrial(r)
	r.trial = newTest(now)
	t.set(e, r, outlier.Probation, r.rule, reason, now)
	t.shares(e, r, now)
}

// users lists who sends traffic to the service and can be given a share.
func (t *Table) users(e *endpoint, s Scope, now time.Duration) []*reporter {
	var list, quiet []*reporter
	for _, r := range e.group.service.reporters {
		if !r.askable(t, now) || s != Fleet && r.Zone != string(s) {
			continue
		}
		if u := r.services[e.Key.Service]; u.traffic > now-t.cfg.ReporterStale {
			list = append(list, r)
		} else {
			quiet = append(quiet, r)
		}
	}
	if len(list) == 0 {
		return quiet // whoever may have some
	}
	return list
}

// firstRate is the attempts per second that an endpoint gets before its first success,
// and after a failure until the next, from f+1 fault domains at least: one or two may be
// under way when the first is known to have failed, however many sidecars it takes to
// make so many.
const firstRate = 2

// shares gives the test traffic to as many sidecars, at such weights, that the
// endpoint gets the trial rate from all of them together, and firstRate until its
// first success, so that a recovery costs few requests. Whose requests have failed is
// not asked again before somebody else: he can only say the same again, and of one fault
// domain nobody believes it. After a minute he is, as those others may have few requests,
// or a way to the endpoint that is broken. It goes by the rate and not by the number of
// sidecars: of five hundred, two would make one attempt in ten seconds, and the endpoint
// would wait for its test.
func (t *Table) shares(e *endpoint, r *record, now time.Duration) {
	tr := r.trial
	if tr.renewed != never && now < tr.renewed+shareRenew {
		return
	}
	tr.renewed = now
	p := &e.group.service.policy
	users := slices.DeleteFunc(t.users(e, r.scope, now), func(c *reporter) bool { return slices.Contains(tr.shut, c.domain) })
	all := 0.0
	for _, c := range users {
		all += t.fairRate(e, c)
	}
	boost := float64(int(1) << min(tr.doubled, 6))
	target := min(p.Outlier.ProbationRate, 0.1*all) * boost
	others := slices.DeleteFunc(slices.Clone(users), func(c *reporter) bool { return slices.Contains(tr.against, c.domain) })
	if len(others) > 0 && tr.doubled == 0 {
		users = others
	}
	slices.SortFunc(users, func(a, b *reporter) int {
		h := func(c *reporter) uint64 {
			return hash64(t.seed, "probation", e.Key.Service, e.Key.Instance, fmt.Sprint(r.epoch), c.ID)
		}
		return cmp.Or(cmp.Compare(h(a), h(b)), compareReporters(a, b))
	})
	most, least := 0.5, p.LeaveOut+2 // a sidecar must not lean on the test
	if tr.doubted {
		target, most, least = min(target, firstRate), 1, max(1, p.LeaveOut+1-len(tr.against))
	}
	least <<= min(tr.doubled, 6)
	var chosen []*reporter
	var domains []*domain
	rate := 0.0
	for _, c := range users { // first as many fault domains as a verdict needs
		if len(domains) < least && !slices.Contains(domains, c.domain) {
			chosen, domains = append(chosen, c), append(domains, c.domain)
			rate += t.fairRate(e, c)
		}
	}
	for _, c := range users {
		if rate*min(most*boost, 1) >= target {
			break
		}
		if !slices.Contains(chosen[:len(domains)], c) {
			chosen = append(chosen, c)
			rate += t.fairRate(e, c)
		}
	}
	weight := 0.1 * boost
	if rate > 0 {
		weight = max(target/rate, 0.01)
	}
	weight = min(weight, 1)
	for _, c := range tr.chosen {
		if !slices.Contains(chosen, c) {
			t.out.Shares = append(t.out.Shares, Share{Reporter: c.ID, Key: e.Key, Epoch: r.epoch})
		}
	}
	tr.chosen = chosen
	var observers []string
	for _, c := range chosen {
		if tr.bases[c] == nil {
			tr.bases[c] = &base{counts: t.countsOf(e, c), given: now, until: now + max(baseFor, c.overdue(e))}
		}
		if c.Observes {
			observers = append(observers, c.ID)
		}
		t.out.Shares = append(t.out.Shares, Share{Reporter: c.ID, Key: e.Key, Epoch: r.epoch, Weight: weight, For: shareFor})
	}
	if len(observers) > 0 { // they tell what they have now, and then soon
		t.out.Watches = append(t.out.Watches, Watch{Key: e.Key, Reporters: observers, For: shareFor})
	}
	t.due(now + shareRenew)
}

// base is where the test begins for a reporter. One that tells no results of its own
// ([Reporter.Observes]) has them counted from here. What it tells until then may be of
// before the share was given: it had not been told of yet, or was outstanding.
type base struct {
	counts       outlier.Counts
	given, until time.Duration
	told         bool // since it was given
}

const (
	// baseFor is how long an observer has to tell what it had counted before its share.
	baseFor = time.Second
	// hungFor is how long requests are waited for that hung already when the share was
	// given: until Envoy's usual timeout. What they come to is no result.
	hungFor = 15 * time.Second
)

func (t *Table) countsOf(e *endpoint, r *reporter) outlier.Counts {
	if i, ok := e.index[r.slot]; ok {
		return e.cells[i].counts
	}
	return outlier.Counts{}
}

// rebase takes in that an observer had counted so much before its test. first: it has
// just told for the first time what it has counted in all its life, as after a restart of
// the table's owner.
func (e *endpoint) rebase(rep *reporter, s *staged, first bool) {
	e.fleet.rebase(e, rep, s, first)
	for _, z := range e.zones {
		z.rec.rebase(e, rep, s, first)
	}
}

func (r *record) rebase(e *endpoint, rep *reporter, s *staged, first bool) {
	if r.trial == nil {
		return
	}
	if b := r.trial.bases[rep]; b != nil && (first || !b.told || s.at < b.until) {
		b.counts, b.told = s.counts, b.told || s.at >= b.given
		if s.overdue > 0 && s.at < b.given+rep.overdue(e) { // no test request could be
			b.until = b.given + hungFor
		}
	}
}

// outcomes is what the test requests of one reporter came to, as far as it has told. Its
// ordinary counters have more in them: what it had not told when the test began, and what
// was outstanding. They stand for the results of those only who tell none.
func (t *Table) outcomes(e *endpoint, tr *trial, rep *reporter) outlier.Counts {
	if !rep.Observes {
		return tr.results[rep]
	}
	return t.countsOf(e, rep).Sub(tr.bases[rep].counts)
}

// endTrial forgets the shares: they lapse, and count no more as soon as the next
// epoch is held.
func (t *Table) endTrial(r *record) { r.trial = nil }

// Probation takes the counts of the test traffic of one reporter over: cumulative
// since the probation of that epoch began.
func (t *Table) Probation(reporter string, k Key, epoch uint64, counts outlier.Counts, now time.Duration) Refusal {
	t.now = max(t.now, now)
	rep, e := t.reporters[reporter], t.endpoints[k]
	switch {
	case rep == nil:
		return UnknownReporter
	case e == nil:
		return UnknownEndpoint
	case counts.K() > counts.N || counts.N > 1<<20:
		return BadCounts
	}
	rep.heard = max(rep.heard, now)
	for _, s := range []Scope{Fleet, Scope(rep.Zone)} {
		r := e.record(s)
		if r.state != outlier.Probation || r.epoch != epoch || r.trial.bases == nil {
			continue
		}
		if _, asked := r.trial.bases[rep]; !asked {
			return UnknownOrder
		}
		if have := r.trial.results[rep]; counts.N > have.N || counts.N == have.N && counts.K() > have.K() {
			r.trial.results[rep] = counts
		}
		t.touch(e)
		return ""
	}
	return UnknownOrder
}

// probation is a sequential probability ratio test (Wald 1945) between "still
// bad" and "as good as its group".
func (t *Table) probation(e *endpoint, r *record, now time.Duration) {
	tr := r.trial
	if tr.lost {
		// With a new epoch, so that reporters, too, count from here.
		t.beginProbation(e, r, "the test begins again, as the control plane was started again", now)
		return
	}
	steps := e.group.trialOdds(r).Steps()
	byDomain := make(map[*domain]int64)
	before := tr.k
	tr.score, tr.n, tr.k = outlier.ProbationStart, 0, 0
	var oks int64
	for rep := range tr.bases {
		// One that began anew is another: its counters no longer go on from the base.
		if t.reporters[rep.ID] != rep || slices.Contains(tr.shut, rep.domain) || rep.domain.muted(now) {
			continue
		}
		counts := t.outcomes(e, tr, rep)
		n, k := int64(counts.N), int64(counts.K())
		byDomain[rep.domain] += steps.LLR(n, k)
		tr.score += steps.LLR(n, k)
		tr.n += n
		tr.k += k
		oks += n - k
	}
	var against []*domain
	for d, c := range byDomain {
		if c > 0 {
			against = append(against, d)
		}
	}
	if tr.k > before {
		tr.seen = oks
	}
	if doubted := oks <= tr.seen; doubted != tr.doubted || len(against) != len(tr.against) {
		tr.doubted, tr.renewed = doubted, never
	}
	tr.against = against
	switch {
	case tr.score >= outlier.ProbationOut:
		// As many may be broken as a verdict leaves out: one more, and it is the endpoint.
		may := len(tr.shut) < e.group.service.policy.LeaveOut && !tr.unaided
		if d := t.alone(byDomain, tr.score); may && d != nil && t.othersTest(e, r, d, now) {
			tr.shut = append(tr.shut, d)
			tr.renewed = never
			t.event(EventReplaced, e, d.name, "alone sees the test requests fail: other sidecars take them over", now)
			t.due(now + time.Millisecond)
			break
		}
		x := t.explainBase(e, r, now)
		x.Trial = t.explainTrial(e, r, now)
		x.Counts, x.Window = x.Trial.Counts, Span(now-tr.begun)
		x.T, x.Threshold, x.P0, x.P1 = x.Trial.Score, x.Trial.Out, x.Trial.P0, x.Trial.P1
		x.Reason = fmt.Sprintf("%d of %d test requests failed: score %.1f, and %.0f sends it back", tr.k, tr.n, nats(tr.score), nats(outlier.ProbationOut))
		t.eject(e, r.scope, r.rule, x, now)
		return
	case tr.score <= 0:
		t.ramp(e, r, rampFrom, fmt.Sprintf("%d of %d test requests succeeded", oks, tr.n), now)
		return
	case r.rule == outlier.RuleHard && oks >= hardOKs && tr.k == 0:
		t.ramp(e, r, hardRampFrom, fmt.Sprintf("probes and then %d test requests succeeded", oks), now)
		return
	}
	if now-tr.begun >= undecided*time.Duration(tr.doubled+1) {
		tr.doubled++
		tr.renewed = never
		if len(tr.shut) > 0 && tr.n == tr.told { // those who should have taken over have sent nothing
			tr.shut, tr.unaided = nil, true
		}
		tr.told = tr.n
	}
	t.shares(e, r, now)
}

// trialOdds are what a probation decides between. After a verdict of the statistic it
// must be able to tell the fault that was seen: by the odds for errors of 20 % and more
// an endpoint that fails one request in twenty passes every test, and is ejected again
// a minute later.
func (g *group) trialOdds(r *record) outlier.Odds {
	base := g.baseline
	base.W = 0
	fast := outlier.FastOdds(base, g.service.policy.Outlier.Bounds())
	if r.fault == 0 {
		return fast
	}
	return outlier.TrialOdds(fast, base.Pg, faultShown*r.fault)
}

// othersTest says whether anybody with traffic is left to test e without d. If not,
// what d says decides: to go on would be to wait for requests that never come, and
// to be sent back is no new verdict.
func (t *Table) othersTest(e *endpoint, r *record, d *domain, now time.Duration) bool {
	return slices.ContainsFunc(t.users(e, r.scope, now), func(c *reporter) bool {
		return c.domain != d && !slices.Contains(r.trial.shut, c.domain) &&
			c.services[e.Key.Service].traffic > now-t.cfg.ReporterStale
	})
}

// alone finds a fault domain that by itself would put the endpoint out while the
// others would not.
func (t *Table) alone(byDomain map[*domain]int64, score int64) *domain {
	var worst *domain
	for d, c := range byDomain {
		if outlier.ProbationStart+c < outlier.ProbationOut || score-c >= outlier.ProbationOut {
			continue
		}
		if worst == nil || c > byDomain[worst] || c == byDomain[worst] && d.name < worst.name {
			worst = d
		}
	}
	return worst
}
