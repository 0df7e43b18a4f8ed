package server

import "sync"

// maxWaiting bounds an outbox: of each type there is one response, but to a client that asks
// again before it has answered. Who has so many waiting is not heard until it reads.
const maxWaiting = 2 * int(numTypes)

// outbox holds what is to be written to a client.
type outbox struct {
	writers sync.WaitGroup // one at most
	room    sync.Cond      // waiting has become shorter; its lock is mu

	mu      sync.Mutex // guards the rest
	waiting []*response
	writing bool
}

// waitForRoom waits until the client has been written what it was to be told.
func (o *outbox) waitForRoom() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.waiting) >= maxWaiting {
		o.room.Wait()
	}
}

// enqueue has a response written, by a goroutine that ends when there is nothing more: who
// enqueues holds the lock of the server, and must not wait for a client.
func (o *outbox) enqueue(r *response, wire wireStream) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting = append(o.waiting, r)
	if !o.writing {
		o.writing = true
		o.writers.Go(func() { o.write(wire) })
	}
}

func (o *outbox) write(wire wireStream) {
	for failed := false; ; {
		r := o.next()
		switch {
		case r == nil:
			return
		case !failed:
			// The reader of the stream learns of it as well, and ends it.
			failed = wire.SendMsg(r) != nil
		}
	}
}

// next takes the oldest; nil: the writer is to end.
func (o *outbox) next() *response {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting) == 0 {
		o.waiting, o.writing = nil, false
		return nil
	}
	r := o.waiting[0]
	o.waiting = o.waiting[1:]
	o.room.Signal()
	return r
}
