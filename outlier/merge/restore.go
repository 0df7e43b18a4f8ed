package merge

import (
	"cmp"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Verdicts reads out everything that must outlive the owner of the table:
// verdicts other than a clean "in", records of ejections, and operators' orders.
// They are sorted by endpoint and scope.
func (t *Table) Verdicts() []Verdict {
	var list []Verdict
	for _, e := range t.endpoints {
		for _, r := range e.records() {
			if r.state == outlier.In && r.n == 0 && (e.override == nil || r.scope != Fleet) {
				continue
			}
			v := r.verdict(e)
			v.Age = t.now - v.Since
			if v.Override != nil {
				o := *v.Override
				if o.Until != 0 {
					o.Left = max(o.Until-t.now, time.Millisecond)
				}
				v.Override = &o
			}
			list = append(list, v)
		}
	}
	for _, vs := range t.restored {
		list = append(list, vs...)
	}
	slices.SortFunc(list, func(a, b Verdict) int {
		return cmp.Or(a.Key.compare(b.Key), cmp.Compare(a.Scope, b.Scope))
	})
	return list
}

// Restore puts verdicts into force that an earlier owner of the table had read
// out. It comes before the first Step; the endpoints may be named later. Whoever
// was out is out, its hold-off begins anew, and the next epoch is above all of
// theirs: a restart readmits nobody.
func (t *Table) Restore(vs []Verdict, now time.Duration) {
	t.now = max(t.now, now)
	for _, v := range vs {
		t.raise(v.Epoch)
		if e := t.endpoints[v.Key]; e != nil {
			t.restore(e, v, now)
			continue
		}
		same := func(o Verdict) bool { return o.Scope == v.Scope }
		t.restored[v.Key] = append(slices.DeleteFunc(t.restored[v.Key], same), v)
	}
}

// Held takes over what a reporter says it was told before: the verdicts with
// which it routes at this moment. The epoch rises above them, so that what is
// decided next is believed. A verdict that the table knows nothing of, because
// its file was lost, is taken over when more than f fault domains hold it; one
// reporter alone could invent it.
func (t *Table) Held(reporter string, vs []Verdict, now time.Duration) {
	t.now = max(t.now, now)
	rep := t.reporters[reporter]
	if rep == nil {
		return
	}
	for _, v := range vs {
		t.raise(v.Epoch)
		e := t.endpoints[v.Key]
		if e == nil || !v.State.Out() || v.Scope != Fleet && string(v.Scope) != rep.Zone {
			continue
		}
		r := e.record(v.Scope)
		if r.epoch >= v.Epoch || r.state.Out() {
			continue
		}
		h := heldVerdict{v.Scope, v.Epoch}
		if e.held == nil {
			e.held = make(map[heldVerdict][]*domain)
		}
		if !slices.Contains(e.held[h], rep.domain) {
			e.held[h] = append(e.held[h], rep.domain)
		}
		if len(e.held[h]) > e.group.service.policy.LeaveOut {
			if ok, _ := e.group.count().mayLeave(e, v.Scope, true, now); ok {
				t.restore(e, v, now)
				t.touch(e)
			}
		}
	}
}

type heldVerdict struct {
	scope Scope
	epoch uint64
}

// maxEpoch bounds what a reporter can make the epoch jump to.
const maxEpoch = 1 << 48

func (t *Table) raise(epoch uint64) {
	if epoch < maxEpoch {
		t.epoch = max(t.epoch, epoch)
	}
}

func (t *Table) restore(e *endpoint, v Verdict, now time.Duration) {
	e.held = nil
	r := e.record(v.Scope)
	p := &e.group.service.policy.Outlier
	*r = record{
		scope: v.Scope, state: v.State, rule: v.Rule, epoch: v.Epoch, n: max(v.N, 0), since: now, forgave: now,
		rampFrom: v.RampFrom, explain: v.Explain, wait: p.HoldBase, hung: never,
		away: now - v.Age - time.Duration(v.Explain.Away), cause: cmp.Or(v.Explain.Cause, v.Explain.Reason),
	}
	r.convict(v.Rule, v.Explain.Counts)
	if v.Override != nil && v.Scope == Fleet {
		o := *v.Override
		if o.Until != 0 {
			o.Until = now + o.Left
		}
		o.Left = 0
		e.override = &o
	}
	hold := holdOff(p, v.N)
	switch v.State {
	case outlier.Ejected, outlier.Probing:
		r.state, r.wait = outlier.Ejected, hold
		r.ends = now + jittered(hold, p.Jitter, hash64(t.seed, "hold", e.Key.Service, e.Key.Instance))
	case outlier.Probation:
		// It begins again at the next Step, by when reporters have told which epochs they hold.
		r.trial = newTest(now)
		r.trial.lost = true
	case outlier.Suspended:
		// Reporters need a moment to come back before their silence ends it.
		r.ends = now + t.cfg.ReporterHeard
	case outlier.In, outlier.Ramp:
	default:
		r.state = outlier.In
	}
	t.touch(e)
	t.due(now)
}
