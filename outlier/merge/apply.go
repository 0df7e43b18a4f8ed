package merge

import (
	"cmp"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

const (
	// aheadLimit is how far in the future a mapped time may lie: the mapping of
	// clocks errs by network delay and not by more.
	aheadLimit = time.Second
	// settleTime is how long a reporter has after its first report to tell the rest
	// of what it knows; a cell that shows up later began at zero.
	settleTime = time.Second
	// pointLimit bounds the earlier counters kept of one cell between two Steps.
	pointLimit = 32
)

// staged is what arrived for one cell since the last Step. Everything is judged
// against the state of that Step, and the highest sequence number wins, so the
// order of arrival does not matter.
type staged struct {
	cell     int32
	seq      uint64
	at       time.Duration
	counts   outlier.Counts
	lastOK   time.Duration
	okStart  time.Duration
	lastHard time.Duration
	hardFrom time.Duration
	overdue  int
	state    outlier.State
	level    outlier.Level
	score    int64
	points   []Point // earlier counters, from histories and from reports that a newer one replaced
}

// Apply takes a report over. Until the next Step it only waits: reports that
// come twice or in another order make no difference.
func (t *Table) Apply(rep Report, now time.Duration) Applied {
	t.now = max(t.now, now)
	var done Applied
	all := len(rep.Cells) + len(rep.Own)
	r := t.reporters[rep.Reporter]
	if r == nil {
		done.refuse(UnknownReporter, max(all, 1))
		return done
	}
	defer func() { r.count(done) }()
	if rep.Incarnation != r.Incarnation {
		done.refuse(WrongIncarnation, max(all, 1))
		return done
	}
	if rep.At > now+aheadLimit || rep.At < now-t.cfg.ReporterDrop {
		done.refuse(BadTime, max(all, 1))
		return done
	}
	r.heard = max(r.heard, rep.Received)
	if at := rep.At + settleTime; r.settles == never || at < r.settles {
		r.settles = at // from the next Step on
		t.came = append(t.came, r)
	}
	// Of two reports of one number, which only a liar sends, the more doubtful holds: not
	// the one that came last.
	switch lhm := min(max(rep.LHM, 0), 7); {
	case rep.Seq > r.seq:
		r.seq, r.jitter, r.LHM = rep.Seq, rep.Jitter, lhm
		t.weigh(r, now)
	case rep.Seq == r.seq:
		r.jitter, r.LHM = max(r.jitter, rep.Jitter), max(r.LHM, lhm)
		t.weigh(r, now)
	}
	for _, c := range rep.Clusters {
		u := r.services[c.Service]
		if u != nil && c.Slower > 0 {
			u.service.slowerAt = max(u.service.slowerAt, rep.At)
		}
		switch {
		case u == nil || rep.Seq < u.told:
		case rep.Seq > u.told:
			u.told, u.overdue = rep.Seq, max(c.Overdue, 0)
			u.slower, u.slowerAt = c.Slower, rep.At
			u.hearLatency(c.Latency)
		default:
			u.overdue = max(u.overdue, c.Overdue)
			u.slower, u.slowerAt = max(u.slower, c.Slower), max(u.slowerAt, rep.At)
		}
	}
	var u *use // of the cell before: reports are ordered by service
	for i := range rep.Cells {
		c := &rep.Cells[i]
		if u == nil || u.service.name != c.Key.Service {
			if u = r.services[c.Key.Service]; u == nil {
				if t.services[c.Key.Service] == nil {
					done.refuse(UnknownEndpoint, 1)
				} else {
					done.refuse(NotSubscribed, 1)
				}
				continue
			}
		}
		t.applyCell(r, rep, c, now, &done)
	}
	for i := range rep.Own {
		t.applyOwn(r, rep, &rep.Own[i], now, &done)
	}
	return done
}

func (r *reporter) count(done Applied) {
	r.accepted += uint64(done.Accepted)
	for why, n := range done.Refused {
		if r.refused == nil {
			r.refused = make(map[Refusal]uint64)
		}
		r.refused[why] += uint64(n)
	}
}

func (t *Table) applyCell(r *reporter, rep Report, in *Cell, now time.Duration, done *Applied) {
	e := t.endpoints[in.Key]
	if e == nil {
		done.refuse(UnknownEndpoint, 1)
		return
	}
	urgent, why := t.take(r, e, in, rep.Seq, rep.At, Point{At: never}, now)
	if why != "" {
		done.refuse(why, 1)
		done.Reincarnate = done.Reincarnate || why == Backwards
		return
	}
	done.Urgent = done.Urgent || urgent
	done.Accepted++
}

// take checks what a reporter says of one endpoint and lets it wait for the next
// Step.
func (t *Table) take(r *reporter, e *endpoint, in *Cell, seq uint64, at time.Duration, then Point, now time.Duration) (urgent bool, why Refusal) {
	if max(in.LastOK, in.LastOKStart, in.LastHard, in.LastHardStart) > now+aheadLimit ||
		in.LastOKStart > in.LastOK || in.LastHardStart > in.LastHard {
		return false, BadTime
	}
	c := e.cell(r.slot)
	if why := c.check(in.Counts, at, seq, r, t.cfg.AttemptCeiling); why != "" {
		return false, why
	}
	s := staged{
		seq: seq, at: at, counts: in.Counts, lastOK: past(in.LastOK), okStart: past(in.LastOKStart),
		lastHard: past(in.LastHard), hardFrom: past(in.LastHardStart),
		overdue: min(max(in.Overdue, 0), 1<<20), state: in.State, level: in.Witness, score: in.Score,
	}
	if n := min(len(in.History), 3); n > 0 || then.At >= 0 {
		s.points = make([]Point, 0, n+1)
		for _, p := range append([]Point{then}, in.History[:n]...) {
			if p.At >= 0 && p.At <= at { // else it was never, or is not yet
				s.points = append(s.points, p)
			}
		}
		slices.SortFunc(s.points, comparePoints)
	}
	return t.stage(e, c, s), ""
}

// past makes every negative instant the same: never.
func past(at time.Duration) time.Duration {
	if at < 0 {
		return never
	}
	return at
}

// check compares counters with what the last Step knew. Counters wrap, so what is
// more than half a turn ahead is behind.
func (c *cell) check(in outlier.Counts, at time.Duration, seq uint64, r *reporter, ceiling int) Refusal {
	if c.fresh {
		if r.settled == never || at <= r.settled {
			return "" // it only becomes the base
		}
		return c.plausible(in, at-r.settled, ceiling)
	}
	if int32(uint32(seq)-c.seq) <= 0 {
		return OldReport
	}
	return c.plausible(in.Sub(c.counts), at-c.at, ceiling)
}

func (c *cell) plausible(d outlier.Counts, in time.Duration, ceiling int) Refusal {
	for _, n := range [...]uint32{d.N, d.Conn, d.Timeout, d.Server, d.Over, d.Cens, d.N90, d.N99} {
		if n > 1<<31 {
			return Backwards
		}
	}
	if uint64(d.Conn)+uint64(d.Timeout)+uint64(d.Server) > uint64(d.N) {
		return BadCounts
	}
	limit := attemptLimit(ceiling, in)
	if float64(d.N) > limit || float64(d.Over) > limit || float64(d.Cens) > limit {
		return Jump
	}
	return ""
}

// attemptLimit is how many attempts one reporter may have made on one endpoint in some
// time.
func attemptLimit(ceiling int, in time.Duration) float64 {
	return float64(ceiling) * (1 + max(0, in.Seconds()))
}

// stage joins s to what waits for the cell; it says whether that should not wait
// for the next tick.
func (t *Table) stage(e *endpoint, c *cell, s staged) (urgent bool) {
	t.touch(e)
	urgent = c.fresh && s.counts.K() > 0 || s.overdue > 0 || s.lastHard > never && (c.x == nil || s.lastHard > c.x.lastHard) ||
		!c.fresh && s.counts.K() != c.counts.K() ||
		e.susp.active || e.poll.waiting != nil || e.fleet.state.Out() && s.lastOK > c.lastOK
	s.cell = e.index[c.reporter]
	if c.staged < 0 {
		n := len(e.staged)
		c.staged = int32(n)
		if n < cap(e.staged) { // reuse the room that an earlier one had for points
			s.points = append(e.staged[:n+1][n].points[:0], s.points...)
		}
		e.staged = append(e.staged, s)
		return urgent
	}
	have := &e.staged[c.staged]
	if have.compare(&s) < 0 {
		*have, s = s, *have
	}
	// The one that lost is still an earlier reading of the same counters.
	have.points = append(have.points, s.points...)
	have.points = append(have.points, outlier.PointAt(s.at, s.counts))
	have.lastOK, have.okStart = max(have.lastOK, s.lastOK), max(have.okStart, s.okStart)
	have.lastHard, have.hardFrom = max(have.lastHard, s.lastHard), max(have.hardFrom, s.hardFrom)
	slices.SortFunc(have.points, comparePoints)
	have.points = slices.Compact(have.points)
	if n := len(have.points); n > pointLimit {
		have.points = slices.Delete(have.points, 0, n-pointLimit)
	}
	return urgent
}

// compare orders what waits for one cell. Only a reporter that lies sends two
// different reports of one number; then the larger counters win, in whatever
// order they came.
func (s *staged) compare(o *staged) int {
	a, b := s.counts, o.counts
	return cmp.Or(cmp.Compare(s.seq, o.seq), cmp.Compare(s.at, o.at), cmp.Compare(a.N, b.N), cmp.Compare(a.Conn, b.Conn),
		cmp.Compare(a.Timeout, b.Timeout), cmp.Compare(a.Server, b.Server), cmp.Compare(a.Over, b.Over), cmp.Compare(a.Cens, b.Cens),
		cmp.Compare(a.N90, b.N90), cmp.Compare(a.N99, b.N99), cmp.Compare(s.overdue, o.overdue), cmp.Compare(s.state, o.state), cmp.Compare(s.level, o.level),
		cmp.Compare(s.score, o.score))
}

func comparePoints(a, b Point) int {
	return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.N, b.N), cmp.Compare(a.K, b.K),
		cmp.Compare(a.N90, b.N90), cmp.Compare(a.N99, b.N99))
}

