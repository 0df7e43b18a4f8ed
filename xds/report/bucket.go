package report

import (
	"context"
	"time"
)

// Bucket is a token bucket that lends: Take always takes a token, and says how long to
// wait until it is earned.
type Bucket struct {
	gap   time.Duration // per token
	burst time.Duration // gap x tokens
	empty time.Duration // the instant at which all tokens taken are earned
}

// NewBucket earns a token in each gap and lends so many.
func NewBucket(gap time.Duration, burst int) *Bucket {
	return &Bucket{gap: gap, burst: gap * time.Duration(burst)}
}

// Take takes a token.
func (b *Bucket) Take(now time.Duration) (wait time.Duration) {
	b.empty = max(b.empty, now) + b.gap
	return max(0, b.empty-now-b.burst)
}

// Pause waits, unless ctx ends.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
