package world

import "time"

// kind says what an event does.
type kind uint8

const (
	doEnd    kind = iota // the current attempt of a request ends as it was to end
	doGiveUp             // a request's time, or its user's patience, is up
	doRetry              // a request is tried again after its back-off
	doWake               // a timer of the product
	doFunc               // anything rare
)

// event is something that happens at an instant. gen tells whether it still
// matters: what it is about may have been reused since.
type event struct {
	at   time.Duration
	seq  uint64 // of two at the same instant the first that was made comes first
	id   uint32
	gen  uint32
	kind kind
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// queue is a heap of events whose nodes have four children: half as deep as a
// binary one, and the children of a node share two cache lines.
type queue struct {
	heap []event
	seq  uint64
}

func (q *queue) push(e event) {
	q.seq++
	e.seq = q.seq
	q.heap = append(q.heap, e)
	h := q.heap
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 4
		if h[up].before(&e) {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = e
}

func (q *queue) pop() event {
	h := q.heap
	top := h[0]
	last := len(h) - 1
	e := h[last]
	q.heap = h[:last]
	if last == 0 {
		return top
	}
	h = h[:last]
	i := 0
	for {
		first := 4*i + 1
		if first >= last {
			break
		}
		least := first
		for c := first + 1; c < min(first+4, last); c++ {
			if h[c].before(&h[least]) {
				least = c
			}
		}
		if e.before(&h[least]) {
			break
		}
		h[i] = h[least]
		i = least
	}
	h[i] = e
	return top
}
