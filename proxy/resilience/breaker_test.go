package resilience_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overhear-mesh/overhear/proxy/resilience"
)

// circuit is a breaker in virtual time, with what it told about itself.
type circuit struct {
	t       *testing.T
	start   time.Time
	breaker *resilience.Breaker
	changes []string
}

func newCircuit(t *testing.T, cfg resilience.BreakerConfig) *circuit {
	c := &circuit{t: t, start: time.Now()}
	c.breaker = resilience.NewBreaker(cfg, func(from, to resilience.BreakerState) {
		c.changes = append(c.changes, fmt.Sprintf("%v to %v", from, to))
	})
	return c
}

func (c *circuit) now() time.Duration { return time.Since(c.start) }

func (c *circuit) allow() resilience.Permit {
	c.t.Helper()
	p, ok := c.breaker.Allow(c.now())
	if !ok {
		c.t.Fatalf("refused at %v, in state %v", c.now(), c.breaker.State())
	}
	return p
}

func (c *circuit) refuses() {
	c.t.Helper()
	if _, ok := c.breaker.Allow(c.now()); ok {
		c.t.Fatalf("let through at %v, in state %v", c.now(), c.breaker.State())
	}
}

func (c *circuit) request(r resilience.Result) {
	c.t.Helper()
	p := c.allow()
	p.Done(r, c.now())
}

// opened is how long a breaker stays open by default.
var opened = resilience.DefaultBreakerConfig().Open

// open makes the breaker open by as little as possible.
func (c *circuit) open() {
	c.t.Helper()
	c.request(resilience.Refused)
	time.Sleep(time.Second)
	for range 5 {
		c.request(resilience.Refused)
	}
	c.state(resilience.Open)
}

func (c *circuit) state(want resilience.BreakerState) {
	c.t.Helper()
	if got := c.breaker.State(); got != want {
		c.t.Fatalf("at %v: got %v, want %v", c.now(), got, want)
	}
}

func TestASecondOfNothingButRefusalsOpensTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(t, resilience.DefaultBreakerConfig())
		for range 1000 { // within a second that is a restart, not an outage
			c.request(resilience.Refused)
			time.Sleep(999 * time.Microsecond)
		}
		c.state(resilience.Closed)
		time.Sleep(time.Millisecond)
		for range 4 {
			c.request(resilience.Refused)
		}
		c.state(resilience.Closed)
		c.request(resilience.Refused)
		c.state(resilience.Open)
		c.refuses()
		if c.breaker.Opened() != 1 || c.breaker.Rejected() != 1 {
			t.Errorf("opened %d times, rejected %d; want 1, 1", c.breaker.Opened(), c.breaker.Rejected())
		}
	})
}

func TestOneThatGetsThroughKeepsTheBreakerClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(t, resilience.DefaultBreakerConfig())
		// Nine of ten endpoints refuse: a disaster, and still not one that
		// failing fast would improve.
		for i := range 2000 {
			if i%10 == 9 {
				c.request(resilience.Reached)
			} else {
				c.request(resilience.Refused)
			}
			time.Sleep(100 * time.Millisecond)
		}
		c.state(resilience.Closed)
	})
}

func TestRequestsThatTeachNothingDoNotMatter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(t, resilience.DefaultBreakerConfig())
		for range 20 {
			c.request(resilience.Unknown)
			time.Sleep(time.Second)
		}
		c.state(resilience.Closed)
		c.request(resilience.Refused)
		time.Sleep(time.Second)
		for range 4 {
			c.request(resilience.Refused)
			c.request(resilience.Unknown) // and does not end a row of refusals either
		}
		c.request(resilience.Refused)
		c.state(resilience.Open)
	})
}

func TestAnOpenBreakerTriesAgainAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(t, resilience.DefaultBreakerConfig())
		c.open()
		time.Sleep(opened)
		c.refuses() // not before the time is over
		time.Sleep(time.Millisecond)
		permits := []resilience.Permit{c.allow(), c.allow(), c.allow()}
		c.state(resilience.HalfOpen)
		c.refuses() // a fourth one
		for i := range permits {
			permits[i].Done(resilience.Reached, c.now())
		}
		c.state(resilience.Closed)
		want := []string{"closed to open", "open to half-open", "half-open to closed"}
		if diff := cmp.Diff(want, c.changes); diff != "" {
			t.Errorf("changes (-want +got):\n%s", diff)
		}
		// And the row of refusals begins anew.
		for range 10 {
			c.request(resilience.Refused)
		}
		c.state(resilience.Closed)
	})
}

