package resilience

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/internal/strictyaml"
)

// BudgetConfig bounds the retries of a cluster that are not free of charge.
type BudgetConfig struct {
	// Ratio is how many retries there may be for each request; default 20%.
	Ratio float64 `yaml:"ratio"`
	// MinPerSecond is how many there may be at any rate, so that a cluster with
	// few requests can retry at all; default 3.
	MinPerSecond int `yaml:"min_per_second"`
}

// DefaultBudgetConfig is one retry for five requests, at least three a second.
func DefaultBudgetConfig() BudgetConfig { return BudgetConfig{Ratio: 0.2, MinPerSecond: 3} }

// Validate names everything that is wrong.
func (c BudgetConfig) Validate() error {
	var errs []error
	if !(c.Ratio >= 0 && c.Ratio <= 10) {
		errs = append(errs, strictyaml.Invalid("ratio", "%v: want 0%% to 1000%%", c.Ratio))
	}
	if c.MinPerSecond < 0 || c.MinPerSecond > 1000 {
		errs = append(errs, strictyaml.Invalid("min_per_second", "%d: want 0 to 1000", c.MinPerSecond))
	}
	return errors.Join(errs...)
}

const (
	budgetWindow = 10 // seconds over which requests and retries are compared

	// A second of the window is one word, so that counting and starting anew
	// cannot come apart: 20 bits of the second's number, 24 of requests, 20 of
	// retries. None of them overflows in a second, and a slot whose number
	// comes round again after 60 days untouched does no harm.
	retryBits   = 20
	requestBits = 24
	oneRetry    = 1
	oneRequest  = 1 << retryBits
	retryMask   = 1<<retryBits - 1
	requestMask = 1<<requestBits - 1
	epochShift  = retryBits + requestBits
	epochMask   = 1<<(64-epochShift) - 1
)

// Budget compares retries with requests over ten seconds, as Finagle's and
// Linkerd's does. Its methods may be called from any goroutine and allocate
// nothing.
type Budget struct {
	config atomic.Pointer[BudgetConfig]
	slots  [budgetWindow]atomic.Uint64
}

// NewBudget makes a budget in which nothing has happened yet.
func NewBudget(cfg BudgetConfig) *Budget {
	b := &Budget{}
	b.SetConfig(cfg)
	return b
}

// SetConfig changes the bounds; what has been counted stays.
func (b *Budget) SetConfig(cfg BudgetConfig) { b.config.Store(&cfg) }

// Deposit counts a request, whatever becomes of it. A retry is none.
func (b *Budget) Deposit(now time.Duration) { b.add(now, oneRequest) }

// Withdraw asks for a retry and counts it if the answer is yes.
func (b *Budget) Withdraw(now time.Duration) bool {
	cfg := b.config.Load()
	// Counted first, so that goroutines that ask at once do not all see the
	// same last one.
	slot := b.add(now, oneRetry)
	requests, retries := b.sum(now)
	if float64(retries) <= cfg.Ratio*float64(requests)+float64(cfg.MinPerSecond*budgetWindow) {
		return true
	}
	slot.Add(^uint64(oneRetry - 1))
	return false
}

// add counts n in the slot of this second, which it starts anew if it is left
// from another one.
func (b *Budget) add(now time.Duration, n uint64) *atomic.Uint64 {
	second := uint64(max(0, now) / time.Second)
	slot := &b.slots[second%budgetWindow]
	epoch := second & epochMask
	for {
		word := slot.Load()
		if word>>epochShift == epoch {
			slot.Add(n)
			return slot
		}
		if slot.CompareAndSwap(word, epoch<<epochShift|n) {
			return slot
		}
	}
}

func (b *Budget) sum(now time.Duration) (requests, retries uint64) {
	second := uint64(max(0, now) / time.Second)
	for back := range min(second+1, budgetWindow) {
		s := second - back
		if word := b.slots[s%budgetWindow].Load(); word>>epochShift == s&epochMask {
			requests += word >> retryBits & requestMask
			retries += word & retryMask
		}
	}
	return requests, retries
}
