package merge

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

const ms = time.Millisecond

// fleet is a mesh in virtual time: callers with the reporting habits of a sidecar,
// endpoints with faults, a network with a delay, and one Table. It is small on
// purpose: attempts arrive at fixed rates, whatever the endpoints do, and callers
// have no detection of their own, so that what is seen is the table's doing.
type fleet struct {
	tb       testing.TB
	table    *Table
	policy   Policy
	rng      *rand.Rand
	now      time.Duration
	queue    events
	stepAt   time.Duration
	delay    time.Duration // one way
	callers  []*caller
	targets  []*target
	byKey    map[Key]*target
	byID     map[string]*caller
	changes  []Change
	events   []Event
	samples  []Sample
	orders   []ProbeOrder
	pings    map[Key]int
	polls    int
	reports  int
	deaf     bool // polls and watches are lost
	stopped  bool // the table's owner is down
	attempts int
	tried    func(*target)         // an attempt is made
	tamper   func(Report) []Report // what the network makes of a report
	reached  outlier.Level         // how deep probes go; LevelNone: as they should
	patience time.Duration         // after which users leave; 0: they wait for the timeout
}

// target is an endpoint with its faults.
type target struct {
	Endpoint
	rate  float64 // attempts per second of the whole fleet
	base  float64 // share of failures at all times
	fault func(c *caller, now time.Duration) effect
	view  map[Scope]Verdict
}

// effect is what happens to an attempt.
type effect struct {
	class outlier.Class // OK, Server, Conn; Timeout: it hangs
	probe outlier.ProbeResult
	level outlier.Level // of a hard failure
}

var (
	works   = effect{class: outlier.OK, probe: outlier.ProbeOK}
	errs    = effect{class: outlier.Server, probe: outlier.ProbeOK} // requests fail, connections do not
	crashed = effect{outlier.Conn, outlier.Refused, outlier.LevelApp}
	hangs   = effect{class: outlier.Timeout, probe: outlier.TimedOut}
	// resets takes connections, and ends them once asked for something.
	resets = effect{outlier.Conn, outlier.Reset, outlier.LevelApp}
	// refuses new connections; what stands goes on.
	refuses = effect{outlier.Conn, outlier.Refused, outlier.LevelConnect}
	cut     = effect{outlier.Conn, outlier.Unreachable, outlier.LevelConnect}
)

// caller is a sidecar that calls every target.
type caller struct {
	Reporter
	f      *fleet
	seq    uint64
	broken bool // its network is: everything fails
	// bystander sends nothing.
	bystander bool
	cells     map[Key]*callerCell
	down      bool

	pending  time.Duration // when the next report is built; 0: none is due
	last     time.Duration
	urgentAt time.Duration
	tokens   float64
	tokensAt time.Duration
}

type callerCell struct {
	target    *target
	counts    outlier.Counts
	reported  outlier.Counts
	score     int64
	lastOK    time.Duration
	okStart   time.Duration
	lastHard  time.Duration
	level     outlier.Level
	hanging   []time.Duration // starts
	history   []Point
	began     Point // what was counted before the excursion
	share     float64
	epoch     uint64
	shareTill time.Duration
	tried     time.Duration
	trial     outlier.Counts
	watched   time.Duration
	leases    map[OrderID]PingLease
}

type occurrence struct {
	at  time.Duration
	seq int
	do  func()
}

type events struct {
	list []occurrence
	seq  int
}

func (q *events) Len() int { return len(q.list) }
func (q *events) Less(i, j int) bool {
	if q.list[i].at != q.list[j].at {
		return q.list[i].at < q.list[j].at
	}
	return q.list[i].seq < q.list[j].seq
}
func (q *events) Swap(i, j int) { q.list[i], q.list[j] = q.list[j], q.list[i] }
func (q *events) Push(x any)    { q.list = append(q.list, x.(occurrence)) }
func (q *events) Pop() any {
	last := q.list[len(q.list)-1]
	q.list = q.list[:len(q.list)-1]
	return last
}

