package cluster

import (
	"cmp"
	"maps"
	"slices"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/balancer"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// picker is what requests choose from. It is immutable. First tries go to the
// tiers by their shares, retries to the first tier that has something new.
type picker struct{ tiers []tier }

// tier is a set of endpoints of one priority; of one zone or the others, where
// the own zone is preferred.
type tier struct {
	set       *balancer.Set
	endpoints []*upstream.Endpoint // by index of the set
	choices   []choice
	// upTo is the end of the tier's part of first tries, all of them being 1<<32.
	upTo uint64
}

// newPicker offers what choose leaves of all. A tier stays as it was in before,
// which may be nil, if nothing in it has changed.
func newPicker(all []choice, cfg balancer.Config, before *picker) *picker {
	levels := choose(all, cfg)
	shares := spill(levels, cfg.Overprovisioning)
	p, sum := new(picker), 0.0
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
	return p
}

func newTier(choices []choice, cfg balancer.Config, old *tier) tier {
	if old != nil && slices.Equal(choices, old.choices) {
		return *old
	}
	t := tier{choices: choices}
	entries := make([]balancer.Entry, 0, len(choices))
	for _, c := range choices {
		entries = append(entries, c.entry())
		t.endpoints = append(t.endpoints, c.endpoint)
	}
	if old != nil {
		t.set = old.set.With(entries)
	} else {
		t.set = balancer.NewSet(entries, cfg)
	}
	return t
}

// tier is where to pick from.
func (p *picker) tier(rng uint64, tried *balancer.Tried) *tier {
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

// endpoint is the one at an index of the set; nil at -1.
func (t *tier) endpoint(i int) *upstream.Endpoint {
	if i < 0 {
		return nil
	}
	return t.endpoints[i]
}

// panicking reports whether what serves is not believed to be well.
func (p *picker) panicking() bool {
	return slices.ContainsFunc(p.tiers[0].choices, func(c choice) bool { return c.admission.Panic })
}

// choice is one endpoint that a picker may hold.
type choice struct {
	endpoint  *upstream.Endpoint
	gate      *balancer.Gate
	priority  uint32
	weight    uint32 // base
	away      bool   // not in this sidecar's zone
	hash      uint64 // of its identity, the same at every sidecar
	rank      uint64 // among those of its level: this sidecar's own order
	admission outlier.Admission
}

// level is a part of a set that is used before the next one is.
type level struct {
	choices []choice
	whole   float64 // base weight of all that belong there
}

// choose returns those that may be picked, in levels: the ones in which an
// endpoint is believed to be well, first things first. Where there is none, what
// the detector offers of the first level that has anything; failing that, the
// least bad. There is always a level, and it is empty only if all is.
func choose(all []choice, cfg balancer.Config) []level {
	var sound, fallback []level
	for _, l := range levels(all, cfg.PreferZone) {
		l.choices = slices.DeleteFunc(l.choices, func(c choice) bool { return !c.offered() })
		switch {
		case slices.ContainsFunc(l.choices, choice.sound):
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
func levels(all []choice, preferZone bool) []level {
	type key struct {
		priority uint32
		away     bool
	}
	byKey := make(map[key]*level)
	for _, c := range all {
		k := key{priority: c.priority, away: preferZone && c.away}
		l := byKey[k]
		if l == nil {
			l = new(level)
			byKey[k] = l
		}
		l.choices = append(l.choices, c)
		if c.admission.State != outlier.Draining {
			l.whole += float64(c.weight)
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
			ranks = append(ranks, c.rank)
		}
	}
	if len(ranks) <= n {
		return l
	}
	slices.Sort(ranks)
	kept, part := make([]choice, 0, n), 0.0
	for _, c := range l.choices {
		if !c.sound() || c.rank < ranks[n] {
			kept = append(kept, c)
		}
		if c.sound() && c.rank < ranks[n] {
			part += float64(c.weight) * c.admission.Weight
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
				able += float64(c.weight) * c.admission.Weight
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
func leastBad(all []choice) []choice {
	var best []choice
	for _, c := range all {
		switch c.admission.Weight, c.admission.Panic = 1, true; {
		case len(best) == 0 || badness(c) < badness(best[0]):
			best = []choice{c}
		case badness(c) == badness(best[0]):
			best = append(best, c)
		}
	}
	return best
}

func badness(c choice) int {
	switch c.admission.State {
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
func (c choice) offered() bool { return c.admission.Weight > 0 || c.admission.Trickle > 0 }

// sound reports whether the detector believes that c can carry traffic.
func (c choice) sound() bool {
	return c.admission.Weight > 0 && c.admission.Trickle == 0 && !c.admission.Panic
}

// entry is how the balancer sees a choice.
func (c choice) entry() balancer.Entry {
	a := c.admission
	e := balancer.Entry{
		Stats:  c.endpoint.Stats,
		Weight: a.Weight * float64(c.weight),
		Held:   a.Weight != 1,
		Hash:   c.hash,
	}
	if a.Panic {
		return e
	}
	// A trickle is an attempt now and then; a probation one at a time, so that
	// an endpoint that still fails costs one request before it is known.
	if on := a.State == outlier.Probation; on || a.Trickle > 0 {
		e.Gate = c.gate.With(a.Trickle, on)
	}
	return e
}
