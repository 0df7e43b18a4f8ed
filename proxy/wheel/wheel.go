package wheel

import (
	"math"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/overhear-mesh/overhear/proxy/clock"
)

const (
	// Tick is how exact a time-out is. It fires late by up to two of them and
	// never early.
	Tick = 10 * time.Millisecond

	wheelSlots = 512 // more than this many ticks ahead, a timer is looked at in between

	// Never is the instant of what does not happen.
	Never = time.Duration(math.MaxInt64)
)

// Wheel visits timers when they are due. It has no goroutine: one runtime timer
// is set to the next slot that holds something, and none while all are empty.
//
// A connection changes its deadlines with each request, nearly always to one
// that is further away than the last visit that was asked for. That costs one
// comparison: the visit takes place as it was planned, finds nothing to do, and
// says when to come again.
type Wheel struct {
	clock clock.Clock

	mu    sync.Mutex // guards what follows, and the links of all timers
	slots [wheelSlots]*Timer
	used  [wheelSlots / 64]uint64 // slots that hold something
	last  int64                   // the last tick that was visited
	alarm *time.Timer
	ring  int64 // tick for which alarm is set; 0: none
	due   []*Timer
}

// Timer is a place in the wheel.
type Timer struct {
	// visit looks at what has become due and returns when to come again, or
	// Never. It may run at any time until a little after Wheel.Remove.
	visit func(now time.Duration) time.Duration

	look       atomic.Int64 // instant of the planned visit
	prev, next *Timer
	slot       int // -1: in none
	removed    bool
}

func New(c clock.Clock) *Wheel { return &Wheel{clock: c} }

func (t *Timer) Init(visit func(time.Duration) time.Duration) {
	t.visit = visit
	t.slot = -1
	t.look.Store(int64(Never))
}

// Arm sees to it that t is visited at the given instant, or before.
func (w *Wheel) Arm(t *Timer, at time.Duration) {
	if int64(at) >= t.look.Load() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armLocked(t, at, w.clock.Now())
}

func (w *Wheel) armLocked(t *Timer, at, now time.Duration) {
	if t.removed || int64(at) >= t.look.Load() {
		return
	}
	w.unlinkLocked(t)
	t.look.Store(int64(at))
	w.linkLocked(t, now)
}

// Remove forgets t for good.
func (w *Wheel) Remove(t *Timer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t.removed = true
	w.unlinkLocked(t)
}

// linkLocked puts t into the slot of its planned visit, or into the last one
// before that if it is too far away.
func (w *Wheel) linkLocked(t *Timer, now time.Duration) {
	if w.ring == 0 {
		w.last = max(w.last, int64(now/Tick)) // nothing was waiting meanwhile
	}
	due := time.Duration(t.look.Load())
	at := int64(due / Tick)
	if due%Tick != 0 {
		at++
	}
	at = min(max(at, w.last+1), w.last+wheelSlots)
	i := int(at % wheelSlots)
	head := w.slots[i]
	t.slot, t.prev, t.next = i, nil, head
	if head != nil {
		head.prev = t
	}
	w.slots[i] = t
	w.used[i/64] |= 1 << (i % 64)
	w.setLocked(at, now)
}

func (w *Wheel) unlinkLocked(t *Timer) {
	if t.slot < 0 {
		return
	}
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		w.slots[t.slot] = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	}
	if w.slots[t.slot] == nil {
		w.used[t.slot/64] &^= 1 << (t.slot % 64)
	}
	t.slot, t.prev, t.next = -1, nil, nil
	t.look.Store(int64(Never))
}

// setLocked sets the alarm, unless it rings before that anyway.
func (w *Wheel) setLocked(at int64, now time.Duration) {
	if w.ring != 0 && w.ring <= at {
		return
	}
	w.ring = at
	wait := max(0, time.Duration(at)*Tick-now)
	if w.alarm == nil {
		w.alarm = time.AfterFunc(wait, w.turn)
		return
	}
	w.alarm.Reset(wait)
}

// turn visits what has become due since the last time. Only one alarm is set at
// a time, and the next one here at the end, so that turns do not overlap.
func (w *Wheel) turn() {
	now := w.clock.Now()
	w.mu.Lock()
	reached := int64(now / Tick)
	if reached < w.ring { // set anew while this call was on its way
		w.mu.Unlock()
		return
	}
	for at := max(w.last+1, reached-wheelSlots+1); at <= reached; at++ {
		for t := w.slots[at%wheelSlots]; t != nil; t = w.slots[at%wheelSlots] {
			look := t.look.Load()
			w.unlinkLocked(t)
			t.look.Store(look)
			w.due = append(w.due, t)
		}
	}
	w.last = reached
	due := w.due
	w.due = nil
	w.mu.Unlock()

	for i, t := range due {
		at := time.Duration(t.look.Load())
		t.look.Store(int64(Never))
		if at <= now {
			at = t.visit(now)
		}
		w.mu.Lock()
		w.armLocked(t, at, now)
		w.mu.Unlock()
		due[i] = nil
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	w.due = due[:0]
	w.ring = 0
	if next := w.nextLocked(); next > 0 {
		w.setLocked(next, now)
	}
}

// nextLocked is the first tick after the last whose slot holds something, 0 if
// none does.
func (w *Wheel) nextLocked() int64 {
	start := w.last + 1
	for n := int64(0); n < wheelSlots; {
		at := start + n
		i := int(at % wheelSlots)
		if word := w.used[i/64] >> (i % 64); word != 0 {
			if skip := int64(bits.TrailingZeros64(word)); n+skip < wheelSlots {
				return at + skip
			}
			return 0
		}
		n += int64(64 - i%64)
	}
	return 0
}
