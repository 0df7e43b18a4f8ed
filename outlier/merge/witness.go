package merge

import (
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// witness is a reporter with bad news.
type witness struct {
	reporter *reporter
	at       time.Duration
	level    outlier.Level
	kind     string
}

// witnesses lists who has bad news of e: those whose newest news is a hard
// failure, and those whose attempts hang.
func (t *Table) witnesses(e *endpoint, now time.Duration) {
	s := &e.susp
	s.hard, s.stalled = s.hard[:0], s.stalled[:0]
	e.cool(now)
	answered := e.zonesOut()
	for _, i := range e.hot {
		c := &e.cells[i]
		r := t.slots[c.reporter]
		if r.domain.muted(now) || s.doubts(r.domain, now) || slices.Contains(answered, t.observers[c.reporter].zone) {
			continue
		}
		x := c.x
		good := c.lastOK
		if x.probe == outlier.ProbeOK {
			good = max(good, x.probeEnd)
		}
		switch {
		case x.probe.Hard() && x.probeEnd > good && x.probeEnd > x.lastHard && now-x.probeEnd <= witnessFor:
			s.hard = append(s.hard, witness{r, x.probeEnd, x.probe.Level(), "probe"})
		case x.lastHard > good && now-x.lastHard <= witnessFor:
			s.hard = append(s.hard, witness{r, x.lastHard, max(x.level, outlier.LevelConnect), "traffic"})
		case x.probe == outlier.TimedOut && x.probeEnd > good && now-x.probeEnd <= witnessFor:
			s.stalled = append(s.stalled, witness{r, x.probeEnd, outlier.LevelApp, "probe"})
		case (x.overdue > 0 || x.state == outlier.Suspended) && now-x.overdueAt <= witnessFor:
			s.stalled = append(s.stalled, witness{r, x.overdueAt, outlier.LevelApp, "overdue"})
		}
	}
	// The sidecar beside the application knows first-hand that it refuses.
	if o := &e.own; o.reporter != nil && o.refused > o.lastOK && now-o.at <= witnessFor && !o.reporter.domain.muted(now) && !s.doubts(o.reporter.domain, now) {
		s.hard = append(s.hard, witness{o.reporter, o.at, outlier.LevelApp, "own"})
	}
	byID := func(a, b witness) int { return compareReporters(a.reporter, b.reporter) }
	slices.SortStableFunc(s.hard, byID)
	slices.SortStableFunc(s.stalled, byID)
}

// domainsOf counts the fault domains of witnesses, of one zone if it is named.
func (t *Table) domainsOf(zone string, lists ...[]witness) int {
	t.stamp++
	n := 0
	for _, list := range lists {
		for _, w := range list {
			if d := w.reporter.domain; d.stamp != t.stamp && (zone == "" || w.reporter.Zone == zone) {
				d.stamp = t.stamp
				n++
			}
		}
	}
	return n
}

// confirmers lists the reporters that may confirm a failure of e: they use the
// service, are fresh, sure of themselves and elsewhere.
func (t *Table) confirmers(e *endpoint, zone string, now time.Duration) []*reporter {
	var list []*reporter
	for _, r := range e.group.service.reporters {
		if r.askable(t, now) && r.LHM <= maxProbeLHM && !e.susp.doubts(r.domain, now) && (zone == "" || r.Zone == zone) && (r.Node == "" || r.Node != e.Node) {
			list = append(list, r)
		}
	}
	return list
}

// probers are the confirmers that have a probe to spare.
func (t *Table) probers(e *endpoint, zone string, now time.Duration) []*reporter {
	return slices.DeleteFunc(t.confirmers(e, zone, now), func(r *reporter) bool { return !r.probes.has(now, 1) })
}

// countDomains counts the fault domains of reporters and witnesses together.
func (t *Table) countDomains(list []*reporter, zone string, witnesses ...[]witness) int {
	n := t.domainsOf(zone, witnesses...)
	for _, r := range list {
		if r.domain.stamp != t.stamp {
			r.domain.stamp = t.stamp
			n++
		}
	}
	return n
}

// choose takes up to k reporters, each of another fault domain and, as far as
// that goes, of another zone, in the order of a hash.
func (t *Table) choose(list []*reporter, k int, hash func(*reporter) uint64) []*reporter {
	type ranked struct {
		r *reporter
		h uint64
	}
	order := make([]ranked, 0, len(list))
	for _, r := range list {
		order = append(order, ranked{r, hash(r)})
	}
	slices.SortFunc(order, func(a, b ranked) int {
		if a.h != b.h {
			if a.h < b.h {
				return -1
			}
			return 1
		}
		return compareReporters(a.r, b.r)
	})
	var chosen []*reporter
	used := func(same func(*reporter) bool) bool { return slices.ContainsFunc(chosen, same) }
	for _, otherZone := range []bool{true, false} {
		for _, o := range order {
			if len(chosen) == k {
				return chosen
			}
			if used(func(c *reporter) bool { return c.domain == o.r.domain || otherZone && c.Zone == o.r.Zone }) {
				continue
			}
			chosen = append(chosen, o.r)
		}
	}
	return chosen
}

// first finds the failure that everything else is compared with. Its level is what it
// was seen at, also behind an inbound sidecar: probes go deeper there (see depth), and a
// connection that the application's sidecar holds open for it contradicts a refusal.
func (t *Table) first(e *endpoint, zone string) {
	s := &e.susp
	s.first, s.firstAt, s.level = nil, never, outlier.LevelConnect
	for _, list := range [][]witness{s.hard, s.stalled} {
		for _, w := range list {
			if zone != "" && w.reporter.Zone != zone {
				continue
			}
			if s.first == nil || w.at < s.firstAt {
				s.first, s.firstAt = w.reporter, w.at
			}
			s.level = max(s.level, w.level)
		}
		if s.first != nil {
			break // overdue attempts matter only where nothing is hard
		}
	}
}

// contradiction finds a success that began after the failure: of real traffic, or
// of a probe that reached at least as deep as the failure. By what two clocks say
// it must be clearly later. A probe of this round is later by nature, because it
// was ordered when the failure was known, and so is an attempt that its reporter
// began after he answered this round's poll. It answers with who contradicts, and
// the zones of all who do.
func (t *Table) contradiction(e *endpoint, zone string, now time.Duration) (by string, zones []string) {
	s := &e.susp
	if s.first == nil {
		return "", nil
	}
	for i := range e.cells {
		c := &e.cells[i]
		r := t.slots[c.reporter]
		if zone != "" && r.Zone != zone || r.domain.muted(now) {
			continue
		}
		after := s.firstAt + max(clockMargin, r.jitter, s.first.jitter)
		x := c.x
		traffic := c.okStart > after || x != nil && s.active && x.polledRound == s.rounds && c.okStart > x.polledAt
		probe := x != nil && x.probe == outlier.ProbeOK && x.probeLevel >= s.level && x.probeStart > after
		if !probe && x != nil {
			probe = slices.ContainsFunc(s.orders, func(o *order) bool {
				return o.reporter == r && o.done && o.result == outlier.ProbeOK && o.reached >= s.level
			})
		}
		if traffic || probe {
			if by == "" || r.ID < by {
				by = r.ID
			}
			zones = append(zones, r.Zone)
		}
	}
	return by, zones
}

// oneZone says whether all witnesses are of one named zone.
func oneZone(lists ...[]witness) (zone string, one bool) {
	for _, list := range lists {
		for _, w := range list {
			if w.reporter.Zone == "" || zone != "" && w.reporter.Zone != zone {
				return "", false
			}
			zone = w.reporter.Zone
		}
	}
	return zone, zone != ""
}
