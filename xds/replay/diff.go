package replay

import (
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier/merge"
)

// Diff compares two policies over the same recordings.
type Diff struct {
	A *Outcome `json:"a"`
	B *Outcome `json:"b"`
	// Endpoints are those that would have been out at other times, by key.
	Endpoints []Difference `json:"endpoints"`
	// Alike is the number of endpoints that both would have taken out, at the same
	// times.
	Alike int `json:"alike"`
}

// Difference is an endpoint about which two policies differ.
type Difference struct {
	Key merge.Key `json:"endpoint"`
	A   []Spell   `json:"a"`
	B   []Spell   `json:"b"`
}

// Compare says where two outcomes differ. Both must come from the same Recordings.
func Compare(a, b *Outcome) Diff {
	d := Diff{A: a, B: b, Endpoints: []Difference{}}
	would := func(o *Outcome) map[merge.Key][]Spell {
		all := map[merge.Key][]Spell{}
		for _, e := range o.Endpoints {
			if len(e.Would) > 0 {
				all[e.Key] = e.Would
			}
		}
		return all
	}
	inA, inB := would(a), would(b)
	keys := map[merge.Key]bool{}
	for k := range inA {
		keys[k] = true
	}
	for k := range inB {
		keys[k] = true
	}
	for k := range keys {
		if slices.Equal(inA[k], inB[k]) {
			d.Alike++
			continue
		}
		d.Endpoints = append(d.Endpoints, Difference{Key: k, A: inA[k], B: inB[k]})
	}
	slices.SortFunc(d.Endpoints, func(x, y Difference) int { return compareKeys(x.Key, y.Key) })
	return d
}

// Length of the spell; end is that of the record, for one that was not over.
func (s Spell) Length(end time.Time) time.Duration {
	if s.To.IsZero() {
		return end.Sub(s.From)
	}
	return s.To.Sub(s.From)
}
