package report

import (
	"time"
	"unique"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/outlier/merge"
)

// sighting is what is behind a name of a reporter that knows endpoints by their addresses
// ([Hello.Observes]). When the registry puts another instance at the address, that one
// inherits nothing: counters begin anew, although the reporter goes on counting.
type sighting struct {
	key   merge.Key      // the instance; zero: nobody knows the address
	last  outlier.Counts // told last
	base  outlier.Counts // when the instance came
	since time.Duration  // when it was first heard of, by the table's clock; never: with the name
}

// sight looks who is behind a name now.
func (d *decoder) sight(ref uint32, out *decoded) *sighting {
	if d.seen == nil {
		return nil
	}
	s := d.seen[ref]
	first := s == nil
	if first {
		s = &sighting{since: never}
		d.seen[ref] = s
	}
	k, ok := d.authority.Named(d.names[ref-1].Value())
	if !ok || k == s.key {
		return s
	}
	if !first && s.key != (merge.Key{}) {
		s.base, s.since = s.last, out.received
	}
	s.key = k
	if out.declared == nil {
		out.declared = map[unique.Handle[merge.Key]]uint32{}
	}
	out.declared[unique.Make(k)] = ref // orders name it so
	return s
}

// service is the service that a reporter means.
func (d *decoder) service(name string) string {
	if d.seen == nil {
		return name
	}
	k, _ := d.authority.Named(merge.Key{Service: name})
	return k.Service
}

// rebase leaves to a cell what is of the present instance.
func (s *sighting) rebase(c *merge.Cell) {
	s.last = c.Counts
	if s.since == never {
		return
	}
	c.Counts = c.Counts.Sub(s.base)
	if c.LastOKStart < s.since {
		c.LastOK, c.LastOKStart = never, never
	}
	if c.LastHardStart < s.since {
		c.LastHard, c.LastHardStart, c.Witness = never, never, outlier.LevelNone
	}
	kept := c.History[:0]
	for _, p := range c.History {
		if p.At >= s.since {
			kept = append(kept, s.point(p))
		}
	}
	c.History = kept
}

// point is a reading as one of the present instance; one from before it came is unknown.
func (s *sighting) point(p merge.Point) merge.Point {
	switch {
	case s.since == never:
		return p
	case p.At < s.since:
		return merge.Point{At: never}
	}
	p.N, p.K, p.N90, p.N99 = p.N-s.base.N, p.K-s.base.K(), p.N90-s.base.N90, p.N99-s.base.N99
	return p
}
