package merge

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// tick is how often everything that time alone may move is looked at; what has
// news is looked at at once.
const tick = 100 * time.Millisecond

const forever = time.Duration(math.MaxInt64)

// Step judges what arrived since the last one and moves everything along whose
// time has come. Its owner calls it at Result.Next at the latest, and at once
// when Apply answered that something is urgent, or an order was answered. It
// reads nothing but the table, the time and the configuration.
func (t *Table) Step(now time.Duration) Result {
	now = max(now, t.now)
	t.now = now
	t.steps++
	ticks := now >= t.nextTick
	full := ticks || now >= t.wake
	if full {
		t.wake = forever
		t.nextTick = now - now%tick + tick
	}

	for _, r := range t.came {
		r.settled = r.settles
	}
	t.came = t.came[:0]
	slices.SortFunc(t.touched, compareEndpoints)
	for _, e := range t.touched {
		t.fold(e, now)
	}
	t.unmute(now)
	if now >= t.nextSecond {
		t.second(now)
		t.nextSecond = now - now%time.Second + time.Second
	} else if ticks && now <= t.muteTill {
		t.unreliable(now)
	}

	news := t.touched
	t.touched = nil
	for _, e := range news {
		e.touched = false
	}
	for _, look := range t.lookAt(news, full) {
		t.stepGroup(look, full, now)
	}

	out := t.out
	out.Next = min(t.nextSecond, t.wake)
	if t.anyBusy() {
		out.Next = min(out.Next, t.nextTick)
	}
	t.out = Result{}
	t.sortOut(&out)
	return out
}

// lookAt lists, by group, the endpoints that this Step must look at: those with
// news, and when it is time everything that has something open.
func (t *Table) lookAt(news []*endpoint, full bool) [][]*endpoint {
	var look []*endpoint
	if full {
		for _, e := range t.endpoints {
			if e.busy() {
				look = append(look, e)
			}
		}
	}
	for _, e := range news {
		if !e.removed && (!full || !e.busy()) {
			look = append(look, e)
		}
	}
	slices.SortFunc(look, func(a, b *endpoint) int {
		if a.group == b.group {
			return cmp.Compare(a.Key.Instance, b.Key.Instance)
		}
		return cmp.Or(cmp.Compare(a.Key.Service, b.Key.Service), cmp.Compare(a.Priority, b.Priority), compareEndpoints(a, b))
	})
	var groups [][]*endpoint
	for len(look) > 0 {
		n := 1
		for n < len(look) && look[n].group == look[0].group {
			n++
		}
		groups = append(groups, look[:n])
		look = look[n:]
	}
	return groups
}

// anyBusy says whether there is an endpoint that the next tick must look at.
func (t *Table) anyBusy() bool {
	for _, e := range t.endpoints {
		if e.busy() {
			return true
		}
	}
	return false
}

// warm says whether a row has come a quarter of the way to its threshold.
func (e *endpoint) warm() bool {
	return e.fast.warm() || e.slow.warm() || slices.ContainsFunc(e.zones, func(z *zone) bool { return z.row.warm() })
}

func (w *row) warm() bool { return w.open && 4*w.last.t > w.last.h }

// unread says whether there is evidence against e that nobody has looked at for a
// second.
func (e *endpoint) unread(now time.Duration) bool {
	return e.fast.unread(now) || e.slow.unread(now) || slices.ContainsFunc(e.zones, func(z *zone) bool { return z.row.unread(now) })
}

func (w *row) unread(now time.Duration) bool { return w.open && now-w.last.at >= time.Second }

// busy says whether e has something open that time alone may move. A row is moved
// by news; what time takes from it, each second is often enough to see.
func (e *endpoint) busy() bool {
	if e.onItsWay || e.pace.open || e.pace.weight > 0 || len(e.hot) > 0 || e.susp.active || len(e.susp.checks) > 0 || e.susp.unsolved.at != never || e.susp.confirmed != never || e.poll.waiting != nil ||
		e.fleet.state != outlier.In || e.fleet.n > 0 || e.override != nil || e.overrideNews || e.restartedAt != never || e.newAt != never ||
		len(e.idle.leases) > 0 || e.idle.asked != never || len(e.idle.told) > 0 || e.own.refused != never {
		return true
	}
	for _, z := range e.zones {
		if z.rec.state != outlier.In || z.rec.n > 0 {
			return true
		}
	}
	return false
}

// stepGroup judges the endpoints of one group that have news or something open.
func (t *Table) stepGroup(look []*endpoint, full bool, now time.Duration) {
	g := look[0].group
	for _, e := range look {
		t.obey(e, now)
		if e.newAt != never {
			t.appeared(e, now)
		}
		if e.restartedAt != never {
			t.restarted(e, now)
		}
	}
	t.suspectGroup(g, now)
	t.decide(g, look, now)
	for _, e := range look {
		t.keepPace(e, now)
		t.recover(e, now)
		if full || len(e.idle.told) > 0 || e.idle.extra != nil || e.idle.asked != never {
			t.idleStep(e, now)
		}
	}
}

