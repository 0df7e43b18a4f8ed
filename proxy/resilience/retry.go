package resilience

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
	"github.com/overhear-mesh/overhear/outlier"
)

// Condition is a kind of failure that a route may declare repeatable.
type Condition uint8

const (
	Reset           Condition = iota // the connection died before a response head
	GatewayError                     // 502, 503, 504
	ServerError                      // every 5xx
	PerTryTimeout                    // the attempt's own time was up
	RetriableStatus                  // one of RetryPolicy.Statuses

	// Statuses of gRPC, in the head of an answer: of one that has begun nothing can be
	// taken back.
	Cancelled
	DeadlineExceeded
	Internal
	ResourceExhausted
	Unavailable
)

var conditions = [...]string{
	Reset:           "reset",
	GatewayError:    "gateway-error",
	ServerError:     "5xx",
	PerTryTimeout:   "per-try-timeout",
	RetriableStatus: "retriable-status-codes",

	Cancelled:         "cancelled",
	DeadlineExceeded:  "deadline-exceeded",
	Internal:          "internal",
	ResourceExhausted: "resource-exhausted",
	Unavailable:       "unavailable",
}

// codes are the statuses of gRPC by condition.
var codes = [...]int{Cancelled: 1, DeadlineExceeded: 4, Internal: 13, ResourceExhausted: 8, Unavailable: 14}

// String is the condition's name in configuration files, where it is Envoy's if
// Envoy has one.
func (c Condition) String() string { return strictyaml.NameOf(c, conditions[:], "condition") }

// MarshalText writes the name that UnmarshalText reads.
func (c Condition) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads a condition from a configuration file.
func (c *Condition) UnmarshalText(text []byte) error {
	return strictyaml.SetName(c, conditions[:], text)
}

// RetryPolicy says which failed attempts of a request are repeated. A failure
// after which nothing was processed is always repeatable and not listed.
type RetryPolicy struct {
	// MaxAttempts bounds the attempts of one request, the first included;
	// default 4. 1 forbids retries.
	MaxAttempts int `yaml:"max_attempts"`
	// On lists what is repeated beside failures after which nothing was processed: reset,
	// gateway-error (502, 503, 504), 5xx, per-try-timeout, retriable-status-codes, and of
	// gRPC cancelled, deadline-exceeded, internal, resource-exhausted and unavailable;
	// default [reset]. The method must be safe as well, or AnyMethod be set.
	On []Condition `yaml:"on"`
	// Statuses are those of retriable-status-codes.
	Statuses []int `yaml:"statuses"`
	// AnyMethod repeats by On, and hedges, whatever the method is: for routes whose
	// owner knows that a repetition does no harm. Default off.
	AnyMethod bool `yaml:"any_method"`
	// HedgeOnOverdue makes a second attempt, on another endpoint, beside one that is
	// overdue to the detector: first come, first served. It takes from the budget. The
	// method must be safe as well, or AnyMethod be set; default true.
	HedgeOnOverdue bool `yaml:"hedge_on_overdue"`
	// BackoffBase and BackoffMax bound the wait before a retry that takes from
	// the budget; default 25ms and 250ms. Retries on another endpoint after
	// nothing was processed do not wait.
	BackoffBase time.Duration `yaml:"backoff_base"`
	BackoffMax  time.Duration `yaml:"backoff_max"`
}

// DefaultRetryPolicy repeats what does no harm: everything that was not
// processed, and after a reset what is safe.
func DefaultRetryPolicy() RetryPolicy {
	return RetryPolicy{
		MaxAttempts:    4,
		On:             []Condition{Reset},
		HedgeOnOverdue: true,
		BackoffBase:    25 * time.Millisecond,
		BackoffMax:     250 * time.Millisecond,
	}
}

// Validate names everything that is wrong.
func (p RetryPolicy) Validate() error {
	var errs []error
	if p.MaxAttempts < 1 || p.MaxAttempts > 10 {
		errs = append(errs, strictyaml.Invalid("max_attempts", "%d: want 1 to 10", p.MaxAttempts))
	}
	if p.BackoffBase < 0 {
		errs = append(errs, strictyaml.Invalid("backoff_base", "%v: want at least 0", p.BackoffBase))
	}
	if p.BackoffMax < p.BackoffBase {
		errs = append(errs, strictyaml.Invalid("backoff_max", "%v: want at least backoff_base, %v", p.BackoffMax, p.BackoffBase))
	}
	listed := slices.Contains(p.On, RetriableStatus)
	if listed && len(p.Statuses) == 0 {
		errs = append(errs, strictyaml.Invalid("statuses", "missing: %v is listed in on", RetriableStatus))
	}
	if !listed && len(p.Statuses) > 0 {
		errs = append(errs, strictyaml.Invalid("statuses", "without effect: %v is not listed in on", RetriableStatus))
	}
	for i, status := range p.Statuses {
		if status < 400 || status > 599 {
			errs = append(errs, strictyaml.Invalid(fmt.Sprintf("statuses[%d]", i), "%d: want 400 to 599", status))
		}
	}
	return errors.Join(errs...)
}

