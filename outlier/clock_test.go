package outlier

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// FuzzClock is FuzzStep with a clock that jumps: back, as one does that was never
// monotonic, and ahead by hours, as one does while the machine sleeps.
func FuzzClock(f *testing.F) {
	for seed := range byte(8) {
		rng := rand.New(rand.NewPCG(uint64(seed), 1))
		script := make([]byte, 600)
		for i := range script {
			script[i] = byte(rng.Uint32())
		}
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) == 0 {
			return
		}
		z := newFuzzed(script[0])
		script = script[1:min(len(script), 1500)]
		for i := 0; i+2 < len(script); i += 3 {
			switch jump := script[i+2]; {
			case jump < 16:
				z.now += time.Duration(jump) * time.Hour
			case jump < 32:
				z.now -= time.Duration(jump-15) * 37 * time.Second
			case jump == 32:
				z.now = -z.now // a clock below zero is no clock; it must do no harm
			}
			z.event(script[i], script[i+1])
			before := z.taken()
			r := z.d.Step(z.now)
			z.check(t, r, before)
			z.probes = append(z.probes, r.Probes...)
			z.now += time.Millisecond
		}
	})
}

// busy is a detector with traffic that all goes well, of which some is under way.
type busy struct {
	d       *Detector
	now     time.Duration
	ids     []string
	waiting map[string][]Attempt
	changes []Change
}

func newBusy(n int) *busy {
	b := &busy{d: New(DefaultConfig(), rand.New(rand.NewPCG(1, 1))), now: 10 * time.Hour, waiting: map[string][]Attempt{}}
	var members []Member
	for i := range n {
		id := fmt.Sprintf("e%d", i)
		b.ids = append(b.ids, id)
		members = append(members, Member{ID: id})
	}
	b.d.SetMembers(members, b.now)
	return b
}

// run sends an attempt to each each 10 ms; three are always under way.
func (b *busy) run(d time.Duration, class Class) {
	for end := b.now + d; b.now < end; b.now += 10 * time.Millisecond {
		for _, id := range b.ids {
			e := b.d.Endpoint(id)
			b.waiting[id] = append(b.waiting[id], e.Start(b.now, true))
			if len(b.waiting[id]) > 3 {
				a := b.waiting[id][0]
				b.waiting[id] = b.waiting[id][1:]
				e.Headers(&a, b.now)
				e.End(&a, Outcome{Class: class, Now: b.now, Conn: uint32(b.now / time.Millisecond)})
			}
		}
		b.changes = append(b.changes, b.d.Step(b.now).Changes...)
	}
}

func (b *busy) ejected() int {
	n := 0
	for _, c := range b.changes {
		if c.Refused == "" && c.To == Ejected {
			n++
		}
	}
	return n
}

func TestAClockThatJumpsTakesNobodyOut(t *testing.T) {
	for name, jump := range map[string]time.Duration{
		"ahead by three hours": 3 * time.Hour, "ahead by two seconds": 2 * time.Second,
		"back by three hours": -3 * time.Hour, "back by two seconds": -2 * time.Second,
	} {
		b := newBusy(6)
		b.run(10*time.Second, OK)
		b.now += jump
		b.run(5*time.Second, OK)
		if n := b.ejected(); n > 0 {
			t.Errorf("%s: %d are ejected: %+v", name, n, b.changes)
		}
		for _, a := range b.d.View() {
			if a.State != In || a.Weight != 1 {
				t.Errorf("%s: five seconds later %s is %s with weight %v", name, a.ID, a.State, a.Weight)
			}
		}
	}
}

func TestAClockThatWentBackDoesNotHideAFault(t *testing.T) {
	b := newBusy(6)
	b.run(10*time.Second, OK)
	b.now -= time.Hour
	b.run(time.Second, OK)
	sick := b.d.Endpoint("e2")
	for range 100 {
		b.now += 10 * time.Millisecond
		a := sick.Start(b.now, true)
		sick.End(&a, Outcome{Class: Server, Now: b.now, Conn: uint32(b.now / time.Millisecond)})
		b.changes = append(b.changes, b.d.Step(b.now).Changes...)
	}
	if n := b.ejected(); n != 1 {
		t.Errorf("%d are ejected after 100 failures in a row, want one", n)
	}
}

// An instance that is named again is another one: what its predecessor did, and what
// is still under way there, is not its own.
func TestAnIDThatComesBackInheritsNothing(t *testing.T) {
	b := newBusy(6)
	b.run(10*time.Second, OK)
	old := b.d.Endpoint("e2")
	hanging := old.Start(b.now, true)
	for range 100 {
		b.now += time.Millisecond
		a := old.Start(b.now, true)
		old.End(&a, Outcome{Class: Conn, Now: b.now, Conn: uint32(b.now), Level: LevelConnect})
	}
	b.d.Step(b.now)
	all := []Member{{ID: "e0"}, {ID: "e1"}, {ID: "e2"}, {ID: "e3"}, {ID: "e4"}, {ID: "e5"}}
	for range 50 { // it comes and goes
		b.d.SetMembers(append(all[:2:2], all[3:]...), b.now)
		b.d.Step(b.now)
		b.now += time.Millisecond
		b.d.SetMembers(all, b.now)
		b.d.Step(b.now)
		b.now += time.Millisecond
	}
	fresh := b.d.Endpoint("e2")
	if fresh == old {
		t.Fatal("it has the counters of before")
	}
	b.now += 3 * time.Second // what hangs there is overdue by now, and ends badly
	old.End(&hanging, Outcome{Class: Timeout, Now: b.now})
	b.d.Step(b.now)
	if got := fresh.Counts(); got != (Counts{}) || fresh.Inflight() != 0 {
		t.Errorf("it begins with %+v and %d under way, want nothing", got, fresh.Inflight())
	}
	for _, a := range b.d.View() {
		if a.ID == "e2" && a.State != In {
			t.Errorf("it is %s, want in", a.State)
		}
	}
}