func (t *Table) applyOwn(r *reporter, rep Report, in *OwnCell, now time.Duration, done *Applied) {
	e := t.endpoints[in.Key]
	switch {
	case e == nil:
		done.refuse(UnknownEndpoint, 1)
		return
	case in.LastOK > now+aheadLimit || in.Refused > now+aheadLimit || in.Started > now+aheadLimit:
		done.refuse(BadTime, 1)
		return
	case e.own.reporter == r && rep.Seq < e.own.seq:
		done.refuse(OldReport, 1)
		return
	}
	o := own{
		reporter: r, at: rep.At, seq: rep.Seq, refused: past(in.Refused), lastOK: past(in.LastOK), started: in.Started, draining: in.Draining,
		ok: int64(in.N) - int64(in.K),
	}
	if e.ownNews.reporter == nil || e.ownNews.compare(&o) < 0 {
		e.ownNews = o
	}
	done.Urgent = done.Urgent || o.refused != e.own.refused || o.draining != e.own.draining || o.restarts(&e.own)
	t.touch(e)
	done.Accepted++
}

// startMargin is what two mappings of one start to the table's clock may differ by: its
// reporter is mapped anew when its stream comes back.
const startMargin = time.Second

// restarts says whether o tells of a later start of the instance than was known.
func (o *own) restarts(was *own) bool {
	return was.started != 0 && o.started != 0 && o.started > was.started+startMargin
}

