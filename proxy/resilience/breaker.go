package resilience

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

// BreakerConfig is when a cluster is given up as a whole, and for how long.
type BreakerConfig struct {
	// Refusals is how many requests in a row, with none in between that got
	// through, must find nobody who takes a connection; default 5, 0 turns the
	// breaker off.
	Refusals int `yaml:"refusals"`
	// For is how long refusals must have gone on before they count; default 1s.
	// At a high rate five in a row are a matter of milliseconds, less than a
	// restart takes or the detector needs to find those that still answer.
	For time.Duration `yaml:"for"`
	// Open is how long requests fail at once before some are let through to see
	// whether anybody is back, and so how much longer than the outage it lasts for
	// users; default 100ms.
	Open time.Duration `yaml:"open"`
	// HalfOpen is how many those are; all of them must get through. Default 3.
	HalfOpen int `yaml:"half_open"`
}

// DefaultBreakerConfig opens after a second of nothing but refusals.
func DefaultBreakerConfig() BreakerConfig {
	return BreakerConfig{Refusals: 5, For: time.Second, Open: 100 * time.Millisecond, HalfOpen: 3}
}

// Validate names everything that is wrong.
func (c BreakerConfig) Validate() error {
	var errs []error
	if c.Refusals < 0 || c.Refusals > 1000 {
		errs = append(errs, strictyaml.Invalid("refusals", "%d: want 0 to 1000", c.Refusals))
	}
	if c.For < 0 || c.For > time.Hour {
		errs = append(errs, strictyaml.Invalid("for", "%v: want 0s to 1h", c.For))
	}
	if c.Open < time.Millisecond || c.Open > time.Hour {
		errs = append(errs, strictyaml.Invalid("open", "%v: want 1ms to 1h", c.Open))
	}
	if c.HalfOpen < 1 || c.HalfOpen > 100 {
		errs = append(errs, strictyaml.Invalid("half_open", "%d: want 1 to 100", c.HalfOpen))
	}
	return errors.Join(errs...)
}

// BreakerState is what a breaker does with a request.
type BreakerState uint32

const (
	Closed   BreakerState = iota // lets it through
	HalfOpen                     // lets a few through, to see
	Open                         // refuses it
)

// String is the state's name in metrics and status pages.
func (s BreakerState) String() string {
	switch s {
	case Closed:
		return "closed"
	case HalfOpen:
		return "half-open"
	}
	return "open"
}

// Result is what a request taught about its cluster as a whole.
type Result uint8

const (
	Unknown Result = iota // nothing: the client left, nobody could be picked, our own limit
	Reached               // somebody took a connection, whatever came of it
	Refused               // every endpoint that was tried refused
)

var (
	errRefused = errors.New("refused")
	errUnknown = errors.New("unknown")
)

// Breaker is the circuit breaker of one cluster. It looks at connecting only:
// errors in answers are a matter for the detector, which tells one bad endpoint
// from the others, while a breaker that counted them would turn a cluster with
// 30 % errors into an outage.
//
// The states are gobreaker's. It takes a lock and reads the clock for each
// request, so it is kept off the common path: while the breaker is closed and no
// refusal has been seen since the last success, Allow and Done are one atomic
// load each. Its methods may be called from any goroutine.
type Breaker struct {
	onChange func(from, to BreakerState)
	core     atomic.Pointer[breakerCore]
	opened   atomic.Uint64 // how often
	rejected atomic.Uint64 // requests
}

// breakerCore is a gobreaker with its configuration: it is replaced as a whole
// when the configuration changes, and what then is under way ends in the old one.
type breakerCore struct {
	cfg   BreakerConfig
	steps *gobreaker.TwoStepCircuitBreaker[struct{}]
	state atomic.Uint32 // BreakerState, as gobreaker last changed it
	since atomic.Int64  // instant of the first refusal after the last success; none if negative
	until atomic.Int64  // an open breaker need not be asked before this instant
}

const noRefusal = -1

// NewBreaker makes a closed breaker. onChange is told each change of state while
// a lock is held: it must be quick and not come back. It may be nil.
func NewBreaker(cfg BreakerConfig, onChange func(from, to BreakerState)) *Breaker {
	b := &Breaker{onChange: onChange}
	b.core.Store(b.newCore(cfg))
	return b
}

