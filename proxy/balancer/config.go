package balancer

import (
	"errors"
	"strings"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

// Policy is the rule by which a Set chooses among endpoints in full service.
type Policy uint8

const (
	P2C          Policy = iota // of two draws the one that costs less; the default
	RoundRobin                 // in turn, by weight
	Random                     // by weight
	LeastRequest               // of two draws the one with fewer requests in flight
	RingHash                   // by the key of the request, consistent hashing
	Maglev                     // by the key of the request, Maglev's table
)

var policies = [...]string{
	P2C: "p2c", RoundRobin: "round_robin", Random: "random",
	LeastRequest: "least_request", RingHash: "ring_hash", Maglev: "maglev",
}

// Hashes reports whether the policy goes by the key of the request.
func (p Policy) Hashes() bool { return p == RingHash || p == Maglev }

// String is the policy's name in configuration files.
func (p Policy) String() string { return strictyaml.NameOf(p, policies[:], "policy") }

// MarshalText writes the name that UnmarshalText reads.
func (p Policy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a policy from a configuration file.
func (p *Policy) UnmarshalText(text []byte) error {
	return strictyaml.SetName(p, policies[:], text)
}

// Config is how a cluster balances.
type Config struct {
	// Policy is the rule of choice: p2c (the better of two drawn, by peak EWMA latency
	// and load), least_request, round_robin, random, ring_hash or maglev. Default p2c.
	Policy Policy `yaml:"policy"`
	// BoundedLoad keeps a hashing policy from piling a popular key's requests
	// onto one endpoint: none has more in flight than so many times its fair
	// part, what is beyond goes to the next (Mirrokni et al. 2016). 1 to 10, such
	// as 1.25; 0: no bound. Default 0.
	BoundedLoad float64 `yaml:"bounded_load"`
	// PreferZone keeps requests in the caller's own zone while that can bear
	// them, priority by priority. Default false.
	PreferZone bool `yaml:"prefer_zone"`
	// Overprovisioning is how many times over its endpoints could bear the load
	// of a priority, or of the own zone: below 1/Overprovisioning of them well,
	// what is missing spills to the next. 1 to 10, default 1.4.
	Overprovisioning float64 `yaml:"overprovisioning"`
	// Subset is how many endpoints of a priority (or zone, if preferred) a caller
	// uses: the same ones while they are well, other ones at every caller. 0:
	// all. Default 0.
	Subset int `yaml:"subset"`
}

// DefaultConfig is P2C over all endpoints.
func DefaultConfig() Config { return Config{Policy: P2C, Overprovisioning: 1.4} }

// Validate refuses what does not exist and what means nothing.
func (c Config) Validate() error {
	var bad []error
	if int(c.Policy) >= len(policies) {
		bad = append(bad, strictyaml.Invalid("policy", "want one of %s", strings.Join(policies[:], ", ")))
	}
	switch bound := c.BoundedLoad; {
	case bound != 0 && !(bound >= 1 && bound <= 10):
		bad = append(bad, strictyaml.Invalid("bounded_load", "want 1 to 10, or 0 for none, have %v", bound))
	case bound != 0 && !c.Policy.Hashes():
		bad = append(bad, strictyaml.Invalid("bounded_load", "goes with ring_hash and maglev only, not with %v", c.Policy))
	}
	if !(c.Overprovisioning >= 1 && c.Overprovisioning <= 10) {
		bad = append(bad, strictyaml.Invalid("overprovisioning", "want 1 to 10, have %v", c.Overprovisioning))
	}
	if c.Subset < 0 {
		bad = append(bad, strictyaml.Invalid("subset", "want 0 (all) or more, have %d", c.Subset))
	}
	return errors.Join(bad...)
}
