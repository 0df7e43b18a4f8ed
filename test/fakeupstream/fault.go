package fakeupstream

import (
	"net/http"
	"strings"
	"time"
)

// A Fault is how a backend misbehaves; the zero Fault is health. Parts may be combined.
type Fault struct {
	// Crashed: the listener is closed, and all connections were reset.
	Crashed bool
	// Deaf: the listener is closed, and open connections answer.
	Deaf bool
	// Reset: all connections are reset as the fault comes, and with them the requests
	// under way. New ones are served: the listener stays.
	Reset bool
	// Drains: pings are answered 503, and connections end in the orderly way, idle ones at
	// once, the others with their answer (Connection: close; GOAWAY). Requests and new
	// connections are served.
	Drains bool
	// Hung: connections and requests are accepted and not answered.
	Hung bool

	// ErrorRate is the share of requests that fail: with Status over HTTP, by an end
	// of the connection before any byte over TCP.
	ErrorRate float64
	// Status of errors; 0: 500.
	Status int
	// Header is added to errors, as retry-after is.
	Header http.Header

	// Slow multiplies the latency; 0: not.
	Slow float64
	// SlowShare is the share of requests that Slow takes; 0: all.
	SlowShare float64
	// Body is what becomes of the answer after it has begun.
	Body Body

	// PauseFor is how long, at the end of each PauseEvery, nothing is answered, as
	// while garbage is collected. Then everything is.
	PauseEvery, PauseFor time.Duration

	// Capacity is how many requests are served at once, each for its latency; the others
	// wait in order. 0: all are.
	Capacity int
	// Queue is how many requests may wait; more are answered 503 at once. Pings wait
	// whatever the length. 0: any number.
	Queue int

	// Down and Up alternate, if both are set: the fault for Down, then health for Up.
	Down, Up time.Duration

	// Path is how the path of requests begins that the fault takes, the others are
	// answered as in health; "": all. A listener knows no path: it is closed for all.
	Path string

	// SparePings answers pings as in health, whatever else is wrong, as far as there
	// is a listener.
	SparePings bool
}

// Body is what becomes of an answer that has begun.
type Body uint8

const (
	Whole   Body = iota
	Stalled      // half of it, then nothing until the fault ends
	Cut          // half of it, then a reset
)

// Crash closes the listener and resets all connections.
func Crash() Fault { return Fault{Crashed: true} }

// Deaf closes the listener alone.
func Deaf() Fault { return Fault{Deaf: true} }

// Reset resets all connections once.
func Reset() Fault { return Fault{Reset: true} }

// Drain serves on and says that it is about to go.
func Drain() Fault { return Fault{Drains: true} }

// Hang accepts and never answers.
func Hang() Fault { return Fault{Hung: true} }

// Errors fails this share of requests.
func Errors(rate float64) Fault { return Fault{ErrorRate: rate} }

// Slow multiplies the latency.
func Slow(factor float64) Fault { return Fault{Slow: factor} }

// SlowTail multiplies the latency of a share of requests.
func SlowTail(share, factor float64) Fault { return Fault{Slow: factor, SlowShare: share} }

// Pauses answers nothing for a while at the end of each period.
func Pauses(every, pause time.Duration) Fault { return Fault{PauseEvery: every, PauseFor: pause} }

// Overload serves so many at once, for this multiple of the latency; so many may wait.
func Overload(capacity, queue int, slow float64) Fault {
	return Fault{Capacity: capacity, Queue: queue, Slow: slow}
}

// Flap alternates between a fault and health.
func Flap(f Fault, down, up time.Duration) Fault {
	f.Down, f.Up = down, up
	return f
}

// spares says whether a request is answered as in health.
func (f *Fault) spares(path string, ping bool) bool {
	return ping && f.SparePings || !strings.HasPrefix(path, f.Path)
}

// pause is how much longer nothing is answered, since after the fault began.
func (f *Fault) pause(since time.Duration) time.Duration {
	if f.PauseEvery <= 0 || f.PauseFor <= 0 {
		return 0
	}
	at := since % f.PauseEvery
	if at < f.PauseEvery-f.PauseFor {
		return 0
	}
	return f.PauseEvery - at
}
