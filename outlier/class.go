package outlier

import (
	"fmt"
	"slices"
)

// Class is what one attempt says about the endpoint that it was made on.
// The zero Class is Ignore: an attempt nobody classified says nothing.
type Class uint8

const (
	// Ignore: the attempt says nothing about the endpoint (the client left, our own limit, …).
	Ignore Class = iota
	// Censored: it ended before the endpoint showed itself, but later than an answer was due.
	Censored
	// Overload: the endpoint answered that it has too much to do. Never a reason to eject it.
	Overload
	// Conn: no connection, or the connection died before an answer. A "hard" failure.
	Conn
	// Timeout: the endpoint did not answer in time.
	Timeout
	// Server: the endpoint answered with a failure, or broke its answer.
	Server
	// OK: the endpoint did its work.
	OK
)

var classNames = [...]string{"ignore", "censored", "overload", "conn", "timeout", "server", "ok"}

func (c Class) String() string { return name(classNames[:], "class", uint8(c)) }

// MarshalText makes the class a word in JSON.
func (c Class) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Failure says whether the class counts against the endpoint.
func (c Class) Failure() bool { return c == Conn || c == Timeout || c == Server }

// State is where an endpoint stands, in the eyes of one observer or of the
// fleet. The zero State is In.
type State uint8

const (
	// In: it takes its full share.
	In State = iota
	// Suspended: answers are overdue. Reversible: the first answer ends it, nothing is recorded.
	Suspended
	// Ejected: out, on record, until its hold-off ends.
	Ejected
	// Probing: still out; probes must succeed before a request may try it.
	Probing
	// Probation: a small share of real requests decides.
	Probation
	// Ramp: back, with a share that rises to full.
	Ramp
	// Draining: it is leaving on purpose. No new requests, no judgement.
	Draining
)

var stateNames = [...]string{"in", "suspended", "ejected", "probing", "probation", "ramp", "draining"}

func (s State) String() string { return name(stateNames[:], "state", uint8(s)) }

// MarshalText makes the state a word in JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the word.
func (s *State) UnmarshalText(text []byte) error {
	i, err := unname(stateNames[:], "state", text)
	*s = State(i)
	return err
}

// Out says whether an endpoint in this state counts as taken out: against
// the cap, and out of the baseline.
func (s State) Out() bool {
	return s == Suspended || s == Ejected || s == Probing || s == Probation
}

// Rule names what led to a change of state.
type Rule uint8

const (
	RuleNone    Rule = iota
	RuleHard         // connections fail and probes confirm it
	RuleStalled      // answers are overdue
	RuleFast         // the fast sequential test
	RuleSlow         // the slow sequential test (fleet only)
	RuleLatency      // slower than its group: weight, never ejection
	RuleIdle         // no traffic, and pings go unanswered
	RuleRun          // N failures in a row, when configured
	RuleManual       // an operator
)

var ruleNames = [...]string{"none", "hard", "stalled", "fast", "slow", "latency", "idle", "run", "manual"}

func (r Rule) String() string { return name(ruleNames[:], "rule", uint8(r)) }

// MarshalText makes the rule a word in JSON.
func (r Rule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads the word.
func (r *Rule) UnmarshalText(text []byte) error {
	i, err := unname(ruleNames[:], "rule", text)
	*r = Rule(i)
	return err
}

// asksGroup says whether an ejection by the rule has to pass the group's guards:
// what is down is down, whatever becomes of its neighbours.
func (r Rule) asksGroup() bool { return r == RuleFast || r == RuleRun }

// Level is how deep into an endpoint a failure or a probe reached.
type Level uint8

const (
	LevelNone    Level = iota
	LevelConnect       // a TCP connection (layer 4)
	LevelTLS           // a finished TLS handshake
	LevelApp           // an answer of the application (layer 7)
)

var levelNames = [...]string{"none", "connect", "tls", "app"}

func (l Level) String() string { return name(levelNames[:], "level", uint8(l)) }

// MarshalText makes the level a word in JSON.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// ProbeResult is how a probe or a ping ended.
type ProbeResult uint8

const (
	NotRun      ProbeResult = iota // not made: over a limit, our own fault, cancelled
	ProbeOK                        // answered, to the depth that was asked
	Refused                        // connection refused
	Reset                          // connected, then reset or closed without an answer
	Unreachable                    // no route
	TLSFailed                      // the handshake failed
	TimedOut                       // no answer in time
	Unhealthy                      // answered that it is not well: HTTP outside 200-399, gRPC health not SERVING
)

var probeNames = [...]string{"not_run", "ok", "refused", "reset", "unreachable", "tls", "timeout", "unhealthy"}

func (r ProbeResult) String() string { return name(probeNames[:], "probe", uint8(r)) }

// MarshalText makes the result a word in JSON.
func (r ProbeResult) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Hard says whether the result is a hard failure: news that needs no
// patience to be believed.
func (r ProbeResult) Hard() bool {
	return r == Refused || r == Reset || r == Unreachable || r == TLSFailed
}

// Level is the depth at which a hard result failed.
func (r ProbeResult) Level() Level {
	switch r {
	case Refused, Unreachable:
		return LevelConnect
	case TLSFailed:
		return LevelTLS
	case Reset, TimedOut, Unhealthy:
		return LevelApp
	default:
		return LevelNone
	}
}

// class is what a failed probe counts as: it enters the prober's counters as
// an attempt.
func (r ProbeResult) class() Class {
	switch r {
	case Refused, Reset, Unreachable, TLSFailed:
		return Conn
	case TimedOut:
		return Timeout
	case Unhealthy:
		return Server
	default:
		return Ignore
	}
}

// Urgency says how soon a control plane should hear of what Step saw.
type Urgency uint8

const (
	UrgencyNone   Urgency = iota
	UrgencySoft           // an endpoint entered an excursion: within a budget
	UrgencyRising         // one failed again in its excursion: the first to draw on that budget
	UrgencyHard           // a hard failure or an overdue attempt: at once
)

var urgencyNames = [...]string{"none", "soft", "rising", "hard"}

func (u Urgency) String() string { return name(urgencyNames[:], "urgency", uint8(u)) }

func name(names []string, kind string, i uint8) string {
	if int(i) < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%s(%d)", kind, i)
}

// unname is the inverse of name; an unknown word is the zero value and an error.
func unname(names []string, kind string, text []byte) (uint8, error) {
	if i := slices.Index(names, string(text)); i >= 0 {
		return uint8(i), nil
	}
	return 0, fmt.Errorf("%q is no %s", text, kind)
}
