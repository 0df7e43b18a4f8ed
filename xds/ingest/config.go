package ingest

import (
	"errors"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

// Config is what Envoys may report and how often.
type Config struct {
	// LoadReports says whether Envoys' load reports are taken as evidence; default true.
	// Only an Envoy that is told to in its own bootstrap sends any.
	LoadReports bool `yaml:"load_reports"`
	// Interval is how often an Envoy is asked to report; default 100ms. A fault is found
	// later by about as much; a fleet of a thousand Envoys sends ten thousand messages a
	// second at the default.
	Interval time.Duration `yaml:"interval"`
	// AccessLogs says whether Envoys' logs of upstream attempts are taken, to tell kinds
	// of failures apart; default true. They add nothing to Envoys that send no load reports.
	AccessLogs bool `yaml:"access_logs"`
	// Probes says whether Envoys are asked to probe endpoints; default true. Only one that
	// is told to in its own bootstrap asks what to probe.
	Probes bool `yaml:"probes"`
}

// DefaultConfig is what the project's figures are measured with.
func DefaultConfig() Config {
	return Config{LoadReports: true, Interval: 100 * time.Millisecond, AccessLogs: true, Probes: true}
}

// Bounds of the interval: with none Envoy reports without a pause.
const (
	leastInterval = 20 * time.Millisecond
	mostInterval  = time.Minute
)

// Validate says which fields cannot be used.
func (c Config) Validate() error {
	var errs []error
	if c.Interval < leastInterval || c.Interval > mostInterval {
		errs = append(errs, strictyaml.Invalid("interval", "%v is not between %v and %v", c.Interval, leastInterval, mostInterval))
	}
	return errors.Join(errs...)
}
