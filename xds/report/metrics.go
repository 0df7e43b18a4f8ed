package report

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Stats is what a collector counted.
type Stats struct {
	Streams   int    // live now
	Opened    uint64 // streams
	Messages  uint64 // received
	Throttled uint64 // of those, read later because their stream sends too fast
	Refused   map[Refusal]uint64
	Sent      uint64 // messages with orders
	Dropped   map[Dropped]uint64
}

type metrics struct {
	opened, messages, throttled, sent atomic.Uint64

	mu      sync.Mutex // guards what follows
	dropped map[Dropped]uint64
}

func (m *metrics) drop(why Dropped) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dropped == nil {
		m.dropped = map[Dropped]uint64{}
	}
	m.dropped[why]++
}

func (m *metrics) stats(streams int, refused map[Refusal]uint64) Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Stats{
		Streams: streams, Opened: m.opened.Load(), Messages: m.messages.Load(), Throttled: m.throttled.Load(),
		Refused: refused, Sent: m.sent.Load(), Dropped: maps.Clone(m.dropped),
	}
}
