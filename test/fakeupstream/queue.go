package fakeupstream

import "sync/atomic"

// queue is the line of those who wait to be served where capacity is bounded.
type queue struct {
	places  chan struct{} // one per request that is served; who waits to send is served in order
	most    int64         // how many may wait
	waiting atomic.Int64
}

// newQueue is nil where everybody is served at once.
func newQueue(f *Fault) *queue {
	if f.Capacity <= 0 {
		return nil
	}
	return &queue{places: make(chan struct{}, f.Capacity), most: int64(f.Queue)}
}

// full says whether there is neither a place nor room to wait for one.
func (q *queue) full() bool {
	return q.most > 0 && len(q.places) == cap(q.places) && q.waiting.Load() >= q.most
}
