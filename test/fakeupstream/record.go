package fakeupstream

import (
	"slices"
	"sync"
	"time"
)

// keep is how many arrivals are remembered; the counts know all.
const keep = 1 << 20

// Arrival is a request, or the first bytes of a TCP connection, that reached the
// backend.
type Arrival struct {
	At     time.Time // with a monotonic reading
	Path   string    // HTTP
	Ping   bool
	Conn   int  // number of the connection, from 1
	Failed bool // by a fault that answered it; not by one that left it unanswered
}

// Counts is what has arrived.
type Counts struct {
	Connections int
	Silent      int // of those, closed by the peer before it sent a byte: what a TCP ping does
	Requests    int // without pings
	Pings       int
	Failed      int // requests and pings
	Inflight    int // now
	Forgotten   int // of requests and pings, those that are not among the arrivals any more
}

// record counts. The zero record is ready.
type record struct {
	mu          sync.Mutex // guards what follows
	counts      Counts
	arrivals    []Arrival // the newest; of number first and on
	first       int
	connections []time.Time
}

// Counts is what has arrived since the start.
func (b *Backend) Counts() Counts {
	b.record.mu.Lock()
	defer b.record.mu.Unlock()
	c := b.record.counts
	c.Forgotten = b.record.first
	return c
}

// Arrivals are the requests and pings since an instant, oldest first.
func (b *Backend) Arrivals(since time.Time) []Arrival {
	r := &b.record
	r.mu.Lock()
	defer r.mu.Unlock()
	i, _ := slices.BinarySearchFunc(r.arrivals, since, func(a Arrival, t time.Time) int { return a.At.Compare(t) })
	return slices.Clone(r.arrivals[i:])
}

// Connections are the times at which connections came since an instant, oldest first.
func (b *Backend) Connections(since time.Time) []time.Time {
	r := &b.record
	r.mu.Lock()
	defer r.mu.Unlock()
	i, _ := slices.BinarySearchFunc(r.connections, since, time.Time.Compare)
	return slices.Clone(r.connections[i:])
}

// connection numbers a new connection.
func (r *record) connection() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Connections++
	r.connections, _ = trimmed(append(r.connections, time.Now()))
	return r.counts.Connections
}

// arrived numbers a new arrival.
func (r *record) arrived(a Arrival) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.Ping {
		r.counts.Pings++
	} else {
		r.counts.Requests++
	}
	r.counts.Inflight++
	a.At = time.Now()
	var dropped int
	r.arrivals, dropped = trimmed(append(r.arrivals, a))
	r.first += dropped
	return r.first + len(r.arrivals) - 1
}

// failed notes that a fault answered; a number that is not known, or not any more, is
// counted alone.
func (r *record) failed(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Failed++
	if i := n - r.first; i >= 0 && i < len(r.arrivals) {
		r.arrivals[i].Failed = true
	}
}

func (r *record) left() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Inflight--
}

// silent notes a connection that has ended without a word.
func (r *record) silent() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Silent++
}

// trimmed drops the older half when there are too many, and says how many that are.
func trimmed[T any](list []T) (kept []T, dropped int) {
	if len(list) < keep {
		return list, 0
	}
	dropped = len(list) / 2
	return slices.Clone(list[dropped:]), dropped
}
