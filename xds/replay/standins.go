package replay

import (
	"cmp"
	"container/heap"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report"
)

const (
	// slack is by how much a recorded probe may have begun before the one that it
	// stands for was ordered: the same order was given then, and clocks of machines
	// differ.
	slack = 100 * time.Millisecond
	// prompt is how long an answer takes that needs no probe.
	prompt = time.Millisecond
	// testQuiet is for how long the record has no news of a test before ordinary requests
	// stand for it.
	testQuiet = 2 * time.Second
	// reasonSuspicion is the reason of an order for which it matters who is asked.
	reasonSuspicion = "suspicion"
)

// standins answer for the sidecars, out of the record.
type standins struct {
	answers answers
	leases  map[merge.OrderID]*lease
	shares  map[view]*testShare
	counts  map[view]report.Probation // newest in the record, by who told it
	stand   map[stand]string          // who holds the share that another's counts go to
}

// answer is what is to be told to the table, when.
type answer struct {
	at    time.Duration
	order merge.ProbeOrder
	report.Probed
	cancelled bool
}

// lease is a ping lease that the table gave.
type lease struct {
	merge.PingLease
	heard time.Duration // when it last got a result
}

// testShare is a share that the table gave.
type testShare struct {
	epoch uint64
	until time.Duration
	base  report.Probation // what was counted before it, under a share in the record
	// A test that goes on in the replay may have been several in the record, each of
	// which counts from zero: sum is of those before the one that is now.
	now  stand
	sum  outlier.Counts
	last outlier.Counts
	// What the holder's ordinary requests had counted when the record last had news of
	// a test.
	quiet   time.Duration
	counted outlier.Counts
}

// add takes the counts of a share in the record; it returns those of all.
func (s *testShare) add(from stand, counts outlier.Counts) outlier.Counts {
	if s.now != from {
		s.now, s.sum = from, sum(s.sum, s.last)
	}
	s.last = counts
	return sum(s.sum, s.last)
}

func sum(a, b outlier.Counts) outlier.Counts {
	return a.Sub(outlier.Counts{}.Sub(b)) // counters wrap
}

// stand is one share in the record, of which somebody else's in the replay gets the
// counts.
type stand struct {
	view
	epoch uint64
}

func newStandins() standins {
	return standins{
		leases: map[merge.OrderID]*lease{}, shares: map[view]*testShare{},
		counts: map[view]report.Probation{}, stand: map[stand]string{},
	}
}

// asked has everybody answer what the table asks.
func (p *player) asked(r merge.Result) {
	for _, c := range r.Cancels {
		for _, a := range p.answers {
			a.cancelled = a.cancelled || a.order.ID == c.ID
		}
	}
	for _, o := range r.Orders {
		p.order(o)
	}
	for _, poll := range r.Polls {
		for _, id := range poll.Reporters {
			p.poll(poll, id)
		}
	}
	for _, l := range r.Leases {
		if l.Until <= p.now {
			delete(p.leases, l.ID)
		} else if have := p.leases[l.ID]; have != nil {
			have.PingLease = l
		} else {
			p.leases[l.ID] = &lease{PingLease: l}
		}
	}
	for _, s := range r.Shares {
		p.share(s)
	}
}

// order finds an answer to a probe.
func (p *player) order(o merge.ProbeOrder) {
	p.out.Answers.Probes++
	a := &answer{order: o}
	a.ID, a.Key, a.Level, a.Epoch = o.ID, o.Key, o.Level, o.Epoch
	switch {
	case p.byResult(a, func(n *probeNews) bool { return n.reporter == o.Reporter }):
		p.out.Answers.Own++
	case p.byTraffic(a, o.Reporter):
		p.out.Answers.Traffic++
	case o.Reason != reasonSuspicion && p.byOthers(a):
		p.out.Answers.Others++
	default:
		p.out.Answers.NotRun++
		a.Result, a.Start, a.End, a.at = outlier.NotRun, p.now, p.now, p.now+prompt
	}
	heap.Push(&p.answers, a)
}

// byResult takes the first result in the record that fits an order.
func (p *player) byResult(a *answer, from func(*probeNews) bool) bool {
	o := a.order
	for _, n := range p.tape.probes[o.Key] {
		if n.used || n.Result == outlier.NotRun || n.Start < p.now-slack || !from(n) {
			continue
		}
		if n.Start > p.now+o.Timeout {
			return false
		}
		if !fits(o, n.Probed) {
			continue
		}
		n.used = true
		a.Level, a.Result, a.Start, a.End = n.Level, n.Result, max(n.Start, p.now), max(n.End, p.now)
		a.settle(p.now)
		return true
	}
	return false
}

