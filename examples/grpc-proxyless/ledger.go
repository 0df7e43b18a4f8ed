package main

import (
	"sync"
	"time"

	"github.com/overhear-mesh/overhear/xds/controlplane"
)

// outcome is what a user saw of a call.
type outcome struct {
	began, ended time.Time
	err          error
}

// ledger collects what happens in a fleet.
type ledger struct {
	mu       sync.Mutex // guards what follows
	sent     int
	failed   []outcome
	verdicts []controlplane.Event
}

func (l *ledger) call(o outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	if o.err != nil {
		l.failed = append(l.failed, o)
	}
}

func (l *ledger) verdict(e controlplane.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.verdicts = append(l.verdicts, e)
}

func (l *ledger) sentAll() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent
}

// told gives the verdicts that match.
func (l *ledger) told(match func(controlplane.Event) bool) []controlplane.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []controlplane.Event
	for _, e := range l.verdicts {
		if match(e) {
			all = append(all, e)
		}
	}
	return all
}

// lost gives the calls that failed and touched a time.
func (l *ledger) lost(from, to time.Time) []outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []outcome
	for _, o := range l.failed {
		if !o.ended.Before(from) && o.began.Before(to) {
			all = append(all, o)
		}
	}
	return all
}
