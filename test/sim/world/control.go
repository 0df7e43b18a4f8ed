package world

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/xds/report"
)

const (
	// pushFirst is how long the control plane needs until the first connection is
	// written, and pushEach what each further one takes: measured as in test/bench/push,
	// on two cores of a Xeon of 2023, 1000 clients that acknowledge at once:
	// the first after 0.5 to 1 ms, the last after 33 to 41 ms of CPU time, of which two
	// cores do two in one.
	pushFirst = 500 * time.Microsecond
	pushEach  = 20 * time.Microsecond
	// batchFor is how long news that takes nothing away waits for more of it.
	batchFor = 50 * time.Millisecond
	// gateFor is how long a control plane that was started again waits for those who
	// reported before.
	gateFor = 2 * time.Second
)

// control is the control plane: the real table, and around it what
// xds/controlplane does.
type control struct {
	o       *overhear
	w       *World
	table   *merge.Table
	running bool
	lives   int
	kept    []merge.Verdict // its file of verdicts
	gate    time.Duration   // nothing is judged before

	stepAt  time.Duration
	timerAt time.Duration
	gen     uint32
	urgent  bool
	lastly  time.Duration // the last step

	beliefs map[string]map[merge.Scope]held // by instance
	batched bool
	sent    [][]outlier.Verdict // by zone of callers and endpoint: what was told last
	sentID  [][]string

	// streams keep their order: nothing overtakes what was sent before.
	toUs, toThem, ads []time.Duration
	// clocks are how the callers' clocks are mapped where they are not simply the
	// network's delay away; else nil.
	clocks []report.ClockMap
}

// held is a verdict in force; age is how old its state was when it was learned.
type held struct {
	merge.Verdict
	age time.Duration
}

func newControl(o *overhear) *control {
	n := o.w.Callers
	c := &control{o: o, w: o.w, timerAt: never, toUs: make([]time.Duration, n), toThem: make([]time.Duration, n), ads: make([]time.Duration, n)}
	if o.w.bends() {
		c.clocks = make([]report.ClockMap, n)
	}
	return c
}

// up starts it; again: over the file that its earlier life has left.
func (c *control) up(again bool) {
	c.running = true
	c.lives++
	c.table = merge.NewTable(merge.DefaultConfig(), c.w.rng.Uint64())
	c.beliefs = map[string]map[merge.Scope]held{}
	c.registry()
	c.gate = c.w.now
	if again {
		c.gate += gateFor
		c.table.Restore(c.kept, c.w.now)
		for _, v := range c.kept {
			c.believe(v)
		}
	}
	zones := c.w.Zones
	c.sent, c.sentID = make([][]outlier.Verdict, zones), make([][]string, zones)
	for z := range zones {
		c.sent[z] = make([]outlier.Verdict, c.w.Scenario.Endpoints)
		c.sentID[z] = make([]string, c.w.Scenario.Endpoints)
	}
	c.stepAt = c.w.now
	c.schedule()
}

// down ends it at once. What was on its way to it is lost.
func (c *control) down() {
	c.kept = c.table.Verdicts()
	c.running = false
	c.lives++
	c.gen++
	c.timerAt = never
}

// registry tells the table who there is.
func (c *control) registry() {
	if !c.running {
		return
	}
	specs := make([]merge.Endpoint, 0, len(c.w.Endpoints))
	for i, e := range c.w.Endpoints {
		specs = append(specs, merge.Endpoint{
			Key: merge.Key{Service: service, Instance: e.ID}, Zone: zoneName(c.w.Zone(i)), Node: fmt.Sprintf("server-%d", i),
			Weight: 1, Priority: c.w.Priority(i), Draining: e.Draining, Inbound: c.w.Inbound, Started: e.Started, Labels: c.w.labels(i),
		})
	}
	c.table.SetService(service, c.o.policy, specs, c.w.now)
	c.stepAt = c.w.now
	c.schedule()
}

func zoneName(i int) string { return fmt.Sprintf("z%d", i) }

func (c *control) join(caller int) {
	c.meet(merge.Reporter{
		ID: c.o.sidecars[caller].reporter.id(), Incarnation: 1, Principal: fmt.Sprintf("10.0.0.%d", caller),
		Node: fmt.Sprintf("node-%d", c.w.Node(caller)), Zone: zoneName(c.w.Zone(caller)),
	}, []string{service})
}