// fits says whether a result tells what an order asks. A success on a level says
// nothing of a deeper one, unless the endpoint offers none; a failure on a deeper one
// nothing of the level.
func fits(o merge.ProbeOrder, p report.Probed) bool {
	want := o.Level
	if o.Ping == merge.PingTCP || o.Ping == merge.PingOff {
		want = min(want, outlier.LevelConnect)
	}
	if p.Result == outlier.ProbeOK {
		return p.Level >= want
	}
	return p.Level <= max(o.Level, want)
}

// byOthers takes what other sidecars know, each result once.
func (p *player) byOthers(a *answer) bool {
	if p.byResult(a, func(*probeNews) bool { return true }) {
		return true
	}
	for _, id := range slices.Sorted(maps.Keys(p.lives)) {
		if p.byTraffic(a, id) {
			return true
		}
	}
	return false
}

// byTraffic takes what a sidecar saw of real attempts. To confirm a suspicion they must
// have begun in the time of the probe; to see whether the endpoint is back, before the
// sidecar's next report, if it reports on it at all.
func (p *player) byTraffic(a *answer, id string) bool {
	o := a.order
	l := p.lives[id]
	if l == nil {
		return false
	}
	before, after := p.tape.around(view{id, o.Key}, l.Incarnation, p.now)
	if before == nil || after == nil || after.at-before.at > ahead {
		return false
	}
	until := after.at
	if o.Reason == reasonSuspicion {
		until = p.now + o.Timeout
	}
	during := func(start time.Duration) bool { return start >= p.now && start <= until }
	switch {
	case during(after.LastOKStart) && after.LastOK > after.LastHard:
		a.Level, a.Result, a.Start, a.End = outlier.LevelApp, outlier.ProbeOK, after.LastOKStart, after.LastOK
	case during(after.LastHardStart) && after.LastHard > after.LastOK && after.Witness <= max(o.Level, outlier.LevelConnect):
		a.Level, a.Result, a.Start, a.End = outlier.LevelConnect, outlier.Refused, after.LastHardStart, after.LastHard
		if after.Witness > outlier.LevelConnect {
			a.Level, a.Result = after.Witness, outlier.Reset
		}
	default:
		return false
	}
	a.settle(p.now)
	return true
}

// settle makes the answer come before the order is given up, and not before it was
// given.
func (a *answer) settle(now time.Duration) {
	a.at = max(now+prompt, min(a.End, now+a.order.Timeout))
	a.End = min(a.End, a.at)
	a.Start = min(a.Start, a.End)
}

// due is when the next answer comes.
func (p *player) due() time.Duration {
	if len(p.answers) == 0 {
		return math.MaxInt64
	}
	return p.answers[0].at
}

// answer gives the table the next answer.
func (p *player) answer() {
	a := heap.Pop(&p.answers).(*answer)
	if a.cancelled {
		return
	}
	p.table.Probed(a.ID, a.order.Reporter, a.Level, a.Result, a.Start, a.End, p.now)
	p.soon()
}

// probed takes a result out of the record. Orders have chosen theirs before; what is
// left goes to those who hold a lease.
func (p *player) probed(from *life, r report.Probed) {
	for _, n := range p.tape.probes[r.Key] {
		if n.reporter != from.ID || n.Probed != r {
			continue
		}
		if n.used {
			return
		}
		n.used = true
		break
	}
	if r.Result == outlier.NotRun {
		return
	}
	var to *lease
	for _, l := range p.leases {
		if l.Key != r.Key || l.Until <= p.now {
			continue
		}
		if to == nil || better(l, to, from.ID) {
			to = l
		}
	}
	if to == nil {
		p.out.Answers.Unused++
		return
	}
	to.heard = p.now
	p.out.Answers.Pings++
	p.table.Probed(to.ID, to.Reporter, r.Level, r.Result, min(r.Start, p.now), min(r.End, p.now), p.now)
	p.soon()
}

// better says which of two leases a ping of a sidecar goes to: its own, else the one
// that has waited longest.
func better(a, b *lease, from string) bool {
	if own := a.Reporter == from; own != (b.Reporter == from) {
		return own
	}
	return cmp.Or(cmp.Compare(a.heard, b.heard), cmp.Compare(a.ID, b.ID)) < 0
}

