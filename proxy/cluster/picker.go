package cluster

import (
	"maps"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/balancer"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// picker is what requests choose from. It is immutable. The first tier serves;
// the next one those retries that have been to all of the first.
type picker struct{ tiers []tier }

// tier is a set of endpoints of one priority.
type tier struct {
	set       *balancer.Set
	endpoints []*upstream.Endpoint // by index of the set
	choices   []choice
}

// newPicker offers what choose leaves of all. A tier stays as it was in before,
// which may be nil, if nothing in it has changed.
func newPicker(all []choice, cfg balancer.Config, before *picker) *picker {
	p := new(picker)
	for i, choices := range choose(all) {
		var old *tier
		if before != nil && i < len(before.tiers) && before.tiers[i].set.Policy() == cfg.Policy {
			old = &before.tiers[i]
		}
		p.tiers = append(p.tiers, newTier(choices, cfg, old))
	}
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

// pick chooses an endpoint; nil: there is none.
func (p *picker) pick(rng uint64, now time.Duration, tried *balancer.Tried) *upstream.Endpoint {
	t := &p.tiers[0]
	if tried != nil && tried.Len() > 0 {
		t = p.untried(tried)
	}
	if i := t.set.Pick(rng, now, tried); i >= 0 {
		return t.endpoints[i]
	}
	return nil
}

// untried is the first tier that has something new; the first of all if none has.
func (p *picker) untried(tried *balancer.Tried) *tier {
	for i := range p.tiers {
		if !p.tiers[i].set.Exhausted(tried) {
			return &p.tiers[i]
		}
	}
	return &p.tiers[0]
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
	admission outlier.Admission
}

// choose returns those that may be picked, in tiers: the priorities in which an
// endpoint is believed to be well, first things first. Where there is none, what
// the detector offers of the first priority that has anything; failing that, the
// least bad. There is always a tier, and it is empty only if all is.
func choose(all []choice) [][]choice {
	var sound, fallback [][]choice
	for _, level := range levels(all) {
		offered := slices.DeleteFunc(level, func(c choice) bool { return !c.offered() })
		switch {
		case slices.ContainsFunc(offered, choice.sound):
			sound = append(sound, offered)
		case len(offered) > 0:
			fallback = append(fallback, offered)
		}
	}
	switch {
	case sound != nil:
		return sound
	case fallback != nil:
		return fallback[:1]
	}
	return [][]choice{leastBad(all)}
}

// levels groups by priority, the first one first, and keeps the order within.
func levels(all []choice) [][]choice {
	byPriority := make(map[uint32][]choice)
	for _, c := range all {
		byPriority[c.priority] = append(byPriority[c.priority], c)
	}
	var out [][]choice
	for _, p := range slices.Sorted(maps.Keys(byPriority)) {
		out = append(out, byPriority[p])
	}
	return out
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
