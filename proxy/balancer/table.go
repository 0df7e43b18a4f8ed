package balancer

import (
	"cmp"
	"slices"
)

// table maps keys to entries so that a change of one entry moves few keys of the
// others. Positions go round: the place after the last is the first.
type table interface {
	// find is the position of a key.
	find(key uint64) int
	// at is the entry at a position.
	at(position int) int32
	len() int
}

// site is an entry in a table: what it is and how much of it there is.
type site struct {
	entry  int32
	hash   uint64
	weight float64
}

// newTable is the table of a hashing policy.
func newTable(policy Policy, sites []site) table {
	if len(sites) == 0 {
		return nil
	}
	if policy == Maglev {
		return newMaglev(sites)
	}
	return newRing(sites)
}

func heaviest(sites []site) float64 {
	return slices.MaxFunc(sites, func(a, b site) int { return cmp.Compare(a.weight, b.weight) }).weight
}

// ring is consistent hashing (Karger et al. 1997): each entry stands at many
// points of a circle, as many as its weight asks for, and a key belongs to the
// first one after it.
type ring []point

type point struct {
	hash  uint64
	entry int32
}

const (
	pointsPerEntry = 200 // of the heaviest; keeps the shares within about a tenth
	maxPoints      = 1 << 16
)

func newRing(sites []site) ring {
	heaviest, sum := heaviest(sites), 0.0
	for _, s := range sites {
		sum += s.weight / heaviest
	}
	// How many points an entry has must not depend on which others there are,
	// or their keys would move too when one comes or goes.
	points := float64(pointsPerEntry)
	for points*sum > maxPoints && points > 1 {
		points /= 2
	}
	r := make(ring, 0, int(points*sum)+len(sites))
	for _, s := range sites {
		// The points of an entry are the first ones of a sequence of its own, so
		// that another weight adds some or takes some, and leaves the rest.
		d := dice(s.hash)
		for range max(1, int(points*s.weight/heaviest+0.5)) {
			r = append(r, point{d.next(), s.entry})
		}
	}
	slices.SortFunc(r, func(a, b point) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.entry, b.entry)) })
	return r
}

func (r ring) find(key uint64) int {
	i, _ := slices.BinarySearchFunc(r, key, func(p point, key uint64) int { return cmp.Compare(p.hash, key) })
	return i % len(r)
}

func (r ring) at(i int) int32 { return r[i].entry }
func (r ring) len() int       { return len(r) }

// maglev is Google's table (Eisenbud et al. 2016): entries take turns to claim
// the next free slot of their own permutation. One look finds a key's entry, and
// the shares are even; a little more than with a ring moves when one goes.
type maglev []int32

// slots is a prime, as the permutations need it, and Envoy's default size: a
// hundred for each of 650 entries keeps the shares within a hundredth.
const slots = 65537

func newMaglev(sites []site) maglev {
	type turn struct {
		next, skip int     // where in its permutation the entry is
		credit     float64 // turns that it has earned
		earns      float64 // by a round
	}
	heaviest := heaviest(sites)
	turns := make([]turn, len(sites))
	for i, s := range sites {
		d := dice(s.hash)
		turns[i] = turn{next: d.below(slots), skip: 1 + d.below(slots-1), earns: s.weight / heaviest}
	}
	m := make(maglev, slots)
	for i := range m {
		m[i] = -1
	}
	for left := slots; ; {
		for i := range turns {
			t := &turns[i]
			if t.credit += t.earns; t.credit < 1 {
				continue
			}
			t.credit--
			for m[t.next] >= 0 {
				t.next = (t.next + t.skip) % slots
			}
			m[t.next] = sites[i].entry
			if left--; left == 0 {
				return m
			}
		}
	}
}

func (m maglev) find(key uint64) int {
	d := dice(key)
	return d.below(len(m))
}

func (m maglev) at(i int) int32 { return m[i] }
func (m maglev) len() int       { return len(m) }
