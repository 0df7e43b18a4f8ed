package http2

import (
	"runtime"
	"slices"
	"sync"
	"time"
)

// batch is what one read, or one visit of the wheel, has caused: the links whose
// buffers have grown are flushed once, at its end. It belongs to one goroutine.
type batch struct {
	now   time.Duration
	dirty []*link
	mine  []*link // of those, the ones that no other batch is about to flush
	pools []*pool // in which somebody may be served
}

var batches = sync.Pool{New: func() any { return new(batch) }}

// newBatch is a batch for who has none of his own. Its end is done.
func newBatch(now time.Duration) *batch {
	b := batches.Get().(*batch)
	b.now = now
	return b
}

// done flushes the batch, and gives it back.
func (b *batch) done() {
	b.flush()
	batches.Put(b)
}

// touch notes that l has something to send.
func (b *batch) touch(l *link) {
	if !slices.Contains(b.dirty, l) {
		b.dirty = append(b.dirty, l)
	}
}

// freed notes that a connection of p has room for another stream.
func (b *batch) freed(p *pool) {
	if !slices.Contains(b.pools, p) {
		b.pools = append(b.pools, p)
	}
}

// flush serves those who wait, and sends what the batch has caused. The caller has no
// lock.
//
// Who else is about to run may have something to say on the same connections: the other
// clients of an endpoint, the other answers to a client. So whoever is first lets them
// go ahead once, and then sends what all of them have appended; they find that somebody
// does. Nobody waits for anything but his turn: where none is ready, the turn comes at
// once.
func (b *batch) flush() {
	for first := true; b.claim(); first = false {
		if first {
			runtime.Gosched()
		}
		for n := len(b.mine) - 1; n >= 0; n-- {
			l := b.mine[n]
			b.mine[n] = nil
			if l.flush() {
				l.resume(b)
			}
		}
		b.mine = b.mine[:0]
	}
}

// claim serves those who wait, and takes what nobody else has promised to flush. It
// reports whether there is any.
func (b *batch) claim() bool {
	for n := len(b.pools); n > 0; n = len(b.pools) {
		p := b.pools[n-1]
		b.pools[n-1] = nil
		b.pools = b.pools[:n-1]
		p.serve(b)
	}
	for i, l := range b.dirty {
		b.dirty[i] = nil
		if l.promised.CompareAndSwap(false, true) {
			b.mine = append(b.mine, l)
		}
	}
	b.dirty = b.dirty[:0]
	return len(b.mine) > 0
}
