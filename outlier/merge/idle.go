package merge

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

const (
	// leaseFor is how long a lease stands, leaseRenew before its end it is renewed.
	leaseFor   = time.Minute
	leaseRenew = 15 * time.Second
	// idlePoll is how long the reporters may take to say that they have traffic
	// after all.
	idlePoll = 200 * time.Millisecond
	// pathRetry is how long a ping that healthy endpoints do not answer is not tried.
	pathRetry = 5 * time.Minute
	// validateGap is the pause between two tries of the ping that is not known to work.
	validateGap = time.Second
)

// doubts are the gaps between the extra pings to an endpoint that may be down.
var doubts = [...]time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second}

// The schedule of pings. An endpoint of which nothing was heard for about ten seconds is
// given to a few reporters of different fault domains, who ping it in turn: it gets one
// ping per IdleEvery (25 s, give or take a tenth) from all of them together, so that
// pings do not grow with the number of reporters, 0.04 per endpoint and second. The
// turns of one endpoint go on where they were when its silence is broken for a moment:
// an endpoint with a request now and then is not pinged more often than one with none.
//
// A miss ends the patience. The others ask again after 0.25, 0.5, 1, 2, 2, … s until
// the belief is back at rest, and three misses more than answers, by two pingers if
// there are two, are a verdict: a dead idle endpoint is found about 2 s after the ping
// that meets it first, 15 s after its end on average. One that refuses is found by that
// ping, like any other hard failure.

// idleness is what pings say of an endpoint that no traffic speaks of.
type idleness struct {
	spoke  time.Duration // traffic spoke of it; at first: when it appeared
	asked  time.Duration // when reporters were asked whether they have traffic; never: not since
	leases []*order      // by turn
	until  time.Duration
	first  time.Duration // the first turn of leases[0]
	pinged time.Duration // start of the newest ping that was heard of; never
	belief int64
	missed map[*domain]int // misses by pinger, since the last success
	extra  *order          // the running extra ping
	extras int             // since the doubt began
	next   time.Duration   // of the next extra ping
	goodAt time.Duration   // newest good ping or probe
	good   int64           // number of good pings
	own    firsthand
	told   []pingNews
}

// firsthand is what the sidecar beside an endpoint has said of its successes, as far
// as others' pings do not explain them.
type firsthand struct {
	ok     int64         // successes it had counted
	good   int64         // good pings heard of by then
	lastOK time.Duration // when there was one that was no ping; never
}

// pingsUnheard is how many pings an endpoint may have answered of which the pinger has
// not told yet. So few successes are no traffic.
const pingsUnheard = 3

// hearOwn takes in how many requests an endpoint has answered at first hand. A ping
// that passes the sidecar there is such a request. Were it taken for traffic, each ping
// would call the other pingers off, and the first of them would be the only one.
func (i *idleness) hearOwn(ok int64, lastOK time.Duration, anew bool) {
	o := &i.own
	if anew || ok < o.ok {
		o.ok = 0
	}
	if ok-o.ok > i.good-o.good+pingsUnheard {
		o.lastOK = max(o.lastOK, lastOK)
	}
	o.ok, o.good = ok, i.good
}

type pingNews struct {
	order      *order
	res        outlier.ProbeResult
	level      outlier.Level
	start, end time.Duration
}

func (i *idleness) reset(now time.Duration) {
	*i = idleness{spoke: now, asked: never, pinged: never, belief: outlier.BeliefRest, next: never, goodAt: never, own: firsthand{lastOK: never}}
}

// hear keeps the result of a ping for the next Step.
func (i *idleness) hear(o *order, res outlier.ProbeResult, level outlier.Level, start, end time.Duration) {
	n := pingNews{o, res, level, start, end}
	if slices.Contains(i.told, n) || len(i.told) >= 64 || end <= o.end {
		return
	}
	i.told = append(i.told, n)
}

// idleStep moves one endpoint: who pings it, and what the pings say.
func (t *Table) idleStep(e *endpoint, now time.Duration) {
	i := &e.idle
	p := &e.group.service.policy
	t.hearPings(e, now)

	after := jittered(p.Outlier.IdleAfter, p.Outlier.Jitter, hash64(t.seed, "idle", e.Key.Service, e.Key.Instance))
	spoke := max(i.spoke, e.lastOK, i.own.lastOK)
	if p.Ping == PingOff || e.fleet.state != outlier.In || !e.judgeable() {
		t.endLeases(e, now)
		i.belief, i.missed, i.extras, i.next = outlier.BeliefRest, nil, 0, never
		return
	}
	if now < spoke+after {
		if len(i.leases) > 0 || i.belief > outlier.BeliefRest {
			t.endLeases(e, now)
			i.belief, i.missed, i.extras, i.next = outlier.BeliefRest, nil, 0, never
		}
		i.asked = never
		return
	}
	if i.asked == never {
		// Successes are told of each ten seconds: ask before pinging what may be busy.
		i.asked = now
		t.poll(e, now, now, func(*reporter) bool { return true })
		t.due(now + idlePoll)
		return
	}
	if now < i.asked+idlePoll {
		t.due(i.asked + idlePoll)
		return
	}
	t.lease(e, now)
	t.doubt(e, now)
	if i.belief >= outlier.BeliefDown && (len(i.missed) >= 2 || len(i.leases) < 2) && now >= e.own.lastOK+after {
		t.idleDown(e, now)
	}
}

