package outlier

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Mode says whether decisions are acted upon.
type Mode string

const (
	// Enforce acts.
	Enforce Mode = "enforce"
	// Shadow decides and reports, but takes nothing out of the picker.
	Shadow Mode = "shadow"
)

// LatencyMode says what slowness may do.
type LatencyMode string

const (
	// LatencyWeight lets a slow endpoint's weight fall.
	LatencyWeight LatencyMode = "weight"
	// LatencyOff ignores slowness; the balancer still prefers the fast.
	LatencyOff LatencyMode = "off"
)

// Config is the policy of one cluster. Scores are nats; shares are fractions
// (0.5 is 50 %).
type Config struct {
	// Mode is enforce (default) or shadow. In shadow mode everything is decided, told
	// and explained, but nobody's share is changed, also not by what was decided before;
	// an operator's orders hold all the same.
	Mode Mode `yaml:"mode"`
	// FalseEjectionInterval is the mean time that a healthy endpoint may go
	// between two false alarms of one test: default 2.6e6 s, a month. It sets
	// the thresholds h1 and h3; see [Threshold].
	FalseEjectionInterval time.Duration `yaml:"false_ejection_interval"`

	// BodyIdleTimeout ends an attempt whose body stands still while the
	// client reads: default 15 s. Used by the engines.
	BodyIdleTimeout time.Duration `yaml:"body_idle_timeout"`
	// TCPFirstByteTimeout is how long an opaque TCP connection may wait for
	// its first byte: default 0, for ever. Used by the engines.
	TCPFirstByteTimeout time.Duration `yaml:"tcp_first_byte_timeout"`
	// ConnPenalty is the latency that a hard failure is booked as, until the
	// endpoint answers again: default 5 s.
	ConnPenalty time.Duration `yaml:"conn_penalty"`

	// HLocalMin and HLocalMax bound the threshold of the fast test: default 10 and 18 nats.
	HLocalMin float64 `yaml:"h_local_min"`
	HLocalMax float64 `yaml:"h_local_max"`
	// HA and HB are the thresholds of the latency tests: default 14 and 16 nats.
	HA float64 `yaml:"h_a"`
	HB float64 `yaml:"h_b"`
	// P0Min and P0Max bound the error rate that counts as normal: default 0.01 and 0.6.
	P0Min float64 `yaml:"p0_min"`
	P0Max float64 `yaml:"p0_max"`
	// P1Min is the least error rate that is looked for: default 0.2.
	P1Min float64 `yaml:"p1_min"`
	// Latency is weight (default) or off.
	Latency LatencyMode `yaml:"latency"`
	// OverdueMin and OverdueMax bound the age at which an unanswered attempt
	// is overdue: default 250 ms and 1.5 s. OverdueMax may not exceed 1.5 s,
	// because waiting attempts are kept apart for 1.875 s only.
	OverdueMin time.Duration `yaml:"overdue_min"`
	OverdueMax time.Duration `yaml:"overdue_max"`
	// StallSilence is the least silence that suspends: default 300 ms.
	StallSilence time.Duration `yaml:"stall_silence"`
	// Trickle is the share that a suspended endpoint keeps: default 0.02.
	Trickle float64 `yaml:"trickle"`
	// MaxOut is the share of a priority that may be out at once: default 0.5.
	MaxOut float64 `yaml:"max_out"`
	// AlwaysEjectOne lets one endpoint go where MaxOut of so few, rounded down, is
	// none: default false. Envoy has it as always_eject_one_host. The last usable
	// endpoint stays in all the same.
	AlwaysEjectOne bool `yaml:"always_eject_one"`
	// Panic is the share of usable endpoints below which those that were taken
	// out are used again, least bad first: default 0.5.
	Panic float64 `yaml:"panic"`
	// Headroom lets hard failures exceed MaxOut while the load on each remaining
	// endpoint that does not fail so itself stays below this many times its healthy
	// peak: default 2.
	Headroom float64 `yaml:"headroom"`

	// RunAny, RunGateway and RunLocal are an extra rule for those who come from a
	// proxy that counts: so many failures in a row, on one endpoint, from here, eject
	// it. Each is a rule of its own; default 0, none. A run says much less than the
	// tests do (five in a row are certain to happen to a healthy endpoint with 5 %
	// errors, and unlikely to happen soon to one with 20 %), so that none is needed.
	//
	// RunAny counts failures of all kinds, as Envoy's consecutive_5xx. RunGateway
	// counts 502, 503, 504 and what came to no answer ([Outcome.Gateway], [Conn],
	// [Timeout]), as consecutive_gateway_failure. RunLocal counts what came to no
	// answer, as consecutive_local_origin_failure. An OK ends all runs, a failure
	// those that do not count it.
	RunAny     int `yaml:"run_any"`
	RunGateway int `yaml:"run_gateway"`
	RunLocal   int `yaml:"run_local"`
	// RunAnyEnforced, RunGatewayEnforced and RunLocalEnforced are the share of the
	// runs that eject; the others are only told. Which they are is drawn from the
	// endpoint and the number of its excursion, so that all of one trouble are
	// decided alike. Default 1, all.
	RunAnyEnforced     float64 `yaml:"run_any_enforced"`
	RunGatewayEnforced float64 `yaml:"run_gateway_enforced"`
	RunLocalEnforced   float64 `yaml:"run_local_enforced"`

	// ProbeTimeout bounds one probe: default 1 s.
	ProbeTimeout time.Duration `yaml:"probe_timeout"`
	// ProbeRate bounds this cluster's own probes: default 10 per second.
	ProbeRate int `yaml:"probe_rate"`
	// IdleAfter is the silence after which an endpoint is pinged: default 10 s.
	IdleAfter time.Duration `yaml:"idle_after"`

	// HoldBase and HoldMax bound the hold-off after an ejection, which doubles
	// with each ejection on record: default 1 s and 60 s.
	HoldBase time.Duration `yaml:"hold_base"`
	HoldMax  time.Duration `yaml:"hold_max"`
	// HoldJitter adds up to so much to a hold-off, evenly drawn, beyond Jitter:
	// default 0.
	HoldJitter time.Duration `yaml:"hold_jitter"`
	// Jitter spreads times that many sidecars would otherwise share: default 0.2 (±20 %).
	Jitter float64 `yaml:"jitter"`
	// ProbationRate is how many attempts per second an endpoint on probation
	// gets at most: default 8.
	ProbationRate float64 `yaml:"probation_rate"`
	// Ramp is how long the rise from 10 % to a full share takes: default 10 s.
	Ramp time.Duration `yaml:"ramp"`

	// Timeout is the shortest timeout, per try or whole, of the routes that
	// use the cluster; 0 if none is known. Its owner fills it in: an attempt
	// must be overdue well before it times out.
	Timeout time.Duration `yaml:"-"`
}