// meet takes in a reporter of which a stream has begun.
func (c *control) meet(r merge.Reporter, services []string) {
	if err := c.table.Join(r, services, c.w.now); err != nil {
		panic(fmt.Sprintf("world: %s cannot join: %v", r.ID, err))
	}
	c.stepAt = c.w.now
	c.schedule()
}

// inOrder is when a message arrives that leaves now, after those before it.
func inOrder(last *time.Duration, at time.Duration) time.Duration {
	*last = max(*last, at)
	return *last
}

// send carries a message from a caller.
func (c *control) send(m *message) {
	life := c.lives
	late := c.w.ReportDelay
	if c.w.ReportJitter > 0 {
		late += time.Duration(c.w.rng.Int64N(int64(c.w.ReportJitter)))
	}
	m.built, m.skew = c.w.now, c.o.sidecars[m.from].skew
	at := inOrder(&c.toUs[m.from], c.w.now+late+c.w.ToControl(m.from))
	c.w.At(at, func() {
		if c.lives == life {
			c.receive(m)
		}
	})
}

// hear carries a report of the sidecar beside an endpoint, which speaks of nobody
// else.
func (c *control) hear(r *merge.Report, in time.Duration) {
	life := c.lives
	c.w.At(c.w.now+in, func() {
		if c.lives != life {
			return
		}
		m := mapping{offset: c.w.Far, jitter: c.jitter()}
		r.At, r.Received, r.Jitter = m.at(r.At), c.w.now, m.jitter
		for i := range r.Own {
			o := &r.Own[i]
			o.LastOK, o.Refused = m.at(o.LastOK), m.at(o.Refused)
		}
		c.urgent = c.table.Apply(*r, c.w.now).Urgent || c.urgent
		c.schedule()
	})
}

// mapping takes instants of a caller to the table's clock.
type mapping struct{ offset, jitter time.Duration }

// mapping is that of a message: the smallest delay that was ever seen cannot be told
// from a difference of the clocks.
func (c *control) mapping(m *message) mapping {
	if c.clocks == nil {
		return mapping{c.w.Far, c.jitter()}
	}
	clock := &c.clocks[m.from]
	clock.Observe(c.w.now, m.built+m.skew)
	offset, jitter := clock.At(c.w.now)
	return mapping{offset + m.skew, jitter}
}

// offset is what lies between a caller's true time and the table's idea of it.
func (c *control) offset(caller int) time.Duration {
	if c.clocks == nil {
		return c.w.Far
	}
	offset, _ := c.clocks[caller].At(c.w.now)
	return offset + c.o.sidecars[caller].skew
}

func (c *control) jitter() time.Duration { return time.Duration(c.w.Jitter * float64(c.w.Far)) }

func (m mapping) at(at time.Duration) time.Duration {
	if at < 0 {
		return at
	}
	return max(0, at+m.offset)
}

func (m mapping) cell(cell *merge.Cell) {
	cell.LastOK, cell.LastOKStart = m.at(cell.LastOK), m.at(cell.LastOKStart)
	cell.LastHard, cell.LastHardStart = m.at(cell.LastHard), m.at(cell.LastHardStart)
	if len(cell.History) > 0 {
		cell.History = slices.Clone(cell.History)
		for i := range cell.History {
			cell.History[i].At = m.at(cell.History[i].At)
		}
	}
}

func (c *control) receive(m *message) {
	now := c.w.now
	id := c.o.sidecars[m.from].reporter.id()
	clock := c.mapping(m)
	if r := m.report; r != nil {
		mine := *r
		mine.Cells = slices.Clone(r.Cells)
		for i := range mine.Cells {
			clock.cell(&mine.Cells[i])
		}
		mine.At, mine.Received, mine.Jitter = clock.at(r.At), now, clock.jitter
		c.urgent = c.table.Apply(mine, now).Urgent || c.urgent
	}
	for _, p := range m.probes {
		c.table.Probed(p.id, id, p.Level, p.Result, clock.at(p.Start), clock.at(p.End), now)
		c.urgent = true
	}
	for _, a := range m.polls {
		clock.cell(&a.Cell)
		a.At, a.Then.At = clock.at(a.At), clock.at(a.Then.At)
		c.table.Polled(a, now)
		c.urgent = true
	}
	for _, p := range m.probations {
		c.table.Probation(id, p.key, p.epoch, p.counts, now)
		c.urgent = true
	}
	c.schedule()
}

