package vigil

import "time"

const (
	hintGap = time.Second // between two hints, at least, and
	// hintGapMost while they prove empty.
	hintGapMost = 5 * time.Minute
)

// Closes tells, of the idle connections that one endpoint closes, which may mean that
// it is gone: a process that dies closes all of them, whatever their age. Such a hint
// is worth one probe, and only what the probe finds is evidence. Its zero value knows
// nothing of the endpoint. It is not safe for concurrent use.
//
// A server that closes what has been idle for too long does so at about the same age
// each time. It shows with the first hint that proves empty, and from then on
// connections of that age say nothing. A server that closes at any age is asked less
// and less often.
type Closes struct {
	limit time.Duration // idle age at which it has closed a connection and was well; 0: unknown
	age   time.Duration // of the connection of the last hint
	gap   time.Duration // after it
	quiet time.Duration // no hint before
}

// Hint takes in that the endpoint has closed a connection that was idle for so long,
// and reports whether that is worth a probe. What comes of it is for Settle.
func (c *Closes) Hint(age, now time.Duration) bool {
	// Servers look at the time now and then, so that the first close may have been late.
	if c.limit > 0 && age >= c.limit/4*3 || now < c.quiet {
		return false
	}
	c.age, c.quiet = max(1, age), now+max(hintGap, c.gap)
	return true
}

// Settle takes in what the probe found: whether the endpoint was well.
func (c *Closes) Settle(well bool, now time.Duration) {
	if !well {
		c.gap = 0
		return
	}
	if c.limit == 0 || c.age < c.limit {
		c.limit = c.age
	}
	c.gap = min(max(2*c.gap, 2*hintGap), hintGapMost)
	c.quiet = now + c.gap
}

// Kept takes in that a connection that was idle for so long still served. A server that
// closed younger ones did so for another reason.
func (c *Closes) Kept(age time.Duration) {
	if c.limit > 0 {
		c.limit = max(c.limit, age)
	}
}
