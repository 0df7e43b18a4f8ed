package main

import (
	"cmp"
	"math"
	"slices"
	"sort"
	"time"
)

// figures are what a run is judged by. They were fixed before the first run. Times are
// seconds since the fault came, or since it went; infinite: not seen.
type figures struct {
	Excess    number `json:"excess_failed"`          // failed requests beyond the base rate, of those that were under way when the fault came or began later
	Later     number `json:"failed_after_found"`     // of these, begun after T95: at trials, and re-admissions
	Return    number `json:"failed_at_worst_return"` // most of these in ten seconds
	P99       number `json:"excess_p99_ms"`          // during the fault, beyond that of the warm-up
	P999      number `json:"excess_p999_ms"`
	TFirst    number `json:"t_first_s"` // the first caller has left the endpoint
	T95       number `json:"t_95_s"`    // no more than 5 % of its fair share come
	Share     number `json:"share_after_1s"`
	Flips     number `json:"flips"`      // times that it came back during the fault
	Alone     number `json:"left_alone"` // times that a caller left an endpoint which was well to it
	Alarms    number `json:"alarms"`     // the same, silences that overlap at one endpoint being one
	Capacity  number `json:"capacity_lost"`
	Said      number `json:"said_out"`       // times that a proxy took an endpoint out, by its own word
	SaidFleet number `json:"said_out_fleet"` // the same of the control plane
	Probes    number `json:"failed_probes"`  // of all proxies, by their own word
	Recovery  number `json:"recovery_s"`     // of several endpoints, that of the last
	Overshoot number `json:"overshoot"`      // most of its fair share in a second, after the fault; likewise
	Pings     number `json:"pings_per_endpoint_s"`
	CPU       number `json:"cpu_us_per_request"`
	Requests  number `json:"requests"`
	Late      number `json:"late_p99_ms"`
}

// gone is how many requests an endpoint must miss before it counts as left: at random one
// misses so many once in e^20.
const gone = 20

