package ingest

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
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
	// Poll are the admin addresses, host:port, of Envoys that cannot report by themselves
	// (before 1.36): their counters are asked for instead. Default: none.
	Poll []string `yaml:"poll"`
	// PollInterval is how often; default 1s. An answer costs time of the Envoy's main thread.
	PollInterval time.Duration `yaml:"poll_interval"`
}

// DefaultConfig is what the project's figures are measured with.
func DefaultConfig() Config {
	return Config{LoadReports: true, Interval: 100 * time.Millisecond, AccessLogs: true, Probes: true, PollInterval: time.Second}
}

// Bounds of the interval: with none Envoy reports without a pause.
const (
	leastInterval = 20 * time.Millisecond
	mostInterval  = time.Minute
)

// Bounds of what is polled.
const (
	leastPollInterval = 200 * time.Millisecond
	mostPolled        = 1000
)

// Validate says which fields cannot be used.
func (c Config) Validate() error {
	var errs []error
	if c.Interval < leastInterval || c.Interval > mostInterval {
		errs = append(errs, strictyaml.Invalid("interval", "%v is not between %v and %v", c.Interval, leastInterval, mostInterval))
	}
	if c.PollInterval < leastPollInterval || c.PollInterval > mostInterval {
		errs = append(errs, strictyaml.Invalid("poll_interval", "%v is not between %v and %v", c.PollInterval, leastPollInterval, mostInterval))
	}
	if len(c.Poll) > mostPolled {
		errs = append(errs, strictyaml.Invalid("poll", "%d addresses: want at most %d", len(c.Poll), mostPolled))
	}
	for i, at := range c.Poll {
		host, port, err := net.SplitHostPort(at)
		if err != nil || host == "" || !isPort(port) {
			errs = append(errs, strictyaml.Invalid(fmt.Sprintf("poll[%d]", i), "%q is no address: want host:port of an admin page, such as 127.0.0.1:9901", at))
		} else if slices.Index(c.Poll, at) < i {
			errs = append(errs, strictyaml.Invalid(fmt.Sprintf("poll[%d]", i), "%s is there twice", at))
		}
	}
	return errors.Join(errs...)
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}
