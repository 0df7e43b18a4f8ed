// Command failover does the same harm to every product that it finds, under the same
// traffic, and counts what users lose.
//
//	go run ./test/bench/failover -smoke                   # under two minutes; judges orderings
//	go run ./test/bench/failover -out DIR                 # every scenario, every product; hours
//	go run ./test/bench/failover -known -out DIR          # 5 proxies x 200 requests/s, 20 endpoints
//	go run ./test/bench/failover -scenario crash -proxies 1,4,16
//	go run ./test/bench/failover -soak 30m -base 1%       # no fault; who leaves what is well?
//
// Proxies are processes of their own, new for each run; users and backends are this
// process. Users come at a fixed rate whether or not the earlier ones were answered
// (Poisson), and latency is counted from the instant at which a request was to begin. A run
// whose generator was late by more than 20 ms at p99 is told and not counted: the machine had
// other things to do, and the run would tell of these. Runs come in random order.
//
// Configurations stand in the folder products, each with its reasons.
package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

type options struct {
	setting
	proxies   []int
	retries   []bool
	rounds    int
	scenarios []scenario
	products  []product
	late      time.Duration
	out       string
	smoke     bool
}

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // who interrupts twice does not want the report
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(1)
	}
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("failover", flag.ExitOnError)
	o.Timeout = time.Second
	fleets := flags.String("proxies", "4", "callers with a proxy each; several, separated by commas, are compared")
	flags.IntVar(&o.Endpoints, "endpoints", 10, "endpoints of the service")
	flags.Float64Var(&o.Rate, "rate", 1000, "requests a second of all callers together")
	flags.DurationVar(&o.Timeout, "timeout", time.Second, "of a request")
	flags.DurationVar(&o.Latency, "latency", 5*time.Millisecond, "of an endpoint in health")
	base := flags.String("base", "0", "share of requests that fail everywhere, always, as 0.01 or 1%")
	flags.DurationVar(&o.Warm, "warm", 25*time.Second, "before the fault: long enough for every product to know what is usual; Overhear is told of quiet endpoints each 10 s")
	flags.DurationVar(&o.Phase, "phase", 10*time.Second, "the fault comes at any instant of this, after the warm-up: as long as the longest sweep of a product, Envoy's default")
	flags.DurationVar(&o.Fault, "fault", 40*time.Second, "length of the fault: long enough for a re-admission")
	flags.DurationVar(&o.After, "after", 40*time.Second, "after the fault")
	flags.IntVar(&o.rounds, "rounds", 3, "runs of everything; figures are medians")
	retries := flags.String("retries", "off", "off, on or both")
	chosen := flags.String("scenario", "", "just these, separated by semicolons; default all")
	kinds := flags.String("product", "", "just these, separated by commas; default all")
	known := flags.Bool("known", false, "5 proxies x 200 requests/s, 20 endpoints")
	soak := flags.Duration("soak", 0, "no fault, for so long")
	flags.DurationVar(&o.late, "late", 20*time.Millisecond, "a run whose generator was later at p99 does not count; on a busy machine more, where counts of failures are all that is asked for")
	flags.BoolVar(&o.smoke, "smoke", false, "few and short runs, that must come out in the order that they always do")
	flags.StringVar(&o.out, "out", "", "a folder for results.json, tables.md and pictures")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if err := unambiguous(flags); err != nil {
		return o, err
	}
	if o.Base, err = share(*base); err != nil {
		return o, fmt.Errorf("-base %s: %w", *base, err)
	}
	for _, text := range strings.Split(*fleets, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 200 { // callers have addresses of their own: callerIP
			return o, fmt.Errorf("-proxies %s: want numbers from 1 to 200", *fleets)
		}
		if slices.Contains(o.proxies, n) {
			return o, fmt.Errorf("-proxies %s: %d is named twice", *fleets, n)
		}
		o.proxies = append(o.proxies, n)
	}
	switch *retries {
	case "off", "on":
		o.retries = []bool{*retries == "on"}
	case "both":
		o.retries = []bool{false, true}
	default:
		return o, fmt.Errorf("-retries %s: want off, on or both", *retries)
	}
	switch {
	case o.smoke:
		o.smokeSetting()
	case *known:
		o.proxies, o.Rate, o.Endpoints = []int{5}, 1000, 20
	}
	if *soak > 0 {
		*chosen, o.Fault, o.After = "health", *soak, 0
	}
	if o.Endpoints < 2 || !(o.Rate > 0) || math.IsInf(o.Rate, 1) || *soak < 0 || o.late <= 0 || o.Timeout < time.Millisecond || o.rounds < 1 || o.Warm <= 0 || o.Phase < 0 || o.Fault <= 0 || o.After < 0 {
		return o, fmt.Errorf("want 2 endpoints or more, and rate, timeout, rounds, lengths and lateness above 0")
	}
	return o, o.choose(*chosen, *kinds)
}

