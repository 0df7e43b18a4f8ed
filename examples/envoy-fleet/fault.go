package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/test/fakeupstream"
	"github.com/overhear-mesh/overhear/xds/controlplane"
)

// fault is something that goes wrong with one backend, or with all of them a little.
type fault struct {
	name, what string
	behaviour  fakeupstream.Fault
	all        bool // of every backend: nobody may be ejected for it
	// hold is how long it lasts after it was found, or, if it is not to be found, at all.
	hold time.Duration
	// aims: what a quiet machine shows with 50 requests a second to each of 20 backends.
	// The limits are so much wider that a busy one passes.
	aimFound  time.Duration
	aimFailed int

	target int // which backend
}

const (
	slack = 30 // limits are so many times the aims: CI has no time to spare
	// longest is how long a fault lasts that is not found.
	longest = 30 * time.Second
)

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
		{name: "base-1", what: "fails one request in a hundred: nobody may go", behaviour: fakeupstream.Errors(0.01), all: true, hold: 5 * time.Second},
		{name: "base-3", what: "fails three requests in a hundred: nobody may go", behaviour: fakeupstream.Errors(0.03), all: true, hold: 5 * time.Second},
	}
}

func names() []string {
	var all []string
	for _, f := range faults() {
		all = append(all, f.name)
	}
	return all
}

// result is one line of the summary; null where there is no such time.
type result struct {
	Name        string   `json:"name"`
	Endpoint    string   `json:"endpoint,omitempty"`
	DetectedMS  *float64 `json:"detected_ms"`
	Failed      int      `json:"failed_requests"`
	FailedTests int      `json:"failed_tests"`
	Rule        string   `json:"rule,omitempty"`
	SaidBy      []string `json:"said_by,omitempty"`
	ProbedBy    []string `json:"probed_by,omitempty"` // of them, those whose word is a probe
	BackMS      *float64 `json:"back_ms"`
	AimMS       *float64 `json:"aim_detected_ms,omitempty"`
	AimFailed   int      `json:"aim_failed_requests,omitempty"`
	Wrong       int      `json:"wrong_ejections"`
	OK          bool     `json:"ok"`
	Problems    []string `json:"problems,omitempty"`

	fault         fault
	began, mended time.Time
}

func (r *result) problem(format string, args ...any) {
	r.Problems, r.OK = append(r.Problems, fmt.Sprintf(format, args...)), false
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
		r.judge(f.ledger)
	}
	return r, err
}

// happen lets a fault happen, waits until one that can be found is, and ends it a little
// later.
func (f *fleet) happen(ctx context.Context, one fault, say func(string, ...any), found func(*result)) (result, error) {
	r := result{Name: one.name, fault: one, OK: true, AimFailed: one.aimFailed}
	who := "every backend"
	if !one.all {
		r.Endpoint, r.AimMS = name(one.target), ms(one.aimFound)
		who = r.Endpoint
	}
	say("%s: %s %s", one.name, who, one.what)
	r.began = time.Now()
	for _, b := range f.victims(one) {
		if err := b.Set(one.behaviour); err != nil {
			return r, err
		}
	}
	if !one.all {
		found(&r)
	}
	if err := sleep(ctx, one.hold); err != nil {
		return r, err
	}
	for _, b := range f.victims(one) {
		if err := b.Set(fakeupstream.Fault{}); err != nil {
			return r, err
		}
	}
	r.mended = time.Now()
	// What was asked before that has failed, or been answered, when the route's time is up.
	return r, sleep(ctx, f.timeout+500*time.Millisecond)
}

// out says that a verdict takes traffic from the fault's backend.
func (r *result) out(e controlplane.Event) bool {
	return e.Endpoint == r.Endpoint && (e.To == outlier.Ejected.String() || e.To == outlier.Suspended.String()) &&
		!e.Time.Before(r.began) && (r.mended.IsZero() || e.Time.Before(r.mended))
}

// sayers waits for the verdict on a fault and gives those on whose word it rests, and who
// of them has probed.
func (f *fleet) sayers(ctx context.Context, r result) (who, probed []string) {
	ctx, end := context.WithTimeout(ctx, longest)
	defer end()
	for {
		found, _ := f.ledger.find(r.out, func(request) bool { return false })
		if len(found) > 0 {
			break
		}
		if sleep(ctx, 10*time.Millisecond) != nil {
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

// judge measures what the ledger has of a fault.
func (r *result) judge(l *ledger) {
	verdicts, failed := l.find(r.out, r.lost)
	found := r.mended
	if len(verdicts) == 0 {
		r.problem("it was not found")
	} else {
		found = verdicts[0].Time
		r.Rule = verdicts[0].Rule
		r.DetectedMS = ms(found.Sub(r.began))
		if limit := slack * r.fault.aimFound; found.Sub(r.began) > limit {
			r.problem("it was found later than in %v", limit)
		}
	}
	// A push and what is on its way take a moment.
	for _, q := range failed {
		if q.began.Before(found.Add(100 * time.Millisecond)) {
			r.Failed++
		} else {
			r.FailedTests++
		}
	}
	if limit := slack * r.fault.aimFailed; r.Failed > limit {
		r.problem("more than %d requests failed", limit)
	}
}

// lost says whether a request failed while the fault lasted, and for its sake.
func (r *result) lost(q request) bool {
	return !q.ended.Before(r.began) && q.began.Before(r.mended) && r.mine(q)
}

// mine says whether a request failed for the fault's sake: the backend said so, or an Envoy
// for want of an answer.
func (r *result) mine(q request) bool {
	no, answered := errors.AsType[*refused](q.err)
	return !answered || no.backend == "" || no.backend == r.Endpoint
}

// unexplained notes ejections of backends that had no fault then, or just before it.
func (r *result) unexplained(all []result, l *ledger) {
	wrong, _ := l.find(func(e controlplane.Event) bool {
		if e.To != outlier.Ejected.String() || e.Time.Before(r.began) || e.Time.After(r.mended) {
			return false
		}
		return !slices.ContainsFunc(all, func(o result) bool { return o.Endpoint == e.Endpoint && !e.Time.Before(o.began) })
	}, func(request) bool { return false })
	for _, e := range wrong {
		r.Wrong++
		r.problem("ejected without cause: %s", e.Text)
	}
}

// recovered waits until the backends have their traffic again.
func (f *fleet) recovered(ctx context.Context, results []result, say func(string, ...any)) error {
	say("waiting until all backends are back …")
	const within = time.Minute
	for deadline := time.Now().Add(within); ; {
		waiting := 0
		for i := range results {
			r := &results[i]
			back, _ := f.ledger.find(func(e controlplane.Event) bool {
				return e.Endpoint == r.Endpoint && (e.To == outlier.Ramp.String() || e.To == outlier.In.String()) && e.Time.After(r.mended)
			}, func(request) bool { return false })
			switch {
			case r.fault.all || r.DetectedMS == nil:
			case len(back) == 0:
				waiting++
			default:
				r.BackMS = ms(back[0].Time.Sub(r.mended))
			}
		}
		if waiting == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			for i := range results {
				if r := &results[i]; r.BackMS == nil && r.DetectedMS != nil {
					r.problem("it was not back within %v", within)
				}
			}
			return nil
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

func ms(d time.Duration) *float64 {
	v := float64(d.Microseconds()) / 1e3
	return &v
}
