package cadence

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// Trial is a probation: a share in the traffic to an endpoint that is out for others,
// of which the outcomes decide. The trickle of a suspension is none. What was begun under
// the share is told also after that has lapsed, and while the probation lasts a later
// share goes on from there.
type Trial struct {
	Epoch uint64
	until time.Duration
	base  outlier.Counts // when it began
	told  outlier.Counts // since then
	rests bool           // the share has lapsed, and nothing is outstanding
	anew  bool           // whoever was told has gone
}

// Standing is how the endpoint of a trial stands.
type Standing struct {
	Epoch    uint64         // of the verdict that is held
	Counts   outlier.Counts // of what began under it: [outlier.Endpoint.Fresh]
	Inflight int
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
// if there is none, and counts reads its [Standing].Counts. It returns the trial from now on.
func Lend(held *Trial, s merge.Share, now time.Duration, counts func() outlier.Counts) *Trial {
	switch {
	case held != nil && held.Epoch == s.Epoch:
		held.until = now + s.For
		if Weight(s) == 0 {
			held.until = now
		} else if held.rests {
			held.base, held.rests = counts().Sub(held.told), false
		}
	case Weight(s) > 0 && s.Trickle == 0:
		return &Trial{Epoch: s.Epoch, until: now + s.For, base: counts()}
	}
	return held
}

// Retell has Count tell all again: it is another stream.
func (t *Trial) Retell() { t.anew = true }

// Count compares how the endpoint stands with the last turn. News are to be told at
// once; over: the probation has ended.
func (t *Trial) Count(turn *Turn, s Standing) (since outlier.Counts, news, over bool) {
	news, t.anew = t.anew && t.told != (outlier.Counts{}), false
	switch {
	case s.Epoch > t.Epoch:
		return t.told, false, true
	case t.rests:
		return t.told, news, s.Epoch < t.Epoch
	case s.Epoch < t.Epoch: // a share counts for nothing before its verdict is held
		t.base = s.Counts.Sub(t.told)
	}
	since = s.Counts.Sub(t.base)
	if c := since.Sub(t.told); int32(c.N) < 0 || int32(c.Conn) < 0 || int32(c.Timeout) < 0 || int32(c.Server) < 0 {
		since = t.told // see Endpoint.Fresh
	}
	news, t.told = news || since != t.told, since
	if t.until <= turn.Now && (s.Inflight == 0 || s.Epoch < t.Epoch) {
		t.rests = true
	} else {
		turn.Again(turn.Now + shareGap)
	}
	return since, news, false
}
