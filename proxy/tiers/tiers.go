// Package tiers offers what may be picked of a set of endpoints, first things first.
//
// A tier is a priority, or within it one's own zone before the others. Those in which
// an endpoint is believed to be well share first tries as they can bear them; retries
// go to the first tier that has something new. Where nothing is believed to be well,
// what the detector offers is picked from; failing that, the least bad. Within a tier
// a [balancer.Set] picks.
//
// Package cluster picks with it, and so does the simulator.
package tiers

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/balancer"
)

// Picker is what requests choose from. It is immutable. First tries go to the tiers by
// their shares, retries to the first tier that has something new.
type Picker struct {
	tiers  []tier
	spares []Choice // nobody's while anything else is left
}

// tier is a set of endpoints of one priority; of one zone or the others, where the own
// zone is preferred.
type tier struct {
	set     *balancer.Set
	choices []Choice // by index of the set
	// upTo is the end of the tier's part of first tries, all of them being 1<<32.
	upTo uint64
}

// New offers what choose leaves of all. A tier stays as it was in before, which may be
// nil, if nothing in it has changed.
func New(all []Choice, cfg balancer.Config, before *Picker) *Picker {
	for i := range all {
		all[i].place = i
	}
	levels := choose(all, cfg)
	shares := spill(levels, cfg.Overprovisioning)
	p, sum := new(Picker), 0.0
	for i, l := range levels {
		var old *tier
		if before != nil && i < len(before.tiers) && before.tiers[i].set.Config() == cfg {
			old = &before.tiers[i]
		}
		t := newTier(l.choices, cfg, old)
		sum += shares[i]
		t.upTo = uint64(sum * (1 << 32))
		p.tiers = append(p.tiers, t)
	}
	p.tiers[len(p.tiers)-1].upTo = 1 << 32 // whatever rounding has left
	for _, c := range all {
		if !c.offered() && c.Admission.State != outlier.Suspended {
			p.spares = append(p.spares, c)
		}
	}
	return p
}

func newTier(choices []Choice, cfg balancer.Config, old *tier) tier {
	if old != nil && slices.Equal(choices, old.choices) {
		return *old
	}
	t := tier{choices: choices}
	entries := make([]balancer.Entry, 0, len(choices))
	for _, c := range choices {
		entries = append(entries, c.entry())
	}
	if old != nil {
		t.set = old.set.With(entries)
	} else {
		t.set = balancer.NewSet(entries, cfg)
	}
	return t
}

// Pick chooses an endpoint for one attempt, by its place in the list that New was
// given; -1: there is none. rng is 64 random bits; tried may be nil.
func (p *Picker) Pick(rng uint64, now time.Duration, tried *balancer.Tried) int {
	t := p.tier(rng, tried)
	return t.place(t.set.Pick(rng, now, tried))
}

// PickKeyed is Pick for a request with a key: a policy that hashes keeps the requests
// of one key together.
func (p *Picker) PickKeyed(key, rng uint64, now time.Duration, tried *balancer.Tried) int {
	t := p.tier(rng, tried)
	return t.place(t.set.PickKeyed(key, rng, now, tried))
}

// Spare chooses for a request that is lost otherwise, since it has been to all that Pick
// offers: the least bad of what is kept out of use. Who is out for having crashed is
// often back before it is let in again. The suspended are not asked: they hang.
func (p *Picker) Spare(rng uint64, tried *balancer.Tried) int {
	var best *Choice
	for k, n := uint64(0), uint64(len(p.spares)); k < n; k++ {
		c := &p.spares[(rng%n+k)%n]
		if !tried.Has(c.Stats) && (best == nil || badness(*c) < badness(*best)) {
			best = c
		}
	}
	if best == nil {
		return -1
	}
	return best.place
}

// tier is where to pick from.
func (p *Picker) tier(rng uint64, tried *balancer.Tried) *tier {
	if len(p.tiers) == 1 {
		return &p.tiers[0]
	}
	if tried == nil || tried.Len() == 0 {
		// The set stirs rng before it uses it, so these bits are free.
		for i := range p.tiers {
			if rng>>32 < p.tiers[i].upTo {
				return &p.tiers[i]
			}
		}
	}
	for i := range p.tiers {
		if !p.tiers[i].set.Exhausted(tried) {
			return &p.tiers[i]
		}
	}
	return &p.tiers[0]
}

// place is that of the choice at an index of the set.
func (t *tier) place(i int) int {
	if i < 0 {
		return -1
	}
	return t.choices[i].place
}

// Panicking reports whether what serves is not believed to be well.
func (p *Picker) Panicking() bool {
	return slices.ContainsFunc(p.tiers[0].choices, func(c Choice) bool { return c.Admission.Panic })
}

// First are those that first tries go to before all others.
func (p *Picker) First() []Choice { return p.tiers[0].choices }