// unambiguous refuses what would be left out without a word: what stands after the last flag,
// as the half of a name with a space, and a flag that another one decides.
func unambiguous(flags *flag.FlagSet) error {
	if flags.NArg() > 0 {
		return fmt.Errorf("what is %q? Names with spaces want quotes", flags.Arg(0))
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = f.Value.String() != "false" })
	for decides, decided := range map[string][]string{
		"smoke": {"proxies", "endpoints", "rate", "warm", "phase", "fault", "after", "rounds", "retries", "scenario", "product", "known", "soak", "late"},
		"known": {"proxies", "endpoints", "rate"},
		"soak":  {"scenario", "fault", "after"},
	} {
		for _, name := range decided {
			if given[decides] && given[name] {
				return fmt.Errorf("-%s decides what -%s is: want one of them", decides, name)
			}
		}
	}
	return nil
}

// choose keeps the scenarios and products that are named.
func (o *options) choose(some, kinds string) (err error) {
	if o.scenarios == nil {
		if o.scenarios, err = named(scenarios(), some, ";", func(s scenario) string { return s.name }); err != nil {
			return fmt.Errorf("-scenario: %w", err)
		}
	}
	if o.products == nil {
		if o.products, err = named(products(), kinds, ",", func(p product) string { return p.name }); err != nil {
			return fmt.Errorf("-product: %w", err)
		}
	}
	return nil
}

// named are those of all whose names are in the list; an empty list names all.
func named[T any](all []T, list, separator string, name func(T) string) ([]T, error) {
	if list == "" {
		return all, nil
	}
	var some []T
	for _, want := range strings.Split(list, separator) {
		i := slices.IndexFunc(all, func(t T) bool { return name(t) == strings.TrimSpace(want) })
		if i < 0 {
			var names []string
			for _, t := range all {
				names = append(names, name(t))
			}
			return nil, fmt.Errorf("there is no %q: want some of %s", want, strings.Join(names, separator+" "))
		}
		if slices.ContainsFunc(some, func(t T) bool { return name(t) == name(all[i]) }) {
			return nil, fmt.Errorf("%q is named twice", name(all[i]))
		}
		some = append(some, all[i])
	}
	return some, nil
}

func share(text string) (float64, error) {
	number, percent := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(number, 64)
	if percent {
		v /= 100
	}
	if err == nil && !(v >= 0 && v <= .9) { // nor is it a number
		err = fmt.Errorf("want 0 to 90%%")
	}
	return v, err
}

// job is one run to come.
type job struct {
	product  product
	scenario scenario
	setting  setting
	round    int
}

func (o options) jobs() (all []job) {
	for round := range o.rounds {
		var some []job
		for _, p := range o.products {
			for _, s := range o.scenarios {
				if o.smoke && !judged(p, s) || p.abstains(s) != "" {
					continue
				}
				for _, n := range o.proxies {
					for _, retries := range o.retries {
						if p.config == "" && retries {
							continue // nobody is there who would
						}
						t := o.setting
						t.Proxies, t.Retries = n, retries
						some = append(some, job{p, s.among(n), s.in(t), round})
					}
				}
			}
		}
		rand.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
		all = append(all, some...)
	}
	return all
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "overhear-failover-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r := newReport(o)
	o.products = r.find(o.products, dir)
	for _, err := range r.absent {
		fmt.Fprintln(os.Stderr, "not measured:", err) // now: the report may be a day away
	}
	jobs := o.jobs()
	for i, j := range jobs {
		fmt.Fprintf(os.Stderr, "%d of %d: %s, %s, %d proxies\n", i+1, len(jobs), j.scenario.name, j.product.name, j.setting.Proxies)
		r.do(ctx, j, dir, filepath.Join(dir, fmt.Sprint("run-", i)))
		if ctx.Err() != nil {
			r.Interrupted = fmt.Sprintf("interrupted during run %d of %d", i+1, len(jobs))
			break
		}
	}
	r.summarise()
	if err := r.markdown(os.Stdout); err != nil {
		return err
	}
	if o.out != "" {
		if err := r.save(o.out); err != nil {
			return err
		}
	}
	return r.verdict()
}