// hearPings lets the results since the last Step move the belief.
func (t *Table) hearPings(e *endpoint, now time.Duration) {
	i := &e.idle
	if i.extra != nil && (i.extra.done || now >= i.extra.deadline) {
		o := i.extra
		i.extra = nil
		delete(t.orders, o.id)
		if o.done {
			i.told = append(i.told, pingNews{o, o.result, o.reached, o.start, o.end})
		}
	}
	slices.SortFunc(i.told, func(a, b pingNews) int { return cmp.Or(cmp.Compare(a.end, b.end), cmp.Compare(a.order.id, b.order.id)) })
	for _, n := range i.told {
		r := n.order.reporter
		n.order.end = max(n.order.end, n.end)
		i.pinged = max(i.pinged, n.start)
		if n.res == outlier.NotRun || r.domain.muted(now) || t.reporters[r.ID] != r {
			continue
		}
		good := n.res == outlier.ProbeOK
		if good || n.res.Hard() { // a refused ping is a hard failure like any other
			t.probeNews(e, r, n.res, n.level, n.start, n.end, now)
		}
		i.belief = outlier.Belief(i.belief, good)
		if good {
			i.good++
			i.goodAt = max(i.goodAt, n.end)
			if i.belief == outlier.BeliefRest {
				i.missed, i.extras, i.next = nil, 0, never
			}
			continue
		}
		if i.missed == nil {
			i.missed = make(map[*domain]int)
		}
		i.missed[r.domain]++
		if i.next == never && i.extra == nil {
			i.next = now + doubts[0]
		}
	}
	i.told = i.told[:0]
}

// lease assigns pingers, of different zones and fault domains, by a rendezvous
// hash: as long as they are there the same ones ping, whoever comes and goes.
func (t *Table) lease(e *endpoint, now time.Duration) {
	i := &e.idle
	p := &e.group.service.policy
	gone := slices.ContainsFunc(i.leases, func(o *order) bool { return !o.reporter.askable(t, now) || t.orders[o.id] != o })
	if len(i.leases) > 0 && !gone && now < i.until-leaseRenew {
		return
	}
	chosen := t.choose(t.confirmers(e, "", now), p.IdlePingers, func(r *reporter) uint64 {
		return hash64(t.seed, "pinger", e.Key.Service, e.Key.Instance, r.ID)
	})
	turn := jittered(p.IdleEvery, p.Outlier.Jitter/2, hash64(t.seed, "every", e.Key.Service, e.Key.Instance))
	if len(chosen) != len(i.leases) { // other turns: they are dealt anew
		t.withdraw(i.leases, now)
		i.leases = make([]*order, len(chosen))
		i.first = now
		if i.pinged != never {
			i.first = max(now, i.pinged+turn)
		}
	}
	// Who stays keeps its turn; the others get those that are free.
	for n, o := range i.leases {
		at := -1
		if o != nil && t.orders[o.id] == o {
			at = slices.Index(chosen, o.reporter)
		}
		if at >= 0 {
			chosen = slices.Delete(chosen, at, at+1)
			continue
		}
		if o != nil {
			t.withdraw([]*order{o}, now)
		}
		i.leases[n] = nil
	}
	i.until = now + leaseFor
	kind := e.group.service.ping.kind(p.Ping)
	for n, o := range i.leases {
		if o == nil {
			o = &order{id: t.id(), endpoint: e, reporter: chosen[0], reason: reasonLease, sent: now, end: never}
			chosen = chosen[1:]
			t.orders[o.id] = o
			i.leases[n] = o
		}
		every := turn * time.Duration(len(i.leases))
		phase := i.first + time.Duration(n)*turn - now
		if phase < 0 {
			phase += (-phase + every - 1) / every * every
		}
		t.out.Leases = append(t.out.Leases, PingLease{
			ID: o.id, Reporter: o.reporter.ID, Key: e.Key, Kind: kind, Every: every, Phase: phase, Timeout: p.PingTimeout, Until: i.until,
		})
	}
}

func (t *Table) endLeases(e *endpoint, now time.Duration) {
	i := &e.idle
	t.withdraw(i.leases, now)
	i.leases = nil
	if i.extra != nil {
		t.cancel([]*order{i.extra})
		i.extra = nil
	}
}

