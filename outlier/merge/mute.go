package merge

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// mutedFor is towards how many endpoints a fault domain must fail alone to be muted.
const mutedFor = 3

// unreliable finds fault domains that fail towards many endpoints of which nobody
// else complains: their network is broken, not the endpoints. They are set aside
// for a while and told so. Without them the evidence speaks as before.
func (t *Table) unreliable(now time.Duration) {
	type charge struct {
		sum, max  int64
		endpoints int
		alone     int
		h         int64
	}
	cases := make(map[*domain]*charge)
	for _, e := range t.endpoints {
		w := &e.fast
		if !w.open || w.last.h == 0 || e.leaving() {
			continue
		}
		against := t.charges(e, w, w.last.odds.Steps(), now)
		for _, i := range against {
			d, sum := t.domainList[i], t.sums[i].c
			c := cases[d]
			if c == nil {
				c = &charge{}
				cases[d] = c
			}
			c.sum += sum
			c.max = max(c.max, sum)
			c.endpoints++
			c.h = max(c.h, w.last.h)
			if len(against) == 1 && t.othersUse(e, d, 2, now) {
				c.alone++
			}
		}
	}
	suspects := slices.SortedFunc(maps.Keys(cases), func(a, b *domain) int { return cmp.Compare(a.name, b.name) })
	for _, d := range suspects {
		if c := cases[d]; c.endpoints >= mutedFor && c.sum-c.max >= c.h && 2*c.alone >= c.endpoints {
			t.mute(d, "it fails towards many endpoints of which nobody else complains", now)
		}
	}
}

// denied counts that others have had answers where these complain. What a broken observer
// says opens rows that the answers of others close within half a second: once he has been
// contradicted about as many endpoints as it takes to mute him, every tick looks, so that
// it is seen while they are open.
func (t *Table) denied(now time.Duration, lists ...[]witness) {
	for _, list := range lists {
		for _, w := range list {
			d := w.reporter.domain
			if now-d.deniedAt > witnessFor {
				d.denied, d.deniedAt = 0, now
			}
			if d.denied++; d.denied >= mutedFor {
				t.muteTill = now + witnessFor
			}
		}
	}
}

// othersUse says whether at least n other fault domains have traffic on e.
func (t *Table) othersUse(e *endpoint, d *domain, n int, now time.Duration) bool {
	t.stamp++
	d.stamp = t.stamp
	for i := range e.cells {
		c := &e.cells[i]
		if o := t.slots[c.reporter].domain; o.stamp != t.stamp && c.changed > now-t.cfg.ReporterStale {
			o.stamp = t.stamp
			if n--; n == 0 {
				return true
			}
		}
	}
	return false
}

func (t *Table) mute(d *domain, why string, now time.Duration) {
	if d.muted(now) {
		return
	}
	d.mutedUntil, d.reason = now+t.cfg.Mute, why
	t.weighDomain(d, now)
	t.due(d.mutedUntil)
	t.mutes = append(t.mutes, d.name)
	t.tellMute(d, d.mutedUntil, why)
	t.event(EventMuted, nil, d.name, fmt.Sprintf("is not believed for %v: %s", t.cfg.Mute, why), now)
	for _, e := range t.endpoints {
		if e.fast.open || e.slow.open || len(e.hot) > 0 {
			t.touch(e)
		}
	}
}

// unmute lets those speak again whose time is over.
func (t *Table) unmute(now time.Duration) {
	t.mutes = slices.DeleteFunc(t.mutes, func(name string) bool {
		d := t.domains[name]
		if d == nil {
			return true
		}
		if d.muted(now) {
			t.due(d.mutedUntil)
			return false
		}
		t.weighDomain(d, now)
		t.tellMute(d, 0, d.reason)
		t.event(EventUnmuted, nil, name, "is believed again", now)
		d.reason = ""
		if d.reporters == 0 {
			t.dropDomain(d)
		}
		// What it said while it was muted stays out: its part of each row starts anew.
		for _, e := range t.endpoints {
			t.forgetDomain(e, d)
		}
		return true
	})
}

// forgetDomain makes the present counters of a domain's reporters their base in
// every open row of e.
func (t *Table) forgetDomain(e *endpoint, d *domain) {
	t.rebase(e, &e.fast, fastRow, d)
	t.rebase(e, &e.slow, slowRow, d)
	for _, z := range e.zones {
		t.rebase(e, &z.row, zoneRow, d)
	}
}

func (t *Table) rebase(e *endpoint, w *row, k kind, d *domain) {
	for i := range w.active {
		x := &w.active[i]
		if t.observers[x.slot].domain != d.index {
			continue
		}
		x.fromN, x.fromK = x.n, x.k
		if w.has(e, k, x.cell) {
			at := e.cells[x.cell].x.place(k)
			at.conn, at.hard, at.hardStart = 0, never, never
		}
	}
}

func (t *Table) weighDomain(d *domain, now time.Duration) {
	for _, r := range t.reporters {
		if r.domain == d {
			t.weigh(r, now)
		}
	}
}

func (t *Table) tellMute(d *domain, until time.Duration, why string) {
	for _, r := range t.reporters {
		if r.domain == d && r.live {
			t.out.Mutes = append(t.out.Mutes, Mute{Reporter: r.ID, Domain: d.name, Until: until, Reason: why})
		}
	}
}
