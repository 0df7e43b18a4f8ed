package controlplane

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// loans are the shares of endpoints under test, or suspended, that the table gives to
// Envoys and gRPC clients. A sidecar is told its own over its report stream. The others
// have none, or only speak on it: all of them are told a weight with the endpoints, so low
// that they try the endpoint together as often as the chosen ones would.
type loans map[merge.Key]*lent

type lent struct {
	epoch uint64
	by    map[string]loan // by reporter
}

type loan struct {
	weight float64
	until  time.Duration
}

// trickleGrace joins the turns of a trickle, one of which ends when the next begins.
const trickleGrace = 500 * time.Millisecond

// note takes in a share of one of them.
func (all loans) note(p merge.Share, now time.Duration) {
	have := all[p.Key]
	if have == nil || have.epoch != p.Epoch {
		have = &lent{epoch: p.Epoch, by: map[string]loan{}}
		all[p.Key] = have
	}
	until := now + p.For
	if p.Trickle > 0 {
		until += trickleGrace
	}
	have.by[p.Reporter] = loan{p.Weight, until}
	if p.Weight == 0 {
		delete(have.by, p.Reporter)
	}
}

// lapse drops what has ended and gives the keys of which something has.
func (all loans) lapse(now time.Duration) []merge.Key {
	var keys []merge.Key
	for k, have := range all {
		n := len(have.by)
		maps.DeleteFunc(have.by, func(_ string, one loan) bool { return now >= one.until })
		if len(have.by) < n {
			keys = append(keys, k)
		}
	}
	return keys
}

// next is when lapse has something to do.
func (all loans) next() time.Duration {
	next := never
	for _, have := range all {
		for _, one := range have.by {
			next = min(next, one.until)
		}
	}
	return next
}

// weight is what every one of so many clients must give for the sum of the loans.
func (have *lent) weight(clients int) float64 {
	sum := 0.0
	for _, one := range have.by {
		sum += one.weight
	}
	// A weight that wavers is not worth a publication; but of one that is rounded to nothing
	// nobody would hear again.
	each := math.Round(1000*min(sum/float64(max(clients, 1)), 1)) / 1000
	if sum > 0 {
		each = max(each, 0.001)
	}
	return each
}

// lend has foreign clients told what the table lends them of an endpoint, if that has changed.
func (l *loop) lend(k merge.Key, now time.Duration) {
	have := l.loans[k]
	clients := 0
	for _, r := range l.streams {
		if _, uses := slices.BinarySearch(r.services, k.Service); uses && r.foreign() {
			clients++
		}
	}
	if l.beliefs.lend(k, have.epoch, have.weight(clients)) {
		l.later(k.Service, now)
	}
	if len(have.by) == 0 {
		delete(l.loans, k)
	}
}

// lend sets what foreign clients are lent of an endpoint while the verdict of that epoch stands; it
// says whether that is news.
func (b beliefs) lend(k merge.Key, epoch uint64, weight float64) bool {
	for scope, v := range b[k] {
		tried := v.State == outlier.Probation || v.State == outlier.Suspended
		if v.Epoch == epoch && tried && v.trial != weight {
			v.trial = weight
			b[k][scope] = v
			return true
		}
	}
	return false
}
