package cluster

import (
	"maps"
	"slices"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/proxy/balancer"
	"github.com/overhear-mesh/overhear/proxy/upstream"
)

// picker is what requests choose from. It is immutable.
type picker struct {
	set       *balancer.Set
	endpoints []*upstream.Endpoint // by index of the set
	choices   []choice
	panicking bool // fail open: what is picked is not believed to be well
}

// newPicker offers what choose leaves of all. before, which may be nil, is the
// picker whose place it takes: if nothing has changed it stays.
func newPicker(all []choice, cfg balancer.Config, before *picker) *picker {
	p := &picker{choices: choose(all)}
	same := before != nil && before.set.Policy() == cfg.Policy
	if same && slices.Equal(p.choices, before.choices) {
		return before
	}
	entries := make([]balancer.Entry, len(p.choices))
	p.endpoints = make([]*upstream.Endpoint, len(p.choices))
	for i, c := range p.choices {
		entries[i], p.endpoints[i] = c.entry(), c.endpoint
		p.panicking = p.panicking || c.admission.Panic
	}
	if same {
		p.set = before.set.With(entries)
	} else {
		p.set = balancer.NewSet(entries, cfg)
	}
	return p
}

// choice is one endpoint that a picker may hold.
type choice struct {
	endpoint  *upstream.Endpoint
	gate      *balancer.Gate
	priority  uint32
	weight    uint32 // base
	admission outlier.Admission
}

// choose returns those that may be picked: of the first priority that has an
// endpoint which is believed to be well; else what the detector offers of the
// first priority that has anything; else the least bad. It returns nothing only
// if there is nothing.
func choose(all []choice) []choice {
	var fallback []choice
	for _, level := range levels(all) {
		offered := slices.DeleteFunc(level, func(c choice) bool { return !c.offered() })
		if slices.ContainsFunc(offered, choice.sound) {
			return offered
		}
		if fallback == nil && len(offered) > 0 {
			fallback = offered
		}
	}
	if fallback != nil {
		return fallback
	}
	return leastBad(all)
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
