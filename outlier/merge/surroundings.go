package merge

import (
	"math/bits"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// surroundings are how the rest of the group does, since own, when the window of the row
// began, and in longer ones.
func (t *Table) surroundings(c *candidate, own, now time.Duration) outlier.Surroundings {
	e, g := c.e, c.e.group
	s := outlier.Surroundings{Usual: g.usual.Rate(), Slower: t.slower(e, c.row, now)}
	s.See(t.ratios(g, own, now), e.counted(own, now), true)
	for _, from := range [...]time.Duration{window(c.row.since, now, seriesWidth), now - outlier.Windows[0], now - outlier.Windows[1]} {
		if from < own {
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

// window bounds the time over which a suspect is compared with others: it is least long
// at least.
func window(since, now, least time.Duration) time.Duration {
	return min(max(since, now-30*time.Second), now-least)
}

// others is w: the median error rate of the other endpoints of the group in the
// same window.
func (t *Table) others(e *endpoint, since, now time.Duration) float64 {
	from := window(since, now, seriesWidth)
	return t.ratios(e.group, from, now).Without(e.counted(from, now))
}

// ratios are the error rates of a group from an instant on.
func (t *Table) ratios(g *group, from, now time.Duration) outlier.Ratios {
	if g.windowsAt != t.steps {
		g.windowsAt = t.steps
		clear(g.windows)
	}
	begin := from.Truncate(widthFor(from, now))
	ratios, known := g.windows[begin]
	if !known {
		tallies := t.tallies[:0]
		for _, o := range g.endpoints {
			if !o.leaving() && !o.fleet.state.Out() {
				tallies = append(tallies, o.tally(from, now))
			}
		}
		t.tallies = tallies
		ratios = outlier.NewRatios(tallies)
		g.windows[begin] = ratios
	}
	return ratios
}

// widthFor is that of the buckets of the history that says what came since an instant.
func widthFor(from, now time.Duration) time.Duration {
	if from > now-seriesWidth {
		return latestWidth
	}
	return seriesWidth
}

func (e *endpoint) history(from, now time.Duration) *series {
	if widthFor(from, now) == latestWidth {
		return &e.latest
	}
	return &e.series
}

// counted is the tally of e as it entered the ratios of its group.
func (e *endpoint) counted(from, now time.Duration) outlier.Tally {
	if e.fleet.state.Out() {
		return outlier.Tally{}
	}
	return e.tally(from, now)
}

// tally is the attempts and failures of e from an instant on. Failures are told of
// at once and successes when there is time, so what a reporter without an excursion has
// not told yet counts as its usual attempts, and good: without that, one broken observer
// who complains of everybody would make the whole group look sick, and so would the last
// tenth of a second of one that is well.
func (e *endpoint) tally(from, now time.Duration) outlier.Tally {
	h := e.history(from, now)
	h.advance(now)
	seen := h.since(from)
	if seen.K == 0 {
		// The common case: nobody complains.
		return outlier.Tally{N: max(seen.N, int64(e.rate*(now-from).Seconds()))}
	}
	return outlier.Tally{N: seen.N + int64(e.unsaid(from, now)*e.rate*(now-from).Seconds()), K: seen.K}
}

// silence is how long ago those with traffic on an endpoint, and without an excursion,
// told of it last.
type silence struct {
	at   time.Duration // when it was looked up; never: not yet
	all  int           // with traffic, those with an excursion too
	ages [10]struct {  // up to 50 ms, 100 ms, ... 12.8 s, and more
		n   int
		sum time.Duration
	}
}

const (
	silenceLeast = 50 * time.Millisecond
	// silenceSample is how many reporters are looked at, at least.
	silenceSample = 512
)

// unsaid is the share of all attempts on e since an instant that nobody has told of
// because they are well.
func (e *endpoint) unsaid(from, now time.Duration) float64 {
	s := &e.silence
	if s.at == never || now-s.at >= tick {
		s.listen(e.cells, now)
	}
	if s.all == 0 || from >= now {
		return 0
	}
	span, sum := now-from, time.Duration(0)
	for i := range s.ages {
		if a := &s.ages[i]; a.n > 0 {
			sum += time.Duration(a.n) * min(a.sum/time.Duration(a.n), span)
		}
	}
	return float64(sum) / float64(span) / float64(s.all)
}

func (s *silence) listen(cells []cell, now time.Duration) {
	*s = silence{at: now}
	for i := 0; i < len(cells); i += 1 + len(cells)/silenceSample {
		c := &cells[i]
		if c.changed <= now-25*time.Second {
			continue
		}
		s.all++
		if c.excursion || c.at >= now {
			continue
		}
		age := now - c.at
		a := &s.ages[min(bits.Len64(uint64(age/silenceLeast)), len(s.ages)-1)]
		a.n++
		a.sum += age
	}
}