// foldOwn takes over what the sidecar beside e has said since the last Step.
func (e *endpoint) foldOwn(now time.Duration) {
	o := e.ownNews
	if o.reporter == nil {
		return
	}
	switch {
	case o.restarts(&e.own):
		e.restartedAt = now
	case o.started == 0:
		o.started = e.own.started
	}
	e.idle.hearOwn(o.ok, o.lastOK, e.own.reporter != o.reporter)
	e.own, e.ownNews = o, own{}
}

// Polled takes the answer to a count poll over. The counts enter the table like
// those of a report.
func (t *Table) Polled(a PollAnswer, now time.Duration) Refusal {
	t.now = max(t.now, now)
	r, e := t.reporters[a.Reporter], t.endpoints[a.Cell.Key]
	switch {
	case r == nil:
		return UnknownReporter
	case e == nil || e.poll.id != a.ID || !e.poll.waiting[a.Reporter]:
		return UnknownOrder
	case a.At > now+aheadLimit || a.At < now-t.cfg.ReporterDrop:
		return BadTime
	}
	r.heard = max(r.heard, now)
	delete(e.poll.waiting, a.Reporter)
	t.touch(e)
	if s := &e.susp; s.active {
		if x := e.cell(r.slot).extra(); x.polledRound != s.rounds {
			x.polledRound, x.polledAt = s.rounds, a.At
		}
	}
	then := a.Then
	if then == (Point{}) || then.At > a.At {
		then.At = never
	}
	if _, why := t.take(r, e, &a.Cell, a.Seq, a.At, then, now); why != OldReport {
		return why
	}
	return "" // a report that left later was faster
}

