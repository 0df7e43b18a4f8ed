package outlier

import (
	"math"
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
	histRich    = 1000             // samples from which 1 of 16 suffices
	histSampled = 15               // mask: 1 of 16
)

// latencies turns the cluster's histogram into percentiles: drawn each 10 s
// from what the last 10 s added and half of what was there before, so that
// they follow the day and survive a quiet while.
type latencies struct {
	seen   [histBuckets]uint32
	window [histBuckets]float64
	total  float64
	drawn  time.Duration
	known  Percentiles
}

// draw updates the percentiles if it is time: each second until they are known.
func (l *latencies) draw(s *shared, now time.Duration) (drawn bool) {
	first := l.known == Percentiles{}
	if !first && now-l.drawn < histEvery {
		return false
	}
	l.drawn = now
	l.total = 0
	for i := range l.window {
		count := s.latency[i].Load()
		if !first {
			l.window[i] /= 2
		}
		l.window[i] += float64(count - l.seen[i])
		l.seen[i] = count
		l.total += l.window[i]
	}
	if l.total >= histEnough {
		l.known = Percentiles{P50: l.quantile(0.5), P90: l.quantile(0.9), P99: l.quantile(0.99)}
	}
	return l.known != Percentiles{}
}

func (l *latencies) quantile(q float64) time.Duration {
	return BucketUpper(quantileOf(l.window[:], q*l.total))
}

func (l *latencies) sampleMask() uint32 {
	if l.total < histRich {
		return 0
	}
	return histSampled
}

// The two latency tests: more than a tenth slower than t90 = max(1.2 p90,
// 2 p50), and more than a hundredth slower than t99 = 1.2 p99 of the group.
var (
	slowOften = Odds{0.1, 0.5}.Steps()
	slowTail  = Odds{0.01, 0.05}.Steps()
)

// slowWindow is the longest look back at how slow an endpoint is.
const slowWindow = 10 * time.Second

// slowness is what the latency tests say about one endpoint. It costs
// weight, never membership: slow answers are answers.
type slowness struct {
	often, tail int64
	since       time.Duration // when both scores were last 0
	alarmed     bool
	weight      float64 // 0 is taken as 1
	moved       time.Duration
}

func (s *slowness) share() float64 {
	if !s.alarmed {
		return 1
	}
	return s.weight
}

// step takes the change of the counters since the last Step; recent reads
// the change since an instant. It answers whether the alarm began or ended.
func (s *slowness) step(c Config, delta Counts, now time.Duration, recent func(since time.Duration) Counts) (changed bool) {
	oks := int64(delta.N - delta.K())
	if s.often == 0 && s.tail == 0 {
		s.since = now
	}
	ha, hb := milli(c.HA), milli(c.HB)
	s.often = min(2*ha, slowOften.Cusum(s.often, oks, min(oks, int64(delta.N90))))
	s.tail = min(2*hb, slowTail.Cusum(s.tail, oks, min(oks, int64(delta.N99))))
	switch {
	case s.often >= ha || s.tail >= hb:
		changed = !s.alarmed
		seen := recent(max(s.since, now-slowWindow))
		good := float64(max(1, seen.N-seen.K()))
		s.weight = 1
		if x := float64(seen.N90) / good; x > 0 {
			s.weight = min(s.weight, Clamp(0.1/x, 0.1, 1))
		}
		if x := float64(seen.N99) / good; x > 0 {
			s.weight = min(s.weight, Clamp(0.02/x, 0.25, 1))
		}
		s.alarmed, s.moved = true, now
	case s.alarmed && s.often == 0 && s.tail == 0:
		s.weight += 0.1 * (now - s.moved).Seconds()
		s.moved = now
		if s.weight >= 1 {
			*s = slowness{}
			changed = true
		}
	default:
		s.moved = now
	}
	return changed
}
