package resilience_test

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/overhear-mesh/overhear/proxy/resilience"
)

// drain takes all retries that a budget has and counts them.
func drain(b *resilience.Budget, now time.Duration) int {
	n := 0
	for n < 1_000_000 && b.Withdraw(now) {
		n++
	}
	return n
}

func TestTheBudgetIsAShareOfTheRequests(t *testing.T) {
	tests := []struct {
		name     string
		config   resilience.BudgetConfig
		requests int
		want     int
	}{
		{"nothing but the minimum", resilience.DefaultBudgetConfig(), 0, 30},
		{"the share on top", resilience.DefaultBudgetConfig(), 1000, 230},
		{"no minimum", resilience.BudgetConfig{Ratio: 0.2}, 1000, 200},
		{"no share", resilience.BudgetConfig{MinPerSecond: 1}, 1000, 10},
		{"none at all", resilience.BudgetConfig{}, 1000, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := resilience.NewBudget(test.config)
			for i := range test.requests {
				b.Deposit(time.Duration(i) * 10 * time.Second / time.Duration(test.requests))
			}
			if got := drain(b, 9*time.Second); got != test.want {
				t.Errorf("got %d retries, want %d", got, test.want)
			}
		})
	}
}

func TestTheBudgetForgetsAfterTenSeconds(t *testing.T) {
	b := resilience.NewBudget(resilience.BudgetConfig{Ratio: 1})
	for range 5 {
		b.Deposit(100 * time.Second)
	}
	if !b.Withdraw(109 * time.Second) {
		t.Error("no retry for requests of nine seconds ago")
	}
	if b.Withdraw(110 * time.Second) {
		t.Error("a retry for requests of ten seconds ago")
	}
}

func TestARefusedRetryIsNotCounted(t *testing.T) {
	b := resilience.NewBudget(resilience.BudgetConfig{Ratio: 0.5})
	b.Deposit(0)
	for range 10 {
		if b.Withdraw(0) {
			t.Fatal("a retry for half a request")
		}
	}
	b.Deposit(0)
	if !b.Withdraw(0) {
		t.Error("the refused ones have used up the budget")
	}
}

// The budget must agree with a list of everything that happened.
func TestTheBudgetAgreesWithAnExactOne(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	cfg := resilience.BudgetConfig{Ratio: 0.3, MinPerSecond: 1}
	b := resilience.NewBudget(cfg)
	var requests, retries []int // seconds
	within := func(all []int, second int) (n int) {
		for _, s := range all {
			if s > second-10 && s <= second {
				n++
			}
		}
		return n
	}
	now := time.Duration(0)
	for range 5000 {
		now += time.Duration(rng.ExpFloat64() * float64(100*time.Millisecond))
		second := int(now / time.Second)
		if rng.Float64() < 0.6 {
			b.Deposit(now)
			requests = append(requests, second)
			continue
		}
		want := float64(within(retries, second)+1) <= cfg.Ratio*float64(within(requests, second))+10*float64(cfg.MinPerSecond)
		if got := b.Withdraw(now); got != want {
			t.Fatalf("at %v: got %v, want %v", now, got, want)
		}
		if want {
			retries = append(retries, second)
		}
	}
	if len(retries) < 100 {
		t.Errorf("only %d retries were granted: the test did not see the interesting part", len(retries))
	}
}

func TestManyAtOnceDoNotOverdrawTheBudget(t *testing.T) {
	b := resilience.NewBudget(resilience.BudgetConfig{Ratio: 0.1, MinPerSecond: 1})
	var granted atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 1000 {
				now := time.Duration(i) * time.Millisecond
				b.Deposit(now)
				if b.Withdraw(now) {
					granted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got, most := granted.Load(), int64(8000*0.1+10); got > most || got < most/2 {
		t.Errorf("got %d retries, want up to %d and not many fewer", got, most)
	}
}

func TestTheBudgetDoesNotAllocate(t *testing.T) {
	b := resilience.NewBudget(resilience.DefaultBudgetConfig())
	now := time.Duration(0)
	allocs := testing.AllocsPerRun(1000, func() {
		now += 10 * time.Millisecond
		b.Deposit(now)
		b.Withdraw(now)
	})
	if allocs != 0 {
		t.Errorf("got %v allocations, want 0", allocs)
	}
}

func BenchmarkDeposit(b *testing.B) {
	budget := resilience.NewBudget(resilience.DefaultBudgetConfig())
	for now := time.Duration(0); b.Loop(); now += time.Microsecond {
		budget.Deposit(now)
	}
}

func TestALimitLetsInAsManyAsItSays(t *testing.T) {
	l := resilience.NewLimits(resilience.LimitsConfig{Requests: 2})
	for i, want := range []bool{true, true, false, false} {
		if got := l.Requests.Acquire(); got != want {
			t.Errorf("request %d: got %v, want %v", i, got, want)
		}
	}
	if got := l.Requests.Refused(); got != 2 {
		t.Errorf("refused: got %d, want 2", got)
	}
	l.Requests.Release()
	if !l.Requests.Acquire() {
		t.Error("what was released is not there")
	}
	for range 1000 {
		if !l.Pending.Acquire() {
			t.Fatal("no limit has refused")
		}
	}
	l.SetConfig(resilience.LimitsConfig{Requests: 1})
	l.Requests.Release()
	if l.Requests.Acquire() {
		t.Error("one is held, one is allowed, and one more was let in")
	}
	if got := l.Requests.Held(); got != 1 {
		t.Errorf("held: got %d, want 1", got)
	}
}
