package ping

import (
	"errors"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

// Kind is the idle ping of a cluster's endpoints.
type Kind uint8

const (
	TCP  Kind = iota // connect; the default
	HTTP             // GET, answered with 200-399
	GRPC             // grpc.health.v1.Health/Check, answered with SERVING
	Off              // none
)

var kinds = [...]string{TCP: "tcp", HTTP: "http", GRPC: "grpc", Off: "off"}

// String is the kind's name in configuration files.
func (k Kind) String() string { return strictyaml.NameOf(k, kinds[:], "kind") }

// MarshalText writes the name that UnmarshalText reads.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads a kind from a configuration file.
func (k *Kind) UnmarshalText(text []byte) error {
	return strictyaml.SetName(k, kinds[:], text)
}

// Config is how a cluster's endpoints are pinged when no traffic tells of them.
type Config struct {
	// Kind of the ping: tcp (it connects), http (200 to 399 is healthy) or grpc
	// (grpc.health.v1). Default tcp.
	Kind Kind `yaml:"kind"`
	// Path of an HTTP ping, also of the probe that an HTTP endpoint behind an
	// inbound sidecar gets. Default "/".
	Path string `yaml:"path"`
	// Host header of the same, and authority of a gRPC ping. Default: the
	// endpoint's address.
	Host string `yaml:"host"`
	// Service is what a gRPC ping asks for. Default "": the server as a whole.
	Service string `yaml:"service"`
	// Timeout of one ping. Default 1s.
	Timeout time.Duration `yaml:"timeout"`
}

// Asks reports whether the application itself is asked.
func (c Config) Asks() bool { return c.Kind == HTTP || c.Kind == GRPC }

// DefaultConfig connects only.
func DefaultConfig() Config { return Config{Kind: TCP, Path: "/", Timeout: time.Second} }

// Validate checks that path and host can stand in a request line and a header.
func (c Config) Validate() error {
	return errors.Join(
		check(int(c.Kind) < len(kinds), "kind", "want one of %s", strings.Join(kinds[:], ", ")),
		check(strings.HasPrefix(c.Path, "/") && printable(c.Path), "path", "want an absolute path of visible ASCII, have %q", c.Path),
		check(printable(c.Host), "host", "want visible ASCII, have %q", c.Host),
		check(printable(c.Service), "service", "want visible ASCII, have %q", c.Service),
		check(c.Timeout >= time.Millisecond && c.Timeout <= 10*time.Second, "timeout", "want 1ms to 10s, have %s", c.Timeout),
	)
}

// printable refuses what would let a setting write a request of its own.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

func check(ok bool, field, format string, args ...any) error {
	if ok {
		return nil
	}
	return strictyaml.Invalid(field, format, args...)
}
