// Command throughput measures what a proxy costs, ours beside every other proxy that it
// finds, in interleaved rounds of one run.
//
//	go run ./test/bench/throughput                      # HTTP/1.1 GET; about a minute and a half
//	go run ./test/bench/throughput -work all -out DIR   # everything; about ten minutes
//	go run ./test/bench/throughput -work all -smoke     # for CI: does it run
//
// The proxy runs as a process of its own on one core; load generator and server
// share another. CPU time is what the kernel charged to the proxy's process (user
// plus system) for the round, so the figure includes the network stack. Rounds
// visit the products in a new random order each time, because machines drift; what
// is compared is the ratio within a round, and its median over the rounds.
//
// Every product has the same work: route by path prefix, round robin or better over
// one server, outlier detection, connection limits, a retry policy, a 15 s
// request timeout, an access log that goes nowhere. Configurations stand in the
// folder products beside this file, with their reasons.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	program "github.com/overhear-mesh/overhear/test/process"
)

type options struct {
	rounds   int
	duration time.Duration
	smoke    bool
	only     string
}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 4, "rounds over all products; each figure is the median of its rounds")
	flag.DurationVar(&o.duration, "d", 1500*time.Millisecond, "length of one product's turn in a round")
	flag.BoolVar(&o.smoke, "smoke", false, "one short round: shows that everything runs, judges nothing")
	flag.StringVar(&o.only, "product", "", "measure just this product besides overhear")
	connections := flag.Int("c", 64, "client connections")
	asJSON := flag.Bool("json", false, "print JSON instead of tables")
	out := flag.String("out", "", "a folder for results.json, tables.md and ratios.svg")
	kinds := flag.String("work", "http1", "all, quick (what needs no start of its own), memory, or some of the works, separated by commas")
	flag.Parse()
	if o.smoke {
		o.rounds, o.duration = 1, 200*time.Millisecond
	}
	chosen, err := chosen(strings.Split(*kinds, ","), works(*connections))
	if err != nil {
		fmt.Fprintln(os.Stderr, "throughput:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	reports, err := runAll(ctx, chosen, o, func(r *report) error {
		if *asJSON {
			return nil
		}
		return r.table(os.Stdout)
	})
	if err == nil && *asJSON {
		err = writeJSON(os.Stdout, reports)
	}
	if err == nil && *out != "" {
		err = save(*out, reports)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "throughput:", err)
		os.Exit(1)
	}
}

func writeJSON(w io.Writer, reports []*report) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(reports)
}

