// Package clock reads the monotonic clock as time since the sidecar began.
//
// Every instant inside a sidecar is a [time.Duration] since one epoch, the
// moment at which its Clock was made: such a number needs 8 bytes, compares
// with <, does not jump when the wall clock is set, and cannot be mistaken for
// another machine's time. A Clock is a value and not an interface: tests run
// inside a testing/synctest bubble, where time itself is virtual.
package clock

import "time"

// Clock is the epoch from which a sidecar counts. Copies share the epoch.
// The zero Clock is not usable.
type Clock struct{ start time.Time }

// New returns a clock whose epoch is now.
func New() Clock { return Clock{start: time.Now()} }

// Now is the time since the epoch: monotonic, never negative.
func (c Clock) Now() time.Duration { return time.Since(c.start) }

// Time turns an instant of this clock into wall time, for log lines and
// operators. No decision may rest on it.
func (c Clock) Time(now time.Duration) time.Time { return c.start.Add(now) }
