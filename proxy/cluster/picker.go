package cluster

import (
	"cmp"
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
	if before != nil && slices.Equal(p.choices, before.choices) {
		return before
	}
	entries := make([]balancer.Entry, len(p.choices))
	p.endpoints = make([]*upstream.Endpoint, len(p.choices))
	for i, c := range p.choices {
		entries[i], p.endpoints[i] = c.entry(), c.endpoint
		p.panicking = p.panicking || c.admission.Panic
	}
	if before != nil && before.set.Policy() == cfg.Policy {
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

// choose returns those that may be picked: the first priority that has anything
// to offer, before the first one that is in panic, before the least bad of all.
// It never returns nothing, unless there is nothing.
func choose(all []choice) []choice {
	var panicking []choice
	for _, level := range levels(all) {
		usable := slices.DeleteFunc(level, func(c choice) bool { return !(c.admission.Weight > 0) })
		switch {
		case len(usable) == 0:
		case !usable[0].admission.Panic:
			return usable
		case panicking == nil:
			panicking = usable
		}
	}
	if panicking != nil {
		return panicking
	}
	return leastBad(all)
}

// levels groups by priority, the first one first, and keeps the order within.
func levels(all []choice) [][]choice {
	sorted := slices.SortedStableFunc(slices.Values(all), func(a, b choice) int {
		return cmp.Compare(a.priority, b.priority)
	})
	var out [][]choice
	for len(sorted) > 0 {
		first := sorted[0].record.spec.Priority
		n := slices.IndexFunc(sorted, func(c choice) bool { return c.priority != first })
		if n < 0 {
			n = len(sorted)
		}
		out = append(out, sorted[:n:n])
		sorted = sorted[n:]
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

// entry is how the balancer sees a choice.
func (c choice) entry() balancer.Entry {
	a := c.admission
	e := balancer.Entry{
		Stats:  c.endpoint.Stats,
		Weight: a.Weight * float64(c.weight),
		Held:   a.Weight < 1,
	}
	if a.Panic {
		return e
	}
	switch a.State {
	case outlier.Suspended:
		// A share of what it would get, and one attempt now and then however
		// small that is: the first answer ends the suspension.
		e.Gate = c.gate.With(0, a.Trickle, false)
	case outlier.Probation:
		e.Gate = c.gate.With(a.Trickle, 0, true)
	}
	return e
}