// save writes all forms of the reports.
func save(dir string, reports []*report) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, write := range map[string]func(io.Writer) error{
		"results.json": func(w io.Writer) error { return writeJSON(w, reports) },
		"tables.md":    func(w io.Writer) error { return markdown(w, reports) },
		"ratios.svg":   func(w io.Writer) error { return chart(w, reports) },
	} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := errors.Join(write(f), f.Close()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// runAll does one work after the other, and tells of each.
func runAll(ctx context.Context, works []work, o options, tell func(*report) error) ([]*report, error) {
	if runtime.NumCPU() > 1 {
		// Load and server share one core, and say so to the Go scheduler too: a
		// second thread would only fight with the proxy for its core.
		if err := pinSelf(0); err != nil {
			return nil, err
		}
		runtime.GOMAXPROCS(1)
	}
	dir, err := os.MkdirTemp("", "overhear-throughput-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if runtime.NumCPU() > 1 {
		// Before anything is measured, and with all cores.
		if _, err := program.Build(dir, "sidecar"); err != nil {
			return nil, err
		}
	}
	var reports []*report
	for _, w := range works {
		r := newReport(w)
		if err := w.missing(); err != nil {
			r.Absent = append(r.Absent, err.Error())
		} else if err := run(ctx, w, o, dir, r); err != nil {
			return reports, fmt.Errorf("%s: %w", w.name, err)
		}
		r.summarise()
		reports = append(reports, r)
		if err := tell(r); err != nil {
			return reports, err
		}
	}
	return reports, nil
}

// run does one work.
func run(ctx context.Context, w work, o options, dir string, r *report) error {
	back, err := w.server(w, dir)
	if err != nil {
		return err
	}
	defer back.close()
	sink, err := startEcho(w, dir)
	if err != nil {
		return err
	}
	defer sink.close()
	if w.rounds > 0 {
		o.rounds = max(1, int(float64(o.rounds)*w.rounds))
	}
	begin := func(p product) (*process, error) {
		run, err := p.start(w, filepath.Join(dir, p.name), back.address(), sink.address())
		if err != nil {
			return nil, err
		}
		every := 20 * time.Millisecond
		if w.clusters > 0 {
			every = time.Millisecond // it is what is measured
		}
		if err := run.Wait(ctx, every, w.reach(run, dir)); err != nil {
			run.stop()
			return nil, err
		}
		return run, nil
	}
	if w.gauge != nil {
		return gauges(ctx, w, o, begin, r)
	}
	return turns(ctx, w, o, dir, back.address(), begin, r)
}

// reach tries to get one unit of work done.
func (w work) reach(p *process, dir string) func(context.Context) error {
	return func(ctx context.Context) error {
		if w.drive == nil {
			held, err := connect(1, w, p.address)
			letGo(held)
			return err
		}
		_, err := w.drive(ctx, w, p.address, dir, 50*time.Millisecond)
		return err
	}
}

// gauges starts each product anew for each turn.
func gauges(ctx context.Context, w work, o options, begin func(product) (*process, error), r *report) error {
	all := doing(w, o.only)
	for round := range o.rounds {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, product := range slices.Clone(all) {
			p, err := begin(product)
			if err != nil {
				if err = r.without(product.name, err); err != nil {
					return err
				}
				all = slices.DeleteFunc(all, named(product.name))
				continue
			}
			r.Versions[p.name] = p.version
			t, err := w.gauge(ctx, w, p, o)
			p.stop()
			if err != nil {
				return fmt.Errorf("round %d, %s: %w", round+1, p.name, err)
			}
			r.add(p.name, t)
		}
	}
	return nil
}

// turns keeps all products running and gives each its turn.
func turns(ctx context.Context, w work, o options, dir, backend string, begin func(product) (*process, error), r *report) error {
	var running []*process
	defer func() {
		for _, p := range running {
			p.stop()
		}
	}()
	for _, product := range doing(w, o.only) {
		p, err := begin(product)
		if err != nil {
			if err = r.without(product.name, err); err != nil {
				return err
			}
			continue
		}
		running = append(running, p)
		r.Versions[p.name] = p.version
	}
	if w.direct {
		running = append(running, &process{name: direct, version: "no proxy at all", address: backend})
		r.Versions[direct] = "no proxy at all"
	}
	for round := range o.rounds {
		order := slices.Clone(running)
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, p := range order {
			t, err := measure(p, o.duration, driver(ctx, w, p, dir, w.drive))
			if err != nil {
				return fmt.Errorf("round %d, %s: %w", round+1, p.name, err)
			}
			r.add(p.name, t)
		}
	}
	if w.syscalls {
		for _, p := range running {
			r.count(ctx, p, driver(ctx, w, p, dir, w.drive), o.duration)
		}
	}
	return nil
}

// direct is the way without a proxy.
const direct = "direct"

func driver(ctx context.Context, w work, p *process, dir string, drive drive) func(time.Duration) (turn, error) {
	return func(d time.Duration) (turn, error) { return drive(ctx, w, p.address, dir, d) }
}

// measure gives one product its turn: a short warm-up that is not counted, then
// the load for the whole duration.
func measure(p *process, d time.Duration, drive func(time.Duration) (turn, error)) (turn, error) {
	if _, err := drive(d / 5); err != nil && !errors.Is(err, errNothing) {
		return turn{}, err
	}
	before, err := p.cpu()
	if err != nil {
		return turn{}, err
	}
	start := time.Now()
	got, err := drive(d)
	for i := 1; i < 4 && errors.Is(err, errNothing); i++ {
		got, err = drive(d << i) // the machine has much else to do
	}
	if err != nil {
		return turn{}, err
	}
	wall := time.Since(start)
	after, err := p.cpu()
	if err != nil {
		return turn{}, err
	}
	got.CPU = float64((after - before).Nanoseconds()) / 1e3 / float64(got.Units)
	got.Rate = float64(got.Units) / wall.Seconds()
	got.Busy = (after - before).Seconds() / wall.Seconds()
	return got, nil
}
