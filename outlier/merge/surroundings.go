package merge

import (
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// surroundings are how the rest of the group does, in the window of the row and in
// longer ones.
func (t *Table) surroundings(c *candidate, now time.Duration) outlier.Surroundings {
	e, g := c.e, c.e.group
	s := outlier.Surroundings{Usual: g.usual.Rate(), Slower: t.slower(e, c.row, now)}
	own := window(c.row.since, now)
	s.See(t.ratios(g, own, now), e.counted(own, now), true)
	for _, back := range outlier.Windows {
		if from := now - back; from < own {
			s.See(t.ratios(g, from, now), e.counted(from, now), false)
		}
	}
	s.Lasts(e.counted(now-outlier.Windows[0], now), e.counted(now-outlier.Windows[1], now))
	return s
}

// slowerFor is how long a reporter's word holds that its answers take longer than
// usual: it gives it with each report of an endpoint that fails it.
const slowerFor = 3 * time.Second

// slower is how many times as long as usual the group takes to answer those who
// complain of e: the median of what they say.
func (t *Table) slower(e *endpoint, w *row, now time.Duration) float64 {
	if at := e.group.service.slowerAt; at == never || now-at > slowerFor {
		return 0
	}
	var said []float64
	for i := range w.active {
		if x := &w.active[i]; x.k != x.fromK {
			said = t.hearSlower(said, x.slot, e, now)
		}
	}
	return lowMedian(said)
}

// slowerOf is the same of those who find e slow.
func (t *Table) slowerOf(entries map[int32]*paceEntry, e *endpoint, now time.Duration) float64 {
	var said []float64
	for slot, x := range entries {
		if x.often.k != x.often.fromK {
			said = t.hearSlower(said, slot, e, now)
		}
	}
	return lowMedian(said)
}

func (t *Table) hearSlower(said []float64, slot int32, e *endpoint, now time.Duration) []float64 {
	r := t.slots[slot]
	if u := r.services[e.Key.Service]; u != nil && u.slower > 0 && now-u.slowerAt <= slowerFor && !r.domain.muted(now) {
		said = append(said, u.slower)
	}
	return said
}

// lowMedian sorts in place; of an even number it is the lower of the middle two.
func lowMedian(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[(len(list)-1)/2]
}

// window bounds the time that a group guard looks back.
func window(since, now time.Duration) time.Duration {
	return min(max(since, now-30*time.Second), now-500*time.Millisecond)
}

// others is w: the median error rate of the other endpoints of the group in the
// same window.
func (t *Table) others(e *endpoint, since, now time.Duration) float64 {
	from := window(since, now)
	return t.ratios(e.group, from, now).Without(e.counted(from, now))
}

// ratios are the error rates of a group from an instant on.
func (t *Table) ratios(g *group, from, now time.Duration) outlier.Ratios {
	if g.windowsAt != t.steps {
		g.windowsAt = t.steps
		clear(g.windows)
	}
	ratios, known := g.windows[bucketOf(from)]
	if !known {
		tallies := t.tallies[:0]
		for _, o := range g.endpoints {
			if !o.leaving() && !o.fleet.state.Out() {
				tallies = append(tallies, o.tally(from, now))
			}
		}
		t.tallies = tallies
		ratios = outlier.NewRatios(tallies)
		g.windows[bucketOf(from)] = ratios
	}
	return ratios
}

// counted is the tally of e as it entered the ratios of its group.
func (e *endpoint) counted(from, now time.Duration) outlier.Tally {
	if e.fleet.state.Out() {
		return outlier.Tally{}
	}
	return e.tally(from, now)
}

// quietAfter is the silence after which a reporter without an excursion has things
// to tell; one who has an excursion tells each second what is new.
const quietAfter = 1500 * time.Millisecond

// tally is the attempts and failures of e from an instant on. Failures are told of
// at once and successes when there is time, so the usual attempts of reporters
// who are quiet count as good: without that, one broken observer who complains of
// everybody would make the whole group look sick.
func (e *endpoint) tally(from, now time.Duration) outlier.Tally {
	e.series.advance(now)
	seen := e.series.since(from)
	if seen.K == 0 {
		// The common case: nobody complains.
		return outlier.Tally{N: max(seen.N, int64(e.rate*(now-from).Seconds()))}
	}
	return outlier.Tally{N: seen.N + int64(e.quiet(now)*e.rate*(now-from).Seconds()), K: seen.K}
}

// quietSample is how many reporters are looked at, at least, to know the share of those
// who are quiet.
const quietSample = 512

// quiet is the share of those with traffic on e who are quiet.
func (e *endpoint) quiet(now time.Duration) float64 {
	if e.quietAt != never && now-e.quietAt < tick {
		return e.quietShare
	}
	quiet, all := 0, 0
	for i := 0; i < len(e.cells); i += 1 + len(e.cells)/quietSample {
		if c := &e.cells[i]; c.changed > now-25*time.Second {
			all++
			if !c.excursion && c.at < now-quietAfter {
				quiet++
			}
		}
	}
	e.quietAt, e.quietShare = now, 0
	if all > 0 {
		e.quietShare = float64(quiet) / float64(all)
	}
	return e.quietShare
}
