package report

import "time"

// bucket is a token bucket that lends: take always takes a token, and says how long to
// wait until it is earned.
type bucket struct {
	gap   time.Duration // per token
	burst time.Duration // gap x tokens
	empty time.Duration // the instant at which all tokens taken are earned
}

func newBucket(rate, burst int) *bucket {
	gap := time.Second / time.Duration(rate)
	return &bucket{gap: gap, burst: gap * time.Duration(burst)}
}

func (b *bucket) take(now time.Duration) (wait time.Duration) {
	b.empty = max(b.empty, now) + b.gap
	return max(0, b.empty-now-b.burst)
}