// SetConfig starts anew with another configuration, closed; with the same one it
// does nothing.
func (b *Breaker) SetConfig(cfg BreakerConfig) {
	if b.core.Load().cfg != cfg {
		b.core.Store(b.newCore(cfg))
	}
}

// Allow asks whether a request may be tried at all. If so, its Permit must be
// Done on every path: a half-open breaker waits for those that it let through.
func (b *Breaker) Allow(now time.Duration) (Permit, bool) {
	c := b.core.Load()
	state := BreakerState(c.state.Load())
	if state == Closed {
		return Permit{core: c}, true
	}
	if state == HalfOpen || now >= time.Duration(c.until.Load()) {
		if done, err := c.steps.Allow(); err == nil {
			return Permit{core: c, done: done}, true
		}
	}
	b.rejected.Add(1)
	return Permit{}, false
}

// State is what the breaker does at the moment. An open one whose time is up is
// still called open until a request comes.
func (b *Breaker) State() BreakerState { return BreakerState(b.core.Load().state.Load()) }

// Opened is how often the breaker has opened.
func (b *Breaker) Opened() uint64 { return b.opened.Load() }

// Rejected is how many requests it has refused.
func (b *Breaker) Rejected() uint64 { return b.rejected.Load() }

func (b *Breaker) newCore(cfg BreakerConfig) *breakerCore {
	c := &breakerCore{cfg: cfg}
	c.since.Store(noRefusal)
	c.steps = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: uint32(cfg.HalfOpen),
		Timeout:     cfg.Open,
		ReadyToTrip: func(n gobreaker.Counts) bool { return int(n.ConsecutiveFailures) >= cfg.Refusals },
		IsExcluded:  func(err error) bool { return errors.Is(err, errUnknown) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			c.state.Store(uint32(stateOf(to)))
			if to == gobreaker.StateOpen {
				b.opened.Add(1)
			}
			if b.onChange != nil {
				b.onChange(stateOf(from), stateOf(to))
			}
		},
	})
	return c
}

func stateOf(s gobreaker.State) BreakerState {
	switch s {
	case gobreaker.StateOpen:
		return Open
	case gobreaker.StateHalfOpen:
		return HalfOpen
	}
	return Closed
}

// Permit is one request's leave to be tried. It belongs to one goroutine. The
// zero Permit is done.
type Permit struct {
	core *breakerCore
	done func(error) // nil if the breaker was closed: gobreaker does not know this request
}

// Done says what the request taught about the cluster. Only the first call
// counts, so that a deferred Done(Unknown) can stand behind all others.
func (p *Permit) Done(r Result, now time.Duration) {
	c, done := p.core, p.done
	*p = Permit{}
	switch {
	case c == nil:
	case done != nil:
		done(r.err())
		c.reached(r)
		c.opened(now)
	case r == Refused:
		c.refused(now)
	default:
		c.reached(r)
	}
}

func (r Result) err() error {
	switch r {
	case Reached:
		return nil
	case Refused:
		return errRefused
	}
	return errUnknown
}

// refused counts the refusal of a request that gobreaker does not know, unless
// the breaker is not closed any more: then it is old news.
func (c *breakerCore) refused(now time.Duration) {
	if c.cfg.Refusals == 0 || BreakerState(c.state.Load()) != Closed {
		return
	}
	c.since.CompareAndSwap(noRefusal, int64(now))
	if since := time.Duration(c.since.Load()); since < 0 || now-since < c.cfg.For {
		return
	}
	if done, err := c.steps.Allow(); err == nil {
		done(errRefused)
	}
	c.opened(now)
}

// reached ends a row of refusals.
func (c *breakerCore) reached(r Result) {
	if r != Reached || c.since.Load() < 0 || c.since.Swap(noRefusal) < 0 {
		return
	}
	if BreakerState(c.state.Load()) != Closed {
		return
	}
	if done, err := c.steps.Allow(); err == nil {
		done(nil)
	}
}

func (c *breakerCore) opened(now time.Duration) {
	if BreakerState(c.state.Load()) == Open {
		c.until.Store(int64(now + c.cfg.Open))
	}
}
