package http2

import (
	"slices"
	"time"
)

// batch is what one read, or one visit of the wheel, has caused: the links whose
// buffers have grown are flushed once, at its end. It belongs to one goroutine.
type batch struct {
	now   time.Duration
	dirty []*link
	pools []*pool // in which somebody may be served
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
func (b *batch) flush() {
	for len(b.dirty) > 0 || len(b.pools) > 0 {
		if n := len(b.pools) - 1; n >= 0 {
			p := b.pools[n]
			b.pools[n] = nil
			b.pools = b.pools[:n]
			p.serve(b)
			continue
		}
		n := len(b.dirty) - 1
		l := b.dirty[n]
		b.dirty[n] = nil
		b.dirty = b.dirty[:n]
		l.flush()
	}
}