// mesh describes a fleet.
type mesh struct {
	callers, endpoints int
	bystanders         int      // further reporters, who send nothing and can be asked for probes
	zones              []string // of callers and endpoints, in turn
	rate               float64  // attempts per second on each endpoint
	base               float64
	policy             *Policy
	inbound            bool
	observes           bool // the callers tell no results of tests
	seed               uint64
	node               func(i int) string // of a caller; nil: its own
}

func newFleet(tb testing.TB, m mesh) *fleet {
	tb.Helper()
	f := &fleet{tb: tb, rng: rand.New(rand.NewPCG(m.seed, 1)), delay: ms, pings: make(map[Key]int), byKey: make(map[Key]*target), byID: make(map[string]*caller), policy: DefaultPolicy()}
	if m.policy != nil {
		f.policy = *m.policy
	}
	f.table = NewTable(DefaultConfig(), m.seed)
	zone := func(i int) string {
		if len(m.zones) == 0 {
			return ""
		}
		return m.zones[i%len(m.zones)]
	}
	for i := range m.endpoints {
		f.targets = append(f.targets, &target{
			Endpoint: Endpoint{Key: Key{"api", fmt.Sprintf("e%02d", i)}, Zone: zone(i), Node: fmt.Sprintf("server%02d", i), Weight: 1, Inbound: m.inbound},
			rate:     m.rate, base: m.base, view: make(map[Scope]Verdict),
			fault: func(*caller, time.Duration) effect { return works },
		})
	}
	for _, t := range f.targets {
		f.byKey[t.Key] = t
	}
	f.setService()
	for i := range m.callers + m.bystanders {
		node := fmt.Sprintf("node%03d", i)
		if m.node != nil {
			node = m.node(i)
		}
		c := &caller{
			f: f, Reporter: Reporter{ID: fmt.Sprintf("caller%03d", i), Incarnation: 1, Principal: fmt.Sprintf("10.0.0.%d", i), Node: node, Zone: zone(i), Observes: m.observes},
			cells: make(map[Key]*callerCell), tokens: 4, last: -time.Hour, urgentAt: -time.Hour, bystander: i >= m.callers,
		}
		f.callers = append(f.callers, c)
		f.byID[c.ID] = c
		c.join()
		for _, t := range f.targets {
			c.cells[t.Key] = &callerCell{target: t, lastOK: -1, okStart: -1, lastHard: -1, leases: make(map[OrderID]PingLease)}
			if !c.bystander {
				c.next(t)
			}
		}
		c.tick(time.Duration(f.rng.Int64N(int64(time.Second))))
	}
	return f
}

func (f *fleet) setService() {
	specs := make([]Endpoint, 0, len(f.targets))
	for _, t := range f.targets {
		specs = append(specs, t.Endpoint)
	}
	f.table.SetService("api", f.policy, specs, f.now)
}

func (c *caller) join() {
	if err := c.f.table.Join(c.Reporter, []string{"api"}, c.f.now); err != nil {
		c.f.tb.Fatalf("Join(%s): %v", c.ID, err)
	}
}

func (f *fleet) at(at time.Duration, do func()) {
	f.queue.seq++
	heap.Push(&f.queue, occurrence{at, f.queue.seq, do})
}

// run lets time pass.
func (f *fleet) run(d time.Duration) {
	f.until(f.now+d, func() bool { return false })
}

// until lets time pass until an instant or until done.
func (f *fleet) until(end time.Duration, done func() bool) bool {
	for {
		next := f.stepAt
		event := f.queue.Len() > 0 && f.queue.list[0].at <= next
		if event {
			next = f.queue.list[0].at
		}
		if next > end {
			f.now = end
			return done()
		}
		f.now = max(f.now, next)
		if event {
			heap.Pop(&f.queue).(occurrence).do()
		} else {
			f.step()
		}
		if done() {
			return true
		}
	}
}

