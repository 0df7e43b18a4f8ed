package ping

import (
	"sync"
	"time"
)

// Limiter is a token bucket. All clusters of a sidecar share one for each kind
// of ping, because what must not be flooded is the network around the sidecar.
// It may be used from any goroutine.
type Limiter struct {
	gap   time.Duration // per token
	burst time.Duration // gap x tokens that an idle bucket holds

	mu   sync.Mutex
	full time.Duration // the instant at which the bucket is full again
}

// NewLimiter allows perSecond pings a second and burst of them at once.
func NewLimiter(perSecond float64, burst int) *Limiter {
	gap := time.Duration(float64(time.Second) / perSecond)
	return &Limiter{gap: gap, burst: gap * time.Duration(burst)}
}

// Allow takes a token if there is one.
func (l *Limiter) Allow(now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if full := max(l.full, now) + l.gap; full <= now+l.burst {
		l.full = full
		return true
	}
	return false
}
