package outlier

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
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

// The budget is 50 ns for one attempt from start to end, on one goroutine. What a
// machine can do is told by the price of one atomic addition, of which a busy
// endpoint's attempt makes four; and what it can do when nobody disturbs it, by the
// best of many short runs, "best-ns".
func BenchmarkAttempt(b *testing.B) {
	b.Run("one atomic addition", func(b *testing.B) {
		var n atomic.Uint32
		bestOf(b, func(times int) {
			for range times {
				n.Add(1)
			}
		})
	})
	for _, class := range []Class{OK, Server} {
		b.Run(class.String(), func(b *testing.B) {
			e := newEndpoint(1, testConf())
			now := time.Second
			b.ReportAllocs()
			bestOf(b, func(times int) {
				for range times {
					now += 50 * time.Microsecond
					a := e.Start(now, true)
					e.Headers(&a, now+time.Millisecond)
					e.End(&a, Outcome{Class: class, Now: now + time.Millisecond})
				}
			})
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

// bestOf runs something over and over, for a few microseconds at a time, and tells
// the best of all runs beside their mean.
func bestOf(b *testing.B, run func(times int)) {
	const times = 256
	best := time.Duration(math.MaxInt64)
	for left := b.N; left > 0; left -= times {
		began := time.Now()
		run(times)
		best = min(best, time.Since(began))
	}
	b.ReportMetric(float64(best.Nanoseconds())/times, "best-ns")
}

func BenchmarkCost(b *testing.B) {
	e := newEndpoint(1, testConf())
	now := time.Second
	for b.Loop() {
		now += time.Millisecond
		e.Cost(now)
	}
}

func TestAnAttemptEndsOnce(t *testing.T) {
	e := newEndpoint(1, testConf())
	a := e.Start(0, true)
	e.Headers(&a, time.Millisecond)
	e.Headers(&a, 2*time.Millisecond)
	e.End(&a, Outcome{Class: OK, Now: time.Millisecond})
	e.End(&a, Outcome{Class: Server, Now: time.Millisecond})
	e.Headers(&a, time.Millisecond)
	var never Attempt
	e.End(&never, Outcome{Class: Server})
	if got, want := e.Counts(), (Counts{N: 1}); got != want {
		t.Errorf("counts are %+v, want %+v", got, want)
	}
	if got := e.Inflight(); got != 0 {
		t.Errorf("%d in flight, want 0", got)
	}
	if n, _ := unpackSlot(e.ring.slots[0].Load()); e.ring.old.Load() != 0 || n != 0 {
		t.Errorf("old %d, ring %d, want 0, 0", e.ring.old.Load(), n)
	}
}

func TestEachClassHasItsCounter(t *testing.T) {
	for _, tt := range []struct {
		class Class
		want  Counts
	}{
		{OK, Counts{N: 1}},
		{Conn, Counts{N: 1, Conn: 1}},
		{Timeout, Counts{N: 1, Timeout: 1}},
		{Server, Counts{N: 1, Server: 1}},
		{Overload, Counts{Over: 1}},
		{Censored, Counts{Cens: 1}},
		{Ignore, Counts{}},
	} {
		e := newEndpoint(1, testConf())
		a := e.Start(0, true)
		if got := e.Inflight(); got != 1 {
			t.Errorf("%v: %d in flight, want 1", tt.class, got)
		}
		e.End(&a, Outcome{Class: tt.class, Now: time.Millisecond})
		if got := e.Counts(); got != tt.want {
			t.Errorf("%v: %+v, want %+v", tt.class, got, tt.want)
		}
		if got := e.Inflight(); got != 0 {
			t.Errorf("%v: %d in flight, want 0", tt.class, got)
		}
	}
}

func TestSlowAnswersAreCounted(t *testing.T) {
	e := newEndpoint(1, testConf()) // t90 10 ms, t99 20 ms
	for _, latency := range []time.Duration{5, 10, 11, 20, 21} {
		a := e.Start(0, true)
		e.Headers(&a, latency*time.Millisecond)
		e.End(&a, Outcome{Class: OK, Now: time.Second}) // the body takes its time
	}
	if got := e.Counts(); got.N90 != 3 || got.N99 != 1 {
		t.Errorf("n90 %d, n99 %d, want 3, 1", got.N90, got.N99)
	}
}

func TestStepIsWokenWhenItMatters(t *testing.T) {
	e := newEndpoint(1, testConf())
	end := func(c Class) bool {
		a := e.Start(0, true)
		return e.End(&a, Outcome{Class: c})
	}
	check := func(what string, got, want bool) {
		t.Helper()
		if got != want {
			t.Errorf("%s: wake %v, want %v", what, got, want)
		}
	}
	check("an ok", end(OK), false)
	check("the first failure", end(Server), true)
	check("the second", end(Server), true)
	check("a hard one", end(Conn), true)
	check("the fourth crosses 10 nats", end(Server), true)
	check("the fifth is no news", end(Server), false)
	check("ignored", end(Ignore), false)
	e.watched.Store(1)
	check("ok while watched", end(OK), true)
	check("overload while watched", end(Overload), true)
	check("failure while watched", end(Timeout), true)
	check("censored while watched", end(Censored), false)
	if got, limit := e.score.Load(), e.conf.Load().ceiling; got > limit {
		t.Errorf("score is %d, want at most %d", got, limit)
	}
	for range 1000 {
		end(Server)
	}
	if got, want := e.score.Load(), e.conf.Load().ceiling; got != want {
		t.Errorf("score after 1000 failures is %d, want its ceiling %d", got, want)
	}
}

func TestSpansSurviveTheirPacking(t *testing.T) {
	if start, end := unspan(0); start != Never || end != Never {
		t.Errorf("the empty span is %v, %v, want never", start, end)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		end := time.Duration(rng.Int64N(int64(30 * 24 * time.Hour)))
		start := end - time.Duration(rng.Int64N(int64(time.Hour)))
		gotStart, gotEnd := unspan(span(start, end))
		if wantEnd := end.Truncate(time.Millisecond); gotEnd != wantEnd {
			t.Fatalf("end %v, want %v", gotEnd, wantEnd)
		}
		if want := max(0, start).Truncate(time.Millisecond); gotStart != want {
			t.Fatalf("start %v, want %v", gotStart, want)
		}
	}
	// A level sits in the low bits and changes nothing.
	start, end := unspan(span(time.Second, 3*time.Second) | uint64(LevelApp))
	if start != time.Second || end != 3*time.Second {
		t.Errorf("with a level: %v to %v, want 1s to 3s", start, end)
	}
}

func TestFailureWordsSurviveTheirPacking(t *testing.T) {
	for _, slot := range []uint32{0, 1, maxSlots - 1} {
		o := Outcome{Class: Server, Route: 65535, Conn: 0xabcdef12}
		want := failure{slot: slot, class: Server, route: 65535, conn: 0xcdef12}
		if got := unfailure(failureWord(slot, o)); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestTheTurnOfARate(t *testing.T) {
	for _, tt := range []struct {
		rate float64
		want time.Duration
	}{
		{0, 0},
		{10, 100 * time.Millisecond},
		{0.3, 3333 * time.Millisecond},
		{1e9, time.Millisecond},
		{1e-60, time.Minute}, // of old, long ago
		{math.SmallestNonzeroFloat64, time.Minute},
	} {
		if got := turnOf(tt.rate); math.Abs(float64(got-tt.want)) > 0.1*float64(tt.want) {
			t.Errorf("turn of %v/s: %v, want %v to a tenth", tt.rate, got, tt.want)
		}
	}
}

func TestATurnIsByWeightAndOfLate(t *testing.T) {
	d := New(DefaultConfig(), rand.New(rand.NewPCG(1, 1)))
	d.SetMembers([]Member{{ID: "light", Weight: 1}, {ID: "heavy", Weight: 3}, {ID: "gone", Weight: 9, Draining: true}}, 0)
	light, heavy := d.Endpoint("light"), d.Endpoint("heavy")
	now := time.Duration(0)
	run := func(until, each time.Duration) {
		for ; now < until; now += each {
			for _, e := range []*Endpoint{light, heavy, heavy, heavy} {
				a := e.Start(now, true)
				e.End(&a, Outcome{Class: OK, Now: now})
			}
			d.Step(now)
		}
	}
	for _, tt := range []struct{ until, each time.Duration }{
		{20 * time.Second, 100 * time.Millisecond},
		{32 * time.Second, time.Second}, // the mean of half a minute does not know yet
	} {
		run(tt.until, tt.each)
		for e, want := range map[*Endpoint]time.Duration{light: tt.each, heavy: tt.each / 3} {
			if got := e.conf.Load().turn; math.Abs(float64(got-want)) > 0.12*float64(want) {
				t.Errorf("a turn of endpoint %d, with one each %v for weight 1, is %v, want %v", e.slot, tt.each, got, want)
			}
		}
	}
}

func TestTheCostOfAnEndpoint(t *testing.T) {
	at := func(edit func(e *Endpoint, end func(c Class, now, latency time.Duration))) *Endpoint {
		e := newEndpoint(1, testConf())
		edit(e, func(c Class, now, latency time.Duration) {
			a := e.Start(now-latency, true)
			e.End(&a, Outcome{Class: c, Now: now})
		})
		return e
	}
	const ms = time.Millisecond
	every := func(e *Endpoint, turn time.Duration) {
		c := testConf()
		c.turn = turn
		e.conf.Store(c)
	}
	// slow has answered so slowly at 1 s, and is asked each 100 ms where all are well.
	slow := func(latency time.Duration, then func(e *Endpoint)) *Endpoint {
		return at(func(e *Endpoint, end func(Class, time.Duration, time.Duration)) {
			every(e, 100*ms)
			if end(OK, time.Second, latency); then != nil {
				then(e)
			}
		})
	}
	for _, tt := range []struct {
		name string
		e    *Endpoint
		now  time.Duration
		want float64
	}{
		{"nothing known: the group's median", at(func(*Endpoint, func(Class, time.Duration, time.Duration)) {}), time.Second, 0.001},
		{"in flight counts", at(func(e *Endpoint, _ func(Class, time.Duration, time.Duration)) {
			e.Start(time.Second, true)
			e.Start(time.Second, true)
		}), time.Second, 0.003},
		{"one answer", at(func(_ *Endpoint, end func(Class, time.Duration, time.Duration)) {
			end(OK, time.Second, 4*ms)
		}), time.Second, 0.004},
		{"a peak shows at once", at(func(_ *Endpoint, end func(Class, time.Duration, time.Duration)) {
			end(OK, time.Second, 4*ms)
			end(OK, time.Second+ms, 40*ms)
		}), time.Second + ms, 0.04},
		{"and fades with faster answers", at(func(_ *Endpoint, end func(Class, time.Duration, time.Duration)) {
			end(OK, time.Second, 100*ms)
			for i := range 8 {
				end(OK, 1100*ms+time.Duration(i)*100*ms, 4*ms)
			}
		}), 1800 * ms, 0.004 + 0.096*math.Pow(7./8, 8)},
		{"of which one in 100 ms counts", at(func(_ *Endpoint, end func(Class, time.Duration, time.Duration)) {
			end(OK, time.Second, 100*ms)
			for i := range 100 {
				end(OK, 1001*ms+time.Duration(i)*ms, 4*ms)
			}
		}), 1100 * ms, 0.004 + 0.096*7/8},
		{"or with time, where they are rare", at(func(_ *Endpoint, end func(Class, time.Duration, time.Duration)) {
			end(OK, time.Second, 104*ms)
			end(OK, 11*time.Second, 4*ms)
		}), 11 * time.Second, 0.004 + 0.1*math.Exp(-1)},
		{"without news it drifts to the median", at(func(_ *Endpoint, end func(Class, time.Duration, time.Duration)) {
			end(OK, time.Second, 101*ms)
		}), 11 * time.Second, 0.001 + 0.1*math.Exp(-1)},
		{"one in ten turns is asked whatever it cost", slow(10*ms, nil), 2010 * ms, 0.001},
		{"but not before", slow(10*ms, nil), 1950 * ms, 0.001 + 0.009*math.Exp(-0.095)},
		{"and what is slower by more than twice that, one in half as many", slow(101*ms, nil), 3500 * ms, 0.001 + 0.1*math.Exp(-0.25)},
		{"as it is by then", slow(101*ms, nil), 4600 * ms, 0.001},
		{"one that failed was asked", slow(10*ms, func(e *Endpoint) {
			a := e.Start(2*time.Second-ms, true)
			e.End(&a, Outcome{Class: Server, Now: 2 * time.Second})
		}), 2210 * ms, 0.001 + 0.009*math.Exp(-0.121)},
		{"one that is being asked, too", slow(10*ms, func(e *Endpoint) { e.Start(2210*ms, true) }), 2210 * ms, 2 * (0.001 + 0.009*math.Exp(-0.121))},
		{"which a stream does not", slow(10*ms, func(e *Endpoint) { e.Start(2*time.Second, false) }), 2210 * ms, 2 * 0.001},
		{"and a hard failure has its probes", at(func(e *Endpoint, end func(Class, time.Duration, time.Duration)) {
			every(e, 1*ms)
			end(Conn, time.Second, ms)
		}), 7 * time.Second, 0.001 + 4.999*math.Exp(-0.6)},
		{"a fast failure is no bargain", at(func(_ *Endpoint, end func(Class, time.Duration, time.Duration)) {
			end(OK, time.Second, ms)
			end(Server, time.Second, ms/10)
		}), time.Second, 0.005},
		{"a timeout does not exile", at(func(_ *Endpoint, end func(Class, time.Duration, time.Duration)) {
			end(OK, 20*time.Second, ms)
			end(Timeout, 20*time.Second, 15*time.Second)
		}), 20 * time.Second, 0.01},
		{"what began before a new life is not booked", at(func(e *Endpoint, end func(Class, time.Duration, time.Duration)) {
			end(OK, 20*time.Second, 10*time.Second)
			e.settle(20 * time.Second)
			end(OK, 20*time.Second+ms, 10*time.Second)
			end(Timeout, 20*time.Second+ms, 10*time.Second)
			end(Conn, 20*time.Second+ms, 10*time.Second)
			if e.score.Load() != 0 {
				t.Error("attempts of an earlier life were scored")
			}
		}), 20 * time.Second, 0.001},
		{"a hard failure is dear", at(func(_ *Endpoint, end func(Class, time.Duration, time.Duration)) {
			end(OK, time.Second, ms)
			end(Conn, time.Second, ms)
		}), time.Second, 5},
		{"and stays dear over soft ones", at(func(_ *Endpoint, end func(Class, time.Duration, time.Duration)) {
			end(Conn, time.Second, ms)
			end(Server, time.Second, ms)
		}), time.Second, 5},
		{"until it answers", at(func(_ *Endpoint, end func(Class, time.Duration, time.Duration)) {
			end(Conn, time.Second, ms)
			end(OK, time.Second, 2*ms)
		}), time.Second, 0.002},
		{"or a probe is good", at(func(e *Endpoint, end func(Class, time.Duration, time.Duration)) {
			end(Conn, time.Second, ms)
			e.forgive()
		}), time.Second, 0.001},
		{"an overload costs what it asks for", at(func(e *Endpoint, _ func(Class, time.Duration, time.Duration)) {
			a := e.Start(time.Second, true)
			e.End(&a, Outcome{Class: Overload, Now: time.Second, RetryAfter: 2 * time.Second})
		}), time.Second, 2},
		{"but no more than 5 minutes", at(func(e *Endpoint, _ func(Class, time.Duration, time.Duration)) {
			a := e.Start(time.Second, true)
			e.End(&a, Outcome{Class: Overload, Now: time.Second, RetryAfter: time.Hour})
		}), time.Second, 300},
		{"or else the group's p99", at(func(_ *Endpoint, end func(Class, time.Duration, time.Duration)) {
			end(Overload, time.Second, ms)
		}), time.Second, 0.01},
		{"what is awaited takes no less than it has", at(func(e *Endpoint, end func(Class, time.Duration, time.Duration)) {
			end(OK, time.Second, ms)
			e.Start(1100*ms, true)
			e.Start(1190*ms, true)
		}), 1200 * ms, 3 * 0.1},
		{"but says nothing where answers came since", at(func(e *Endpoint, end func(Class, time.Duration, time.Duration)) {
			e.Start(900*ms, true)
			end(OK, time.Second, ms)
		}), 1200 * ms, 2 * 0.001},
		{"nor does a stream", at(func(e *Endpoint, end func(Class, time.Duration, time.Duration)) {
			end(OK, time.Second, ms)
			e.Start(1100*ms, false)
		}), 1200 * ms, 2 * 0.001},
	} {
		if got := tt.e.Cost(tt.now); math.Abs(got-tt.want) > 0.03*tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// The ring against a list of all attempts in flight.
func TestTheRingKnowsWhatIsOverdue(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	d := New(DefaultConfig(), rng)
	d.SetMembers([]Member{{ID: "a"}}, 0)
	m := d.byID["a"]
	type open struct {
		a  Attempt
		at time.Duration
	}
	var all []open
	now, lastStep := time.Duration(0), time.Duration(0)
	for range 20000 {
		now += time.Duration(rng.Int64N(int64(20 * time.Millisecond)))
		switch {
		case rng.IntN(2) == 0 && len(all) < 50:
			all = append(all, open{m.ep.Start(now, true), now})
		case len(all) > 0 && rng.IntN(3) > 0:
			i := rng.IntN(len(all))
			if rng.IntN(3) == 0 {
				i = 0 // the old ones must end some time, too
			}
			m.ep.End(&all[i].a, Outcome{Class: Ignore, Now: now})
			all = append(all[:i], all[i+1:]...)
		}
		if now-lastStep < 50*time.Millisecond {
			continue
		}
		lastStep = now
		d.Step(now)
		surely, possibly := 0, 0
		for _, o := range all {
			if now-o.at >= d.overdue+ringWidth {
				surely++
			}
			if now-o.at >= d.overdue {
				possibly++
			}
		}
		// One may be booked on the wrong side while its slot is moved.
		if got := m.wait.overdue; got < surely-1 || got > possibly+1 {
			t.Fatalf("at %v: %d overdue, want %d to %d", now, got, surely, possibly)
		}
	}
	for i := range all {
		m.ep.End(&all[i].a, Outcome{Class: Ignore, Now: now})
	}
	for range 40 {
		now += 60 * time.Millisecond
		d.Step(now)
	}
	sum := m.ep.ring.old.Load()
	for i := range m.ep.ring.slots {
		n, _ := unpackSlot(m.ep.ring.slots[i].Load())
		sum += n
	}
	if sum != 0 || m.wait.overdue != 0 {
		t.Errorf("all ended, but ring and old sum to %d, %d overdue", sum, m.wait.overdue)
	}
}

func TestManyGoroutinesCountTogether(t *testing.T) {
	cfg := DefaultConfig()
	cfg.RunAny = 3
	d := New(cfg, rand.New(rand.NewPCG(1, 1)))
	d.SetHashed(true, 0)
	d.SetMembers([]Member{{ID: "a"}, {ID: "b"}, {ID: "c"}}, 0)
	e := d.Endpoint("a")
	const workers, each = 8, 2000
	classes := []Class{OK, OK, OK, Server, Conn, Timeout, Overload, Censored, Ignore}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range each {
				now := time.Duration(i) * time.Millisecond
				route := uint16(i % 5)
				a := e.StartOn(route, now, true)
				e.Headers(&a, now)
				e.End(&a, Outcome{Class: classes[i%len(classes)], Now: now, Route: route, Level: Level(i % 4), Conn: uint32(i)})
				e.Cost(now)
			}
		})
	}
	for i := range 200 {
		d.Step(time.Duration(i) * 10 * time.Millisecond)
		d.View()
		d.Evidence(d.now)
	}
	wg.Wait()
	c := e.Counts()
	total := int(c.N + c.Over + c.Cens + e.ignored.Load())
	if total != workers*each {
		t.Errorf("%d ends counted, want %d", total, workers*each)
	}
	if got := e.Inflight(); got != 0 {
		t.Errorf("%d in flight, want 0", got)
	}
}

func TestWhatBeganInAnEarlierLifeIsNotFresh(t *testing.T) {
	d := New(DefaultConfig(), rand.New(rand.NewPCG(1, 1)))
	d.SetMembers([]Member{{ID: "a"}, {ID: "b"}}, 0)
	e := d.Endpoint("a")
	classes := []Class{OK, OK, Conn, Timeout, Server}
	begin := func(now time.Duration) (all []Attempt) {
		for range classes {
			all = append(all, e.Start(now, true))
		}
		return all
	}
	end := func(all []Attempt, now time.Duration) {
		for i := range all {
			e.End(&all[i], Outcome{Class: classes[i], Now: now, Level: LevelConnect})
		}
	}
	end(begin(time.Second), time.Second)
	before, old := e.Fresh(), begin(2*time.Second)
	if before != e.Counts() {
		t.Errorf("in its first life: %+v, want %+v", before, e.Counts())
	}
	d.Fleet("a", Verdict{State: Probation, Epoch: 1}, 3*time.Second)
	d.Step(3 * time.Second) // which changes what the hot path goes by
	end(old, 4*time.Second)
	if got := e.Fresh().Sub(before); got != (Counts{}) {
		t.Errorf("of attempts of an earlier life: %+v, want nothing", got)
	}
	end(begin(5*time.Second), 5*time.Second)
	if got, want := e.Fresh().Sub(before), (Counts{N: 5, Conn: 1, Timeout: 1, Server: 1}); got != want {
		t.Errorf("of this life: %+v, want %+v", got, want)
	}
	if got := e.Counts(); got.N != 15 {
		t.Errorf("in all: %d, want 15", got.N)
	}
}

// A Step over 1 000 endpoints: at rest, and while every one of them fails and
// is refused, which asks all guards about each.
func BenchmarkStep(b *testing.B) {
	for _, failing := range []bool{false, true} {
		b.Run(map[bool]string{false: "rest", true: "all fail"}[failing], func(b *testing.B) {
			d := New(DefaultConfig(), rand.New(rand.NewPCG(1, 1)))
			members := make([]Member, 1000)
			for i := range members {
				members[i].ID = string(rune('a' + i))
			}
			now := time.Second
			d.SetMembers(members, now)
			b.ReportAllocs()
			for b.Loop() {
				now += busyStep
				if failing {
					b.StopTimer()
					for _, m := range d.members {
						a := m.ep.Start(now, true)
						m.ep.End(&a, Outcome{Class: Server, Now: now, Conn: uint32(now)})
					}
					b.StartTimer()
				}
				d.Step(now)
			}
		})
	}
}
