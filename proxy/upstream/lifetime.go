package upstream

import (
	"errors"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

// Lifetime bounds the use of one connection that carries HTTP. After it, what is under
// way finishes, and the connection ends. The zero value is no bound.
type Lifetime struct {
	// MaxDuration of a connection: after it HTTP/2 gets GOAWAY, HTTP/1.1 `connection:
	// close` with its next answer, and what is under way finishes. A tunnel goes on.
	// Default 0, no limit.
	MaxDuration time.Duration `yaml:"max_connection_duration"`
	// MaxRequests on a connection, the same after it; default 0, no limit.
	MaxRequests int `yaml:"max_requests_per_connection"`
}

// Over reports whether a connection of this age that has had so many requests should get
// no more.
func (l *Lifetime) Over(age time.Duration, requests int) bool {
	return l.MaxDuration > 0 && age >= l.MaxDuration || l.MaxRequests > 0 && requests >= l.MaxRequests
}

// InVain names the bounds that are set for connections of which nobody reads the requests.
func (l Lifetime) InVain() error {
	const why = "without effect: tcp carries whatever comes unread"
	var errs []error
	if l.MaxDuration != 0 {
		errs = append(errs, strictyaml.Invalid("max_connection_duration", why))
	}
	if l.MaxRequests != 0 {
		errs = append(errs, strictyaml.Invalid("max_requests_per_connection", why))
	}
	return errors.Join(errs...)
}

// Validate names everything that is wrong.
func (l Lifetime) Validate() error {
	var errs []error
	if l.MaxDuration != 0 && (l.MaxDuration < time.Second || l.MaxDuration > 30*24*time.Hour) {
		errs = append(errs, strictyaml.Invalid("max_connection_duration", "is %s: want 1s to 720h, or 0 for no limit", l.MaxDuration))
	}
	if l.MaxRequests < 0 || l.MaxRequests > 1<<30 {
		errs = append(errs, strictyaml.Invalid("max_requests_per_connection", "is %d: want 0 (no limit) to %d", l.MaxRequests, 1<<30))
	}
	return errors.Join(errs...)
}
