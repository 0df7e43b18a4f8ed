package report

import (
	"slices"
	"time"
)

// window is how many seconds of a stream decide how its two clocks differ.
const window = 60

// ClockMap maps a reporter's clock to the table's, by the smallest difference between
// receipt and stamp: a message can only be late, so the smallest is nearest to how
// far the clocks are apart. (The filter of NTP, RFC 5905 §10, rests on the same.) It
// forgets, because clocks drift and routes change.
type ClockMap struct {
	least  [window]time.Duration // by second of receipt, modulo window
	second [window]int64         // that it belongs to, from 1; 0: none
}

// jumped is by how much a message may differ from those before. None is under way for
// so long, a stream ends long before: a clock has jumped, on either side, and what was
// learnt of it is worth nothing.
const jumped = time.Minute

// Observe learns from a message.
func (c *ClockMap) Observe(received, stamp time.Duration) {
	second := int64(received/time.Second) + 1
	i := second % window
	d := received - stamp
	if known, _, ok := c.at(received); ok && (d-known).Abs() > jumped {
		*c = ClockMap{}
	}
	if c.second[i] != second || d < c.least[i] {
		c.second[i], c.least[i] = second, d
	}
}

// At says what to add to a stamp, and by how much messages vary: how far the middle
// one of the seconds' smallest differences lies above the smallest of all. The
// largest would let one slow second out of sixty blunt the comparison of instants.
func (c *ClockMap) At(now time.Duration) (offset, jitter time.Duration) {
	offset, jitter, _ = c.at(now)
	return offset, jitter
}

func (c *ClockMap) at(now time.Duration) (offset, jitter time.Duration, ok bool) {
	fresh := make([]time.Duration, 0, window)
	oldest := int64(now/time.Second) + 1 - window
	for i, second := range c.second {
		if second > max(0, oldest) {
			fresh = append(fresh, c.least[i])
		}
	}
	if len(fresh) == 0 {
		return 0, 0, false
	}
	slices.Sort(fresh)
	return fresh[0], fresh[len(fresh)/2] - fresh[0], true
}
