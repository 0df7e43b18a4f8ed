package main

import (
	"sync"
	"time"

	"github.com/overhear-mesh/overhear/xds/controlplane"
)

// request is what a user saw.
type request struct {
	began, ended time.Time
	err          error
}

// ledger collects what happens.
type ledger struct {
	mu       sync.Mutex // guards what follows
	sent     int
	failed   []request
	verdicts []controlplane.Event
}

func (l *ledger) request(r request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	if r.err != nil {
		l.failed = append(l.failed, r)
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

// find gives the verdicts and the failures that match.
func (l *ledger) find(verdict func(controlplane.Event) bool, lost func(request) bool) (verdicts []controlplane.Event, failed []request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.verdicts {
		if verdict(e) {
			verdicts = append(verdicts, e)
		}
	}
	for _, r := range l.failed {
		if lost(r) {
			failed = append(failed, r)
		}
	}
	return verdicts, failed
}

// noVerdict is for those who look for failures only.
func noVerdict(controlplane.Event) bool { return false }