// step runs the table and carries out what it says.
func (f *fleet) step() {
	if f.stopped {
		f.stepAt = f.now + time.Second
		return
	}
	out := f.table.Step(f.now)
	f.stepAt = max(out.Next, f.now+ms)
	f.check()
	f.events = append(f.events, out.Events...)
	f.samples = append(f.samples, out.Samples...)
	f.orders = append(f.orders, out.Orders...)
	for _, ch := range out.Changes {
		f.changes = append(f.changes, ch)
		if ch.Refused == "" {
			f.target(ch.Verdict.Key).view[ch.Verdict.Scope] = ch.Verdict
		}
	}
	for _, o := range out.Orders {
		c := f.caller(o.Reporter)
		f.at(f.now+f.delay, func() { c.probe(o) })
	}
	for _, p := range out.Polls {
		f.polls++
		for _, id := range p.Reporters {
			c := f.caller(id)
			if !f.deaf {
				f.at(f.now+f.delay, func() { c.answer(p) })
			}
		}
	}
	for _, w := range out.Watches {
		if f.deaf {
			break
		}
		for _, id := range w.Reporters {
			if cell := f.caller(id).cells[w.Key]; cell != nil {
				cell.watched = f.now + w.For
				f.caller(id).urgent()
			}
		}
	}
	for _, s := range out.Shares {
		if cell := f.caller(s.Reporter).cells[s.Key]; cell != nil {
			if cell.epoch != s.Epoch {
				cell.trial = outlier.Counts{}
			}
			cell.share, cell.epoch, cell.shareTill = s.Weight, s.Epoch, f.now+s.For
			if s.Trickle > 0 {
				cell.share = 0
				if at := max(f.now+f.delay, cell.tried+s.Trickle); at < f.now+s.For {
					cell.tried = at
					f.at(at, func() { f.caller(s.Reporter).attempt(cell) })
				}
			}
		}
	}
	for _, l := range out.Leases {
		c := f.caller(l.Reporter)
		cell := c.cells[l.Key]
		if l.Until <= f.now {
			delete(cell.leases, l.ID)
			continue
		}
		if _, known := cell.leases[l.ID]; !known {
			cell.leases[l.ID] = l
			f.at(f.now+l.Phase, func() { c.ping(l) })
			continue
		}
		cell.leases[l.ID] = l
	}
}

// check is what must hold after every Step.
func (f *fleet) check() {
	for _, s := range f.table.services {
		for _, g := range s.groups {
			for _, view := range g.views() {
				if n := g.judged(); n > 0 && g.countOut(view) >= n {
					f.tb.Fatalf("at %v the %s has no usable endpoint of %s left", f.now, view, s.name)
				}
			}
		}
	}
}

func (f *fleet) target(k Key) *target {
	if t := f.byKey[k]; t != nil {
		return t
	}
	f.tb.Fatalf("no endpoint %s", k)
	return nil
}

func (f *fleet) caller(id string) *caller {
	if c := f.byID[id]; c != nil {
		return c
	}
	f.tb.Fatalf("no caller %s", id)
	return nil
}

// weight is the share of its usual traffic that c sends to an endpoint.
func (c *caller) weight(cell *callerCell) float64 {
	t := cell.target
	weight := 1.0
	for _, s := range []Scope{Fleet, Scope(c.Zone)} {
		v, ok := t.view[s]
		if !ok {
			continue
		}
		switch {
		case v.State.Out():
			weight = 0
			if v.Epoch == cell.epoch && c.f.now < cell.shareTill {
				weight = cell.share
			}
		case v.State == outlier.Ramp:
			age := float64(c.f.now-v.Since) / float64(c.f.policy.Outlier.Ramp)
			weight = min(weight, v.RampFrom+(1-v.RampFrom)*age)
		}
	}
	return weight
}