// fold takes over what waits for e.
func (t *Table) fold(e *endpoint, now time.Duration) {
	e.foldOwn(now)
	if len(e.staged) == 0 {
		return
	}
	t.byJoin = t.byJoin[:0]
	for i := range e.staged {
		s := &e.staged[i]
		t.ready(e, s)
		if s.cell >= 0 { // else its reporter is gone
			t.byJoin = append(t.byJoin, uint64(e.cells[s.cell].reporter)<<32|uint64(i))
		}
	}
	t.open(e, now)
	// In the order in which the reporters joined: sums of fractions depend on it.
	slices.Sort(t.byJoin)
	for _, o := range t.byJoin {
		t.foldCell(e, &e.staged[uint32(o)], now)
	}
	e.staged = e.staged[:0]
}

// ready reduces the points of s to those that lie between the last Step's
// counters and the new ones, which are the last of them, and gives a fresh cell
// its first counters.
func (t *Table) ready(e *endpoint, s *staged) {
	if s.cell < 0 {
		return // its reporter is gone
	}
	c := &e.cells[s.cell]
	r := t.slots[c.reporter]
	first := c.fresh && !c.begin(r, s, t.cfg.AttemptCeiling)
	if r.Observes {
		e.rebase(r, s, first)
	}
	low := outlier.PointAt(c.at, c.counts)
	dn, dk := s.counts.N-low.N, s.counts.K()-low.K
	if len(s.points) > 0 {
		s.points = slices.DeleteFunc(s.points, func(p Point) bool {
			n, k := p.N-low.N, p.K-low.K
			return p.At < low.At || p.At > s.at || n > dn || k > dk || k > n
		})
	}
	s.points = append(s.points, outlier.PointAt(s.at, s.counts))
}

// begin sets where the counters of a new cell start. A reporter that has been
// here a while and never spoke of the endpoint began at zero. One that just came
// brings the sum of its whole life: only what is newer than its oldest point, or
// nothing of it, is news. It says whether the cell began at zero.
func (c *cell) begin(r *reporter, s *staged, ceiling int) (zero bool) {
	c.fresh = false
	if r.settled != never && s.at > r.settled && c.plausible(s.counts, s.at-r.settled, ceiling) == "" {
		c.at = max(r.settled, s.at-10*time.Second)
		return true
	}
	c.at, c.counts = s.at, s.counts
	if len(s.points) == 0 {
		return false
	}
	p := s.points[0]
	n, k := s.counts.N-p.N, s.counts.K()-p.K
	if p.At > s.at || k > n || float64(n) > attemptLimit(ceiling, s.at-p.At) {
		return false
	}
	// A point does not say of which class its failures were; take the newer ones
	// off the classes in proportion.
	c.at = p.At
	c.counts.N = p.N
	if total := s.counts.K(); total > 0 {
		conn := uint32(uint64(s.counts.Conn) * uint64(k) / uint64(total))
		timeout := uint32(uint64(s.counts.Timeout) * uint64(k) / uint64(total))
		if server := k - conn - timeout; server <= s.counts.Server {
			c.counts.Conn -= conn
			c.counts.Timeout -= timeout
			c.counts.Server -= server
		} else {
			c.counts.Conn -= min(conn+server-s.counts.Server, s.counts.Conn)
			c.counts.Timeout -= timeout
			c.counts.Server = 0
		}
	}
	return false
}