// second does what is due once a second: baselines, rates, mutes, idle endpoints,
// and forgetting who is long silent.
func (t *Table) second(now time.Duration) {
	for _, e := range t.endpoints {
		e.series.advance(now)
		e.measure(now)
		e.measurePace()
		for _, z := range e.zones {
			z.rate += rateStep * (float64(z.n-z.seen) - z.rate)
			z.seen = z.n
		}
		e.notePeak(now)
		if e.unread(now) || !e.busy() && t.mayBeIdle(e, now) {
			t.touch(e)
		}
	}
	for _, r := range t.reporters {
		for _, u := range r.services {
			u.rate += rateStep * (float64(u.n-u.seen) - u.rate)
			u.seen = u.n
		}
	}
	for _, s := range t.services {
		for _, g := range s.groups {
			g.measure(now)
		}
	}
	t.unreliable(now)
	t.forgetSilent(now)
	for _, name := range t.serviceNames() {
		t.validate(t.services[name], now)
		t.drawLatency(t.services[name], now)
	}
}

// rateStep moves an attempt rate that is read each second over 30 s.
var rateStep = -math.Expm1(-1.0 / 30)

func (t *Table) serviceNames() []string {
	names := make([]string, 0, len(t.services))
	for name := range t.services {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// mayBeIdle is a cheap first look: could nothing have been heard of e for long?
func (t *Table) mayBeIdle(e *endpoint, now time.Duration) bool {
	p := &e.group.service.policy
	return p.Ping != PingOff && now-max(e.idle.spoke, e.lastOK, e.idle.own.lastOK) >= p.Outlier.IdleAfter/2
}

// measure learns the rate and the error rate of e. Failures are told of at once
// and successes up to ten seconds later, so the error rate is that of a second of
// which all is known by now: the most recent one would look worse than it was.
//
// The error rate is how e does when all is well, by which its group is judged. What
// just took it out, and what is tried on it since, would raise what all are used to.
func (e *endpoint) measure(now time.Duration) {
	dn, dk := e.pooled.N-e.seen.N, e.pooled.K-e.seen.K
	e.seen = e.pooled
	if e.onlyProbed(dn, dk) {
		dn = 0
	}
	e.known += rateStep * (1 - e.known)
	e.level += rateStep * (float64(dn) - e.level)
	e.rate = e.level / e.known
	from, to := now-settled-time.Second, now-settled
	if e.fleet.state.Out() {
		e.wasOut = now
	}
	if from < e.wasOut {
		return
	}
	n, k := e.series.between(from, to)
	if n > 0 {
		e.errors += outlier.ErrorRateStep(int64(n+0.5), time.Second) * (k/n - e.errors)
		e.settled += n
	}
}

// onlyProbed says whether n attempts of which k failed may have been probes, which
// count where they fail: nobody sends requests to what has been taken out.
func (e *endpoint) onlyProbed(n, k int64) bool {
	return n == k && (e.fleet.state == outlier.Ejected || e.fleet.state == outlier.Probing)
}

// settled is how long ago something must be for every reporter to have told of it.
const settled = 11 * time.Second

// notePeak keeps the largest healthy ten-second rate of each of the last ten
// minutes.
func (e *endpoint) notePeak(now time.Duration) {
	minute := int64(now / time.Minute)
	if e.peakMinute != minute {
		e.peakMinute = minute
		e.peaks[minute%int64(len(e.peaks))] = 0
	}
	if e.fleet.state == outlier.In && !e.fast.open {
		p := &e.peaks[minute%int64(len(e.peaks))]
		*p = max(*p, e.settledRate(now))
	}
}

// measure learns how the group does when all is well.
func (g *group) measure(now time.Duration) {
	rates := make([]float64, 0, len(g.endpoints))
	g.baseline.Endpoints, g.baseline.Attempts = 0, 0
	for _, e := range g.endpoints {
		if e.leaving() {
			continue
		}
		g.baseline.Endpoints++
		g.baseline.Attempts += int64(e.settled)
		if !e.fleet.state.Out() && now-e.added >= young {
			rates = append(rates, e.errors)
		}
	}
	if pg, ok := outlier.TrimmedMean(rates); ok {
		g.baseline.Pg = pg
	}
	g.usual.Note(g.baseline.Pg, now)
}

// young is how long an endpoint does not count for the baseline.
const young = 5 * time.Second

// forgetSilent drops reporters that have said nothing for minutes.
func (t *Table) forgetSilent(now time.Duration) {
	var gone []*reporter
	for _, r := range t.reporters {
		if now-r.heard > t.cfg.ReporterDrop {
			gone = append(gone, r)
		}
	}
	slices.SortFunc(gone, compareReporters)
	for _, r := range gone {
		t.dropReporter(r)
	}
}

// sortOut gives a result an order that depends on nothing but its content.
func (t *Table) sortOut(r *Result) {
	readmission := func(c Change) int {
		if c.To.Out() {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(r.Changes, func(a, b Change) int { return cmp.Compare(readmission(a), readmission(b)) })
	slices.SortFunc(r.Cancels, func(a, b Cancel) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(r.Mutes, func(a, b Mute) int { return cmp.Compare(a.Reporter, b.Reporter) })
}
