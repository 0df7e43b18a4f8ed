package main

import (
	"slices"
	"sync"
	"time"
)

// attempt is one try of one caller's sidecar on one endpoint, as its access log
// tells it.
type attempt struct {
	at       time.Duration // when it began, since the start of the show
	ended    time.Duration
	caller   string
	endpoint string
	failed   bool
	class    string
}

// request is what a user saw of one request.
type request struct {
	at         time.Duration
	ended      time.Duration
	caller     string
	endpoint   string // of the last attempt
	failed     bool
	repeatable bool // a GET: it may be sent again wherever an attempt of it failed
	outcome    string
}

// belief is a change in what the control plane or one sidecar holds of an endpoint.
type belief struct {
	at       time.Duration
	fleet    bool
	observer string // the caller, for a local belief
	endpoint string
	state    string
	scope    string
	rule     string
	reason   string
}

// ledger collects everything that happens, in the order in which it is told.
type ledger struct {
	mu       sync.Mutex // guards what follows
	attempts []attempt
	requests []request
	beliefs  []belief
}

func (l *ledger) addAttempt(a attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempts = append(l.attempts, a)
}

func (l *ledger) addRequest(r request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests = append(l.requests, r)
}

func (l *ledger) addBelief(b belief) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.beliefs = append(l.beliefs, b)
}

// window is a copy of what happened in [from, to), sorted by time. An attempt or a
// request belongs to it that began earlier and was under way: a crash ends it.
func (l *ledger) window(from, to time.Duration) *ledger {
	l.mu.Lock()
	defer l.mu.Unlock()
	in := func(at, ended time.Duration) bool { return ended >= from && at < to }
	w := &ledger{}
	for _, a := range l.attempts {
		if in(a.at, a.ended) {
			w.attempts = append(w.attempts, a)
		}
	}
	for _, r := range l.requests {
		if in(r.at, r.ended) {
			w.requests = append(w.requests, r)
		}
	}
	for _, b := range l.beliefs {
		if in(b.at, b.at) {
			w.beliefs = append(w.beliefs, b)
		}
	}
	slices.SortFunc(w.attempts, func(a, b attempt) int { return int(a.at - b.at) })
	slices.SortFunc(w.requests, func(a, b request) int { return int(a.at - b.at) })
	slices.SortFunc(w.beliefs, func(a, b belief) int { return int(a.at - b.at) })
	return w
}

// firstAttempt is when the first attempt that matches began.
func (l *ledger) firstAttempt(match func(attempt) bool) (time.Duration, bool) {
	for _, a := range l.attempts {
		if match(a) {
			return a.at, true
		}
	}
	return 0, false
}

// firstBelief is the first change of belief that matches.
func (l *ledger) firstBelief(match func(belief) bool) (belief, bool) {
	for _, b := range l.beliefs {
		if match(b) {
			return b, true
		}
	}
	return belief{}, false
}

// noticed is when the fleet's verdict took an endpoint out, or the first caller if the
// fault is for callers to find; else when the last of all callers had by itself.
func (l *ledger) noticed(endpoint string, local bool, until time.Duration) (time.Duration, bool) {
	b, ok := l.firstBelief(func(b belief) bool {
		return b.endpoint == endpoint && out(b.state) && b.fleet != local && b.at < until
	})
	if ok || local {
		return b.at, ok
	}
	last, own := time.Duration(0), map[string]bool{}
	for _, b := range l.beliefs {
		if b.endpoint == endpoint && out(b.state) && b.at < until && !own[b.observer] {
			own[b.observer], last = true, b.at
		}
	}
	return last, len(own) == callers
}

// calm is how long an endpoint must go without an attempt before the fleet counts
// as off it. A suspended endpoint still gets an attempt now and then, a second apart
// at least, which is how its recovery is noticed.
const calm = 500 * time.Millisecond

// lastBefore is the last attempt at one of the endpoints before the fleet went off
// them: the first that calm follows; from, if there was none. attempts is sorted;
// until is where the window ends.
func lastBefore(attempts []attempt, endpoints []string, from, until time.Duration) (time.Duration, bool) {
	last := from
	for _, a := range attempts {
		if a.at < from || a.at >= until || !slices.Contains(endpoints, a.endpoint) {
			continue
		}
		if a.at-last > calm {
			break
		}
		last = a.at
	}
	return last, last+calm <= until
}

// fairAgain is when an endpoint's share of the attempts first reached the given
// part of a fair share, over windows of a second that begin at or after from.
func fairAgain(attempts []attempt, endpoint string, endpoints int, part float64, from time.Duration) (time.Duration, bool) {
	const width = time.Second
	first, _ := slices.BinarySearchFunc(attempts, from, func(a attempt, t time.Duration) int { return int(a.at - t) })
	mine, head := 0, first
	for i := first; i < len(attempts); i++ {
		for attempts[i].at-attempts[head].at > width {
			if attempts[head].endpoint == endpoint {
				mine--
			}
			head++
		}
		if attempts[i].endpoint == endpoint {
			mine++
		}
		if attempts[i].at-from < width {
			continue
		}
		if fair := float64(i-head+1) / float64(endpoints); float64(mine) >= part*fair {
			return attempts[i].at, true
		}
	}
	return 0, false
}
