package resilience

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

// RateConfig bounds how often something may happen.
type RateConfig struct {
	// Rate is how many a second, on average: 0.001 to 1000000.
	Rate float64 `yaml:"rate"`
	// Burst is how many at once after a pause. Default: what Rate gives in a
	// second, at least 1.
	Burst int `yaml:"burst"`
}

// Validate checks the bounds.
func (c RateConfig) Validate() error {
	var errs []error
	if !(c.Rate >= 1e-3 && c.Rate <= 1e6) { // with the largest burst a bucket fills up within 32 years
		errs = append(errs, strictyaml.Invalid("rate", "is %v: want 0.001 to 1000000 a second", c.Rate))
	}
	if c.Burst < 0 || c.Burst > 1e6 {
		errs = append(errs, strictyaml.Invalid("burst", "is %d: want 0 (as many as a second gives) to 1000000", c.Burst))
	}
	return errors.Join(errs...)
}

// Rate lets things happen at a rate, with bursts: a token bucket, kept as the one
// instant at which it would be full again (GCRA, ITU-T I.371). Any goroutine may
// ask.
type Rate struct {
	every, slack time.Duration
	full         atomic.Int64
}

// NewRate begins with a full bucket. cfg must be valid.
func NewRate(cfg RateConfig) *Rate {
	every := time.Duration(float64(time.Second) / cfg.Rate)
	burst := cfg.Burst
	if burst == 0 {
		burst = max(1, int(cfg.Rate))
	}
	r := &Rate{every: every, slack: time.Duration(burst-1) * every}
	r.full.Store(-1 << 62)
	return r
}

// Equal reports whether o is as fast, and allows as much at once. A nil Rate equals
// only itself.
func (r *Rate) Equal(o *Rate) bool {
	if r == nil || o == nil {
		return r == o
	}
	return r.every == o.every && r.slack == o.slack
}

// Allow takes a token, if there is one. A nil Rate allows everything.
func (r *Rate) Allow(now time.Duration) bool {
	if r == nil {
		return true
	}
	for {
		full := r.full.Load()
		from := max(time.Duration(full), now)
		if from-now > r.slack {
			return false
		}
		if r.full.CompareAndSwap(full, int64(from+r.every)) {
			return true
		}
	}
}
