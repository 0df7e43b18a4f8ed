package tcp

import (
	"errors"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

// Config is how connections are carried.
type Config struct {
	// MaxAttempts is how many endpoints may be tried until one takes the
	// connection; default 4.
	MaxAttempts int `yaml:"max_attempts"`
	// IdleTimeout ends a connection on which nothing has moved in either
	// direction for that long, up to a quarter longer; default 1h, 0 is never.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
}

// DefaultConfig keeps a silent connection for an hour.
func DefaultConfig() Config { return Config{MaxAttempts: 4, IdleTimeout: time.Hour} }

// Validate names everything that is wrong.
func (c Config) Validate() error {
	var errs []error
	if c.MaxAttempts < 1 || c.MaxAttempts > 10 {
		errs = append(errs, strictyaml.Invalid("max_attempts", "%d: want 1 to 10", c.MaxAttempts))
	}
	if c.IdleTimeout != 0 && c.IdleTimeout < time.Second {
		errs = append(errs, strictyaml.Invalid("idle_timeout", "%v: want 0s (never) or at least 1s", c.IdleTimeout))
	}
	return errors.Join(errs...)
}
