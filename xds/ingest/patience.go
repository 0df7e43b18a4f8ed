package ingest

import "time"

const (
	// patienceLeast is what any request may take. It is seen to wait only where a load
	// report finds it unanswered.
	patienceLeast = 300 * time.Millisecond
	// patienceUnknown holds until enough requests were answered to know better,
	// patienceMost whatever is learnt.
	patienceUnknown = 1500 * time.Millisecond
	patienceMost    = 1750 * time.Millisecond
	// patienceFactor is how much longer than the longest wait that ended well another
	// must be.
	patienceFactor = 1.5
	// patienceAnswers is how many answers teach what is usual, patienceFor how long the
	// longest wait is remembered.
	patienceAnswers = 100
	patienceFor     = 10 * time.Minute
)

// patience is how long requests of a service may take to be answered, as far as load
// reports show.
type patience struct {
	longest time.Duration // that ended well
	at      time.Duration // when it did
}

// note takes in a wait that ended with nothing but answers. One that is as long as is
// remembered was an outage and teaches nothing.
func (p *patience) note(wait, now time.Duration) {
	if wait < memory && (wait >= p.longest || now-p.at > patienceFor) {
		p.longest, p.at = wait, now
	}
}

// limit is the wait from which a request is overdue, after so many answers.
func (p *patience) limit(answers uint64, now time.Duration) time.Duration {
	least := patienceLeast
	if answers < patienceAnswers {
		least = patienceUnknown
	}
	if now-p.at > patienceFor {
		return least
	}
	return min(max(least, time.Duration(patienceFactor*float64(p.longest))), patienceMost)
}
