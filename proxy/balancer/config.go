package balancer

import (
	"fmt"
	"strings"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

// Policy is the rule by which a Set chooses among endpoints in full service.
type Policy uint8

const (
	P2C        Policy = iota // of two draws the one that costs less; the default
	RoundRobin               // in turn, by weight
	Random                   // by weight
)

var policies = [...]string{P2C: "p2c", RoundRobin: "round_robin", Random: "random"}

// String is the policy's name in configuration files.
func (p Policy) String() string {
	if int(p) < len(policies) {
		return policies[p]
	}
	return fmt.Sprintf("policy(%d)", uint8(p))
}

// MarshalText writes the name that UnmarshalText reads.
func (p Policy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a policy from a configuration file.
func (p *Policy) UnmarshalText(text []byte) error {
	for i, name := range policies {
		if string(text) == name {
			*p = Policy(i)
			return nil
		}
	}
	return fmt.Errorf("want one of %s", strings.Join(policies[:], ", "))
}

// Config is how a cluster balances.
type Config struct {
	// Policy is the rule of choice. Default p2c.
	Policy Policy `yaml:"policy"`
}

// DefaultConfig is P2C.
func DefaultConfig() Config { return Config{Policy: P2C} }

// Validate refuses a policy that does not exist.
func (c Config) Validate() error {
	if int(c.Policy) >= len(policies) {
		return strictyaml.Invalid("policy", "want one of %s", strings.Join(policies[:], ", "))
	}
	return nil
}