func (c *control) schedule() {
	if !c.running {
		return
	}
	at := c.stepAt
	if c.urgent {
		at = min(at, c.lastly+stepLeast) // what comes within a millisecond is judged together
	}
	at = max(at, c.w.now, c.gate)
	if at >= c.timerAt {
		return
	}
	c.timerAt = at
	c.gen++
	c.w.Timer(at, timerControl, c.gen)
}

func (c *control) timer(gen uint32) {
	if gen != c.gen {
		return
	}
	c.timerAt = never
	c.step()
	c.schedule()
}

func (c *control) step() {
	now := c.w.now
	r := c.table.Step(now)
	c.urgent, c.lastly, c.stepAt = false, now, max(r.Next, now+stepLeast)
	away := false
	var users []string // reporters that use what goes away, most of all first
	for _, ch := range r.Changes {
		if c.o.opts.OnChange != nil {
			c.o.opts.OnChange(ch)
		}
		if ch.Refused != "" {
			continue
		}
		c.count(ch)
		c.believe(ch.Verdict)
		if severity(ch.To) > severity(ch.From) {
			away = true
			users = append(users, c.table.Senders(ch.Verdict.Key, now)...)
		} else {
			c.later()
		}
	}
	away = away || len(r.Shares) > 0 && c.batched
	if away {
		c.publish(users)
	}
	c.order(r)
	if c.o.opts.OnEvent != nil {
		for _, e := range r.Events {
			c.o.opts.OnEvent(e)
		}
	}
}

// count tells the ledger of verdicts.
func (c *control) count(ch merge.Change) {
	if ch.To != outlier.Ejected && ch.To != outlier.Suspended {
		return
	}
	i := slices.IndexFunc(c.w.Endpoints, func(e *Endpoint) bool { return e.ID == ch.Verdict.Key.Instance })
	if i < 0 {
		return
	}
	scope := ch.Verdict.Scope
	c.w.Ledger.Fleet(i, func(caller int) bool {
		return scope == merge.Fleet || zoneName(c.w.Zone(caller)) == string(scope)
	}, ch.To == outlier.Suspended)
}

// severity orders states by how little traffic they mean.
func severity(s outlier.State) int {
	return slices.Index([]outlier.State{outlier.In, outlier.Ramp, outlier.Suspended, outlier.Probation, outlier.Probing, outlier.Ejected, outlier.Draining}, s)
}

func (c *control) believe(v merge.Verdict) {
	id := v.Key.Instance
	if v.State == outlier.In {
		delete(c.beliefs[id], v.Scope)
		return
	}
	if c.beliefs[id] == nil {
		c.beliefs[id] = map[merge.Scope]held{}
	}
	c.beliefs[id][v.Scope] = held{v, max(0, c.w.now-v.Since)}
}

// later publishes soon, with what else changes till then.
func (c *control) later() {
	if c.batched {
		return
	}
	c.batched = true
	life := c.lives
	c.w.At(c.w.now+batchFor, func() {
		if c.batched && c.lives == life {
			c.publish(nil)
		}
	})
}

// in is what callers of a zone should believe: the severer of the fleet's verdict
// and their zone's.
func (c *control) in(id string, zone string) outlier.Verdict {
	scopes := c.beliefs[id]
	h, ok := scopes[merge.Fleet]
	if z, zoned := scopes[merge.Scope(zone)]; zoned && (!ok || severity(z.State) > severity(h.State)) {
		h, ok = z, true
	}
	if !ok {
		return outlier.Verdict{}
	}
	return outlier.Verdict{State: h.State, Epoch: h.Epoch, Rule: h.Rule, RampFrom: h.RampFrom, RampAge: h.age}
}