func (t *Table) foldCell(e *endpoint, s *staged, now time.Duration) {
	c := &e.cells[s.cell]
	r := t.slots[c.reporter]
	d := s.counts.Sub(c.counts)
	from := outlier.PointAt(c.at, c.counts)

	e.pooled.add(d)
	at, muted := from, r.domain.muted(now)
	for _, p := range s.points {
		if n, k := p.N-at.N, p.K-at.K; n <= d.N && k <= d.K() && k <= n {
			if muted {
				k = 0 // its failures are its own, the load that it makes is not
			}
			e.series.add(at.At, p.At, float64(n), float64(k))
			e.latest.add(at.At, p.At, float64(n), float64(k))
			at = p
		}
	}

	e.fast.count(e, s, from, d, fastRow, muted)
	e.slow.count(e, s, from, d, slowRow, muted)
	if r.Zone != "" {
		z := e.zoneOf(r, t.observers[r.slot].zone)
		z.n += int64(d.N)
		z.row.count(e, s, from, d, zoneRow, muted)
	}

	t.foldPace(e, s, from, d)

	if d.N != d.K() && s.lastOK == never {
		s.lastOK = s.at // successes whose time was not told: not later than this
	}
	if d.N > 0 {
		c.changed = s.at
		// Who has only failed may have done no more than probe.
		if u := r.services[e.Key.Service]; u != nil && d.N != d.K() {
			u.n += int64(d.N)
			u.traffic = max(u.traffic, s.at)
		}
	}
	c.lastOK, c.okStart = max(c.lastOK, s.lastOK), max(c.okStart, s.okStart)
	if d.Over > 0 && !r.domain.muted(now) {
		e.overAt = max(e.overAt, s.at)
	}
	if c.lastOK > e.lastOK && !r.domain.muted(now) {
		e.lastOK = c.lastOK
	}
	if s.lastHard > never || s.overdue > 0 || s.state.Out() || d.Timeout > 0 || c.x != nil {
		x := c.extra()
		x.lastHard, x.hardStart = max(x.lastHard, s.lastHard), max(x.hardStart, s.hardFrom)
		if !muted {
			e.lastHard = max(e.lastHard, x.lastHard)
		}
		x.overdue, x.state, x.level = s.overdue, s.state, s.level
		if s.level == outlier.LevelApp && s.lastHard > never {
			x.diedAt = max(x.diedAt, s.lastHard)
		}
		if x.overdue > 0 || d.Timeout > 0 || x.state == outlier.Suspended {
			x.overdueAt = max(x.overdueAt, s.at)
		}
		if x.lastHard > now-hotFor || x.overdueAt > now-hotFor {
			e.heat(s.cell)
		}
	}
	c.counts, c.at, c.seq, c.staged, c.excursion = s.counts, s.at, uint32(s.seq), -1, s.score > 0
	*s = staged{points: s.points[:0]}
}

// hotFor is how long bad news keeps a cell in view of the suspicions.
const hotFor = 3 * time.Second

// heat puts a cell on the list of those with recent bad news.
func (e *endpoint) heat(i int32) {
	if x := e.cells[i].extra(); !x.hot {
		x.hot = true
		e.hot = append(e.hot, i)
	}
}

// cool takes cells off that list whose bad news is old.
func (e *endpoint) cool(now time.Duration) {
	e.hot = slices.DeleteFunc(e.hot, func(i int32) bool {
		x := e.cells[i].x
		if max(x.lastHard, x.overdueAt, x.probeEnd) > now-hotFor {
			return false
		}
		x.hot = false
		return true
	})
}
