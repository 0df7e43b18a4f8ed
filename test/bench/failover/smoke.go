package main

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// smokeSetting is what shows the orderings that never turn round, in little time.
func (o *options) smokeSetting() {
	o.proxies, o.retries, o.rounds = []int{4}, []bool{false}, 1
	o.Endpoints, o.Rate, o.Warm, o.Fault, o.After = 10, 1000, 3*time.Second, 4500*time.Millisecond, 0
	o.Phase = 0                     // no ordering is about when a sweep comes
	o.late = 500 * time.Millisecond // only failures are counted, and the margins are wide
	for _, s := range scenarios() {
		switch s.name {
		case "errors 20 %":
			s.lasts = 2 * o.Fault // a tuned Envoy has not found it, and we have
			fallthrough
		case "crash", "hang", "errors 50 %":
			o.scenarios = append(o.scenarios, s)
		}
	}
	for _, p := range products() {
		switch p.name {
		case "overhear", "envoy", "envoy tuned", none:
			o.products = append(o.products, p)
		}
	}
}

// orderings are what must hold whatever the machine does: the first loses at most this
// share of what the second loses. Envoy's default needs five failures in a row of each
// proxy, which a crash brings soon and 50 % errors hardly within the fault.
var orderings = []struct {
	scenario, less, more string
	share                number
}{
	{"crash", "overhear", none, .2},
	{"crash", "overhear", "envoy", 1},
	{"crash", "envoy", none, .8},
	{"hang", "overhear", none, .6},
	{"errors 50 %", "overhear", "envoy", 1},
	{"errors 20 %", "overhear", "envoy tuned", .5}, // a tenth on a quiet machine
}

// heard are those whose own word of a crash is asked for: a metric that has another name
// now would count nothing, and be taken for good news.
var heard = []struct {
	product string
	of      func(figures) number
}{
	{"overhear", func(f figures) number { return f.Said }},
	{"overhear", func(f figures) number { return f.SaidFleet }},
	{"envoy", func(f figures) number { return f.Said }},
}

// judged says whether an ordering is about this product in this scenario.
func judged(p product, s scenario) bool {
	for _, o := range orderings {
		if o.scenario == s.name && (o.less == p.name || o.more == p.name) {
			return true
		}
	}
	return false
}

// judge says which orderings do not hold. A run that did not count says nothing; one that
// did not take place is a failure, and so are a product that is not there and a smoke that
// compared nothing at all.
func (r *report) judge() error {
	errs := slices.Clone(r.absent)
	for _, o := range r.Outcomes {
		if o.broken {
			errs = append(errs, fmt.Errorf("%s, %s: %s", o.Scenario, o.Product, o.Discarded))
		}
	}
	compared := 0
	for _, o := range orderings {
		less, more := r.harm(o.scenario, o.less), r.harm(o.scenario, o.more)
		if less == nil || more == nil {
			fmt.Printf("\n%s: %s and %s are not compared, for a run of them does not count\n", o.scenario, o.less, o.more)
			continue
		}
		compared++
		if *less > o.share**more {
			errs = append(errs, fmt.Errorf("%s: %s loses %.0f requests, and %s %.0f: want a share of %g at most", o.scenario, o.less, float64(*less), o.more, float64(*more), float64(o.share)))
		}
	}
	for i, h := range heard {
		for _, w := range r.rows {
			if w.Scenario == "crash" && w.Product == h.product && !(median(w.of(h.of)) > 0) {
				errs = append(errs, fmt.Errorf("crash: %s does not say that it took the endpoint out (count %d of %d)", h.product, i+1, len(heard)))
			}
		}
	}
	if compared == 0 {
		errs = append(errs, errors.New("nothing is compared: no two runs of an ordering count"))
	}
	return errors.Join(errs...)
}

// harm is what a product lost in a scenario; nil: nobody knows.
func (r *report) harm(scenario, product string) *number {
	for _, w := range r.rows {
		if w.Scenario == scenario && w.Product == product {
			return new(median(w.of(func(f figures) number { return f.Excess })))
		}
	}
	return nil
}