// DefaultConfig is the policy of a cluster that says nothing.
func DefaultConfig() Config {
	return Config{
		Mode:                  Enforce,
		FalseEjectionInterval: 2_600_000 * time.Second,
		BodyIdleTimeout:       15 * time.Second,
		ConnPenalty:           5 * time.Second,
		HLocalMin:             10,
		HLocalMax:             18,
		HA:                    14,
		HB:                    16,
		P0Min:                 0.01,
		P0Max:                 0.6,
		P1Min:                 0.2,
		Latency:               LatencyWeight,
		OverdueMin:            250 * time.Millisecond,
		OverdueMax:            1500 * time.Millisecond,
		StallSilence:          300 * time.Millisecond,
		Trickle:               0.02,
		MaxOut:                0.5,
		Panic:                 0.5,
		Headroom:              2,
		RunAnyEnforced:        1,
		RunGatewayEnforced:    1,
		RunLocalEnforced:      1,
		ProbeTimeout:          time.Second,
		ProbeRate:             10,
		IdleAfter:             10 * time.Second,
		HoldBase:              time.Second,
		HoldMax:               60 * time.Second,
		Jitter:                0.2,
		ProbationRate:         8,
		Ramp:                  10 * time.Second,
	}
}

// Bounds are the limits of the fast test's odds.
func (c Config) Bounds() Bounds { return Bounds{P0Min: c.P0Min, P0Max: c.P0Max, P1Min: c.P1Min} }

// Cap is how many of n endpoints of one priority may be out for what is not
// certain: [Config.MaxOut] of them, rounded down.
func (c Config) Cap(n int) int {
	most := int(c.MaxOut*float64(n) + 1e-9) // 29 % of 100 are 29, whatever 0.29*100 is
	if most == 0 && c.AlwaysEjectOne && n > 1 {
		return 1
	}
	return most
}

// FieldError is one field with a value that it cannot have.
type FieldError struct {
	// Path is the field's name in the file, below the block that was checked.
	Path string
	// Message says what is wrong and what was wanted.
	Message string
}

func (e *FieldError) Error() string { return e.Path + ": " + e.Message }

// Field is the path of the field, for whoever knows its place in a file.
func (e *FieldError) Field() string { return e.Path }

