package resilience

import (
	"errors"
	"sync/atomic"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

// LimitsConfig bounds what one cluster may hold of this sidecar. 0 is no limit.
type LimitsConfig struct {
	// Connections bounds opaque TCP connections through the cluster at one
	// time; default 16384.
	Connections int `yaml:"connections"`
	// Requests bounds requests under way at one time; default 16384.
	Requests int `yaml:"requests"`
	// Pending bounds requests that wait for a connection at one time, being opened
	// or in use by another; default 1024. One more is refused with 503, flag UO.
	Pending int `yaml:"pending"`
	// Retries bounds retries under way at one time; default 512.
	Retries int `yaml:"retries"`
}

// DefaultLimitsConfig is generous: a limit is there against running away, and
// one that is met in normal service does harm.
func DefaultLimitsConfig() LimitsConfig {
	return LimitsConfig{Connections: 16384, Requests: 16384, Pending: 1024, Retries: 512}
}

// Validate names everything that is wrong.
func (c LimitsConfig) Validate() error {
	var errs []error
	for _, f := range []struct {
		name  string
		value int
	}{{"connections", c.Connections}, {"requests", c.Requests}, {"pending", c.Pending}, {"retries", c.Retries}} {
		if f.value < 0 {
			errs = append(errs, strictyaml.Invalid(f.name, "%d: want at least 0", f.value))
		}
	}
	return errors.Join(errs...)
}

// Limits are the limits of one cluster with their present use.
type Limits struct {
	Connections, Requests, Pending, Retries Limit
}

// NewLimits makes limits of which nothing is in use.
func NewLimits(cfg LimitsConfig) *Limits {
	l := &Limits{}
	l.SetConfig(cfg)
	return l
}

// SetConfig changes the limits. Who holds more than the new ones allow keeps it.
func (l *Limits) SetConfig(cfg LimitsConfig) {
	l.Connections.max.Store(int64(cfg.Connections))
	l.Requests.max.Store(int64(cfg.Requests))
	l.Pending.max.Store(int64(cfg.Pending))
	l.Retries.max.Store(int64(cfg.Retries))
}

// Limit is a bound on how many may hold something at one time. Its methods may
// be called from any goroutine. The zero Limit does not limit.
type Limit struct {
	max     atomic.Int64 // 0: none
	held    atomic.Int64
	refused atomic.Uint64
}

// Acquire takes one if there is one left. Who got it must Release it.
func (l *Limit) Acquire() bool {
	n := l.held.Add(1)
	if limit := l.max.Load(); limit > 0 && n > limit {
		l.held.Add(-1)
		l.refused.Add(1)
		return false
	}
	return true
}

// Release gives back what Acquire gave.
func (l *Limit) Release() { l.held.Add(-1) }

// Held is how many are in use.
func (l *Limit) Held() int { return int(l.held.Load()) }

// Refused is how often Acquire has said no.
func (l *Limit) Refused() uint64 { return l.refused.Load() }
