package outlier

import (
	"testing"
	"time"
	"unsafe"
)

func testConf() *conf {
	return &conf{
		steps: Odds{0.01, 0.2}.Steps(), h: 10 * Nat, ceiling: 20 * Nat,
		t90: 10 * time.Millisecond, t99: 20 * time.Millisecond,
		p50: time.Millisecond, p90: 5 * time.Millisecond, p99: 10 * time.Millisecond,
		stall: 250 * time.Millisecond, penalty: 5 * time.Second, sampleMask: 15, shared: new(shared),
	}
}

func newEndpoint(slot uint32, c *conf) *Endpoint {
	e := &Endpoint{slot: slot}
	e.conf.Store(c)
	return e
}

func TestAnEndpointIsThreeCacheLines(t *testing.T) {
	if got := unsafe.Sizeof(Endpoint{}); got != 192 {
		t.Errorf("size is %d bytes, want 192", got)
	}
	for range 100 {
		e := newEndpoint(1, testConf())
		if at := uintptr(unsafe.Pointer(e)); at%64 != 0 {
			t.Fatalf("an endpoint lies at %#x, want a multiple of 64", at)
		}
	}
}

func TestAnAttemptAllocatesNothing(t *testing.T) {
	e := newEndpoint(1, testConf())
	now := time.Second
	for _, class := range []Class{OK, Server, Conn, Timeout, Overload, Censored, Ignore} {
		got := testing.AllocsPerRun(100, func() {
			now += 100 * time.Microsecond
			a := e.Start(now, true)
			e.Headers(&a, now+time.Millisecond)
			e.End(&a, Outcome{Class: class, Now: now + 2*time.Millisecond})
		})
		if got != 0 {
			t.Errorf("%v: %v allocations, want 0", class, got)
		}
	}
}

// The budget is 50 ns for one attempt from start to end.
func BenchmarkAttempt(b *testing.B) {
	for _, class := range []Class{OK, Server} {
		b.Run(class.String(), func(b *testing.B) {
			e := newEndpoint(1, testConf())
			now := time.Second
			b.ReportAllocs()
			for b.Loop() {
				now += 50 * time.Microsecond
				a := e.Start(now, true)
				e.Headers(&a, now+time.Millisecond)
				e.End(&a, Outcome{Class: class, Now: now + time.Millisecond})
			}
		})
	}
	b.Run("parallel", func(b *testing.B) {
		e := newEndpoint(1, testConf())
		b.RunParallel(func(pb *testing.PB) {
			now := time.Second
			for pb.Next() {
				now += 50 * time.Microsecond
				a := e.Start(now, true)
				e.Headers(&a, now+time.Millisecond)
				e.End(&a, Outcome{Class: OK, Now: now + time.Millisecond})
			}
		})
	})
}

func BenchmarkCost(b *testing.B) {
	e := newEndpoint(1, testConf())
	now := time.Second
	for b.Loop() {
		now += time.Millisecond
		e.Cost(now)
	}
}