// Validate returns all problems at once, each a *[FieldError], joined.
func (c Config) Validate() error {
	var v validation
	v.choice("mode", string(c.Mode), string(Enforce), string(Shadow))
	v.duration("false_ejection_interval", c.FalseEjectionInterval, time.Hour, 8766*time.Hour)
	v.duration("body_idle_timeout", c.BodyIdleTimeout, time.Millisecond, time.Hour)
	if c.TCPFirstByteTimeout != 0 {
		v.duration("tcp_first_byte_timeout", c.TCPFirstByteTimeout, time.Millisecond, time.Hour)
	}
	v.duration("conn_penalty", c.ConnPenalty, time.Millisecond, time.Hour)
	v.number("h_local_min", c.HLocalMin, 6, 40)
	v.number("h_local_max", c.HLocalMax, 6, 40)
	if c.HLocalMin > c.HLocalMax {
		v.add("h_local_min", fmt.Sprintf("is %v, more than h_local_max, which is %v", c.HLocalMin, c.HLocalMax))
	}
	v.number("h_a", c.HA, 6, 40)
	v.number("h_b", c.HB, 6, 40)
	v.number("p0_min", c.P0Min, 0.0001, 0.9)
	v.number("p0_max", c.P0Max, 0.0001, 0.9)
	if c.P0Min > c.P0Max {
		v.add("p0_min", fmt.Sprintf("is %v, more than p0_max, which is %v", c.P0Min, c.P0Max))
	}
	v.number("p1_min", c.P1Min, 0.001, 0.95)
	v.choice("latency", string(c.Latency), string(LatencyWeight), string(LatencyOff))
	v.duration("overdue_min", c.OverdueMin, time.Millisecond, overdueLimit)
	v.duration("overdue_max", c.OverdueMax, time.Millisecond, overdueLimit)
	if c.OverdueMin > c.OverdueMax {
		v.add("overdue_min", fmt.Sprintf("is %v, more than overdue_max, which is %v", c.OverdueMin, c.OverdueMax))
	}
	v.duration("stall_silence", c.StallSilence, time.Millisecond, time.Hour)
	v.number("trickle", c.Trickle, 0, 1)
	v.number("max_out", c.MaxOut, 0, 1)
	v.number("panic", c.Panic, 0, 1)
	v.number("headroom", c.Headroom, 1, 10)
	for _, run := range [...]struct {
		name     string
		n        int
		enforced float64
	}{{"run_any", c.RunAny, c.RunAnyEnforced}, {"run_gateway", c.RunGateway, c.RunGatewayEnforced}, {"run_local", c.RunLocal, c.RunLocalEnforced}} {
		v.number(run.name, float64(run.n), 0, runMost)
		v.number(run.name+"_enforced", run.enforced, 0, 1)
	}
	v.duration("probe_timeout", c.ProbeTimeout, time.Millisecond, time.Hour)
	v.number("probe_rate", float64(c.ProbeRate), 1, 100)
	v.duration("idle_after", c.IdleAfter, time.Millisecond, time.Hour)
	v.duration("hold_base", c.HoldBase, time.Millisecond, time.Hour)
	v.duration("hold_max", c.HoldMax, time.Millisecond, time.Hour)
	if c.HoldBase > c.HoldMax {
		v.add("hold_base", fmt.Sprintf("is %v, more than hold_max, which is %v", c.HoldBase, c.HoldMax))
	}
	if c.HoldJitter != 0 {
		v.duration("hold_jitter", c.HoldJitter, time.Millisecond, time.Hour)
	}
	v.number("jitter", c.Jitter, 0, 1)
	v.number("probation_rate", c.ProbationRate, 1, 100)
	v.duration("ramp", c.Ramp, time.Millisecond, time.Hour)
	return errors.Join(v...)
}

// runMost is the longest run that is told from longer ones.
const runMost = 1<<16 - 1

type validation []error

func (v *validation) add(path, message string) {
	*v = append(*v, &FieldError{Path: path, Message: message})
}

func (v *validation) choice(path, got string, want ...string) {
	for _, w := range want {
		if got == w {
			return
		}
	}
	v.add(path, fmt.Sprintf("is %q: want one of %s", got, strings.Join(want, ", ")))
}

func (v *validation) duration(path string, got, lo, hi time.Duration) {
	if got < lo || got > hi {
		v.add(path, fmt.Sprintf("is %v, want %v to %v", got, lo, hi))
	}
}

// number also refuses NaN, for which no comparison holds.
func (v *validation) number(path string, got, lo, hi float64) {
	if !(got >= lo && got <= hi) {
		v.add(path, fmt.Sprintf("is %v, want %v to %v", got, lo, hi))
	}
}
