package trial

import (
	"context"
	"sync"
	"time"

	"github.com/overhear-mesh/overhear/test/openload"
	"github.com/overhear-mesh/overhear/xds/controlplane"
)

// Outcome is what a user saw of a request.
type Outcome struct {
	Began, Ended time.Time
	Err          error
}

// Ledger collects what happens. The zero Ledger is empty; it is safe for concurrent use.
type Ledger struct {
	mu       sync.Mutex // guards what follows
	sent     int
	failed   []Outcome
	verdicts []controlplane.Event
}

// Drive makes requests, so many a second, until ctx ends, and waits for the answers that
// are still out.
func (l *Ledger) Drive(ctx context.Context, rate float64, request func() error) {
	openload.Run(ctx, rate, func() {
		began := time.Now()
		err := request()
		l.Request(Outcome{began, time.Now(), err})
	})
}

// Request notes what a user saw.
func (l *Ledger) Request(o Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	if o.Err != nil {
		l.failed = append(l.failed, o)
	}
}

// Verdict notes what the control plane decided.
func (l *Ledger) Verdict(e controlplane.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.verdicts = append(l.verdicts, e)
}

// Sent counts all requests.
func (l *Ledger) Sent() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent
}

// Told gives the verdicts that match.
func (l *Ledger) Told(match func(controlplane.Event) bool) []controlplane.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return filter(l.verdicts, match)
}

// Lost gives the failures that match.
func (l *Ledger) Lost(match func(Outcome) bool) []Outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	return filter(l.failed, match)
}

func filter[T any](all []T, match func(T) bool) (some []T) {
	for _, one := range all {
		if match(one) {
			some = append(some, one)
		}
	}
	return some
}
