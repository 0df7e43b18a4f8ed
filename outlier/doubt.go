package outlier

import (
	"sync/atomic"
	"time"
)

// lhmMax is the most that a sidecar distrusts itself (Lifeguard's local
// health multiplier; Dadgar, Phillips, Currey 2017).
const lhmMax = 7

// Self is how far one process distrusts its own observations. All Detectors
// of a process share one, because it takes two clusters to tell "my network
// is broken" from "that service is broken". It is all atomics; anybody may
// call its methods.
//
// Each second in which something was wrong with ourselves adds 1, each clean
// second subtracts 1: more than half of the endpoints with traffic, at least
// 4 in at least 2 clusters, turned bad in that second; a Step came 50 ms
// late; somebody reported [Self.Trouble].
type Self struct {
	seconds [4]selfSecond // a ring: one is filled, one is closed, two are at rest
	judged  atomic.Int64  // the last second that was judged
	lhm     atomic.Int32
	muted   atomic.Int64 // until when
}

type selfSecond struct {
	of                                atomic.Int64 // which second it is
	active, turned, clusters, trouble atomic.Int32
}

// NewSelf begins without doubt.
func NewSelf() *Self { return new(Self) }

// LHM is the doubt, 0 to 7.
func (s *Self) LHM() int { return int(s.lhm.Load()) }

// Trouble notes that something was wrong with ourselves: no file descriptors
// or ports left, the link down, the CPU throttled, a Step that came late.
func (s *Self) Trouble(now time.Duration) { s.at(now).trouble.Store(1) }

// at is the second of now. One in the same place that nobody judged, because all
// clusters were at rest, is forgotten.
func (s *Self) at(now time.Duration) *selfSecond {
	second := int64(now / time.Second)
	at := &s.seconds[uint64(second)%uint64(len(s.seconds))]
	if was := at.of.Load(); was != second && at.of.CompareAndSwap(was, second) {
		at.active.Store(0)
		at.turned.Store(0)
		at.clusters.Store(0)
		at.trouble.Store(0)
	}
	return at
}

// tally adds what one cluster saw in the second before now, and judges the
// second before that, to which every cluster had a second's time to add.
func (s *Self) tally(now time.Duration, active, turned int) {
	closed := s.at(now - time.Second)
	if active > 0 {
		closed.clusters.Add(1)
	}
	closed.active.Add(int32(active))
	closed.turned.Add(int32(turned))

	second := int64(now/time.Second) - 2
	was := s.judged.Load()
	if second <= was || !s.judged.CompareAndSwap(was, second) {
		return
	}
	judged := s.at(time.Duration(second) * time.Second)
	n, bad, clusters := judged.active.Swap(0), judged.turned.Swap(0), judged.clusters.Swap(0)
	step := int32(-1)
	if judged.trouble.Swap(0) != 0 || (n >= 4 && clusters >= 2 && 2*bad > n) {
		step = 1
	}
	s.lhm.Store(min(lhmMax, max(0, s.lhm.Load()+step)))
}