// poll answers for one sidecar.
func (p *player) poll(poll merge.Poll, id string) {
	p.out.Answers.Polls++
	l := p.lives[id]
	if l == nil {
		return
	}
	v := view{id, poll.Key}
	counts, ok := p.tape.counts(v, l.Incarnation, p.now)
	if !ok {
		return // it never spoke of the endpoint
	}
	before, _ := p.tape.around(v, l.Incarnation, p.now)
	a := merge.PollAnswer{ID: poll.ID, Reporter: id, At: p.now, Cell: before.Cell, Then: merge.Point{At: outlier.Never}}
	a.Cell.Counts, a.Cell.History = counts, nil
	if p.now-before.at > time.Second/2 {
		a.Cell.Overdue = 0 // it is told again for as long as it is so
	}
	then := poll.At - poll.At%time.Second
	if c, ok := p.tape.counts(v, l.Incarnation, then); ok && then >= 0 {
		a.Then = merge.Point{At: then, N: c.N, K: c.K()}
	}
	if l.seq%seqStep < seqStep-1 {
		l.seq++
	}
	a.Seq = l.seq
	p.out.Answers.Counted++
	p.table.Polled(a, p.now)
	p.stepAt = min(p.stepAt, p.now+prompt)
}

// share notes who may send test requests.
func (p *player) share(s merge.Share) {
	v := view{s.Reporter, s.Key}
	switch have := p.shares[v]; {
	case s.Weight == 0:
		delete(p.shares, v)
	case s.Trickle > 0: // a suspension: its answers are ordinary evidence
	case have != nil && have.epoch == s.Epoch:
		have.until = p.now + s.For
	default:
		have = &testShare{epoch: s.Epoch, until: p.now + s.For, base: p.counts[v]}
		p.shares[v] = have
		p.quiet(v, have)
		have.quiet -= testQuiet // it has told nothing yet
	}
}

// quiet notes that a share has had what the record says of tests up to now.
func (p *player) quiet(v view, s *testShare) {
	s.quiet = p.now
	if l := p.lives[v.reporter]; l != nil {
		s.counted, _ = p.tape.counts(v, l.Incarnation, p.now)
	}
}

// ordinary takes what a holder's ordinary requests came to for its test, if the record
// has none any more: there the endpoint was back by then.
func (p *player) ordinary(l *life, c *merge.Cell) {
	v := view{l.ID, c.Key}
	s := p.shares[v]
	if s == nil || s.until < p.now || p.now-s.quiet < testQuiet {
		return
	}
	since := c.Counts.Sub(s.counted)
	if since.N == 0 || since.N > 1<<20 {
		return
	}
	p.out.Answers.Shares++
	p.table.Probation(l.ID, c.Key, s.epoch, sum(sum(s.sum, s.last), since), p.now)
	p.soon()
}

// shared takes what the record says of test requests.
func (p *player) shared(from *life, r report.Probation) {
	v := view{from.ID, r.Key}
	p.counts[v] = r
	id := stand{v, r.Epoch}
	who, ok := p.stand[id]
	if !ok {
		who = p.holder(id)
		p.stand[id] = who
	}
	s := p.shares[view{who, r.Key}]
	if s == nil || s.until < p.now {
		delete(p.stand, id)
		return
	}
	counts := r.Counts
	if s.base.Epoch == r.Epoch && who == from.ID {
		counts = counts.Sub(s.base.Counts)
	}
	p.out.Answers.Shares++
	p.table.Probation(who, r.Key, s.epoch, s.add(id, counts), p.now)
	p.quiet(view{who, r.Key}, s)
	p.soon()
}

// holder chooses whose share the counts of a sidecar stand for: its own, else one for
// which nobody stands in this test of the record.
func (p *player) holder(from stand) string {
	open := func(s *testShare) bool { return s != nil && s.until >= p.now && s.now.epoch < from.epoch }
	if open(p.shares[from.view]) {
		return from.reporter
	}
	var free []string
	for have, s := range p.shares {
		if have.key == from.key && open(s) {
			free = append(free, have.reporter)
		}
	}
	if len(free) == 0 {
		return ""
	}
	return slices.Min(free)
}

// answers is a heap, the earliest first.
type answers []*answer

func (a answers) Len() int { return len(a) }
func (a answers) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(a[i].at, a[j].at), cmp.Compare(a[i].order.ID, a[j].order.ID)) < 0
}
func (a answers) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *answers) Push(x any)   { *a = append(*a, x.(*answer)) }
func (a *answers) Pop() any {
	old := *a
	x := old[len(old)-1]
	old[len(old)-1] = nil
	*a = old[:len(old)-1]
	return x
}
