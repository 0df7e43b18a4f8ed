// Package openload makes requests as users do: at a rate, whether or not the earlier ones
// have been answered.
package openload

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// MaxOutstanding bounds the requests that wait for an answer.
const MaxOutstanding = 1024

// Run makes requests, so many a second, until ctx ends, and waits for those that are still
// out. skipped is how many it left out because too many were waiting already.
func Run(ctx context.Context, rate float64, request func()) (skipped int64) {
	return At(ctx, rate, func(time.Time) { request() })
}

// At is Run for whoever measures from the instant at which a request was to begin: from
// when it did begin, a late generator would hide what its lateness hides.
func At(ctx context.Context, rate float64, request func(intended time.Time)) (skipped int64) {
	var out sync.WaitGroup
	defer out.Wait()
	places := make(chan struct{}, MaxOutstanding)
	next := time.Now()
	for {
		// Exponential gaps: users do not agree on a beat.
		next = next.Add(time.Duration(rand.ExpFloat64() / rate * float64(time.Second)))
		select {
		case <-ctx.Done():
			return skipped
		case <-time.After(time.Until(next)):
		}
		select {
		case places <- struct{}{}:
		default:
			skipped++
			continue
		}
		intended := next
		out.Go(func() {
			defer func() { <-places }()
			request(intended)
		})
	}
}
