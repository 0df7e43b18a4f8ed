package cadence

import (
	"time"

	"github.com/overhear-mesh/overhear/outlier/merge"
)

// Questions are what the control plane wants to know of endpoints.
type Questions struct {
	polls   map[merge.Key]merge.Poll
	watches map[merge.Key]time.Duration // until
}

// NewQuestions returns none.
func NewQuestions() Questions {
	return Questions{polls: map[merge.Key]merge.Poll{}, watches: map[merge.Key]time.Duration{}}
}

// Forget begins a new stream, on which nothing has been asked.
func (q *Questions) Forget() {
	clear(q.polls)
	clear(q.watches)
}

// Poll has a poll answered in the next turn. Of two of one endpoint the newer counts.
func (q *Questions) Poll(p merge.Poll) { q.polls[p.Key] = p }

// Watch has an endpoint watched until then.
func (q *Questions) Watch(k merge.Key, until time.Duration) { q.watches[k] = until }

// Asked is what a turn has to answer.
type Asked struct {
	polls    map[string][]merge.Poll // by service
	watched  map[merge.Key]bool
	services map[string]bool // with an endpoint that is watched or polled
}

// Take hands the questions over: the polls for once, and the watches that have not lapsed.
func (q *Questions) Take(turn *Turn) Asked {
	a := Asked{polls: map[string][]merge.Poll{}, watched: map[merge.Key]bool{}, services: map[string]bool{}}
	for k, until := range q.watches {
		if !turn.Watched(until) {
			delete(q.watches, k)
			continue
		}
		a.watched[k], a.services[k.Service] = true, true
	}
	for k, p := range q.polls {
		a.polls[k.Service], a.services[k.Service] = append(a.polls[k.Service], p), true
	}
	clear(q.polls)
	return a
}

// Of reports whether something is asked of the service: [Turn.Due].
func (a *Asked) Of(service string) bool { return a.services[service] }

// Polls are those of the service's endpoints.
func (a *Asked) Polls(service string) []merge.Poll { return a.polls[service] }
