package cadence

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// Trial is a probation: a share in the traffic to an endpoint that is out for others,
// of which the outcomes decide. The trickle of a suspension is none.
type Trial struct {
	Epoch uint64
	until time.Duration
	base  outlier.Counts // when it began
	told  outlier.Counts // since then
}

// Weight is the part of its base weight that an endpoint gets by an order. A trickle
// is attempts per second.
func Weight(s merge.Share) float64 {
	if s.Trickle > 0 {
		return min(1, 1/s.Trickle.Seconds())
	}
	return s.Weight
}

// Lend takes over an order that came at now: held is the endpoint's present trial, nil
// if there is none, and counts reads its counters. It returns the trial from now on.
func Lend(held *Trial, s merge.Share, now time.Duration, counts func() outlier.Counts) *Trial {
	switch {
	case held != nil && held.Epoch == s.Epoch:
		held.until = now + s.For
		if Weight(s) == 0 {
			held.until = now
		}
	case Weight(s) > 0 && s.Trickle == 0:
		return &Trial{Epoch: s.Epoch, until: now + s.For, base: counts()}
	}
	return held
}

// Count compares the endpoint's counters with those of the last turn. News are to be
// told at once; over: the trial has ended.
func (t *Trial) Count(turn *Turn, now outlier.Counts) (since outlier.Counts, news, over bool) {
	since = now.Sub(t.base)
	news, t.told = since != t.told, since
	if t.until <= turn.Now {
		return since, news, true
	}
	turn.Again(turn.Now + shareGap)
	return since, news, false
}
