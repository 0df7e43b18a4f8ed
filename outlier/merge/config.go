package merge

import (
	"errors"
	"fmt"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Config is what holds for a whole table.
type Config struct {
	// ReporterStale is how long a reporter may be silent and still count as fresh;
	// default 25s.
	ReporterStale time.Duration `yaml:"reporter_stale"`
	// ReporterDrop is how long the cells of a silent reporter are kept; default 5m.
	ReporterDrop time.Duration `yaml:"reporter_drop"`
	// ReporterHeard is how recently a reporter must have spoken to be asked for
	// probes and polls; default 15s.
	ReporterHeard time.Duration `yaml:"reporter_heard"`
	// Mute is how long the evidence of a fault domain is set aside that alone fails
	// towards many endpoints; default 60s.
	Mute time.Duration `yaml:"mute"`
	// AttemptCeiling is the largest number of attempts per second that one reporter
	// can credibly make on one endpoint; default 50000.
	AttemptCeiling int `yaml:"attempt_ceiling"`
	// ProbeRate is the number of probes per second that one reporter is asked for,
	// and the burst; default 10.
	ProbeRate int `yaml:"probe_rate"`
	// FleetProbeMin and FleetProbeRatio bound the probes of the whole fleet per
	// second: the larger of FleetProbeMin (default 30) and the ratio (default 0.05)
	// times the number of endpoints.
	FleetProbeMin   int     `yaml:"fleet_probe_min"`
	FleetProbeRatio float64 `yaml:"fleet_probe_ratio"`
}

// DefaultConfig is the configuration that every figure of this project is
// measured with.
func DefaultConfig() Config {
	return Config{
		ReporterStale:   25 * time.Second,
		ReporterDrop:    5 * time.Minute,
		ReporterHeard:   15 * time.Second,
		Mute:            time.Minute,
		AttemptCeiling:  50000,
		ProbeRate:       10,
		FleetProbeMin:   30,
		FleetProbeRatio: 0.05,
	}
}

// Policy is what holds for one service.
type Policy struct {
	// Outlier is the policy that the service's sidecars follow as well. The table
	// takes from it the mode, the false ejection interval, the bounds of p0 and p1,
	// the caps, the limits of probes and probation, the silence after which an
	// endpoint is idle, and the hold-off times.
	Outlier outlier.Config `yaml:"outlier"`

	// HFleetMin and HFleetMax bound the threshold of T in nats; default 12 and 20.
	HFleetMin float64 `yaml:"h_fleet_min"`
	HFleetMax float64 `yaml:"h_fleet_max"`
	// HSlow is the threshold of the slow row in nats; default 20.
	HSlow float64 `yaml:"h_slow"`
	// LeaveOut is f, the number of fault domains that may lie without effect;
	// default 1.
	LeaveOut int `yaml:"leave_out"`
	// PollWait is how long a count poll waits for answers; default 20ms.
	PollWait time.Duration `yaml:"poll_wait"`

	// ConfirmProbers is how many reporters are asked to confirm a suspicion; 0: none
	// is asked, reporters' own attempts must suffice; default 3.
	ConfirmProbers int `yaml:"confirm_probers"`
	// Storm is the part of a group that must be suspected at once for suspicions to
	// be confirmed by sample; default 0.3.
	Storm float64 `yaml:"storm"`

	// Ping is how an idle endpoint is pinged; default tcp. A file has it where it has
	// the rest of the ping: path, host.
	Ping PingKind `yaml:"-"`
	// IdleEvery is how often an idle endpoint is pinged, by its pingers in turn;
	// default 25s.
	IdleEvery time.Duration `yaml:"idle_every"`
	// IdlePingers is how many reporters take turns at one idle endpoint; default 3.
	IdlePingers int `yaml:"idle_pingers"`
	// PingTimeout bounds one ping; default 1s.
	PingTimeout time.Duration `yaml:"ping_timeout"`
}

// DefaultPolicy is the policy of a service that names none.
func DefaultPolicy() Policy {
	return Policy{
		Outlier:        outlier.DefaultConfig(),
		HFleetMin:      12,
		HFleetMax:      20,
		HSlow:          20,
		LeaveOut:       1,
		PollWait:       20 * time.Millisecond,
		ConfirmProbers: 3,
		Storm:          0.3,
		Ping:           PingTCP,
		IdleEvery:      25 * time.Second,
		IdlePingers:    3,
		PingTimeout:    time.Second,
	}
}

// Validate reports every field that cannot be used, as joined *outlier.FieldError.
func (c Config) Validate() error {
	return errors.Join(
		between("reporter_stale", c.ReporterStale, time.Millisecond, time.Hour),
		between("reporter_drop", c.ReporterDrop, c.ReporterStale, time.Hour),
		between("reporter_heard", c.ReporterHeard, time.Millisecond, time.Hour),
		between("mute", c.Mute, time.Millisecond, time.Hour),
		between("attempt_ceiling", c.AttemptCeiling, 1, 10_000_000),
		between("probe_rate", c.ProbeRate, 1, 100),
		between("fleet_probe_min", c.FleetProbeMin, 1, 10_000),
		between("fleet_probe_ratio", c.FleetProbeRatio, 0, 1),
	)
}

// Validate reports every field that cannot be used, as joined *outlier.FieldError; those
// of Outlier have the prefix "outlier.".
func (p Policy) Validate() error {
	errs := []error{
		between("h_fleet_min", p.HFleetMin, 6, 40),
		between("h_fleet_max", p.HFleetMax, p.HFleetMin, 40),
		between("h_slow", p.HSlow, 6, 40),
		between("leave_out", p.LeaveOut, 0, 5),
		between("poll_wait", p.PollWait, time.Millisecond, time.Hour),
		between("confirm_probers", p.ConfirmProbers, 0, 10),
		between("storm", p.Storm, 0, 1),
		between("idle_every", p.IdleEvery, time.Millisecond, time.Hour),
		between("idle_pingers", p.IdlePingers, 1, 100),
		between("ping_timeout", p.PingTimeout, time.Millisecond, time.Hour),
	}
	switch p.Ping {
	case PingOff, PingTCP, PingHTTP, PingGRPC:
	default:
		errs = append(errs, &outlier.FieldError{Path: "ping", Message: fmt.Sprintf("is %q, want one of off, tcp, http, grpc", p.Ping)})
	}
	errs = append(errs, prefixed("outlier.", p.Outlier.Validate())...)
	return errors.Join(errs...)
}

func between[T time.Duration | int | float64](name string, v, low, high T) error {
	if v >= low && v <= high { // false for NaN
		return nil
	}
	return &outlier.FieldError{Path: name, Message: fmt.Sprintf("is %v, want %v to %v", v, low, high)}
}

// prefixed puts a path before each joined field error.
func prefixed(prefix string, err error) []error {
	if err == nil {
		return nil
	}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var errs []error
		for _, e := range j.Unwrap() {
			errs = append(errs, prefixed(prefix, e)...)
		}
		return errs
	}
	if f, ok := errors.AsType[*outlier.FieldError](err); ok {
		return []error{&outlier.FieldError{Path: prefix + f.Path, Message: f.Message}}
	}
	return []error{err}
}
