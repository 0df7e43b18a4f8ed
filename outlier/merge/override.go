package merge

import (
	"errors"
	"fmt"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Errors of Override and Release.
var (
	ErrUnknownEndpoint = errors.New("no such endpoint")
	ErrOverride        = errors.New("an override is eject or pin")
	ErrLastEndpoint    = errors.New("it is the last usable endpoint")
	ErrNoOverride      = errors.New("nothing to release")
)

// Override puts an operator's order into force. Its changes come with the next
// Step. The last usable endpoint of a group cannot be ejected even by hand.
func (t *Table) Override(k Key, o Override, now time.Duration) error {
	t.now = max(t.now, now)
	e := t.endpoints[k]
	switch {
	case e == nil:
		return fmt.Errorf("endpoint %s: %w", k, ErrUnknownEndpoint)
	case o.Kind != OverrideEject && o.Kind != OverridePin:
		return fmt.Errorf("override %q: %w", o.Kind, ErrOverride)
	case o.Kind == OverrideEject && e.lastUsable():
		return fmt.Errorf("endpoint %s: %w", k, ErrLastEndpoint)
	}
	o.Left = 0
	e.override = &o
	e.overrideNews = true
	t.touch(e)
	t.due(now)
	return nil
}

// Release ends an operator's order. An endpoint that it ejected comes back by
// probes and probation, like any other.
func (t *Table) Release(k Key, now time.Duration) error {
	t.now = max(t.now, now)
	e := t.endpoints[k]
	switch {
	case e == nil:
		return fmt.Errorf("endpoint %s: %w", k, ErrUnknownEndpoint)
	case e.override == nil:
		return fmt.Errorf("endpoint %s: %w", k, ErrNoOverride)
	}
	e.override = nil
	e.overrideNews = true
	t.touch(e)
	t.due(now)
	return nil
}

// lastUsable says whether nobody of the group would be left without e, in any
// zone's eyes.
func (e *endpoint) lastUsable() bool {
	g := e.group
	for _, view := range g.views() {
		if !e.out(view) && g.countOut(view)+1 >= g.judged() {
			return true
		}
	}
	return false
}

// obey carries out what an operator ordered, released, or let run out.
func (t *Table) obey(e *endpoint, now time.Duration) {
	if o := e.override; o != nil && o.Until != 0 {
		if now >= o.Until {
			e.override, e.overrideNews = nil, true
		} else {
			t.due(o.Until)
		}
	}
	if o := e.override; o != nil && o.Kind == OverrideEject && !e.fleet.state.Out() && !e.lastUsable() {
		e.overrideNews = true // it had to be used again for want of others, who are back
	}
	if !e.overrideNews {
		return
	}
	e.overrideNews = false
	r := &e.fleet
	switch o := e.override; {
	case o == nil && r.rule == outlier.RuleManual && r.state == outlier.Ejected:
		t.set(e, r, outlier.Probing, outlier.RuleManual, "an operator's order is over", now)
		r.wait = e.group.service.policy.Outlier.HoldBase
		r.ends = now
	case o == nil:
		r.explain.Override = nil
	case o.Kind == OverrideEject:
		if e.lastUsable() {
			e.override = nil // the others left since it was ordered
			return
		}
		x := t.explainBase(e, r, now)
		x.Rule, x.Reason, x.Override = outlier.RuleManual.String(), o.Reason, o
		t.eject(e, Fleet, outlier.RuleManual, x, now)
		r.explain.Next, r.explain.ETA = t.next(e, r, now)
		t.amend(e, r)
	case o.Kind == OverridePin:
		t.endRound(e)
		e.susp.confirmed = never
		e.closeRows(Fleet, now)
		for _, r := range e.records() {
			if r.state != outlier.In {
				t.endTrial(r)
				t.set(e, r, outlier.In, outlier.RuleManual, o.Reason, now)
			}
		}
	}
}