// All are those that can be picked at all.
func (p *Picker) All() iter.Seq[Choice] {
	return func(yield func(Choice) bool) {
		for _, t := range p.tiers {
			for _, c := range t.choices {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// Choice is one endpoint that a picker may hold.
type Choice struct {
	// Stats are its identity, and what it costs.
	Stats *outlier.Endpoint
	// Gate is its own, for whenever it is to be used sparingly.
	Gate     *balancer.Gate
	Priority uint32
	Weight   uint32 // base
	Away     bool   // not in this sidecar's zone
	Hash     uint64 // of its identity, the same at every sidecar
	Rank     uint64 // among those of its level: this sidecar's own order
	// Admission is what the detector says of it.
	Admission outlier.Admission

	place int // in the list that New was given
}

// level is a part of a set that is used before the next one is.
type level struct {
	choices []Choice
	whole   float64 // base weight of all that belong there
}

// choose returns those that may be picked, in levels: the ones in which an
// endpoint is believed to be well, first things first. Where there is none, what
// the detector offers of the first level that has anything; failing that, the
// least bad. There is always a level, and it is empty only if all is.
func choose(all []Choice, cfg balancer.Config) []level {
	var sound, fallback []level
	for _, l := range levels(all, cfg.PreferZone) {
		l.choices = slices.DeleteFunc(l.choices, func(c Choice) bool { return !c.offered() })
		switch {
		case slices.ContainsFunc(l.choices, Choice.sound):
			sound = append(sound, l.subset(cfg.Subset))
		case len(l.choices) > 0:
			fallback = append(fallback, l)
		}
	}
	switch {
	case sound != nil:
		return sound
	case fallback != nil:
		return fallback[:1]
	}
	return []level{{choices: leastBad(all)}}
}

// levels groups by priority, then by zone if the own one is preferred, first
// things first, and keeps the order within.
func levels(all []Choice, preferZone bool) []level {
	type key struct {
		priority uint32
		away     bool
	}
	byKey := make(map[key]*level)
	for i, c := range all {
		k := key{priority: c.Priority, away: preferZone && c.Away}
		l := byKey[k]
		if l == nil {
			l = &level{choices: make([]Choice, 0, len(all)-i)}
			byKey[k] = l
		}
		l.choices = append(l.choices, c)
		if c.Admission.State != outlier.Draining {
			l.whole += float64(c.Weight)
		}
	}
	keys := slices.SortedFunc(maps.Keys(byKey), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), order(a.away, b.away))
	})
	var out []level
	for _, k := range keys {
		out = append(out, *byKey[k])
	}
	return out
}

// order sorts false before true.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// subset keeps the n sound ones that come first in this sidecar's own order, and
// all that are not: on trial, they get their share from everybody. 0: all.
func (l level) subset(n int) level {
	if n == 0 {
		return l
	}
	var ranks []uint64
	for _, c := range l.choices {
		if c.sound() {
			ranks = append(ranks, c.Rank)
		}
	}
	if len(ranks) <= n {
		return l
	}
	slices.Sort(ranks)
	kept, part := make([]Choice, 0, n), 0.0
	for _, c := range l.choices {
		if !c.sound() || c.Rank < ranks[n] {
			kept = append(kept, c)
		}
		if c.sound() && c.Rank < ranks[n] {
			part += float64(c.Weight) * c.Admission.Weight
		}
	}
	// Of the level's load this sidecar's part stands for the whole: if enough of
	// all are well to fill a subset, the subset is.
	return level{choices: kept, whole: part}
}

// spill is what part of first tries each level gets: as much of what those before
// it leave as it can bear. If all together cannot bear it, each gets more by the
// same factor. (Envoy's priority load, with zones as priorities within.)
func spill(levels []level, overprovisioning float64) []float64 {
	shares, left := make([]float64, len(levels)), 1.0
	for i, l := range levels {
		able := 0.0
		for _, c := range l.choices {
			if c.sound() {
				able += float64(c.Weight) * c.Admission.Weight
			}
		}
		if l.whole > 0 {
			shares[i] = min(left, overprovisioning*able/l.whole)
			left -= shares[i]
		}
	}
	if left < 1 {
		for i := range shares {
			shares[i] /= 1 - left
		}
	}
	return shares
}

// leastBad is the last resort when the detector offers nothing at all: those
// that drain still answer, the suspended may, the ejected hardly.
func leastBad(all []Choice) []Choice {
	var best []Choice
	for _, c := range all {
		switch c.Admission.Weight, c.Admission.Panic = 1, true; {
		case len(best) == 0 || badness(c) < badness(best[0]):
			best = []Choice{c}
		case badness(c) == badness(best[0]):
			best = append(best, c)
		}
	}
	return best
}

func badness(c Choice) int {
	switch c.Admission.State {
	case outlier.Draining:
		return 0
	case outlier.In, outlier.Ramp:
		return 1
	case outlier.Probation, outlier.Probing:
		return 2
	case outlier.Suspended:
		return 3
	}
	return 4
}

// offered reports whether the detector lets c be picked.
func (c Choice) offered() bool { return c.Admission.Weight > 0 || c.Admission.Trickle > 0 }

// sound reports whether the detector believes that c can carry traffic.
func (c Choice) sound() bool {
	return c.Admission.Weight > 0 && c.Admission.Trickle == 0 && !c.Admission.Panic
}

// entry is how the balancer sees a Choice.
func (c Choice) entry() balancer.Entry {
	a := c.Admission
	e := balancer.Entry{
		Stats:  c.Stats,
		Weight: a.Weight * float64(c.Weight),
		Held:   a.Weight != 1,
		Hash:   c.Hash,
	}
	if a.Panic {
		return e
	}
	if a.State == outlier.In && a.Weight < 1 {
		e.Slow = a.Weight // nothing else lowers it in this state
	}
	// A trickle is an attempt now and then; a probation one at a time, so that
	// an endpoint that still fails costs one request before it is known.
	if on := a.State == outlier.Probation; on || a.Trickle > 0 {
		e.Gate = c.Gate.With(a.Trickle, on)
	}
	return e
}