func TestAHalfOpenBreakerOpensAgainAtTheFirstRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(t, resilience.DefaultBreakerConfig())
		c.open()
		time.Sleep(opened + time.Millisecond)
		c.request(resilience.Refused)
		c.state(resilience.Open)
		time.Sleep(opened)
		c.refuses()
	})
}

func TestAPermitThatTeachesNothingMakesRoomForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(t, resilience.DefaultBreakerConfig())
		c.open()
		time.Sleep(opened + time.Millisecond)
		for range 100 { // clients that leave at the wrong moment must not wedge it
			c.request(resilience.Unknown)
		}
		for range 3 {
			c.request(resilience.Reached)
		}
		c.state(resilience.Closed)
	})
}

func TestOnlyTheFirstDoneCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(t, resilience.DefaultBreakerConfig())
		c.open()
		time.Sleep(opened + time.Millisecond)
		for range 3 {
			p := c.allow()
			p.Done(resilience.Reached, c.now())
			p.Done(resilience.Refused, c.now())
		}
		c.state(resilience.Closed)
	})
}

func TestNewsFromBeforeTheBreakerOpenedIsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(t, resilience.DefaultBreakerConfig())
		before := []resilience.Permit{c.allow(), c.allow()}
		c.open()
		time.Sleep(opened + time.Millisecond)
		p := c.allow()
		before[0].Done(resilience.Refused, c.now())
		before[1].Done(resilience.Reached, c.now())
		c.state(resilience.HalfOpen)
		p.Done(resilience.Reached, c.now())
		c.request(resilience.Reached)
		c.request(resilience.Reached)
		c.state(resilience.Closed)
	})
}

func TestABreakerWithoutRefusalsIsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := resilience.DefaultBreakerConfig()
		cfg.Refusals = 0
		c := newCircuit(t, cfg)
		for range 100 {
			c.request(resilience.Refused)
			time.Sleep(opened)
		}
		c.state(resilience.Closed)
	})
}

func TestAChangedConfigurationStartsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := resilience.DefaultBreakerConfig()
		c := newCircuit(t, cfg)
		c.open()
		c.breaker.SetConfig(cfg)
		c.state(resilience.Open)
		cfg.Open = time.Minute
		c.breaker.SetConfig(cfg)
		c.state(resilience.Closed)
	})
}

// Whatever happens, a breaker lets requests through again once they would get
// through.
func TestTheBreakerIsNeverWedged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(t, resilience.DefaultBreakerConfig())
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(1, uint64(g)))
				for range 2000 {
					p, ok := c.breaker.Allow(c.now())
					time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
					if ok {
						result := resilience.Refused
						if c.now()/(5*time.Second)%2 == 1 { // five seconds down, five up
							result = resilience.Reached
						}
						if rng.IntN(10) == 0 {
							result = resilience.Unknown
						}
						p.Done(result, c.now())
					}
				}
			})
		}
		wg.Wait()
		if c.breaker.Opened() == 0 {
			t.Error("it never opened: the test did not see the interesting part")
		}
		for range 20 {
			time.Sleep(opened + time.Millisecond)
			if p, ok := c.breaker.Allow(c.now()); ok {
				p.Done(resilience.Reached, c.now())
			}
		}
		c.state(resilience.Closed)
	})
}

func TestAClosedBreakerDoesNotAllocate(t *testing.T) {
	b := resilience.NewBreaker(resilience.DefaultBreakerConfig(), nil)
	allocs := testing.AllocsPerRun(1000, func() {
		p, _ := b.Allow(0)
		p.Done(resilience.Reached, 0)
	})
	if allocs != 0 {
		t.Errorf("got %v allocations, want 0", allocs)
	}
}

func BenchmarkAClosedBreaker(b *testing.B) {
	breaker := resilience.NewBreaker(resilience.DefaultBreakerConfig(), nil)
	for b.Loop() {
		p, _ := breaker.Allow(0)
		p.Done(resilience.Reached, 0)
	}
}