func (t *Table) withdraw(leases []*order, now time.Duration) {
	for _, o := range leases {
		if t.orders[o.id] != o {
			continue
		}
		delete(t.orders, o.id)
		t.out.Leases = append(t.out.Leases, PingLease{ID: o.id, Reporter: o.reporter.ID, Key: o.endpoint.Key, Until: now})
	}
}

// doubt pings more often, by the pingers in turn, while there is a doubt.
func (t *Table) doubt(e *endpoint, now time.Duration) {
	i := &e.idle
	if i.next == never || i.extra != nil || i.belief <= outlier.BeliefRest || len(i.leases) == 0 {
		return
	}
	if now < i.next {
		t.due(i.next)
		return
	}
	r := i.leases[(i.extras+1)%len(i.leases)].reporter
	i.extras++
	i.next = now + doubts[min(i.extras, len(doubts)-1)]
	if !r.askable(t, now) || !r.probes.has(now, 1) || !t.probes.has(now, 1) {
		t.due(i.next)
		return
	}
	i.extra = t.order(e, r, t.pingLevel(e), reasonIdle, Fleet, now)
	t.due(i.next)
}

func (t *Table) pingLevel(e *endpoint) outlier.Level {
	if e.group.service.ping.kind(e.group.service.policy.Ping) == PingTCP {
		return outlier.LevelConnect
	}
	return outlier.LevelApp
}

func (t *Table) idleDown(e *endpoint, now time.Duration) {
	i := &e.idle
	misses := 0
	for _, n := range i.missed {
		misses += n
	}
	c := &candidate{e: e, rule: outlier.RuleIdle, scope: Fleet}
	c.reason = fmt.Sprintf("it has no traffic, and %d pings by %s went unanswered", misses, machines(len(i.missed)))
	ok, detail := t.census(e.group).mayLeave(e, Fleet, false, now)
	if !c.guard("cap", ok, "%s", detail) {
		t.tell(c, "cap", now)
		return
	}
	t.commit(c, now)
	t.endLeases(e, now)
	i.belief, i.missed, i.extras, i.next = outlier.BeliefRest, nil, 0, never
}

// pingPath is whether the application-level ping of a service is known to work. A
// path that a healthy endpoint does not answer would make every idle endpoint look
// dead.
type pingPath struct {
	valid   bool
	invalid bool
	retry   time.Duration
	failed  []Key
	probe   *order
}

// kind is the ping to use now.
func (p *pingPath) kind(want PingKind) PingKind {
	if (want == PingHTTP || want == PingGRPC) && !p.valid {
		return PingTCP
	}
	return want
}

// validate tries the ping of a service on an endpoint that real traffic shows to
// be well: at least 10 attempts in 10 s, at most 5 % of them failed.
func (t *Table) validate(s *service, now time.Duration) {
	p := &s.ping
	if s.policy.Ping != PingHTTP && s.policy.Ping != PingGRPC {
		*p = pingPath{}
		return
	}
	if o := p.probe; o != nil {
		if !o.done && now < o.deadline {
			return
		}
		p.probe = nil
		delete(t.orders, o.id)
		p.retry = now + validateGap // one that could not tell will not be able to the next moment
		switch {
		case o.done && o.result == outlier.ProbeOK && o.reached == outlier.LevelApp:
			*p = pingPath{valid: true}
			return
		case o.done && (o.result == outlier.Unhealthy || o.result == outlier.TimedOut || o.result == outlier.Reset):
			p.failed = append(p.failed, o.endpoint.Key)
			if len(p.failed) >= 2 {
				p.invalid, p.retry, p.failed = true, now+pathRetry, nil
				t.event(EventPingPath, o.endpoint, o.reporter.ID, "found that endpoints which serve requests do not answer the ping of the application: until one does, pings only connect", now)
			}
		}
	}
	if p.valid || now < p.retry {
		return
	}
	p.invalid = false
	for e := range s.endpoints {
		if slices.Contains(p.failed, e.Key) || e.fleet.state != outlier.In || e.leaving() || e.lastOK < now-10*time.Second {
			continue
		}
		e.series.advance(now)
		if w := e.series.since(now - 10*time.Second); w.N < 10 || 20*w.K > w.N {
			continue
		}
		list := t.probers(e, "", now)
		if len(list) == 0 || !t.probes.has(now, 1) {
			return
		}
		r := t.choose(list, 1, func(r *reporter) uint64 { return hash64(t.seed, "validate", e.Key.Service, e.Key.Instance, r.ID) })[0]
		p.probe = t.order(e, r, outlier.LevelApp, reasonValidate, Fleet, now)
		t.out.Orders[len(t.out.Orders)-1].Ping = s.policy.Ping
		return
	}
}