// next schedules the next attempt of c on t.
func (c *caller) next(t *target) {
	rate := t.rate / float64(len(c.f.callers))
	if len(c.f.callers) == 0 || rate == 0 {
		rate = t.rate / 10
	}
	if rate == 0 {
		return
	}
	gap := time.Duration(c.f.rng.ExpFloat64() / rate * float64(time.Second))
	c.f.at(c.f.now+gap, func() {
		if !c.down && c.f.rng.Float64() < c.weight(c.cells[t.Key]) {
			c.attempt(c.cells[t.Key])
		}
		c.next(t)
	})
}

// attempt makes one attempt, of which the end is known at once unless it hangs.
func (c *caller) attempt(cell *callerCell) {
	f := c.f
	f.attempts++
	if f.tried != nil {
		f.tried(cell.target)
	}
	test := uint64(0)
	if cell.share > 0 && f.now < cell.shareTill {
		test = cell.epoch
	}
	e := cell.target.fault(c, f.now)
	if c.broken {
		e = cut
	}
	if e.class == outlier.OK && f.rng.Float64() < cell.target.base {
		e = errs
	}
	if e.class == outlier.Timeout {
		start := f.now
		cell.hanging = append(cell.hanging, start)
		f.at(start+overdueAge, c.urgent)
		var wait func()
		wait = func() {
			answers := !c.broken && cell.target.fault(c, f.now).class == outlier.OK
			if f.patience > 0 && !answers && f.now >= start+f.patience {
				// It counts as overdue for D_over more, and as nothing else.
				f.at(f.now+overdueAge, func() {
					cell.hanging = slices.DeleteFunc(cell.hanging, func(at time.Duration) bool { return at == start })
				})
				return
			}
			if !answers && f.now < start+3*time.Second {
				f.at(f.now+50*ms, wait)
				return
			}
			cell.hanging = slices.DeleteFunc(cell.hanging, func(at time.Duration) bool { return at == start })
			class := outlier.Timeout
			if answers {
				class = outlier.OK
			}
			c.end(cell, class, start, test)
		}
		f.at(start+50*ms, wait)
		return
	}
	if e.class == outlier.Conn {
		cell.level = e.level
	}
	c.end(cell, e.class, f.now, test)
}

const overdueAge = 250 * ms

// localSteps are those of a sidecar at a base of 1 %.
var localSteps = outlier.Odds{P0: 0.025, P1: 0.2}.Steps()

// end counts an attempt; test is the epoch of the share under which it began, 0: none.
func (c *caller) end(cell *callerCell, class outlier.Class, start time.Duration, test uint64) {
	f := c.f
	count := func(n *outlier.Counts) {
		n.N++
		switch class {
		case outlier.Conn:
			n.Conn++
		case outlier.Timeout:
			n.Timeout++
		case outlier.Server:
			n.Server++
		}
	}
	count(&cell.counts)
	testing := test > 0 && test == cell.epoch && !c.Observes
	if testing {
		count(&cell.trial)
	}
	if class == outlier.OK && cell.target.view[Fleet].State == outlier.Suspended {
		c.urgent()
	}
	if class == outlier.OK {
		cell.lastOK, cell.okStart = f.now, start
		cell.score = max(0, cell.score+localSteps.OK)
	} else {
		if cell.score == 0 {
			cell.began = Point{At: f.now, N: cell.counts.N - 1, K: cell.counts.K() - 1}
		}
		cell.score += localSteps.Fail
		if f.now < cell.watched {
			c.urgent()
		} else {
			c.soft()
		}
	}
	if class == outlier.Conn {
		cell.lastHard = f.now
		c.urgent()
	}
	if testing {
		trial, epoch := cell.trial, cell.epoch
		f.at(f.now+f.delay, func() {
			if !f.stopped {
				f.table.Probation(c.ID, cell.target.Key, epoch, trial, f.now)
				f.stepAt = f.now
			}
		})
		c.urgent()
	}
}

