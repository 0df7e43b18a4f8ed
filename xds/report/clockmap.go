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

// Observe learns from a message.
func (c *ClockMap) Observe(received, stamp time.Duration) {
	second := int64(received/time.Second) + 1
	i := second % window
	if d := received - stamp; c.second[i] != second || d < c.least[i] {
		c.second[i], c.least[i] = second, d
	}
}

// At says what to add to a stamp, and by how much messages vary: how far the middle
// one of the seconds' smallest differences lies above the smallest of all. The
// largest would let one slow second out of sixty blunt the comparison of instants.
func (c *ClockMap) At(now time.Duration) (offset, jitter time.Duration) {
	fresh := make([]time.Duration, 0, window)
	oldest := int64(now/time.Second) + 1 - window
	for i, second := range c.second {
		if second > max(0, oldest) {
			fresh = append(fresh, c.least[i])
		}
	}
	if len(fresh) == 0 {
		return 0, 0
	}
	slices.Sort(fresh)
	return fresh[0], fresh[len(fresh)/2] - fresh[0]
}
