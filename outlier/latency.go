package outlier

import (
	"math"
	"sync/atomic"
	"time"
)

// The latency histogram: 8 buckets an octave from 0.1 ms, 20 octaves.
const (
	histBuckets = 160
	histPerOct  = 8
	histFirst   = 100 * time.Microsecond
)

// bucket is where a latency is counted.
func bucket(latency time.Duration) int {
	if latency <= histFirst {
		return 0
	}
	return min(int(histPerOct*math.Log2(float64(latency)/float64(histFirst))), histBuckets-1)
}

// BucketUpper is the upper edge of bucket i of a [Summary]'s latency
// histogram: 8 buckets an octave, the first from 0.1 ms.
func BucketUpper(i int) time.Duration {
	return time.Duration(float64(histFirst) * math.Exp2(float64(i+1)/histPerOct))
}

// Percentiles are those of a group's latency to headers; 0 while unknown.
type Percentiles struct{ P50, P90, P99 time.Duration }

const (
	histEvery   = 10 * time.Second // how often percentiles are drawn
	histEnough  = 100              // samples below which a p99 is a guess
	histBusy    = 1000             // OKs per second from which 1 of 16 suffices
	histSampled = 15               // mask: 1 of 16
)

// latencies turns the cluster's histogram into percentiles: drawn each 10 s
// from what the last 10 s added and half of what was there before, so that
// they follow the day and survive a quiet while.
type latencies struct {
	total float64
	mask  uint32 // of every mask+1 OKs one is sampled
	drawn time.Duration
	known Percentiles
	p50s  [usualDraws]time.Duration // as drawn last, newest first; 0: not yet
	*heard
}

// heard is what is remembered of the histogram; nil until there is one.
type heard struct {
	seen    [histBuckets]uint32
	window  [histBuckets]float64
	seconds [4][histBuckets]uint32 // seen at the last whole seconds, newest first
}

const (
	usualDraws   = 12 // over how many draws the usual median is the lowest: two minutes
	slowerEnough = 8  // answers whose median is worth something
	slowerFew    = 4  // the same where there are no more in four seconds
	slowerLeast  = 2 * time.Millisecond
)

// tick is what a whole second brings; it says whether percentiles were drawn.
func (l *latencies) tick(s *shared, now time.Duration) (drawn bool) {
	counts := s.latency.Load()
	if counts == nil {
		l.drawn = now
		return false // nobody has answered yet
	}
	if l.heard == nil {
		l.heard = new(heard)
	}
	drawn = l.draw(counts, now)
	copy(l.seconds[1:], l.seconds[:])
	for i := range counts {
		l.seconds[0][i] = counts[i].Load()
	}
	return drawn
}

// slower is how many times the usual median the answers of the last seconds took, two
// if there were enough; 0 if there were too few. It is all endpoints' together, so that
// it takes half of them to move it. What is overloaded queues before it fails, and so
// this is the first sign. The usual median is the lowest of the last two minutes: a
// service that has become slower for good is soon taken for what it is.
func (l *latencies) slower(s *shared) float64 {
	usual := time.Duration(0)
	for _, p := range l.p50s {
		if p > 0 && (usual == 0 || p < usual) {
			usual = p
		}
	}
	if usual == 0 {
		return 0
	}
	all := s.latency.Load() // it is there: the median is known from it
	for back := 1; back < len(l.seconds); back++ {
		var counts [histBuckets]uint32
		total := uint32(0)
		for i := range all {
			counts[i] = all[i].Load() - l.seconds[back][i]
			total += counts[i]
		}
		if total < slowerFew || total < slowerEnough && back < len(l.seconds)-1 {
			continue
		}
		i, sum := 0, counts[0]
		for 2*sum < total {
			i++
			sum += counts[i]
		}
		if median := BucketUpper(i); median >= usual+slowerLeast {
			return float64(median) / float64(usual)
		}
		return 1
	}
	return 0
}

// draw updates the percentiles if it is time: each second until they are known.
func (l *latencies) draw(counts *[histBuckets]atomic.Uint32, now time.Duration) (drawn bool) {
	first := l.known == Percentiles{}
	if !first && now-l.drawn < histEvery {
		return false
	}
	dt, fresh := (now - l.drawn).Seconds(), uint32(0)
	l.drawn = now
	l.total = 0
	for i := range l.window {
		count := counts[i].Load()
		if !first {
			l.window[i] /= 2
		}
		fresh += count - l.seen[i]
		l.window[i] += float64(count - l.seen[i])
		l.seen[i] = count
		l.total += l.window[i]
	}
	switch rate := float64(fresh) * float64(l.mask+1) / dt; {
	case rate > histBusy:
		l.mask = histSampled
	case rate < histBusy/2:
		l.mask = 0
	}
	if l.total >= histEnough {
		l.known = PercentilesOf(l.window[:])
		copy(l.p50s[1:], l.p50s[:])
		l.p50s[0] = l.known.P50
	}
	return l.known != Percentiles{}
}

// LatencyBuckets is how many buckets a latency histogram has: see [BucketUpper].
const LatencyBuckets = histBuckets

