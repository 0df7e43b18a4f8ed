package wheel

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/overhear-mesh/overhear/proxy/clock"
)

// Whatever is armed, moved and removed: a timer is visited at its instant or up
// to two ticks later, and never early.
func TestTheWheelVisitsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := clock.New()
		w := New(k)
		rng := rand.New(rand.NewPCG(1, 2))
		type entry struct {
			Timer
			mu      sync.Mutex
			due     time.Duration // never: in no hurry
			removed bool
		}
		entries := make([]*entry, 50)
		late := 0
		for i := range entries {
			e := &entry{due: Never}
			e.Init(func(now time.Duration) time.Duration {
				e.mu.Lock()
				defer e.mu.Unlock()
				if e.removed {
					t.Error("a removed timer was visited")
				}
				if now >= e.due {
					if now-e.due > 2*Tick {
						late++
					}
					e.due = Never
				}
				return e.due
			})
			entries[i] = e
		}
		for range 5000 {
			e := entries[rng.IntN(len(entries))]
			at := k.Now() + time.Duration(rng.Int64N(int64(20*time.Second)))
			e.mu.Lock()
			removed := e.removed
			if !removed {
				e.due = at
			}
			e.mu.Unlock()
			w.Arm(&e.Timer, at)
			time.Sleep(time.Duration(rng.Int64N(int64(20 * time.Millisecond))))
			synctest.Wait()
			if !removed && rng.IntN(200) == 0 {
				w.Remove(&e.Timer)
				e.removed = true
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, e := range entries {
			if !e.removed && e.due != Never {
				t.Errorf("a timer due at %v was not visited by %v", e.due, k.Now())
			}
		}
		if late > 0 {
			t.Errorf("visits that came late: got %d, want 0", late)
		}
		for i, word := range w.used {
			if word != 0 {
				t.Errorf("slots %d to %d: got something left, want nothing", 64*i, 64*i+63)
			}
		}
	})
}

func TestAnIdleWheelSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := clock.New()
		w := New(k)
		visits := 0
		var far Timer
		far.Init(func(now time.Duration) time.Duration {
			visits++
			return Never
		})
		w.Arm(&far, time.Hour)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if visits != 1 {
			t.Errorf("visits: got %d, want 1", visits)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.ring != 0 {
			t.Errorf("alarm: got tick %d, want none", w.ring)
		}
	})
}
