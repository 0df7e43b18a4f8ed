package outlier

import (
	"sync/atomic"
	"time"
)

// Attempts that await headers are counted by the 125 ms in which they began:
// 16 slots, 2 s in all. Step moves a slot into ring.old when the next
// epoch is about to use it again, so 15 slots, 1.875 s, are told apart.
const (
	ringSlots = 16
	ringWidth = 125 * time.Millisecond
	ringOld   = ringSlots - 1 // age in epochs from which an attempt is in old
	// A slot remembers in which part of it the latest of its attempts began: all of them
	// are overdue when that one is. Where attempts are few it is the only one, and its age
	// is known to 2 ms.
	ringParts = 64
	ringPart  = ringWidth / ringParts

	// overdueLimit is the most that overdue_max may be; overdueLimitDoubted
	// the most that it may become under self-doubt or after long stalls: old
	// attempts must always be overdue attempts.
	overdueLimit        = 1500 * time.Millisecond
	overdueLimitDoubted = 1750 * time.Millisecond
)

// ring counts the attempts that await headers by their age.
type ring struct {
	slots [ringSlots]slot
	old   atomic.Int32 // of them those that have left the slots
}

// slot is the attempts of one epoch that wait, in its low 26 bits, and above these the
// part of it in which the latest of them began.
type slot struct{ atomic.Uint32 }

const slotPart = 26 // where the part begins

func packSlot(n int32, part uint32) uint32 { return part<<slotPart + uint32(n) }

// unpackSlot also reads a number below 0, which an attempt leaves behind that left when
// its slot had just been moved.
func unpackSlot(word uint32) (n int32, part uint32) {
	n = int32(word<<(32-slotPart)) >> (32 - slotPart)
	return n, (word - uint32(n)) >> slotPart
}

func epoch(now time.Duration) uint64 { return uint64(now) / uint64(ringWidth) }

// slot is that of an epoch.
func (r *ring) slot(epoch uint64) *slot { return &r.slots[epoch%ringSlots] }

// enter counts an attempt in that begins in that part of the slot.
func (s *slot) enter(part uint32) {
	for {
		word := s.Load()
		n, latest := unpackSlot(word)
		if n > 0 {
			part = max(part, latest)
		}
		if s.CompareAndSwap(word, packSlot(n+1, part)) {
			return
		}
	}
}

// leave takes an attempt of that epoch out. Its slot may have been moved while it
// waited; an attempt that leaves in the very moment of the move is booked on the
// wrong side, and evens out at the next move: readers take negative numbers as 0.
func (r *ring) leave(began uint32, now time.Duration) {
	if int32(uint32(epoch(now))-began) >= ringOld {
		r.old.Add(-1)
		return
	}
	r.slots[began%ringSlots].Add(^uint32(0))
}

// waiting is how many attempts of the slot wait, and its last part in which one began.
func (s *slot) waiting() (n int, part uint32) {
	n32, part := unpackSlot(s.Load())
	return max(0, int(n32)), part
}

// waited is for how long, at least, an attempt has waited that began after since; 0
// if none did, or longer ago than attempts are told apart.
func (r *ring) waited(since, now time.Duration) time.Duration {
	if begun, ok := r.oldest(since, now); ok {
		return max(0, now-begun-ringPart)
	}
	return 0
}

// oldest is the part in which the last attempt began of the first epoch after since
// that has attempts which wait; not ok: no epoch has.
func (r *ring) oldest(since, now time.Duration) (begun time.Duration, ok bool) {
	cur := epoch(now)
	first := cur - min(cur, ringOld-1)
	for at := max(first, epoch(since)); at <= cur; at++ {
		n, part := r.slot(at).waiting()
		if latest := time.Duration(at)*ringWidth + time.Duration(part)*ringPart; n > 0 && latest >= since {
			return latest, true
		}
	}
	return 0, false
}

// moveOld makes room for the next epoch. Only early in an epoch: a hot path whose clock
// was read a little later may begin the next one while this runs, and its attempts must
// not be taken for old ones.
func (r *ring) moveOld(now time.Duration) {
	cur := epoch(now)
	if cur < ringOld || now-time.Duration(cur)*ringWidth > slotLead {
		return
	}
	if s := r.slot(cur - ringOld); s.Load() != 0 {
		n, _ := unpackSlot(s.Swap(0))
		r.old.Add(n)
	}
}
