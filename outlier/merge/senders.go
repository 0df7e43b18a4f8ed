package merge

import (
	"cmp"
	"slices"
	"time"
)

// Senders lists the live reporters that have lately sent traffic to an endpoint, those
// that have sent most first: in this order they should hear of a verdict on it.
func (t *Table) Senders(k Key, now time.Duration) []string {
	e := t.endpoints[k]
	if e == nil {
		return nil
	}
	type sender struct {
		id string
		n  uint32
	}
	var all []sender
	for i := range e.cells {
		c := &e.cells[i]
		if r := t.slots[c.reporter]; r.live && c.changed > now-t.cfg.ReporterStale {
			all = append(all, sender{r.ID, c.counts.N})
		}
	}
	slices.SortFunc(all, func(a, b sender) int { return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.id, b.id)) })
	ids := make([]string, len(all))
	for i, s := range all {
		ids[i] = s.id
	}
	return ids
}
