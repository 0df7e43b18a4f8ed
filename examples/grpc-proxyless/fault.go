package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/outlier"
	"github.com/overhear-mesh/overhear/xds/controlplane"
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
	// limits are so much wider that a busy one passes.
	aimFound  time.Duration
	aimFailed int
}

const (
	slack   = 30              // limits are so many times the aims: CI has no time to spare
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

// result is one line of the summary; null where there is no such time.
type result struct {
	Name        string   `json:"name"`
	Endpoint    string   `json:"endpoint"`
	DetectedMS  *float64 `json:"detected_ms"`
	Failed      int      `json:"failed_calls"`
	FailedTests int      `json:"failed_tests"`
	Without     int      `json:"failed_calls_without_evidence"`
	Rule        string   `json:"rule,omitempty"`
	BackMS      *float64 `json:"back_ms"`
	AimMS       *float64 `json:"aim_detected_ms"`
	AimFailed   int      `json:"aim_failed_calls"`
	Wrong       int      `json:"wrong_ejections"`
	OK          bool     `json:"ok"`
	Problems    []string `json:"problems,omitempty"`

	fault         fault
	began, mended time.Time
}

func (r *result) problem(format string, args ...any) {
	r.Problems, r.OK = append(r.Problems, fmt.Sprintf(format, args...)), false
}

// show lets a fault happen to a server of each fleet, ends it, and measures.
func show(ctx context.Context, fleets [2]*fleet, one fault, target int, say func(string, ...any)) (result, error) {
	r := result{Name: one.name, Endpoint: name(target), fault: one, OK: true, AimMS: ms(one.aimFound), AimFailed: one.aimFailed}
	say("%s: %s %s", one.name, r.Endpoint, one.what)
	set := func(b behaviour) error {
		for _, f := range fleets {
			if err := f.servers[target].set(ctx, b); err != nil {
				return err
			}
		}
		return nil
	}
	r.began = time.Now()
	if err := set(one.behaviour); err != nil {
		return r, err
	}
	for time.Since(r.began) < least || time.Since(r.began) < longest && len(fleets[0].ledger.told(r.out)) == 0 {
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return r, err
		}
	}
	r.mended = time.Now()
	if err := set(behaviour{}); err != nil {
		return r, err
	}
	if err := sleep(ctx, patience+100*time.Millisecond); err != nil { // until the last call of it has ended
		return r, err
	}
	r.judge(fleets[0].ledger)
	r.Without = len(fleets[1].ledger.lost(r.began, r.mended))
	return r, nil
}

// out says that a verdict takes traffic from the fault's server.
func (r *result) out(e controlplane.Event) bool {
	return e.Endpoint == r.Endpoint && (e.To == outlier.Ejected.String() || e.To == outlier.Suspended.String()) &&
		!e.Time.Before(r.began) && (r.mended.IsZero() || e.Time.Before(r.mended))
}

// judge measures what the ledger has of a fault.
func (r *result) judge(l *ledger) {
	verdicts, found := l.told(r.out), r.mended
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
	for _, o := range l.lost(r.began, r.mended) {
		if o.began.Before(found.Add(100 * time.Millisecond)) {
			r.Failed++
		} else {
			r.FailedTests++
		}
	}
	if limit := slack * r.fault.aimFailed; r.Failed > limit {
		r.problem("more than %d calls failed", limit)
	}
}

// unexplained notes ejections of servers that had no fault then, or before it.
func (r *result) unexplained(all []result, l *ledger) {
	for _, e := range l.told(func(e controlplane.Event) bool {
		if e.To != outlier.Ejected.String() || e.Time.Before(r.began) || e.Time.After(r.mended) {
			return false
		}
		return !slices.ContainsFunc(all, func(o result) bool { return o.Endpoint == e.Endpoint && !e.Time.Before(o.began) })
	}) {
		r.Wrong++
		r.problem("ejected without cause: %s", e.Text)
	}
}

// recovered waits until the servers have their traffic again.
func recovered(ctx context.Context, f *fleet, results []result, say func(string, ...any)) error {
	say("waiting until all servers are back …")
	const within = 90 * time.Second
	for deadline := time.Now().Add(within); ; {
		waiting := 0
		for i := range results {
			if !results[i].back(f.ledger) {
				waiting++
			}
		}
		late := time.Now().After(deadline)
		if waiting == 0 {
			return nil
		}
		if late {
			for i := range results {
				if !results[i].back(f.ledger) {
					results[i].problem("it was not back within %v", within)
				}
			}
			return nil
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// back says whether the server may have its traffic again, if it was ever out.
func (r *result) back(l *ledger) bool {
	if r.DetectedMS == nil {
		return true
	}
	back := l.told(func(e controlplane.Event) bool {
		return e.Endpoint == r.Endpoint && (e.To == outlier.Ramp.String() || e.To == outlier.In.String()) && e.Time.After(r.mended)
	})
	if len(back) == 0 {
		return false
	}
	r.BackMS = ms(back[0].Time.Sub(r.mended))
	return true
}

func ms(d time.Duration) *float64 {
	v := float64(d.Microseconds()) / 1e3
	return &v
}
