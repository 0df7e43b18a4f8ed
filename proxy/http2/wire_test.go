package http2

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// channel is a lock for which a goroutine waits as for anything in virtual time.
type channel chan struct{}

func (c channel) Lock()   { c <- struct{}{} }
func (c channel) Unlock() { <-c }

// A deadline that passes while somebody looks at the time, and before he waits, wakes him too.
func TestADeadlineMissesNobodyWhoIsAboutToWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := until{wake: sync.NewCond(make(channel, 1))}
		u.wake.L.Lock()
		defer u.wake.L.Unlock()
		u.set(time.Now().Add(time.Millisecond))
		if u.passed() {
			t.Fatal("it has passed at once")
		}
		time.Sleep(2 * time.Millisecond) // of one who holds the lock
		u.wake.Wait()
		if !u.passed() {
			t.Error("somebody was woken before the deadline")
		}
	})
}
