package balancer

import (
	"math"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Entry is one endpoint as the balancer sees it.
type Entry struct {
	// Stats are the counters of the endpoint; they give its cost and are its
	// identity for Tried. Never nil.
	Stats *outlier.Endpoint
	// Weight is the endpoint's part of the traffic, relative to the others'.
	// 0 (or less, or no number): never picked.
	Weight float64
	// Held marks an endpoint kept below its base weight: it gets exactly its
	// part, whatever its cost, unless it is Slow.
	Held bool
	// Slow, unless 0, is the part of its base weight that an endpoint was left for its
	// latency. Such an endpoint is held, too, but first attempts by P2C leave it no more
	// than its cost would if it were compared with those in full service. One with a
	// gate has its part by that.
	Slow float64
	// Gate, if set, must let each pick pass; such an endpoint is held, and the
	// last choice of a retry.
	Gate *Gate
	// Hash is the endpoint's identity to the policies that hash: the same at
	// every caller, and evenly spread over all 64 bits.
	Hash uint64
}

// trickles reports whether the gate alone says when the entry is picked.
func (e *Entry) trickles() bool { return e.Gate != nil && e.Gate.every > 0 }

// Set is an immutable set of endpoints to pick from. All methods may be called
// by any number of goroutines.
type Set struct {
	cfg     Config
	entries []Entry
	all     sampler   // every entry with a weight
	full    sampler   // those of them in full service: the second draw of P2C
	uneven  []float64 // mean base weight / own, of those and of the slow; nil: all the same
	gated   []int32   // every entry with a gate
	trickle []int32   // those of them that trickle
	turn    *atomic.Uint64
	sites   []site  // those without a gate, of a policy that hashes
	table   table   // of the sites; nil: there are none
	weight  float64 // their sum
}

const (
	// alike is the ratio up to which two latencies count as equal. A peak EWMA
	// remembers one slow answer, a new connection say, for a while.
	alike = 2
	// noise is added to each latency, in seconds: what is faster than that
	// differs by this machine's own doing.
	noise = 100e-6
	// least is the chance that the dearer of two has at least, lest nothing be overheard
	// of it any more: a tenth of a fair part, or one in proportion to its cost if that is
	// less. One whose answers are awaited will tell by these. For how long chance may
	// leave it with nothing, [outlier.Endpoint.Latency] bounds.
	least = 0.05
)

// NewSet builds a set over the entries, which it copies. Indices returned by
// Pick are indices into entries.
func NewSet(entries []Entry, cfg Config) *Set {
	return build(entries, cfg, new(atomic.Uint64), nil)
}

// With builds the set that takes the place of s; a round robin goes on where s
// stood.
func (s *Set) With(entries []Entry) *Set { return build(entries, s.cfg, s.turn, s) }

func build(entries []Entry, cfg Config, turn *atomic.Uint64, before *Set) *Set {
	s := &Set{cfg: cfg, entries: append([]Entry(nil), entries...), turn: turn}
	var all, full, compared []int32
	sum := 0.0
	for i := range s.entries {
		e, i := &s.entries[i], int32(i)
		if e.trickles() {
			s.gated, s.trickle = append(s.gated, i), append(s.trickle, i)
			continue
		}
		if !(e.Weight > 0) || math.IsInf(e.Weight, 1) {
			e.Weight = 0
			continue
		}
		all = append(all, i)
		if e.Gate != nil {
			e.Held, e.Slow = true, 0
			s.gated = append(s.gated, i)
		} else if cfg.Policy.Hashes() {
			s.sites = append(s.sites, site{entry: i, hash: e.Hash, weight: e.Weight})
			s.weight += e.Weight
		}
		e.Held = e.Held || e.Slow > 0
		if !e.Held {
			full = append(full, i)
			sum += e.Weight
		}
		if !e.Held || e.Slow > 0 {
			compared = append(compared, i)
		}
	}
	s.all = newSampler(s.entries, all)
	s.full = newSampler(s.entries, full)
	if before != nil && slices.Equal(s.sites, before.sites) {
		s.table = before.table
	} else {
		s.table = newTable(cfg.Policy, s.sites)
	}
	// uneven is what an attempt in flight on i counts: where base weights differ, an
	// endpoint of twice the weight should carry twice as many at the same cost.
	mean := sum / float64(len(full))
	uneven := func(i int32) float64 {
		e := &s.entries[i]
		if e.Slow > 0 {
			return mean / e.Weight * e.Slow
		}
		return mean / e.Weight
	}
	if slices.ContainsFunc(compared, func(i int32) bool { return math.Abs(uneven(i)-1) > 1e-9 }) {
		s.uneven = make([]float64, len(s.entries))
		for _, i := range compared {
			s.uneven[i] = uneven(i)
		}
	}
	return s
}

// Config is how s picks.
func (s *Set) Config() Config { return s.cfg }

// Len is the number of entries, those of weight 0 included.
func (s *Set) Len() int { return len(s.entries) }

// Pick chooses an entry: its index, or -1 if there is none to choose. rng is 64
// fresh random bits; now is the caller's time; tried, which may be nil, holds
// the endpoints that this request has already been to: they are avoided while
// another one is left.
func (s *Set) Pick(rng uint64, now time.Duration, tried *Tried) int {
	d := dice(rng)
	if tried != nil && tried.n > 0 {
		if i := s.scan(&d, now, tried); i >= 0 {
			return i
		}
	}
	if i := s.due(&d, now); i >= 0 {
		return i
	}
	if s.all.len() == 0 {
		return s.scan(&d, now, nil)
	}
	i := s.draw(&s.all, &d)
	e := &s.entries[i]
	switch {
	case e.Gate != nil && !e.Gate.enter(now, e.Stats):
		return s.scan(&d, now, nil)
	case e.Slow > 0 && s.cfg.Policy == P2C && s.full.len() > 0:
		return int(s.ease(i, &d, now))
	case e.Held || s.cfg.Policy != P2C && s.cfg.Policy != LeastRequest:
		return int(i)
	}
	return int(s.better(i, &d, now))
}

// PickKeyed is Pick for a request that has a key, 64 evenly spread bits: the
// policies that hash keep requests of one key together, whatever the others do
// they do by rng alone. Endpoints on trial get their share of all requests.
func (s *Set) PickKeyed(key, rng uint64, now time.Duration, tried *Tried) int {
	if s.table == nil {
		return s.Pick(rng, now, tried)
	}
	d := dice(rng)
	if tried == nil || tried.n == 0 {
		if i := s.due(&d, now); i >= 0 {
			return i
		}
		if len(s.gated) > len(s.trickle) {
			i := s.all.at(d.next())
			if e := &s.entries[i]; e.Gate != nil && e.Gate.enter(now, e.Stats) {
				return int(i)
			}
		}
	}
	position, bound := s.table.find(key), s.bound()
	for range min(s.table.len(), maxSteps*len(s.sites)) {
		i := s.table.at(position)
		if e := &s.entries[i]; !tried.Has(e.Stats) && bound.allows(e) {
			return int(i)
		}
		if position++; position == s.table.len() {
			position = 0
		}
	}
	return s.scan(&d, now, tried)
}

// maxSteps, times the number of entries, is how far a key is carried on from an
// entry that cannot have it: enough to meet nearly all of them.
const maxSteps = 16

// bound is how many requests an entry may have in flight, by weight; 0: any
// number.
type bound float64

// bound takes the count of what is in flight at all, and the pick under way.
func (s *Set) bound() bound {
	if s.cfg.BoundedLoad == 0 {
		return 0
	}
	total := 1
	for _, t := range s.sites {
		total += s.entries[t.entry].Stats.Inflight()
	}
	return bound(s.cfg.BoundedLoad * float64(total) / s.weight)
}

func (b bound) allows(e *Entry) bool {
	return b == 0 || float64(e.Stats.Inflight()) < math.Ceil(float64(b)*e.Weight)
}

// due is a trickle whose turn it is, or -1. A trickle is due on demand; where
// there is little demand, it is no more than an endpoint's fair part of it.
func (s *Set) due(d *dice, now time.Duration) int {
	for _, i := range s.trickle {
		e := &s.entries[i]
		if e.Gate.open(now, e.Stats) && d.below(s.all.len()+len(s.trickle)) == 0 && e.Gate.enter(now, e.Stats) {
			return int(i)
		}
	}
	return -1
}

// Exhausted reports whether tried holds every endpoint that s may pick.
func (s *Set) Exhausted(tried *Tried) bool {
	for i := range s.entries {
		if e := &s.entries[i]; (e.Weight > 0 || e.trickles()) && !tried.Has(e.Stats) {
			return false
		}
	}
	return true
}

// draw takes one entry by weight, or the next in turn.
func (s *Set) draw(from *sampler, d *dice) int32 {
	if s.cfg.Policy == RoundRobin {
		return from.nth(s.turn.Add(1))
	}
	return from.at(d.next())
}

// better compares i, in full service, with a second draw.
func (s *Set) better(i int32, d *dice, now time.Duration) int32 {
	if s.full.len() < 2 {
		return i
	}
	j := s.full.at(d.next())
	if j == i && s.uneven == nil {
		// Of equal weights take two different ones. (Drawing again with unequal
		// weights would favour the lighter ones.)
		j = s.full.other(i, d)
	}
	return s.compare(i, j, d, now)
}

// ease returns i, whose part is a slow one's, or another in its place.
func (s *Set) ease(i int32, d *dice, now time.Duration) int32 {
	j := s.full.at(d.next())
	a, b := s.load(i, now), s.load(j, now)
	// In full service it would be drawn first as often as second: of a fair part it would
	// get twice its chance.
	if a.latency <= alike*b.latency || d.unit()*s.entries[i].Slow < 2*a.chance(b) {
		return i
	}
	return s.better(j, d, now)
}

// compare returns the better of two in full service; i if they are equal, so
// that draws by weight stay what they are.
func (s *Set) compare(i, j int32, d *dice, now time.Duration) int32 {
	if i == j {
		return i
	}
	a, b := s.load(i, now), s.load(j, now)
	if s.cfg.Policy == P2C && (a.latency > alike*b.latency || b.latency > alike*a.latency) {
		if d.unit() < a.chance(b) {
			return i
		}
		return j
	}
	if b.inflight < a.inflight {
		return j
	}
	return i
}

// load is what an endpoint in full service carries.
type load struct {
	latency  float64 // seconds
	awaited  bool    // see [outlier.Endpoint.Latency]
	inflight float64 // requests, for its weight
}

func (l load) cost() float64 { return l.latency * (l.inflight + 1) }

// chance is that of l to be taken, and not the other.
func (l load) chance(other load) float64 {
	if r := other.cost() / l.cost(); r >= 1 {
		return 1 - other.dearer(r)
	}
	return l.dearer(l.cost() / other.cost())
}

// dearer is the chance of what costs r times as much as the other, r >= 1.
func (l load) dearer(r float64) float64 {
	p := 1 / (1 + r*r)
	if !l.awaited {
		p = max(p, min(least, 1/(1+r)))
	}
	return p
}

func (s *Set) load(i int32, now time.Duration) load {
	e := s.entries[i].Stats
	n := e.Inflight()
	latency, awaited := e.Latency(now, n)
	l := load{latency: latency + noise, awaited: awaited, inflight: float64(n)}
	if s.uneven != nil {
		l.inflight *= s.uneven[i]
	}
	return l
}

// scan serves retries and shut gates: rare, so it walks the entries. It draws
// by weight among those not tried that have no gate; if there are none, it takes
// one whose gate lets it pass; if a first attempt would be left with nothing,
// because all gates are shut, any of them.
func (s *Set) scan(d *dice, now time.Duration, tried *Tried) int {
	i := s.weighted(d, tried)
	if i >= 0 {
		j := s.weighted(d, tried)
		if (s.cfg.Policy == P2C || s.cfg.Policy == LeastRequest) && !s.entries[i].Held && !s.entries[j].Held {
			return int(s.compare(int32(i), int32(j), d, now))
		}
		return i
	}
	if len(s.gated) == 0 {
		return -1
	}
	first := d.below(len(s.gated))
	for k := range s.gated {
		i := s.gated[(first+k)%len(s.gated)]
		if e := &s.entries[i]; !tried.Has(e.Stats) && e.Gate.enter(now, e.Stats) {
			return int(i)
		}
	}
	if tried == nil {
		return int(s.gated[first])
	}
	return -1
}

// weighted draws by weight among the entries without a gate that were not
// tried; -1: there is none.
func (s *Set) weighted(d *dice, tried *Tried) int {
	eligible := func(e *Entry) bool { return e.Weight > 0 && e.Gate == nil && !tried.Has(e.Stats) }
	sum := 0.0
	for i := range s.entries {
		if e := &s.entries[i]; eligible(e) {
			sum += e.Weight
		}
	}
	last, left := -1, d.unit()*sum
	for i := range s.entries {
		e := &s.entries[i]
		if !eligible(e) {
			continue
		}
		if last, left = i, left-e.Weight; left < 0 {
			break
		}
	}
	return last
}

// dice deals out random numbers from one 64-bit word (SplitMix64, Steele et
// al. 2014), so that a pick asks its caller for one word only.
type dice uint64

func (d *dice) next() uint64 {
	*d += 0x9e3779b97f4a7c15
	z := uint64(*d)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below is uniform in [0, n), n > 0 (Lemire 2019; the bias of 2^-64 n is nothing here).
func (d *dice) below(n int) int {
	hi, _ := bits.Mul64(d.next(), uint64(n))
	return int(hi)
}

// unit is uniform in [0, 1).
func (d *dice) unit() float64 { return float64(d.next()>>11) / (1 << 53) }
