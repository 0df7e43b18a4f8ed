package listener

import "github.com/overhear-mesh/overhear/internal/strictyaml"

// Config is how many connections a listener carries.
type Config struct {
	// MaxConnections is how many may be open at once; default 65536, 0 is no
	// limit. Further ones wait in the kernel's backlog.
	MaxConnections int `yaml:"max_connections"`
}

// DefaultConfig has a limit above what a process may open by default.
func DefaultConfig() Config { return Config{MaxConnections: 65536} }

// Validate names everything that is wrong.
func (c Config) Validate() error {
	if c.MaxConnections < 0 {
		return strictyaml.Invalid("max_connections", "%d: want 0 (no limit) or more", c.MaxConnections)
	}
	return nil
}
