package server

import (
	"cmp"
	"iter"
	mathbits "math/bits"
	"slices"
)

// bits is a set of small numbers, sorted words of 64 of them. A client of a thousand names
// among five thousand keeps one of these where maps of names would take fifty times as
// much, and so does a topic of a thousand clients.
type bits []word

type word struct {
	at   uint32 // number / 64
	bits uint64
}

func (b bits) find(n uint32) (int, bool) {
	return slices.BinarySearchFunc(b, n/64, func(w word, at uint32) int { return cmp.Compare(w.at, at) })
}

func (b bits) has(n uint32) bool {
	i, ok := b.find(n)
	return ok && b[i].bits&(1<<(n%64)) != 0
}

func (b bits) len() int {
	n := 0
	for _, w := range b {
		n += mathbits.OnesCount64(w.bits)
	}
	return n
}

// put adds a number, or takes it out.
func (b *bits) put(n uint32, in bool) {
	i, ok := b.find(n)
	switch {
	case in && !ok:
		if len(*b) == cap(*b) {
			// By an eighth: append would double it, and there are very many of these.
			*b = append(make(bits, 0, len(*b)+len(*b)/8+1), *b...)
		}
		*b = slices.Insert(*b, i, word{at: n / 64, bits: 1 << (n % 64)})
	case in:
		(*b)[i].bits |= 1 << (n % 64)
	case ok:
		if (*b)[i].bits &^= 1 << (n % 64); (*b)[i].bits == 0 {
			*b = slices.Delete(*b, i, i+1)
		}
	}
}

// all are the numbers in order. The set must not change meanwhile.
func (b bits) all() iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for _, w := range b {
			for rest := w.bits; rest != 0; rest &= rest - 1 {
				if !yield(w.at*64 + uint32(mathbits.TrailingZeros64(rest))) {
					return
				}
			}
		}
	}
}

// ids gives out small numbers, the freed ones again.
type ids[T any] struct {
	all  []T // by number; the zero value where it is free
	free []uint32
}

func (i *ids[T]) take(v T) uint32 {
	if n := len(i.free); n > 0 {
		id := i.free[n-1]
		i.free = i.free[:n-1]
		i.all[id] = v
		return id
	}
	i.all = append(i.all, v)
	return uint32(len(i.all) - 1)
}

func (i *ids[T]) release(id uint32) {
	var none T
	i.all[id] = none
	i.free = append(i.free, id)
}
