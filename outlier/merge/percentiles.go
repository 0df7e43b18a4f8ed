package merge

import (
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

const (
	// latencyEvery is how often the percentiles of a service are drawn; latencyEnough
	// is how many answers that takes.
	latencyEvery  = 10 * time.Second
	latencyEnough = 100
	// latencyNews is by what part a percentile must have moved to be told again. A
	// bucket is a twelfth wide, and a percentile near its edge goes to and fro.
	latencyNews = 0.15
)

// latencies are how long the answers of a service take, by what all reporters count.
// They serve reporters that see too little to know.
type latencies struct {
	window [outlier.LatencyBuckets]float64 // half of what was there at each draw
	total  float64
	drawn  time.Duration
	known  outlier.Percentiles // as told; zero: not yet
}

// hearLatency takes in the histogram of a reporter: cumulative counts of the buckets
// that have changed, by bucket.
func (u *use) hearLatency(counts []outlier.LatencyCount) {
	l := u.service.latency
	if l == nil {
		l = new(latencies)
		u.service.latency = l
	}
	for _, c := range counts {
		if c.Bucket < 0 || c.Bucket >= outlier.LatencyBuckets {
			continue
		}
		i, found := slices.BinarySearchFunc(u.latency, c.Bucket, func(have outlier.LatencyCount, bucket int) int { return have.Bucket - bucket })
		if !found {
			u.latency = slices.Insert(u.latency, i, c)
			if !u.counted {
				continue // it may be the sum of a whole life
			}
			u.latency[i].Count = 0
		}
		if d := c.Count - u.latency[i].Count; d < 1<<31 {
			l.window[c.Bucket] += float64(d)
			l.total += float64(d)
		}
		u.latency[i].Count = c.Count
	}
	u.counted = u.counted || len(counts) > 0
}

// drawLatency draws the percentiles of a service when it is time, and tells them to
// those who have not heard them.
func (t *Table) drawLatency(s *service, now time.Duration) {
	l := s.latency
	if l == nil {
		return
	}
	if now-l.drawn >= latencyEvery && l.total >= latencyEnough {
		if drawn := outlier.PercentilesOf(l.window[:]); moved(l.known, drawn) {
			l.known = drawn
		}
		l.drawn, l.total = now, l.total/2
		for i := range l.window {
			l.window[i] /= 2
		}
	}
	if l.known == (outlier.Percentiles{}) {
		return
	}
	news := Settings{Service: s.name, Latency: l.known}
	for _, r := range s.reporters {
		if u := r.services[s.name]; r.live && u != nil && u.latencyTold != l.known {
			u.latencyTold = l.known
			news.Reporters = append(news.Reporters, r.ID)
		}
	}
	if len(news.Reporters) > 0 {
		t.out.Settings = append(t.out.Settings, news)
	}
}

func moved(was, is outlier.Percentiles) bool {
	far := func(a, b time.Duration) bool { return float64((a - b).Abs()) > latencyNews*float64(a) }
	return far(was.P50, is.P50) || far(was.P90, is.P90) || far(was.P99, is.P99)
}
