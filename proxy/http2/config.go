package http2

import (
	"errors"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/proxy/syntax"
	"github.com/overhear-mesh/overhear/proxy/wheel"
)

// Config is how HTTP/2 is spoken, with clients and with endpoints.
type Config struct {
	// HeadTimeout bounds the time that a connection's preface, or a header block
	// that has begun, may take to come; default 10s.
	HeadTimeout time.Duration `yaml:"head_timeout"`
	// IdleTimeout is how long a client's connection may be without a request;
	// default 5m.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// StreamIdleTimeout ends an exchange in which nothing has moved for so long,
	// where the route has no such time-out of its own; default 5m, 0 is none.
	StreamIdleTimeout time.Duration `yaml:"stream_idle_timeout"`
	// DrainIdleTimeout is how long a client may take to notice, while the server
	// drains, that it should open no more streams; default 1s.
	DrainIdleTimeout time.Duration `yaml:"drain_idle_timeout"`
	// PingAfter is how long a connection with streams may be silent before its peer
	// is asked whether it is still there; default 30s, 0 is never. A peer that stays
	// silent is asked again only after five minutes: gRPC servers take more for an
	// attack (gRFC A8).
	PingAfter time.Duration `yaml:"ping_after"`
	// PingTimeout is how long the answer may take; default 10s.
	PingTimeout time.Duration `yaml:"ping_timeout"`
	// MaxStreams bounds the requests of one client's connection at one time;
	// default 250.
	MaxStreams int `yaml:"max_streams"`
	// StreamWindow is how much of a body may be on its way, in each direction, and so
	// how much of it is held here for who does not read; default 64KiB.
	StreamWindow strictyaml.Size `yaml:"stream_window"`
	// MaxHead bounds the head of a request or response and the trailer section, as
	// RFC 9113 counts them: 32 bytes for each field beside its own; default 64KiB.
	MaxHead strictyaml.Size `yaml:"max_head"`
	// MaxFields bounds the header fields of a head, the crumbs of a cookie counting
	// as one; default 100.
	MaxFields int `yaml:"max_fields"`
	// RetryBuffer is how much of a request body is kept so that the request can be
	// sent again; default 64KiB. Larger bodies are sent once.
	RetryBuffer strictyaml.Size `yaml:"retry_buffer"`
	// Via is the name under which this proxy adds itself to Via (RFC 9110, section
	// 7.6.3); default overhear, empty adds nothing.
	Via string `yaml:"via"`
}

// DefaultConfig is good for a listener towards applications.
func DefaultConfig() Config {
	return Config{
		HeadTimeout:       10 * time.Second,
		IdleTimeout:       5 * time.Minute,
		StreamIdleTimeout: 5 * time.Minute,
		DrainIdleTimeout:  time.Second,
		PingAfter:         30 * time.Second,
		PingTimeout:       10 * time.Second,
		MaxStreams:        250,
		StreamWindow:      64 << 10,
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
		{"ping_after", c.PingAfter, true},
		{"ping_timeout", c.PingTimeout, false},
	} {
		if d.optional && d.value == 0 {
			continue
		}
		if d.value < wheel.Tick || d.value > 24*time.Hour {
			errs = append(errs, strictyaml.Invalid(d.name, "%v: want %v to 24h", d.value, wheel.Tick))
		}
	}
	for _, n := range []struct {
		name       string
		value      int64
		low, high  int64
		wanted     string
		unitSuffix string
	}{
		{"max_streams", int64(c.MaxStreams), 1, 10000, "1 to 10000", ""},
		{"stream_window", int64(c.StreamWindow), 16 << 10, 16 << 20, "16KiB to 16MiB", " bytes"},
		{"max_head", int64(c.MaxHead), 1 << 10, 1 << 20, "1KiB to 1MiB", " bytes"},
		{"max_fields", int64(c.MaxFields), 1, 1000, "1 to 1000", ""},
		{"retry_buffer", int64(c.RetryBuffer), 0, 16 << 20, "0 to 16MiB", " bytes"},
	} {
		if n.value < n.low || n.value > n.high {
			errs = append(errs, strictyaml.Invalid(n.name, "%d%s: want %s", n.value, n.unitSuffix, n.wanted))
		}
	}
	if !syntax.All(c.Via, syntax.Token) {
		errs = append(errs, strictyaml.Invalid("via", "%q: want a token, or nothing", c.Via))
	}
	return errors.Join(errs...)
}

// connWindow is how much may be on its way on all streams of a connection: as much
// as all of them may have, so that those that stand still stop no other.
func (c *Config) connWindow() int64 {
	return min(int64(c.StreamWindow)*int64(max(c.MaxStreams, manyStreams)), maxWindow)
}
