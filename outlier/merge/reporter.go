package merge

import (
	"errors"
	"fmt"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// reporter is an observer that has joined.
type reporter struct {
	Reporter
	slot     int32
	domain   *domain
	services map[string]*use
	live     bool          // its stream is open
	heard    time.Duration // when the newest message arrived
	joined   time.Duration
	// settled is when it had told everything that it knew on arrival; a cell that
	// first shows up later began at zero. Negative: not yet. settles is what it will
	// be at the next Step: until then reports may come in any order.
	settled  time.Duration
	settles  time.Duration
	seq      uint64
	jitter   time.Duration
	probes   bucket
	accepted uint64
	refused  map[Refusal]uint64
}

// use is a reporter's use of one service.
type use struct {
	service *service
	n, seen int64
	rate    float64       // attempts per second, over 30 s
	traffic time.Duration // when a success was last told of
	overdue time.Duration // D_over; 0: unknown
	told    uint64        // number of the report that said so
	// slower is how many times as long as usual all endpoints took to answer, as told
	// at slowerAt; 0: unknown.
	slower   float64
	slowerAt time.Duration
	// latency is the newest histogram, by bucket; counted says that there was one.
	latency     []outlier.LatencyCount
	counted     bool
	latencyTold outlier.Percentiles // that were told to the reporter last
}

// domain is a fault domain: reporters that may all be wrong for one reason.
type domain struct {
	name       string
	reporters  int
	mutedUntil time.Duration
	reason     string
	index      int32  // in Table.domainList
	stamp      uint64 // of the count that it was last part of

	// How often others had answers where it complained, within a second; since when.
	denied   int
	deniedAt time.Duration
}

func (d *domain) muted(now time.Duration) bool { return now < d.mutedUntil }

// weight is what the evidence of the reporter is divided by: 1 + lhm, so that one
// who distrusts himself counts for less. 0: muted, it counts for nothing.
func (r *reporter) divisor(now time.Duration) int64 {
	if r.domain.muted(now) {
		return 0
	}
	return 1 + int64(r.LHM)
}

// askable says whether the reporter can be asked for a probe or a poll.
func (r *reporter) askable(t *Table, now time.Duration) bool {
	return r.live && now-r.heard <= t.cfg.ReporterHeard && !r.domain.muted(now)
}

// maxProbeLHM is the self-doubt up to which a reporter may confirm others'
// failures.
const maxProbeLHM = 3

// Errors of Join.
var (
	ErrIncarnation = errors.New("an incarnation that is newer has joined")
	ErrPrincipal   = errors.New("the id belongs to another principal")
)

// Join tells that a report stream was opened, by whom, and which services the
// reporter uses. A newer incarnation forgets all that the older one said; the
// same one continues where it was.
func (t *Table) Join(spec Reporter, services []string, now time.Duration) error {
	r := t.reporters[spec.ID]
	if r != nil {
		switch {
		case r.Principal != spec.Principal && r.live:
			return fmt.Errorf("reporter %q: %w", spec.ID, ErrPrincipal)
		case spec.Incarnation < r.Incarnation:
			return fmt.Errorf("reporter %q: %w", spec.ID, ErrIncarnation)
		case spec.Incarnation > r.Incarnation || spec.Domain() != r.Domain() || spec.Zone != r.Zone || spec.Principal != r.Principal:
			t.dropReporter(r)
			r = nil
		}
	}
	if r == nil {
		r = &reporter{slot: t.newSlot(), settled: never, settles: never, probes: fullBucket(float64(t.cfg.ProbeRate), now)}
		t.slots[r.slot] = r
		t.reporters[spec.ID] = r
		r.domain = t.joinDomain(spec.Domain())
		t.observed[spec.Zone]++
	}
	r.Reporter = spec
	r.LHM = min(max(r.LHM, 0), 7)
	t.observers[r.slot] = observer{domain: r.domain.index, zone: t.zones.id(r.Zone)}
	t.weigh(r, now)
	r.live, r.heard, r.joined = true, now, now
	r.setServices(t, services)
	if r.domain.muted(now) {
		t.out.Mutes = append(t.out.Mutes, Mute{Reporter: r.ID, Domain: r.domain.name, Until: r.domain.mutedUntil, Reason: r.domain.reason})
	}
	t.due(now)
	return nil
}

// Subscribe replaces the services that a reporter uses.
func (t *Table) Subscribe(id string, services []string) {
	if r := t.reporters[id]; r != nil {
		r.setServices(t, services)
	}
}

func (r *reporter) setServices(t *Table, names []string) {
	had := r.services
	for _, u := range had {
		t.leave(u.service, r)
	}
	r.services = make(map[string]*use, len(names))
	for _, name := range names {
		s := t.services[name]
		if s == nil {
			s = t.newService(name)
		}
		u := had[name]
		if u == nil || u.service != s {
			u = &use{service: s, traffic: never}
		}
		r.services[name] = u
		s.join(r)
	}
}

// Leave tells that a report stream was lost. That is silence and neither health
// nor sickness: what the reporter said stands until it grows old.
func (t *Table) Leave(id string, now time.Duration) {
	r := t.reporters[id]
	if r == nil {
		return
	}
	r.live = false
	for oid, o := range t.orders {
		if o.reporter == r {
			delete(t.orders, oid)
		}
	}
	t.due(now)
}

// dropReporter forgets a reporter and all that it said.
func (t *Table) dropReporter(r *reporter) {
	for _, u := range r.services {
		t.leave(u.service, r)
	}
	for oid, o := range t.orders {
		if o.reporter == r {
			delete(t.orders, oid)
		}
	}
	t.observed[r.Zone]--
	last := t.observed[r.Zone] == 0
	if last {
		delete(t.observed, r.Zone)
	}
	for _, e := range t.endpoints {
		e.dropCell(r.slot)
		if last {
			e.dropZone(r.Zone)
		}
	}
	delete(t.reporters, r.ID)
	r.domain.reporters--
	t.lone[r.domain.index] = r.domain.reporters == 1
	if r.domain.reporters == 0 && r.domain.reason == "" {
		t.dropDomain(r.domain) // a muted one is kept: who comes back is still muted
	}
	t.slots[r.slot] = nil
	t.freeSlots = append(t.freeSlots, r.slot)
}

func (t *Table) newSlot() int32 {
	if n := len(t.freeSlots); n > 0 {
		slot := t.freeSlots[n-1]
		t.freeSlots = t.freeSlots[:n-1]
		return slot
	}
	t.slots = append(t.slots, nil)
	t.observers = append(t.observers, observer{})
	return int32(len(t.slots) - 1)
}

func (t *Table) joinDomain(name string) *domain {
	d := t.domains[name]
	if d == nil {
		d = &domain{name: name}
		if n := len(t.freeDomains); n > 0 {
			d.index = t.freeDomains[n-1]
			t.freeDomains = t.freeDomains[:n-1]
			t.domainList[d.index] = d
		} else {
			d.index = int32(len(t.domainList))
			t.domainList = append(t.domainList, d)
			t.sums, t.lone = append(t.sums, domainSum{}), append(t.lone, false)
		}
		t.domains[name] = d
	}
	d.reporters++
	t.lone[d.index] = d.reporters == 1
	return d
}

func (t *Table) dropDomain(d *domain) {
	delete(t.domains, d.name)
	t.domainList[d.index] = nil
	t.freeDomains = append(t.freeDomains, d.index)
}

// weigh keeps what rows need to know of a reporter's weight.
func (t *Table) weigh(r *reporter, now time.Duration) { t.observers[r.slot].divisor = r.divisor(now) }

// names numbers names, so that they can be compared in one instruction.
type names map[string]int32

func (n names) id(name string) int32 {
	id, ok := n[name]
	if !ok {
		id = int32(len(n))
		n[name] = id
	}
	return id
}

// bucket is a token bucket that needs no clock.
type bucket struct {
	rate, tokens float64
	at           time.Duration
}

func fullBucket(rate float64, now time.Duration) bucket {
	return bucket{rate: rate, tokens: rate, at: now}
}

// fill brings the bucket to now; it holds one second's worth at most.
func (b *bucket) fill(now time.Duration) {
	if now > b.at {
		b.tokens = min(b.rate, b.tokens+b.rate*(now-b.at).Seconds())
		b.at = now
	}
}

func (b *bucket) has(now time.Duration, n int) bool {
	b.fill(now)
	return b.tokens >= float64(n)
}

func (b *bucket) take(n int) { b.tokens -= float64(n) }