// urgent reports at once, then 50 ms apart.
func (c *caller) urgent() { c.reportAt(max(c.f.now, c.urgentAt+50*ms)) }

// soft reports a score that has risen, within a budget of one per second.
func (c *caller) soft() {
	c.tokens = min(4, c.tokens+(c.f.now-c.tokensAt).Seconds())
	c.tokensAt = c.f.now
	if c.tokens >= 1 {
		c.tokens--
		c.urgent()
	}
}

func (c *caller) reportAt(at time.Duration) {
	if c.pending != 0 && c.pending <= at {
		return
	}
	c.pending = at
	c.f.at(at, func() {
		if c.pending != at {
			return // an earlier one took its place
		}
		c.pending = 0
		c.urgentAt = c.f.now
		c.report(false)
		for _, cell := range c.cells {
			if len(cell.hanging) > 0 {
				c.reportAt(c.f.now + 250*ms)
			}
		}
	})
}

// tick runs each second: readings for histories, reports of what is in excursion,
// and all that changed each ten seconds.
func (c *caller) tick(phase time.Duration) {
	n := 0
	var run func()
	run = func() {
		n++
		excursion := false
		for _, cell := range c.cells {
			cell.history = append(cell.history, Point{At: c.f.now, N: cell.counts.N, K: cell.counts.K()})
			if len(cell.history) > 3 {
				cell.history = cell.history[1:]
			}
			excursion = excursion || cell.score > 0 || c.f.now < cell.watched
		}
		if !c.down && (n%10 == 0 || excursion) {
			c.report(n%10 == 0)
		}
		c.f.at(c.f.now+time.Second, run)
	}
	c.f.at(c.f.now+phase, run)
}

// report tells what changed.
func (c *caller) report(all bool) {
	f := c.f
	c.seq++
	rep := Report{Reporter: c.ID, Incarnation: c.Incarnation, Seq: c.seq, At: f.now}
	for _, t := range f.targets {
		cell := c.cells[t.Key]
		if cell.counts != cell.reported && (all || cell.score > 0 || cell.lastHard >= 0 || f.now < cell.watched || cell.share > 0 || t.view[Fleet].State == outlier.Suspended) || len(cell.hanging) > 0 {
			rep.Cells = append(rep.Cells, cell.say(f.now))
			cell.reported = cell.counts
		}
	}
	c.send(rep)
}

func (c *caller) send(rep Report) {
	f := c.f
	reps := []Report{rep}
	if f.tamper != nil {
		reps = f.tamper(rep)
	}
	for _, rep := range reps {
		f.at(f.now+f.delay, func() {
			if f.stopped {
				return
			}
			f.reports++
			rep.Received = f.now
			if f.table.Apply(rep, f.now).Urgent {
				f.stepAt = f.now
			}
		})
	}
}

func (cell *callerCell) say(now time.Duration) Cell {
	overdue := 0
	for _, start := range cell.hanging {
		if now-start >= overdueAge {
			overdue++
		}
	}
	out := Cell{
		Key: cell.target.Key, Counts: cell.counts, Overdue: overdue, LastOK: cell.lastOK, LastOKStart: cell.okStart,
		LastHard: cell.lastHard, LastHardStart: cell.lastHard, Witness: cell.level, Score: cell.score,
	}
	if cell.score > 0 {
		for _, p := range cell.history {
			if p.At < cell.began.At {
				out.History = append(out.History, p)
			}
		}
		out.History = append(out.History[max(0, len(out.History)-2):], cell.began)
	}
	return out
}

// answer answers a poll.
func (c *caller) answer(p Poll) {
	f := c.f
	cell := c.cells[p.Key]
	c.seq++
	a := PollAnswer{ID: p.ID, Reporter: c.ID, Seq: c.seq, At: f.now, Cell: cell.say(f.now)}
	for _, h := range cell.history {
		if h.At <= p.At {
			a.Then = h
		}
	}
	f.at(f.now+f.delay, func() {
		if !f.stopped && !c.down {
			f.table.Polled(a, f.now)
			f.stepAt = f.now
		}
	})
}