// Failure is an attempt that did not bring a usable answer.
type Failure struct {
	Ending outlier.Ending
	Status int // of the response; 0 if there was none
	GRPC   int // the status of gRPC in the head of the response; 0 if there was none, or OK
	// Unprocessed is that the peer promised so (an inbound sidecar whose
	// application refused the connection) or that no byte of the request was
	// written. What the ending alone proves need not be said again.
	Unprocessed bool
	// Answered is that response bytes have reached the client: nothing can be
	// taken back.
	Answered bool
	// Replayable is that the whole request can be sent again: it has no body,
	// or none of the body has been taken from the client.
	Replayable bool
	// Safe is that the method changes nothing (RFC 9110, section 9.2.1). Methods
	// that are merely idempotent do not count: a DELETE that was carried out and
	// lost its answer comes back as 404.
	Safe bool
	// Attempts is how many attempts the request has made, this one included.
	Attempts int
}

// Decision is what to do about a failed attempt.
type Decision uint8

const (
	GiveUp     Decision = iota // pass the failure on
	Retry                      // try again at once
	AskBudget                  // try again after Backoff, if Budget.Withdraw agrees
	RetryFresh                 // try again at once, also on the same endpoint, on a fresh connection
)

// String is the decision in log lines and tests.
func (d Decision) String() string {
	switch d {
	case Retry:
		return "retry"
	case AskBudget:
		return "ask the budget"
	case RetryFresh:
		return "retry on a fresh connection"
	}
	return "give up"
}

// Decide says whether a failed attempt is repeated. Connections that never
// came about and promises that nothing was processed are repeated whatever the
// method; each on an endpoint that has not been tried, so they add no load where
// there is trouble and need no budget. After a reset nobody knows what was
// processed: what is safe is repeated, once without budget, since a crash
// resets many requests at one moment, and then as the budget allows.
func (p *RetryPolicy) Decide(f Failure) Decision {
	switch {
	case f.Answered || !f.Replayable || f.Attempts >= p.MaxAttempts:
		return GiveUp
	case f.Unprocessed || unprocessed(f.Ending):
		return Retry
	case f.Ending == outlier.EndKeepAliveRace:
		// The server closed an idle connection, as it may (RFC 9112, section
		// 9.3.1): no reason to ask the route.
		if f.Safe || p.AnyMethod {
			return RetryFresh
		}
		return GiveUp
	case !f.Safe && !p.AnyMethod || !p.listed(f):
		return GiveUp
	case f.Ending == outlier.EndResetBeforeHeaders && f.Attempts == 1:
		return Retry
	}
	return AskBudget
}

// unprocessed endings prove that the endpoint has seen nothing of the request.
func unprocessed(e outlier.Ending) bool {
	switch e {
	case outlier.EndConnectRefused, outlier.EndConnectTimeout, outlier.EndUnreachable, outlier.EndTLS,
		outlier.EndPeerWait, outlier.EndLocalLimit, outlier.EndOwnErrno,
		outlier.EndRefusedStream, outlier.EndGoAwayUnprocessed: // RFC 9113, sections 8.7 and 6.8
		return true
	}
	return false
}

func (p *RetryPolicy) listed(f Failure) bool {
	for _, c := range p.On {
		switch c {
		case Reset:
			if f.Ending == outlier.EndResetBeforeHeaders {
				return true
			}
		case GatewayError:
			if f.Status >= 502 && f.Status <= 504 {
				return true
			}
		case ServerError:
			if f.Status >= 500 && f.Status <= 599 {
				return true
			}
		case PerTryTimeout:
			if f.Ending == outlier.EndPerTryTimeout {
				return true
			}
		case RetriableStatus:
			if slices.Contains(p.Statuses, f.Status) {
				return true
			}
		default:
			if f.GRPC != 0 && f.GRPC == codes[c] {
				return true
			}
		}
	}
	return false
}

// Backoff is how long to wait before retry number n, counted from 1: up to
// BackoffBase, doubled each time, at most BackoffMax. The wait is drawn evenly
// from zero to that, so that the retries of many clients spread ("full
// jitter", Brooker, "Exponential Backoff And Jitter", AWS 2015).
func (p *RetryPolicy) Backoff(n int, rng *rand.Rand) time.Duration {
	ceiling := p.BackoffBase
	for i := 1; i < n && ceiling < p.BackoffMax; i++ {
		ceiling *= 2
	}
	ceiling = min(ceiling, p.BackoffMax)
	if ceiling <= 0 {
		return 0
	}
	return time.Duration(rng.Int64N(int64(ceiling) + 1))
}
