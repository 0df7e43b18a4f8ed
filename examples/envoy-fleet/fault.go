package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/test/trial"
	"github.com/overhear-mesh/overhear/xds/controlplane"
)

// fault is something that goes wrong with one backend, or with all of them a little.
type fault struct {
	name, what string
	behaviour  fakeupstream.Fault
	all        bool // of every backend: nobody may be ejected for it
	// hold is how long it lasts after it was found; what is not to be found lasts for
	// options.base.
	hold time.Duration
	// aims: what a quiet machine shows with 50 requests a second to each of 20 backends.
	// The limits are so much wider (trial.Slack) that a busy one passes.
	aimFound  time.Duration
	aimFailed int

	target int // which backend
}

// longest is how long a fault lasts that is not found.
const longest = 30 * time.Second

func faults() []fault {
	return []fault{
		{
			name: "crash", what: "its listener is closed, its connections are reset", behaviour: fakeupstream.Crash(), hold: time.Second,
			aimFound: 300 * time.Millisecond, aimFailed: 12,
		},
		{
			name: "hang", what: "accepts and never answers", behaviour: fakeupstream.Hang(),
			hold:     2 * time.Second, // longer than requests wait, so that none is saved by its end
			aimFound: 800 * time.Millisecond, aimFailed: 45,
		},
		{
			name: "errors-50", what: "answers every second request with 500", behaviour: fakeupstream.Errors(0.5), hold: time.Second,
			aimFound: time.Second, aimFailed: 25,
		},
		{
			name: "errors-20", what: "answers every fifth request with 500", behaviour: fakeupstream.Errors(0.2), hold: time.Second,
			aimFound: 3 * time.Second, aimFailed: 35,
		},
		{name: "base-1", what: "fails one request in a hundred: nobody may go", behaviour: fakeupstream.Errors(0.01), all: true},
		{name: "base-3", what: "fails three requests in a hundred: nobody may go", behaviour: fakeupstream.Errors(0.03), all: true},
	}
}

func names() []string {
	var all []string
	for _, f := range faults() {
		all = append(all, f.name)
	}
	return all
}

// result is one line of the summary.
type result struct {
	trial.Finding
	Failed    int      `json:"failed_requests"`
	SaidBy    []string `json:"said_by,omitempty"`
	ProbedBy  []string `json:"probed_by,omitempty"` // of them, those whose word is a probe
	AimFailed int      `json:"aim_failed_requests,omitempty"`
	// LastMS is from the verdict to the last request that reached the backend for it; 0 if
	// none did any more.
	LastMS *float64 `json:"last_request_ms"`
}

func (r *result) how() string {
	if r.Rule == "" {
		return "-"
	}
	probed := ""
	if len(r.ProbedBy) > 0 {
		probed = fmt.Sprintf(", by probes of %s", strings.Join(r.ProbedBy, ", "))
	}
	return fmt.Sprintf("%s, by what %s say%s", r.Rule, strings.Join(r.SaidBy, ", "), probed)
}

// victims are the backends that a fault is about.
func (f *fleet) victims(one fault) []*fakeupstream.Backend {
	if one.all {
		return f.backends
	}
	return f.backends[one.target : one.target+1]
}

// show lets a fault happen and measures.
func (f *fleet) show(ctx context.Context, one fault, say func(string, ...any)) (result, error) {
	r, err := f.happen(ctx, one, say, func(r *result) { r.SaidBy, r.ProbedBy = f.sayers(ctx, *r) })
	if err == nil && !one.all {
		r.judge(f.ledger, one)
		if verdicts := f.ledger.Told(r.Out); len(verdicts) > 0 {
			told := verdicts[0].Time
			r.LastMS = trial.MS(runOut(told, f.victims(one)[0].Arrivals(told)))
		}
	}
	return r, err
}

// lull is how long a backend must have been without a request for it to have had its last
// one: fifty a second are usual, and it is tried again sooner or later.
const lull = 250 * time.Millisecond

// runOut is how long requests went on arriving after an instant.
func runOut(since time.Time, arrivals []fakeupstream.Arrival) time.Duration {
	last := since
	for _, a := range arrivals {
		if a.Ping {
			continue
		}
		if a.At.Sub(last) >= lull {
			break
		}
		last = a.At
	}
	return last.Sub(since)
}

// happen lets a fault happen, waits until one that can be found is, and ends it a little
// later.
func (f *fleet) happen(ctx context.Context, one fault, say func(string, ...any), found func(*result)) (result, error) {
	r := result{Finding: trial.Finding{Name: one.name, OK: true}, AimFailed: one.aimFailed}
	who := "every backend"
	if !one.all {
		r.Endpoint, r.AimMS = name(one.target), trial.MS(one.aimFound)
		who = r.Endpoint
	}
	say("%s: %s: %s", one.name, who, one.what)
	r.Began = time.Now()
	for _, b := range f.victims(one) {
		if err := b.Set(one.behaviour); err != nil {
			return r, err
		}
	}
	if !one.all {
		found(&r)
	}
	if err := trial.Sleep(ctx, one.hold); err != nil {
		return r, err
	}
	for _, b := range f.victims(one) {
		if err := b.Set(fakeupstream.Fault{}); err != nil {
			return r, err
		}
	}
	r.Mended = time.Now()
	// What was asked before that has failed, or been answered, when the route's time is up.
	return r, trial.Sleep(ctx, f.timeout+500*time.Millisecond)
}

// sayers waits for the verdict on a fault and gives those on whose word it rests, and who
// of them has probed.
func (f *fleet) sayers(ctx context.Context, r result) (who, probed []string) {
	ctx, end := context.WithTimeout(ctx, longest)
	defer end()
	for len(f.ledger.Told(r.Out)) == 0 {
		if trial.Sleep(ctx, 10*time.Millisecond) != nil {
			return nil, nil
		}
	}
	var why controlplane.Why
	if err := f.plane.Ask("/api/v1/why?endpoint="+url.QueryEscape(r.Endpoint), &why); err != nil {
		return nil, nil
	}
	for _, w := range why.Explain.Witnesses {
		who = append(who, w.Reporter)
		if w.Kind == "probe" {
			probed = append(probed, w.Reporter)
		}
	}
	if len(who) == 0 {
		for _, t := range why.Explain.Top {
			if t.K > 0 {
				who = append(who, t.Reporter)
			}
		}
	}
	slices.Sort(who)
	slices.Sort(probed)
	return slices.Compact(who), slices.Compact(probed)
}

func (r *result) judge(l *trial.Ledger, one fault) {
	r.Failed = r.Judge(l, one.aimFound, r.lost)
	if limit := trial.Slack * one.aimFailed; r.Failed > limit {
		r.Problem("more than %d requests failed", limit)
	}
}

// lost says whether a request failed while the fault lasted, and for its sake.
func (r *result) lost(q trial.Outcome) bool {
	return r.During(q) && r.mine(q)
}

// mine says whether a request failed for the fault's sake: the backend said so, or an Envoy
// for want of an answer.
func (r *result) mine(q trial.Outcome) bool {
	no, answered := errors.AsType[*refused](q.Err)
	return !answered || no.backend == "" || no.backend == r.Endpoint
}

// findings are what the faults that were shown came to.
func findings(results []result) (all []*trial.Finding) {
	for i := range results {
		all = append(all, &results[i].Finding)
	}
	return all
}
