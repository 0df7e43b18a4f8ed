// Command throughput measures what a proxy costs: CPU time per request of a 1 KB
// answer over kept-alive connections, ours beside every other proxy that it finds, in
// interleaved rounds of one run.
//
//	go run ./test/bench/throughput            # HTTP/1.1; about a minute and a half
//	go run ./test/bench/throughput -work all  # and HTTP/2, gRPC; four times as long
//	go run ./test/bench/throughput -smoke     # seconds, for CI: does it run
//
// The proxy runs as a process of its own on one core; load generator and backend
// share another. CPU time is what the kernel charged to the proxy's process (user
// plus system) for the round, so the figure includes the network stack. Rounds
// visit the products in a new random order each time, because machines drift; what
// is compared is the ratio within a round, and its median over the rounds.
//
// Every product has the same work: route by path prefix, round robin or better over
// one backend, outlier detection, connection limits, a retry policy, a 15 s
// request timeout, an access log that goes nowhere. Configurations stand in the
// folder products beside this file, with their reasons.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

func main() {
	var (
		rounds      = flag.Int("rounds", 7, "rounds over all products; each figure is the median of its rounds")
		duration    = flag.Duration("d", 3*time.Second, "length of one product's turn in a round")
		connections = flag.Int("c", 64, "client connections")
		smoke       = flag.Bool("smoke", false, "one short round: shows that everything runs, judges nothing")
		asJSON      = flag.Bool("json", false, "print JSON instead of the table")
		only        = flag.String("product", "", "measure just this product besides overhear")
		kind        = flag.String("work", "http1", "http1; http2 or grpc: 8 connections of 32 streams; grpc-wide: 64 of 1; all. All but http1 need h2load and nghttpd")
	)
	flag.Parse()
	if *smoke {
		*rounds, *duration = 1, 500*time.Millisecond
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	known := false
	for _, w := range works(*connections) {
		if *kind != w.name && *kind != "all" {
			continue
		}
		known = true
		if err := one(ctx, options{*rounds, *duration, w, *only}, *asJSON); err != nil {
			fmt.Fprintln(os.Stderr, "throughput:", err)
			os.Exit(1)
		}
	}
	if !known {
		fmt.Fprintf(os.Stderr, "throughput: -work %q: want http1, http2, grpc, grpc-wide or all\n", *kind)
		os.Exit(2)
	}
}

// one measures one work.
func one(ctx context.Context, o options, asJSON bool) error {
	report, err := run(ctx, o)
	if err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(report)
	}
	return report.table(os.Stdout)
}

type options struct {
	rounds   int
	duration time.Duration
	work     work
	only     string
}

func run(ctx context.Context, o options) (*report, error) {
	if runtime.NumCPU() > 1 {
		// Load and backend share one core, and say so to the Go scheduler too: a
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

	back, err := startServer(o.work, dir)
	if err != nil {
		return nil, err
	}
	defer back.close()

	rep := newReport(o)
	var running []*process
	defer func() {
		for _, p := range running {
			p.stop()
		}
	}()
	for _, product := range products() {
		if o.only != "" && product.name != o.only && product.name != "overhear" || !product.does(o.work) {
			continue
		}
		p, err := product.start(ctx, o.work, filepath.Join(dir, product.name), back.address())
		switch {
		case err != nil && product.name == "overhear":
			return nil, fmt.Errorf("%s: %w", product.name, err)
		case err != nil: // absent, or it would not start: said in the report
			rep.Absent = append(rep.Absent, fmt.Sprintf("%s: %v", product.name, err))
		default:
			running = append(running, p)
			rep.Versions[p.name] = p.version
		}
	}
	for round := range o.rounds {
		order := slices.Clone(running)
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, p := range order {
			turn, err := measure(ctx, p, o, dir)
			if err != nil {
				return nil, fmt.Errorf("round %d, %s: %w", round+1, p.name, err)
			}
			rep.add(p.name, turn)
		}
	}
	return rep, nil
}

// measure gives one product its turn: a short warm-up that is not counted, then
// the load for the whole duration.
func measure(ctx context.Context, p *process, o options, dir string) (turn, error) {
	if _, err := o.work.run(ctx, p.address, dir, o.duration/5); err != nil {
		return turn{}, err
	}
	before, err := p.cpu()
	if err != nil {
		return turn{}, err
	}
	start := time.Now()
	got, err := o.work.run(ctx, p.address, dir, o.duration)
	if err != nil {
		return turn{}, err
	}
	wall := time.Since(start)
	after, err := p.cpu()
	if err != nil {
		return turn{}, err
	}
	got.CPU = float64((after - before).Microseconds()) / float64(got.Requests)
	got.Rate = float64(got.Requests) / wall.Seconds()
	got.Busy = (after - before).Seconds() / wall.Seconds()
	return got, nil
}
