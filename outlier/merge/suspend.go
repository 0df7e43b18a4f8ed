package merge

import (
	"fmt"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

const (
	// suspendFor is how long a suspend stands without new signs of a stall.
	suspendFor = 2 * time.Second
	// trickleSidecars send tricklePerSecond attempts between them to a suspended
	// endpoint, so that somebody notices when it answers again.
	trickleSidecars = 3
	// shareFor is when a share lapses that is not renewed, shareRenew how often it
	// is.
	shareFor   = 5 * time.Second
	shareRenew = 2 * time.Second
)

// suspend stops traffic reversibly: attempts hang at several fault domains and
// nobody has an answer.
func (t *Table) suspend(e *endpoint, s Scope, now time.Duration) {
	rec := e.record(s)
	t.endRound(e)
	if rec.state != outlier.In && rec.state != outlier.Ramp {
		return
	}
	c := &candidate{e: e, rule: outlier.RuleStalled, scope: s}
	c.reason = fmt.Sprintf("attempts hang at %d fault domains and nobody has an answer", t.domainsOf(string(s), e.susp.stalled, e.susp.hard))
	ok, detail := e.group.mayLeave(e, s, false, now)
	if !c.guard("cap", ok, "%s", detail) {
		t.refuse(c, "cap", now)
		e.susp.shutUntil = now + shutFor
		return
	}
	if e.group.service.policy.Outlier.Mode == outlier.Shadow {
		t.refuse(c, "shadow", now)
		e.susp.shutUntil = now + shutFor
		return
	}
	rec.explain = t.explainCandidate(c, now)
	t.set(e, rec, outlier.Suspended, outlier.RuleStalled, c.reason, now)
	rec.ends = now + suspendFor
	t.trickle(e, rec, now)
}

// keepSuspended renews or ends a suspend. The first answer ends it; so does the
// want of any sign that attempts still hang.
func (t *Table) keepSuspended(e *endpoint, rec *record, now time.Duration) {
	if t.answered(e, rec.scope, now) > rec.since {
		t.endTrial(rec)
		t.set(e, rec, outlier.In, outlier.RuleStalled, "it answers again", now)
		return
	}
	for _, i := range e.hot {
		x := e.cells[i].x
		stalled := x.overdueAt
		if x.probe == outlier.TimedOut {
			stalled = max(stalled, x.probeEnd)
		}
		if !t.slots[e.cells[i].reporter].domain.muted(now) {
			rec.ends = max(rec.ends, stalled+suspendFor)
		}
	}
	if now >= rec.ends {
		t.endTrial(rec)
		t.set(e, rec, outlier.In, outlier.RuleStalled, "nothing hangs any more", now)
		return
	}
	t.due(rec.ends)
	t.trickle(e, rec, now)
}

// answered is when an observer in the scope last had an answer.
func (t *Table) answered(e *endpoint, s Scope, now time.Duration) time.Duration {
	if s == Fleet {
		return max(e.lastOK, e.overAt)
	}
	at := never
	for i := range e.cells {
		if r := t.slots[e.cells[i].reporter]; r.Zone == string(s) && !r.domain.muted(now) {
			at = max(at, e.cells[i].lastOK)
		}
	}
	return at
}

// trickle lets a few sidecars go on trying.
func (t *Table) trickle(e *endpoint, rec *record, now time.Duration) {
	if rec.trial == nil {
		rec.trial = &trial{renewed: never}
	}
	tr := rec.trial
	if tr.renewed != never && now < tr.renewed+shareRenew {
		return
	}
	tr.renewed = now
	users := slices.DeleteFunc(t.users(e, rec.scope, now), func(r *reporter) bool { return r.domain.muted(now) })
	chosen := t.choose(users, trickleSidecars, func(r *reporter) uint64 {
		return hash64(t.seed, "trickle", e.Key.Service, e.Key.Instance, r.ID)
	})
	tr.chosen = chosen
	for _, r := range chosen {
		t.out.Shares = append(t.out.Shares, Share{
			Reporter: r.ID, Key: e.Key, Epoch: rec.epoch, For: shareFor,
			Weight: e.group.service.policy.Outlier.Trickle, Trickle: time.Duration(len(chosen)) * time.Second,
		})
	}
}
