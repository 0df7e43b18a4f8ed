package outlier

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

func TestASlotIsUnpackedAsItWasPacked(t *testing.T) {
	for _, n := range []int32{0, 1, 2, 1000, 1<<25 - 1, -1, -2, -1000} {
		for part := range uint32(ringParts) {
			if gotN, got := unpackSlot(packSlot(n, part)); gotN != n || got != part {
				t.Fatalf("%d in part %d: got %d in part %d", n, part, gotN, got)
			}
		}
	}
}

// What is alone in its slot is overdue when it is, and not when the slot is.
func TestTheAgeOfALoneAttemptIsKnown(t *testing.T) {
	const overdue = 250 * time.Millisecond
	for at := 3 * time.Second; at < 3*time.Second+2*ringWidth; at += 7 * time.Millisecond {
		for name, before := range map[string]time.Duration{"nothing before": -1, "one answered in the slot's last life": 2*time.Second - ringWidth + 1} {
			d := New(DefaultConfig(), rand.New(rand.NewPCG(1, 1)))
			d.SetMembers([]Member{{ID: "a"}}, 0)
			d.overdue = overdue
			m := d.byID["a"]
			if before >= 0 {
				earlier := m.ep.Start(at-at%ringWidth-before, true)
				m.ep.End(&earlier, Outcome{Class: Ignore, Now: earlier.start})
			}
			m.ep.Start(at, true)
			for _, tt := range []struct {
				age  time.Duration
				want int
			}{{overdue - 1, 0}, {overdue + ringPart, 1}} {
				m.ep.ring.moveOld(at + tt.age)
				m.wait.overdue, m.wait.young = 0, 0
				var r Result
				if d.countWaiting(m, at+tt.age, &r); m.wait.overdue != tt.want || m.wait.young != 1-tt.want {
					t.Errorf("%s, at %v, aged %v: %d overdue and %d young, want %d and %d", name, at, tt.age, m.wait.overdue, m.wait.young, tt.want, 1-tt.want)
				}
			}
		}
	}
}

// The ring against a list: the oldest attempt that began after an instant has waited for
// as long as is told or longer, and no longer where it is alone in its slot.
func TestHowLongTheOldestHasWaitedAtLeast(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	exact := 0
	for range 2000 {
		var r ring
		now := 3*time.Second + time.Duration(rng.Int64N(int64(time.Second)))
		since := now - time.Duration(rng.Int64N(int64(1500*time.Millisecond)))
		oldest, alone := Never, make(map[uint64]int)
		for range rng.IntN(4) {
			began := now - time.Duration(rng.Int64N(int64(1500*time.Millisecond)))
			r.slot(epoch(began)).enter(uint32(began / ringPart % ringParts))
			alone[epoch(began)]++
			if began >= since && (oldest == Never || began < oldest) {
				oldest = began
			}
		}
		got := r.waited(since, now)
		switch {
		case oldest == Never:
			if got > 0 {
				t.Fatalf("%v, though none began since", got)
			}
		case got > now-oldest:
			t.Fatalf("%v, want at most %v", got, now-oldest)
		case alone[epoch(oldest)] == 1 && oldest-since > ringPart:
			if exact++; now-oldest > ringPart && got < now-oldest-2*ringPart {
				t.Fatalf("%v, want %v, as it is alone in its slot", got, now-oldest)
			}
		}
	}
	if exact < 500 {
		t.Errorf("only %d were alone", exact)
	}
}

// The ring against a list: a slot counts who waits in it, and none of them began later
// than it says.
func TestNobodyBeganLaterThanItsSlotSays(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	var r ring
	type open struct {
		epoch uint32
		part  uint32
	}
	var all []open
	now := time.Second
	for range 4000 {
		now += time.Duration(rng.Int64N(int64(8 * time.Millisecond)))
		r.moveOld(now)
		if rng.IntN(2) == 0 {
			at := now - time.Duration(rng.Int64N(int64(3*time.Millisecond))) // clocks are read a moment earlier
			part := uint32(at % ringWidth / ringPart)
			r.slot(epoch(at)).enter(part)
			all = append(all, open{uint32(epoch(at)), part})
		} else if len(all) > 0 {
			i := rng.IntN(len(all))
			r.leave(all[i].epoch, now)
			all = append(all[:i], all[i+1:]...)
		}
		waiting := map[uint32]int{}
		for _, o := range all {
			if uint32(epoch(now))-o.epoch >= ringOld {
				continue
			}
			waiting[o.epoch]++
			if _, part := r.slot(uint64(o.epoch)).waiting(); o.part > part {
				t.Fatalf("at %v: one began in part %d of epoch %d, and its slot says %d", now, o.part, o.epoch, part)
			}
		}
		for e, want := range waiting {
			if n, _ := r.slot(uint64(e)).waiting(); n != want {
				t.Fatalf("at %v: %d wait of epoch %d, want %d", now, n, e, want)
			}
		}
	}
}

func TestManyEnterASlotTogether(t *testing.T) {
	const workers, each = 8, 5000
	var s slot
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for k := range each {
				s.enter(uint32((i + k) % ringParts))
			}
		})
	}
	wg.Wait()
	if n, part := s.waiting(); n != workers*each || part != ringParts-1 {
		t.Errorf("%d wait, the latest of part %d, want %d of part %d", n, part, workers*each, ringParts-1)
	}
}