// PercentilesOf are those of a histogram with [LatencyBuckets] buckets.
func PercentilesOf(counts []float64) Percentiles {
	total := 0.0
	for _, n := range counts {
		total += n
	}
	at := func(q float64) time.Duration { return BucketUpper(quantileOf(counts, q*total)) }
	return Percentiles{P50: at(0.5), P90: at(0.9), P99: at(0.99)}
}

// The two latency tests: more than a tenth slower than t90 = max(1.2 p90,
// 2 p50), and more than a hundredth slower than t99 = 1.2 p99 of the group.
var (
	SlowOften = Odds{0.1, 0.5}.Steps()
	SlowTail  = Odds{0.01, 0.05}.Steps()
)

// slowWindow is the longest look back at how slow an endpoint is.
const slowWindow = 10 * time.Second

// slowAlike is the weight from which on an endpoint is as slow as its neighbours,
// where they are slow.
const slowAlike = 0.7

// SlowShares are the parts of an endpoint's answers that took longer than t90 and t99.
type SlowShares struct{ Often, Tail float64 }

// Weight is what is left of an endpoint with these shares: that much less than its
// neighbours', or than what is usual if theirs are smaller still. A group that has
// become slow as a whole keeps its balance: to turn away from whoever of it was found
// slow first would overload the rest, and then back.
func (s SlowShares) Weight(others SlowShares) float64 {
	w := 1.0
	if s.Often > 0 {
		w = min(w, Clamp(max(0.1, others.Often)/s.Often, 0.1, 1))
	}
	if s.Tail > 0 {
		w = min(w, Clamp(max(0.02, 2*others.Tail)/s.Tail, 0.25, 1))
	}
	if w > slowAlike && (others.Often > 0.1 || others.Tail > 0.01) {
		return 1
	}
	return w
}

// slowness is what the latency tests say about one endpoint. It costs
// weight, never membership: slow answers are answers.
type slowness struct {
	often, tail int64
	since       time.Duration // when both scores were last 0
	alarmed     bool
	weight      float64 // 0 is taken as 1
	moved       time.Duration
	told        time.Duration // when the fleet was last to hear of it
	weighed     Weight        // by the fleet
}

// Weight is what the fleet makes of an endpoint that is slow for all callers, until
// it lapses.
type Weight struct {
	Share float64 // of its base weight
	Until time.Duration
}

// newsworthy says whether the fleet should hear of the scores before and after a
// Step: of each very slow answer where they are rare, since of many callers each may
// have seen but one; and else of two, or of a few slow ones in a row.
func (s *slowness) newsworthy(often, tail int64, now time.Duration) bool {
	switch {
	case s.tail >= slowTwice && tail < slowTwice, s.often >= slowOften && often < slowOften:
	case s.tail > 0 && tail == 0 && now-s.told >= slowRare:
	default:
		return false
	}
	s.told = now
	return true
}

const (
	slowTwice = 3 * Nat         // two very slow answers, shortly one after the other
	slowOften = 9 * Nat / 2     // three slow ones in a row
	slowRare  = 5 * time.Second // how often one very slow answer is news
	slowFresh = time.Second     // how long it is
)

// news says whether the endpoint is to be told of for its slowness.
func (s *slowness) news(now time.Duration) bool {
	return s.tail >= slowTwice || s.often >= slowOften || s.tail > 0 && now-s.told < slowFresh
}

// share is the weight that is left, by our own belief and the fleet's.
func (s *slowness) share(now time.Duration) float64 {
	share := 1.0
	if s.alarmed {
		share = s.weight
	}
	if now < s.weighed.Until {
		share = min(share, s.weighed.Share)
	}
	return share
}

// step takes the change of the counters since the last Step; recent reads since an
// instant what shares of its answers, and of its typical neighbour's, were slow and
// very slow. It answers whether the alarm began or ended.
func (s *slowness) step(c Config, delta Counts, now time.Duration, recent func(since time.Duration) (own, others SlowShares)) (changed bool) {
	oks := int64(delta.N - delta.K())
	if s.often == 0 && s.tail == 0 {
		s.since = now
	}
	ha, hb := milli(c.HA), milli(c.HB)
	s.often = min(2*ha, SlowOften.Cusum(s.often, oks, min(oks, int64(delta.N90))))
	s.tail = min(2*hb, SlowTail.Cusum(s.tail, oks, min(oks, int64(delta.N99))))
	switch {
	case s.often >= ha || s.tail >= hb:
		own, others := recent(max(s.since, now-slowWindow))
		weight := own.Weight(others)
		if weight == 1 && !s.alarmed {
			return false // it is slow, and so are they all
		}
		changed = !s.alarmed
		s.weight = weight
		s.alarmed, s.moved = true, now
	case s.alarmed && s.often == 0 && s.tail == 0:
		s.weight += 0.1 * (now - s.moved).Seconds()
		s.moved = now
		if s.weight >= 1 {
			*s = slowness{told: s.told, weighed: s.weighed}
			changed = true
		}
	default:
		s.moved = now
	}
	return changed
}