// publish tells every caller what has changed for it: one after the other, those
// named first, the others in an order that is another each time.
func (c *control) publish(first []string) {
	c.batched = false
	type news struct {
		endpoint int
		id       string
		verdict  outlier.Verdict
	}
	changed := make([][]news, c.w.Zones)
	for z := range changed {
		for i, e := range c.w.Endpoints {
			v := c.in(e.ID, zoneName(z))
			if v != c.sent[z][i] || c.sentID[z][i] != e.ID {
				if c.sentID[z][i] == e.ID || v != (outlier.Verdict{}) || c.sentID[z][i] == "" && c.lives > 1 {
					changed[z] = append(changed[z], news{i, e.ID, v})
				}
				c.sent[z][i], c.sentID[z][i] = v, e.ID
			}
		}
	}
	for turn, caller := range c.turns(first) {
		list := changed[c.w.Zone(caller)]
		if len(list) == 0 {
			continue
		}
		s := c.o.sidecars[caller]
		if !s.connected {
			continue
		}
		at := inOrder(&c.ads[caller], c.w.now+pushFirst+time.Duration(turn)*pushEach+c.w.ToControl(caller))
		c.w.At(at, func() {
			for _, n := range list {
				s.told(n.endpoint, n.id, n.verdict)
			}
		})
	}
}

// turns are all callers in the order in which they are told.
func (c *control) turns(first []string) []int {
	order := make([]int, 0, c.w.Callers)
	named := make([]bool, c.w.Callers)
	for _, id := range first {
		if i := callerOf(id); !named[i] {
			named[i] = true
			order = append(order, i)
		}
	}
	for _, i := range c.w.rng.Perm(c.w.Callers) {
		if !named[i] {
			order = append(order, i)
		}
	}
	return order
}

// callerOf is the caller that reports under an id.
func callerOf(id string) int {
	n, err := strconv.Atoi(id[1:])
	if err != nil {
		panic("world: no caller reports as " + id)
	}
	return n
}

// order carries orders to sidecars.
func (c *control) order(r merge.Result) {
	to := func(id string, do func(s *sidecar)) {
		s := c.o.sidecars[callerOf(id)]
		at := inOrder(&c.toThem[s.index], c.w.now+c.w.ToControl(s.index))
		c.w.At(at, func() {
			if s.connected {
				do(s)
			}
		})
	}
	for _, o := range r.Orders {
		to(o.Reporter, func(s *sidecar) { s.ordered(o) })
	}
	for _, p := range r.Polls {
		for _, id := range p.Reporters {
			to(id, func(s *sidecar) {
				// The instant asked for, on the reporter's clock.
				q := p
				q.At -= c.offset(s.index)
				s.reporter.polls = append(s.reporter.polls, q)
				s.reporter.moved(s.reporter.schedule.Wake(s.w.now))
			})
		}
	}
	for _, w := range r.Watches {
		for _, id := range w.Reporters {
			to(id, func(s *sidecar) { s.reporter.watch(w) })
		}
	}
	for _, l := range r.Leases {
		to(l.Reporter, func(s *sidecar) {
			if id := l.Key.Instance; s.find(id) >= 0 {
				s.lend(id, l)
			}
		})
	}
	for _, sh := range r.Shares {
		to(sh.Reporter, func(s *sidecar) { s.reporter.lend(sh) })
	}
	for _, p := range r.Weights {
		for _, id := range p.Reporters {
			to(id, func(s *sidecar) { s.weigh(p) })
		}
	}
	for _, p := range r.Settings {
		for _, id := range p.Reporters {
			to(id, func(s *sidecar) { s.detector.SetLatency(p.Latency) })
		}
	}
	for _, m := range r.Mutes {
		if m.Until > 0 {
			c.w.Ledger.Muted()
		}
		to(m.Reporter, func(s *sidecar) {
			s.doubt.Mute(m.Until)
			s.wake()
		})
	}
}

// weigh takes over what the fleet makes of a slow endpoint.
func (s *sidecar) weigh(p merge.Weight) {
	s.detector.SetWeight(p.Key.Instance, outlier.Weight{Share: p.Weight, Until: s.w.now + p.For}, p.Reason, s.w.now)
	s.soon()
}

// ordered runs a probe for the fleet. It is answered in any case.
func (s *sidecar) ordered(o merge.ProbeOrder) {
	i := s.find(o.Key.Instance)
	now := s.w.now
	if i < 0 || s.running >= maxProbes || !s.orders.Allow(now) {
		s.reporter.result(probed{o.ID, Answer{Result: outlier.NotRun, Level: o.Level, Start: now, End: now}})
		return
	}
	id := s.ids[i]
	s.ask(i, o.Level, o.Timeout, func(a Answer) {
		s.detector.Probed(id, a.Level, a.Result, a.Start, a.End)
		s.wake()
		s.reporter.result(probed{o.ID, a})
	})
}
