package http1

import (
	"errors"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/syntax"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// Config is how HTTP/1.1 is spoken on one listener.
type Config struct {
	// HeadTimeout bounds the time from the first byte of a request's head to its
	// last; default 10s.
	HeadTimeout time.Duration `yaml:"head_timeout"`
	// IdleTimeout is how long a connection may lie between two requests; default
	// 5m.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// StreamIdleTimeout ends an exchange in which nothing has moved for so long,
	// where the route has no such time-out of its own; default 5m, 0 is none.
	StreamIdleTimeout time.Duration `yaml:"stream_idle_timeout"`
	// DrainIdleTimeout takes the place of IdleTimeout while the server drains: a
	// client that is about to send its next request should get its answer, with
	// `connection: close`; default 1s.
	DrainIdleTimeout time.Duration `yaml:"drain_idle_timeout"`
	// MaxHead bounds the head of a request or response and the trailer section;
	// default 64KiB.
	MaxHead strictyaml.Size `yaml:"max_head"`
	// MaxFields bounds the header fields of a head; default 100.
	MaxFields int `yaml:"max_fields"`
	// RetryBuffer is how much of a request body is kept so that the request can
	// be sent again; default 64KiB. Larger bodies are passed on as they come, and
	// sent once.
	RetryBuffer strictyaml.Size `yaml:"retry_buffer"`
	// Via is the name under which this proxy adds itself to Via (RFC 9110,
	// section 7.6.3); default overhear, empty adds nothing.
	Via string `yaml:"via"`
}

// DefaultConfig is good for a listener towards applications.
func DefaultConfig() Config {
	return Config{
		HeadTimeout:       10 * time.Second,
		IdleTimeout:       5 * time.Minute,
		StreamIdleTimeout: 5 * time.Minute,
		DrainIdleTimeout:  time.Second,
		MaxHead:           64 << 10,
		MaxFields:         100,
		RetryBuffer:       64 << 10,
		Via:               "overhear",
	}
}

// Validate names everything that is wrong.
func (c Config) Validate() error {
	var errs []error
	for _, d := range []struct {
		name     string
		value    time.Duration
		optional bool
	}{
		{"head_timeout", c.HeadTimeout, false},
		{"idle_timeout", c.IdleTimeout, false},
		{"stream_idle_timeout", c.StreamIdleTimeout, true},
		{"drain_idle_timeout", c.DrainIdleTimeout, false},
	} {
		if d.optional && d.value == 0 {
			continue
		}
		if d.value < wheel.Tick || d.value > 24*time.Hour {
			errs = append(errs, strictyaml.Invalid(d.name, "%v: want %v to 24h", d.value, wheel.Tick))
		}
	}
	if c.MaxHead < 1<<10 || c.MaxHead > 1<<20 {
		errs = append(errs, strictyaml.Invalid("max_head", "%d bytes: want 1KiB to 1MiB", c.MaxHead))
	}
	if c.MaxFields < 1 || c.MaxFields > 1000 {
		errs = append(errs, strictyaml.Invalid("max_fields", "%d: want 1 to 1000", c.MaxFields))
	}
	if c.RetryBuffer < 0 || c.RetryBuffer > 16<<20 {
		errs = append(errs, strictyaml.Invalid("retry_buffer", "%d bytes: want 0 to 16MiB", c.RetryBuffer))
	}
	if !syntax.All([]byte(c.Via), syntax.Token) {
		errs = append(errs, strictyaml.Invalid("via", "%q: want a token, or nothing", c.Via))
	}
	return errors.Join(errs...)
}
