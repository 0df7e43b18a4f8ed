package main

import (
	"context"
	"time"

	"github.com/overhear-mesh/overhear/test/trial"
)

// behaviour is how a server fails.
type behaviour struct {
	dead, hangs bool
	errors      float64 // share of the calls, told in trailers
}

// fault is something that goes wrong with one server of each fleet.
type fault struct {
	name, what string
	behaviour  behaviour
	// aims: what a quiet machine shows with 50 calls a second to each of 10 servers. The
	// limits are so much wider (trial.Slack) that a busy one passes.
	aimFound  time.Duration
	aimFailed int
}

const (
	longest = time.Minute     // how long a fault lasts that is not found
	least   = 5 * time.Second // how long any lasts, for the sake of the comparison
)

func faults() []fault {
	return []fault{
		{name: "crash", what: "its listener and its connections are closed", behaviour: behaviour{dead: true}, aimFound: 500 * time.Millisecond, aimFailed: 10},
		{name: "hang", what: "takes calls and never answers", behaviour: behaviour{hangs: true}, aimFound: time.Second, aimFailed: 60},
		{name: "errors-50", what: "answers every second call with INTERNAL", behaviour: behaviour{errors: 0.5}, aimFound: time.Second, aimFailed: 25},
		{name: "errors-20", what: "answers every fifth call with INTERNAL", behaviour: behaviour{errors: 0.2}, aimFound: 3 * time.Second, aimFailed: 40},
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
	Failed    int `json:"failed_calls"`
	Without   int `json:"failed_calls_without_evidence"`
	AimFailed int `json:"aim_failed_calls"`
}

// show lets a fault happen to a server of each fleet, ends it, and measures.
func show(ctx context.Context, fleets [2]*fleet, one fault, target int, say func(string, ...any)) (result, error) {
	r := result{AimFailed: one.aimFailed, Finding: trial.Finding{
		Name: one.name, Endpoint: name(target), OK: true, AimMS: trial.MS(one.aimFound),
	}}
	say("%s: %s: %s", one.name, r.Endpoint, one.what)
	set := func(b behaviour) error {
		for _, f := range fleets {
			if err := f.servers[target].set(ctx, b); err != nil {
				return err
			}
		}
		return nil
	}
	r.Began = time.Now()
	if err := set(one.behaviour); err != nil {
		return r, err
	}
	for time.Since(r.Began) < least || time.Since(r.Began) < longest && len(fleets[0].ledger.Told(r.Out)) == 0 {
		if err := trial.Sleep(ctx, 20*time.Millisecond); err != nil {
			return r, err
		}
	}
	r.Mended = time.Now()
	if err := set(behaviour{}); err != nil {
		return r, err
	}
	if err := trial.Sleep(ctx, patience+100*time.Millisecond); err != nil { // until the last call of it has ended
		return r, err
	}
	r.judge(fleets[0].ledger, one)
	r.Without = len(fleets[1].ledger.Lost(r.During))
	return r, nil
}

func (r *result) judge(l *trial.Ledger, one fault) {
	r.Failed = r.Judge(l, one.aimFound, r.During)
	if limit := trial.Slack * one.aimFailed; r.Failed > limit {
		r.Problem("more than %d calls failed", limit)
	}
}

// findings are what the faults that were shown came to.
func findings(results []result) (all []*trial.Finding) {
	for i := range results {
		all = append(all, &results[i].Finding)
	}
	return all
}
