package controlplane

import (
	"slices"
	"sync"
	"time"

	"github.com/overhear-mesh/overhear/outlier/merge"
)

// Event is one thing that an operator may want to know: a verdict, a verdict
// that was held back, a suspicion, a reporter that came or went, a reload, an
// order of an operator.
type Event struct {
	// Cursor numbers events from 1 in the life of one process.
	Cursor uint64    `json:"cursor"`
	Time   time.Time `json:"time"`
	// Kind is verdict, refused, reporter, registry, ready, operator, lost, or the
	// name of a merge.EventKind.
	Kind     string `json:"kind"`
	Service  string `json:"service,omitempty"`
	Endpoint string `json:"endpoint,omitempty"` // instance
	Reporter string `json:"reporter,omitempty"`
	Scope    string `json:"scope,omitempty"` // "fleet" or "zone NAME"
	From     string `json:"from,omitempty"`
	To       string `json:"to,omitempty"`
	Rule     string `json:"rule,omitempty"`
	Epoch    uint64 `json:"epoch,omitempty"`
	HeldBack string `json:"held_back_by,omitempty"` // a guard or a cap: To did not come about
	Text     string `json:"text"`                   // the event as a sentence
}

// history keeps the newest events in a ring. Writers never wait for readers: a
// reader that is slower than the ring is told how many events it has missed.
type history struct {
	mu    sync.Mutex
	ring  []Event       // guarded by mu; event c lies at (c-1) % len
	next  uint64        // guarded by mu; cursor of the next event
	grown chan struct{} // guarded by mu; closed when an event is added
}

func newHistory(size int) *history {
	return &history{ring: make([]Event, size), next: 1, grown: make(chan struct{})}
}

// add appends e and gives it its cursor.
func (h *history) add(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e.Cursor = h.next
	h.ring[(h.next-1)%uint64(len(h.ring))] = e
	h.next++
	close(h.grown)
	h.grown = make(chan struct{})
}

// after returns up to limit events with a cursor above the given one, oldest
// first, how many of those the ring no longer has, and a channel that is closed
// when there is more. A cursor from the future, as a client has it after a
// restart of this process, counts as 0.
func (h *history) after(cursor uint64, limit int) (events []Event, lost uint64, more <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if cursor >= h.next {
		cursor = 0
	}
	oldest := uint64(1)
	if size := uint64(len(h.ring)); h.next > size {
		oldest = h.next - size
	}
	first := cursor + 1
	if first < oldest {
		lost, first = oldest-first, oldest
	}
	for c := first; c < h.next && len(events) < limit; c++ {
		events = append(events, h.ring[(c-1)%uint64(len(h.ring))])
	}
	return events, lost, h.grown
}

// about returns the newest events of an endpoint, oldest first.
func (h *history) about(k merge.Key, limit int) []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	events := []Event{}
	size := uint64(len(h.ring))
	for c := h.next - 1; c > 0 && c+size >= h.next && len(events) < limit; c-- {
		if e := h.ring[(c-1)%size]; e.Service == k.Service && e.Endpoint == k.Instance {
			events = append(events, e)
		}
	}
	slices.Reverse(events)
	return events
}
