package balancer

import (
	"math"
	"math/bits"
)

// sampler draws entries by weight in constant time: the alias method (Walker
// 1977) as built by Vose (1991).
type sampler struct {
	list  []int32  // entry indices
	cut   []uint64 // column k belongs to list[k] below cut[k]; nil: all weights equal
	alias []int32  // and to list[alias[k]] above
}

func newSampler(entries []Entry, list []int32) sampler {
	s := sampler{list: list}
	even, sum := true, 0.0
	for _, i := range list {
		sum += entries[i].Weight
		even = even && entries[i].Weight == entries[list[0]].Weight
	}
	if even {
		return s
	}
	n := len(list)
	s.cut, s.alias = make([]uint64, n), make([]int32, n)
	part := make([]float64, n) // of a column, mean 1
	var small, large []int32
	for k, i := range list {
		part[k] = entries[i].Weight / sum * float64(n)
		s.cut[k], s.alias[k] = math.MaxUint64, int32(k)
		if part[k] < 1 {
			small = append(small, int32(k))
		} else {
			large = append(large, int32(k))
		}
	}
	for len(small) > 0 && len(large) > 0 {
		a, b := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		s.cut[a], s.alias[a] = uint64(part[a]*(1<<63))<<1, b
		if part[b] -= 1 - part[a]; part[b] < 1 {
			large = large[:len(large)-1]
			small = append(small, b)
		}
	}
	return s // what is left over is 1 but for rounding: the whole column
}

func (s *sampler) len() int { return len(s.list) }

// at maps a word, uniform over all 64 bits, to an entry.
func (s *sampler) at(word uint64) int32 {
	column, rest := bits.Mul64(word, uint64(len(s.list)))
	if s.cut != nil && rest >= s.cut[column] {
		column = uint64(s.alias[column])
	}
	return s.list[column]
}

// nth is the entry whose turn is the n-th: plainly in turn when the weights are
// equal, else along the golden-ratio sequence, whose every prefix is close to
// the weights (the additive recurrence of lowest discrepancy).
func (s *sampler) nth(n uint64) int32 {
	if s.cut == nil {
		return s.list[n%uint64(len(s.list))]
	}
	return s.at(n * 0x9e3779b97f4a7c15)
}

// other draws any entry but i; all of the same weight, at least two.
func (s *sampler) other(i int32, d *dice) int32 {
	n := len(s.list)
	if j := s.list[d.below(n-1)]; j != i {
		return j
	}
	return s.list[n-1] // the one that the draw above leaves out
}
