package mesh

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
)

// Attempt is one try of one caller's sidecar on one endpoint.
type Attempt struct {
	At       time.Duration // when it began, since the mesh did
	Took     time.Duration
	Caller   int
	Endpoint int
	Class    outlier.Class
	Ending   outlier.Ending
	Status   int
}

// Request is what a user saw.
type Request struct {
	At     time.Duration
	Took   time.Duration
	Caller int
	Status int // 0: the connection to the sidecar broke
	// Repeatable: a GET, which may be sent again wherever an attempt of it failed
	// before the answer began.
	Repeatable bool
}

// Failed says whether the user got anything but what was asked for.
func (r Request) Failed() bool { return r.Status != 200 }

// Lost says whether it failed otherwise than by an application's own answer: an
// application that fails a share of its requests answers with 500, and whether to
// repeat those is for the route's owner to say.
func (r Request) Lost() bool { return r.Failed() && r.Status != 500 }

// Belief is a change in what one caller's sidecar believes of an endpoint.
type Belief struct {
	At       time.Duration
	Caller   int
	Endpoint int
	outlier.Change
}

// Ping is an idle ping by any sidecar.
type Ping struct {
	At       time.Duration
	By       string // its node
	Endpoint int
	Leased   bool // on the control plane's behalf
	Result   outlier.ProbeResult
}

// Ledger is what has happened, each list in the order in which it was told.
type Ledger struct {
	mu       sync.Mutex // guards what follows
	attempts []Attempt
	requests []Request
	beliefs  []Belief
	pings    []Ping
}

func (l *Ledger) addAttempt(a Attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attempts = append(l.attempts, a)
}

func (l *Ledger) addRequest(r Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests = append(l.requests, r)
}

func (l *Ledger) addBelief(b Belief) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.beliefs = append(l.beliefs, b)
}

func (l *Ledger) addPing(p Ping) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pings = append(l.pings, p)
}

// Pings are those that keep accepts.
func (l *Ledger) Pings(keep func(Ping) bool) []Ping {
	l.mu.Lock()
	defer l.mu.Unlock()
	return filter(l.pings, keep)
}

// Attempts are those that keep accepts, by when they began. One that has not ended is
// not among them.
func (l *Ledger) Attempts(keep func(Attempt) bool) []Attempt {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := filter(l.attempts, keep)
	slices.SortStableFunc(kept, func(a, b Attempt) int { return cmp.Compare(a.At, b.At) })
	return kept
}

// Requests are those that keep accepts and that have ended, by when they began.
func (l *Ledger) Requests(keep func(Request) bool) []Request {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := filter(l.requests, keep)
	slices.SortStableFunc(kept, func(a, b Request) int { return cmp.Compare(a.At, b.At) })
	return kept
}

// Beliefs are the changes that keep accepts.
func (l *Ledger) Beliefs(keep func(Belief) bool) []Belief {
	l.mu.Lock()
	defer l.mu.Unlock()
	return filter(l.beliefs, keep)
}

func filter[T any](all []T, keep func(T) bool) []T {
	var kept []T
	for _, v := range all {
		if keep(v) {
			kept = append(kept, v)
		}
	}
	return kept
}