func measure(tr *trace, s scenario, t setting) figures {
	var f figures
	slices.SortFunc(tr.requests, func(a, b request) int { return cmp.Compare(a.at, b.at) })
	slices.SortFunc(tr.arrivals, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
	end := t.Fault + t.After
	touched := touches(tr, s)
	none := number(math.NaN())
	f.TFirst, f.T95, f.Share, f.Flips, f.Recovery, f.Overshoot = none, none, none, none, none, none
	fair := 0.0 // of the blamed pairs, requests a second
	for b := range t.Endpoints {
		own := 0.0
		for p := range t.Proxies {
			if s.blames(p, b) {
				own += t.fair()
			}
		}
		if own == 0 {
			continue
		}
		if after, most := recovered(arrivalsOfBlamed(tr, s, b), own, t.Fault, end); fair == 0 {
			f.Recovery, f.Overshoot = after, most
		} else {
			f.Recovery, f.Overshoot = max(f.Recovery, after), max(f.Overshoot, most)
		}
		fair += own
	}
	if fair > 0 && !s.hopeless {
		f.T95 = number(left(times(touched, everyone), fair, t.Fault))
		f.TFirst = number(firstLeft(touched, s, t))
		f.Share = number(float64(between(times(touched, everyone), time.Second, 2*time.Second)) / fair)
		f.Flips = number(returns(times(touched, everyone), fair, t.Fault))
	}
	judged, failed := 0, 0
	var later []time.Duration
	for _, r := range tr.requests {
		if r.at+r.took < 0 || r.at >= end || s.doomed(r) {
			continue
		}
		judged++
		if r.why == "" {
			continue
		}
		failed++
		if fair > 0 && r.at.Seconds() > float64(f.T95) && !s.elsewhere(r) {
			later = append(later, r.at)
		}
	}
	f.Excess, f.Later = number(float64(failed)-t.Base*float64(judged)), number(len(later))
	f.Return = worstReturn(later, f.T95)
	during, before := latencies(tr, s, 0, t.Fault), latencies(tr, s, -s.silence-t.Warm/2, -s.silence)
	f.P99, f.P999 = none, none
	if len(during) > 0 {
		f.P99 = number(1e3 * (quantile(during, .99) - quantile(before, .99)).Seconds())
		f.P999 = number(1e3 * (quantile(during, .999) - quantile(before, .999)).Seconds())
	}
	alone := leftAlone(tr, s, t, end)
	var idle time.Duration
	for _, s := range alone {
		idle += s.to - s.from
	}
	f.Alone, f.Alarms = number(len(alone)), number(alarms(alone))
	f.Capacity = number(idle.Seconds() / (end.Seconds() * float64(t.Proxies*t.Endpoints)))
	f.Said, f.SaidFleet, f.Probes = tr.said.Proxies, tr.said.Fleet, tr.said.FailedProbes
	f.Pings = number(float64(tr.pings) / float64(t.Endpoints) / (s.lead + t.Fault).Seconds())
	f.Requests = number(judged)
	var late []time.Duration
	carried := 0 // while CPU was counted
	for _, r := range tr.requests {
		late = append(late, r.late)
		if r.at >= 0 && r.at < end {
			carried++
		}
	}
	f.CPU = none // callers without a proxy are within this process
	if carried > 0 && tr.cpu > 0 {
		f.CPU = number(float64(tr.cpu.Microseconds()) / float64(carried))
	}
	slices.Sort(late)
	f.Late = number(1e3 * quantile(late, .99).Seconds())
	return f
}

// touch is a request that went to an endpoint which ought to be left.
type touch struct {
	proxy int
	at    time.Duration
}

// touches come from the endpoint's own record; where it could not keep one, from the
// requests that failed.
func touches(tr *trace, s scenario) (all []touch) {
	if !s.unseen {
		for _, a := range tr.arrivals {
			if a.at >= 0 && s.blames(a.proxy, a.backend) {
				all = append(all, touch{a.proxy, a.at})
			}
		}
		return all
	}
	for _, r := range tr.requests {
		if r.at >= 0 && r.why != "" && !s.elsewhere(r) {
			all = append(all, touch{r.proxy, r.at})
		}
	}
	return all
}

func arrivalsOfBlamed(tr *trace, s scenario, backend int) (all []time.Duration) {
	for _, a := range tr.arrivals {
		if a.backend == backend && s.blames(a.proxy, a.backend) {
			all = append(all, a.at)
		}
	}
	return all
}

// times are those of one caller's touches, or of everyone's.
func times(all []touch, proxy int) (at []time.Duration) {
	for _, t := range all {
		if proxy == everyone || proxy == t.proxy {
			at = append(at, t.at)
		}
	}
	return at
}

// between counts the times in [from, to).
func between(at []time.Duration, from, to time.Duration) int {
	low := sort.Search(len(at), func(i int) bool { return at[i] >= from })
	return sort.Search(len(at), func(i int) bool { return at[i] >= to }) - low
}

// window is long enough for 20 requests of the fair share.
func window(fair float64) time.Duration {
	return time.Duration(max(.5, gone/fair) * float64(time.Second))
}

// left is when no more than 5 % of the fair share come for a window that ends within the
// fault.
func left(at []time.Duration, fair float64, fault time.Duration) float64 {
	w := window(fair)
	most := int(.05 * fair * w.Seconds())
	for _, from := range append([]time.Duration{0}, at...) {
		from++ // after this one
		if from+w > fault {
			break
		}
		if between(at, from, from+w) <= most {
			return from.Seconds()
		}
	}
	return math.Inf(1)
}

// firstLeft is when the first caller sent its last request before it missed 20.
func firstLeft(all []touch, s scenario, t setting) float64 {
	first := math.Inf(1)
	silence := time.Duration(gone / t.fair() * float64(time.Second))
	for p := range t.Proxies {
		if !s.blames(p, 0) {
			continue
		}
		at := times(all, p)
		for _, from := range append([]time.Duration{0}, at...) {
			from++
			if from+silence > t.Fault {
				break
			}
			if between(at, from, from+silence) == 0 {
				first = min(first, from.Seconds())
				break
			}
		}
	}
	return first
}

// returns counts how often an endpoint that was left got a fifth of its share again.
func returns(at []time.Duration, fair float64, fault time.Duration) (n int) {
	w := window(fair)
	out := false
	for from := time.Duration(0); from+w <= fault; from += w {
		share := float64(between(at, from, from+w)) / (fair * w.Seconds())
		switch {
		case share <= .05:
			out = true
		case share >= .2 && out:
			out = false
			n++
		}
	}
	return n
}

// worstReturn is the most failures of any ten seconds, which is as far as the proxies of a
// fleet come apart when they take an endpoint back (Envoy's default sweeps are ten seconds
// apart). There is no return to one that was never left.
func worstReturn(failed []time.Duration, t95 number) number {
	if math.IsNaN(float64(t95)) || math.IsInf(float64(t95), 0) {
		return number(math.NaN())
	}
	most := 0
	for _, at := range failed {
		most = max(most, between(failed, at, at+10*time.Second))
	}
	return number(most)
}

// recovered is when the endpoint had four fifths of its share for a second, and the most
// that it ever got in one.
func recovered(at []time.Duration, fair float64, fault, end time.Duration) (after, most number) {
	after = number(math.Inf(1))
	const step = 100 * time.Millisecond
	for from := fault; from+time.Second <= end; from += step {
		share := number(float64(between(at, from, from+time.Second)) / fair)
		most = max(most, share)
		if share >= .8 && math.IsInf(float64(after), 1) {
			after = number((from - fault).Seconds())
		}
	}
	return after, most
}

// silence is that a caller sends nothing to an endpoint.
type silence struct {
	backend  int
	from, to time.Duration
}

// leftAlone are the silences of callers towards endpoints that were well to them.
func leftAlone(tr *trace, s scenario, t setting, end time.Duration) (all []silence) {
	least := time.Duration(gone / t.fair() * float64(time.Second))
	last := make([]time.Duration, t.Proxies*t.Endpoints)
	look := func(pair int, now time.Duration) {
		if now-last[pair] >= least {
			all = append(all, silence{pair % t.Endpoints, last[pair], now})
		}
		last[pair] = now
	}
	for _, a := range tr.arrivals {
		if a.proxy >= t.Proxies || s.blames(a.proxy, a.backend) || a.at < 0 || a.at > end {
			continue
		}
		look(a.proxy*t.Endpoints+a.backend, a.at)
	}
	for p := range t.Proxies {
		for b := range t.Endpoints {
			if !s.blames(p, b) {
				look(p*t.Endpoints+b, end)
			}
		}
	}
	return all
}

// alarms are how often an endpoint was left, by however many callers: a verdict that all of a
// fleet obey is one event, and bounds of Poisson's are about events that come by themselves.
func alarms(all []silence) (n int) {
	slices.SortFunc(all, func(a, b silence) int {
		return cmp.Or(cmp.Compare(a.backend, b.backend), cmp.Compare(a.from, b.from))
	})
	var last silence // what has been joined to the one before
	for i, s := range all {
		if i > 0 && s.backend == last.backend && s.from <= last.to {
			last.to = max(last.to, s.to)
			continue
		}
		n++
		last = s
	}
	return n
}

// latencies are those of requests that were to begin between two instants, sorted. One that
// failed counts for as long as it took.
func latencies(tr *trace, s scenario, from, to time.Duration) (all []time.Duration) {
	for _, r := range tr.requests {
		if r.at >= from && r.at < to && !s.doomed(r) {
			all = append(all, r.took)
		}
	}
	slices.Sort(all)
	return all
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
