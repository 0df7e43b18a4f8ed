package merge

import (
	"cmp"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// endpoint is all that the table knows of one endpoint.
type endpoint struct {
	Endpoint
	group   *group
	added   time.Duration
	touched bool
	removed bool

	cells  []cell
	index  map[int32]int32 // reporter slot -> position in cells
	staged []staged        // what arrived since the last Step
	hot    []int32         // cells with recent bad news

	pooled     Tally   // of all reporters, since the endpoint is known
	seen       Tally   // pooled a second ago
	series     series  // of 32 s
	latest     series  // of the last second, finer
	level      float64 // attempts told of per second, averaged over 30 s
	known      float64 // weight of what that average has seen, 0 to 1
	rate       float64 // level / known: right also in the first seconds
	errors     float64 // error rate while it is in, over 100 attempts or 30 s
	settled    float64 // attempts that errors rests on
	silence    silence
	peaks      [10]float64 // largest healthy rate of each of ten minutes
	peakMinute int64
	lastOK     time.Duration // newest success that an unmuted reporter or the own sidecar tells
	lastHard   time.Duration // newest hard failure that an unmuted reporter tells
	overAt     time.Duration // newest sign of an OVERLOAD answer
	wasOut     time.Duration // when measure last found it out; never: it has not

	fast, slow row
	pace       pace
	zones      []*zone // observer zones that were heard, by name

	fleet   record
	own     own
	ownNews own // the newest since the last Step; reporter nil: none
	susp    suspicion
	idle    idleness
	poll    polling
	watched time.Duration // reporters watch it until then
	refusal refusal
	// onItsWay says that the evidence has come a good part of the way to a verdict.
	onItsWay bool
	gatherAt time.Duration // when the gathering of neighbours ends; never: not begun
	scopeAt  time.Duration // when the wait for news of other zones ends; never: not begun
	override *Override
	// overrideNews says that an override came, ended or changed since the last Step.
	overrideNews bool
	held         map[heldVerdict][]*domain // who holds a verdict that is not known here

	restartedAt time.Duration // an instance restart that Step has not handled; never: none
	restarts    []time.Duration
	newAt       time.Duration // a new instance that Step has not handled; never: none
}

// own is what the sidecar beside the endpoint says first-hand.
type own struct {
	reporter *reporter
	at       time.Duration
	seq      uint64
	refused  time.Duration
	lastOK   time.Duration
	started  time.Duration
	draining bool
	ok       int64 // answers to requests, ever
}

// compare orders what arrived between two Steps, whatever came first: by number, and
// where a liar gives one twice by all that is in it.
func (o *own) compare(p *own) int {
	return cmp.Or(cmp.Compare(o.reporter.ID, p.reporter.ID), cmp.Compare(o.seq, p.seq), cmp.Compare(o.at, p.at), cmp.Compare(o.ok, p.ok),
		cmp.Compare(o.lastOK, p.lastOK), cmp.Compare(o.refused, p.refused), cmp.Compare(o.started, p.started), compareBools(o.draining, p.draining))
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// zone is the observers of one zone, as far as one endpoint is concerned.
type zone struct {
	name string
	id   int32 // of Table.zoneIDs
	row  row
	n    int64 // attempts, since the endpoint is known
	seen int64
	rate float64
	rec  record
}

// cell is the newest counters of one reporter. Most cells never see trouble: what
// only trouble needs is in extra.
type cell struct {
	reporter  int32
	seq       uint32
	fresh     bool // nothing of the reporter has been taken over yet
	excursion bool // the reporter sees one
	staged    int32
	counts    outlier.Counts
	at        time.Duration // of the newest report
	changed   time.Duration // when n last grew
	lastOK    time.Duration
	okStart   time.Duration
	x         *extra
}

// extra is the part of a cell that a reporter with bad news needs.
type extra struct {
	lastHard, hardStart time.Duration
	diedAt              time.Duration // when a connection that stood last broke
	overdue             int
	overdueAt           time.Duration
	state               outlier.State
	level               outlier.Level
	hot                 bool
	// When the reporter answered the first poll of a round of the suspicion.
	polledAt    time.Duration
	polledRound uint64
	// The newest probe.
	probeEnd, probeStart time.Duration
	probe                outlier.ProbeResult
	probeLevel           outlier.Level
	fast, slow, zone     place
}

// place is where a cell is in a row. It is valid in the row's generation only.
type place struct {
	gen   uint32
	index int32
	conn  uint32 // hard failures since then
	// The first of them that was told, and the latest start of one; never: none.
	hard, hardStart time.Duration
}

func newEndpoint(spec Endpoint, now time.Duration) *endpoint {
	e := &endpoint{
		Endpoint: spec, added: now, index: make(map[int32]int32), errors: outlier.FirstErrorRate,
		series: newSeries(seriesWidth, seriesLen), latest: newSeries(latestWidth, latestLen),
		lastOK: never, lastHard: never, overAt: never, gatherAt: never, scopeAt: never, restartedAt: never, newAt: never, watched: never, wasOut: never,
	}
	e.own = own{refused: never, lastOK: never, at: never}
	e.silence.at = never
	e.idle.reset(now)
	e.susp.shutUntil, e.susp.last, e.susp.confirmed, e.susp.told, e.susp.listener, e.susp.checked, e.susp.replaced = never, never, never, never, never, never, never
	e.susp.unsolved = solved
	e.fleet.scope = Fleet
	e.poll.sent, e.poll.done = never, never
	return e
}

// cell finds or makes the cell of a reporter.
func (e *endpoint) cell(slot int32) *cell {
	i, ok := e.index[slot]
	if !ok {
		i = int32(len(e.cells))
		e.cells = append(e.cells, cell{reporter: slot, fresh: true, staged: -1, at: never, changed: never, lastOK: never, okStart: never})
		e.index[slot] = i
	}
	return &e.cells[i]
}

func (c *cell) extra() *extra {
	if c.x == nil {
		c.x = &extra{lastHard: never, hardStart: never, diedAt: never, overdueAt: never, probeEnd: never, probeStart: never}
	}
	return c.x
}

// dropCell forgets what a reporter said. The last cell takes its place.
func (e *endpoint) dropCell(slot int32) {
	i, ok := e.index[slot]
	if !ok {
		return
	}
	last := int32(len(e.cells) - 1)
	if s := e.cells[i].staged; s >= 0 {
		e.staged[s].cell = -1
	}
	delete(e.index, slot)
	e.hot = slices.DeleteFunc(e.hot, func(j int32) bool { return j == i })
	if at := slices.Index(e.hot, last); at >= 0 {
		e.hot[at] = i
	}
	e.fast.forget(e, fastRow, i, last)
	e.slow.forget(e, slowRow, i, last)
	delete(e.pace.entries, slot)
	for _, z := range e.zones {
		z.row.forget(e, zoneRow, i, last)
	}
	if i != last {
		e.cells[i] = e.cells[last]
		e.index[e.cells[i].reporter] = i
		if s := e.cells[i].staged; s >= 0 {
			e.staged[s].cell = i
		}
	}
	e.cells[last] = cell{}
	e.cells = e.cells[:last]
}

// zoneOf finds or makes the zone of a reporter.
func (e *endpoint) zoneOf(r *reporter, id int32) *zone {
	for _, z := range e.zones {
		if z.id == id {
			return z
		}
	}
	return e.zone(r.Zone)
}

// zone finds or makes the zone of that name.
func (e *endpoint) zone(name string) *zone {
	i, found := slices.BinarySearchFunc(e.zones, name, func(z *zone, name string) int {
		switch {
		case z.name < name:
			return -1
		case z.name > name:
			return 1
		}
		return 0
	})
	if !found {
		e.zones = slices.Insert(e.zones, i, &zone{name: name, id: e.group.service.zones.id(name), rec: record{scope: Scope(name)}})
	}
	return e.zones[i]
}

// dropZone forgets a zone that nobody observes from any more, but no verdict.
func (e *endpoint) dropZone(name string) {
	e.zones = slices.DeleteFunc(e.zones, func(z *zone) bool { return z.name == name && z.rec.state == outlier.In && z.rec.n == 0 })
}

// record gives the standing of the endpoint in a scope.
func (e *endpoint) record(s Scope) *record {
	if s == Fleet {
		return &e.fleet
	}
	return &e.zone(string(s)).rec
}

// out says whether observers of the zone are kept away; for Fleet, whether
// everybody is.
func (e *endpoint) out(view Scope) bool {
	if e.fleet.state.Out() {
		return true
	}
	if view == Fleet {
		return false
	}
	for _, z := range e.zones {
		if Scope(z.name) == view {
			return z.rec.state.Out()
		}
	}
	return false
}

// zonesOut lists the zones whose observers are kept away by a verdict of their
// own: what they still say of e, by probes, is answered already.
func (e *endpoint) zonesOut() []int32 {
	var list []int32
	for _, z := range e.zones {
		if z.rec.state.Out() {
			list = append(list, z.id)
		}
	}
	return list
}

// judgeable says whether evidence may lead to a verdict for the fleet.
func (e *endpoint) judgeable() bool {
	return !e.leaving() && !e.pinned() &&
		(e.fleet.state == outlier.In || e.fleet.state == outlier.Ramp || e.fleet.state == outlier.Suspended)
}

// leaving says whether e is being taken down in peace: it gets no new requests,
// its failures count for nothing, and it is not one of the group.
func (e *endpoint) leaving() bool { return e.Draining || e.own.draining }

// shadowed says whether the policy is only tried: then nothing but an operator's order
// takes anything from the endpoint, not even a verdict that stood when that began.
func (e *endpoint) shadowed() bool { return e.group.service.policy.Outlier.Mode == outlier.Shadow }

func (e *endpoint) pinned() bool { return e.override != nil && e.override.Kind == OverridePin }

// A history of 32 s in half seconds is what group guards look back to; one of 1.6 s in
// tenths is for a fault that is younger than half a second: shared out over all of it,
// its failures would look like the few that everybody has.
const (
	seriesWidth = 500 * time.Millisecond
	seriesLen   = 64
	latestWidth = 100 * time.Millisecond
	latestLen   = 16
)

// series is attempts and failures by the time at which they happened, as far as
// reports tell: a reporter that was silent for a while brings counts that belong
// to all of that while. It is kept as running totals at the end of each bucket,
// because it is asked far more often than it is told.
type series struct {
	width time.Duration // of a bucket
	head  int64         // number of the newest bucket
	n, k  []float64
}

func newSeries(width time.Duration, buckets int) series {
	both := make([]float64, 2*buckets)
	return series{width: width, n: both[:buckets:buckets], k: both[buckets:]}
}

func (s *series) bucketOf(at time.Duration) int64 { return int64(at / s.width) }

func (s *series) len() int64 { return int64(len(s.n)) }

// advance makes room up to an instant.
func (s *series) advance(now time.Duration) {
	b := s.bucketOf(now)
	if b <= s.head {
		return
	}
	n, k := s.n[s.head%s.len()], s.k[s.head%s.len()]
	for i := max(s.head+1, b-s.len()+1); i <= b; i++ {
		s.n[i%s.len()], s.k[i%s.len()] = n, k
	}
	s.head = b
}

// add spreads counts evenly over (from, to].
func (s *series) add(from, to time.Duration, n, k float64) {
	if n == 0 || to < 0 {
		return
	}
	s.advance(to)
	last := s.bucketOf(to)
	if from >= to {
		from = to - 1
	}
	// What is older than is kept enters no bucket, but is a part of every total.
	per := 1 / float64(to-from)
	for b := max(s.bucketOf(from), s.head-s.len()+1, 0); b <= s.head; b++ {
		share := 1.0
		if b < last {
			share = float64(time.Duration(b+1)*s.width-from) * per
		}
		s.n[b%s.len()] += n * share
		s.k[b%s.len()] += k * share
	}
}

// since sums up from an instant to now.
func (s *series) since(from time.Duration) outlier.Tally {
	n, k := s.sum(s.bucketOf(from), s.head+1)
	return outlier.Tally{N: int64(n + 0.5), K: int64(k + 0.5)}
}

// between sums up the attempts and failures of [from, to).
func (s *series) between(from, to time.Duration) (n, k float64) {
	return s.sum(s.bucketOf(from), min(s.bucketOf(to), s.head+1))
}

// sum adds up the buckets from one up to another that is not in it any more. Of the
// oldest that is kept only the end is known.
func (s *series) sum(from, to int64) (n, k float64) {
	from = max(from, s.head-s.len()+2, 0)
	if to <= from {
		return 0, 0
	}
	n, k = s.n[(to-1)%s.len()], s.k[(to-1)%s.len()]
	if from > 0 {
		n, k = n-s.n[(from-1)%s.len()], k-s.k[(from-1)%s.len()]
	}
	return n, k
}