// probe carries out an order.
func (c *caller) probe(o ProbeOrder) {
	f := c.f
	res, took := c.reach(o.Key, o.Level, o.Timeout)
	start := f.now
	if c.bystander && res.Hard() { // counts as an attempt; among those of a caller it does not matter
		f.at(start+took, func() {
			cell := c.cells[o.Key]
			cell.level = o.Level
			c.end(cell, outlier.Conn, start, 0)
		})
	}
	level := o.Level
	if f.reached != outlier.LevelNone {
		level = f.reached
	}
	f.at(start+took+f.delay, func() {
		if !f.stopped && !c.down {
			f.table.Probed(o.ID, c.ID, level, res, start, start+took, f.now)
			f.stepAt = f.now
		}
	})
}

func (c *caller) reach(k Key, level outlier.Level, timeout time.Duration) (outlier.ProbeResult, time.Duration) {
	e := c.f.target(k).fault(c, c.f.now)
	switch {
	case c.broken:
		return outlier.Unreachable, ms
	case e.probe == outlier.TimedOut:
		return e.probe, timeout
	case e.probe == outlier.Reset && level < outlier.LevelApp:
		return outlier.ProbeOK, ms
	}
	return e.probe, ms
}

func (c *caller) ping(l PingLease) {
	f := c.f
	lease, ok := c.cells[l.Key].leases[l.ID]
	if !ok || f.now >= lease.Until {
		return
	}
	f.pings[l.Key]++
	res, took := c.reach(l.Key, outlier.LevelConnect, l.Timeout)
	start := f.now
	f.at(start+took+f.delay, func() {
		if !f.stopped && !c.down {
			f.table.Probed(l.ID, c.ID, outlier.LevelConnect, res, start, start+took, f.now)
			f.stepAt = f.now
		}
	})
	f.at(f.now+l.Every, func() { c.ping(l) })
}

// verdicts lists the changes that were carried out to one of the states, or all.
func (f *fleet) verdicts(to ...outlier.State) []Change {
	var list []Change
	for _, ch := range f.changes {
		if ch.Refused == "" && (len(to) == 0 || slices.Contains(to, ch.To)) {
			list = append(list, ch)
		}
	}
	return list
}

// ejected waits for the ejection of an endpoint; it gives the time that it took,
// and false if it did not come.
func (f *fleet) ejected(i int, within time.Duration) (time.Duration, bool) {
	begin, seen := f.now, len(f.changes)
	ok := f.until(begin+within, func() bool {
		for ; seen < len(f.changes); seen++ {
			if ch := f.changes[seen]; ch.Refused == "" && ch.To == outlier.Ejected && ch.Verdict.Key == f.targets[i].Key {
				return true
			}
		}
		return false
	})
	return f.now - begin, ok
}

func describe(changes []Change) string {
	s := ""
	for _, ch := range changes {
		s += fmt.Sprintf("\n\t%v %s (%s): %s -> %s, rule %s %s: %s %v", ch.At, ch.Verdict.Key.Instance, ch.Verdict.Scope, ch.From, ch.To, ch.Verdict.Rule, ch.Refused, ch.Verdict.Explain.Reason, ch.Verdict.Explain.Guards)
	}
	return s
}

func always(e effect) func(*caller, time.Duration) effect {
	return func(*caller, time.Duration) effect { return e }
}

// onlyIn is a fault of the path: callers of one zone meet it.
func onlyIn(zone string, e effect) func(*caller, time.Duration) effect {
	return func(c *caller, _ time.Duration) effect {
		if c.Zone == zone {
			return e
		}
		return works
	}
}

// sometimes fails a share of the attempts.
func (f *fleet) sometimes(share float64) func(*caller, time.Duration) effect {
	return func(*caller, time.Duration) effect {
		if f.rng.Float64() < share {
			return errs
		}
		return works
	}
}
