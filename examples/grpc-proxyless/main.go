// Command grpc-proxyless shows Overhear at work without a proxy: one control plane, servers,
// and ordinary grpc-go clients that take everything from it by xDS, steady traffic, and then
// faults of single servers.
//
//	go run ./examples/grpc-proxyless                     all faults, about two minutes
//	go run ./examples/grpc-proxyless -fault crash,hang   some of them
//	go run ./examples/grpc-proxyless -smoke              a short form, for CI
//
// There are two fleets side by side, each with servers and a control plane of its own. The
// clients of one report what their calls come to, by a stats.Handler (package
// xds/report/grpcstats); those of the other do not, so that nobody knows what they see.
// Nothing leaves 127.0.0.1.
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
	"sync"
	"time"

	"github.com/overhear-mesh/overhear/test/trial"
)

type options struct {
	faults  []string // empty: all
	clients int
	servers int
	rate    float64
	json    bool
	smoke   bool
}

func main() {
	var o options
	trial.Flag(names(), &o.faults)
	flag.IntVar(&o.clients, "clients", 5, "number of clients of each fleet")
	flag.IntVar(&o.servers, "servers", 10, "number of servers of each fleet")
	flag.Float64Var(&o.rate, "rate", 500, "calls a second of all clients of a fleet together")
	flag.BoolVar(&o.json, "json", false, "print the summary as one JSON object, and nothing else on standard output")
	flag.BoolVar(&o.smoke, "smoke", false, "3 clients, 5 servers, 150 calls a second, the faults that are found soonest")
	flag.Parse()
	if o.smoke {
		o.clients, o.servers, o.rate = 3, 5, 150
		if len(o.faults) == 0 {
			o.faults = []string{"crash", "hang", "errors-50"}
		}
	}
	if o.clients < 2 || o.clients > 50 || o.servers < len(faults())+1 || o.servers > 100 || o.rate < 1 || o.rate > 10000 || flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "grpc-proxyless: want 2 to 50 -clients, %d to 100 -servers, a -rate from 1 to 10000, and no other arguments\n", len(faults())+1)
		os.Exit(2)
	}
	trial.Main("grpc-proxyless", func(ctx context.Context) (bool, error) { return run(ctx, o, os.Stdout, os.Stderr) })
}

func run(ctx context.Context, o options, stdout, stderr io.Writer) (ok bool, err error) {
	story := stdout
	if o.json {
		story = stderr
	}
	say := func(format string, args ...any) { fmt.Fprintf(story, format+"\n", args...) }
	say("starting 2 fleets of 1 control plane, %d servers and %d clients …", o.servers, o.clients)
	var fleets [2]*fleet // with evidence, and without
	for i := range fleets {
		f, err := start(ctx, o, i == 0)
		if err != nil {
			return false, err
		}
		defer f.stop()
		fleets[i] = f
	}
	usersCtx, endUsers := context.WithCancel(ctx)
	var users sync.WaitGroup
	defer users.Wait()
	defer endUsers()
	for _, f := range fleets {
		f.drive(usersCtx, &users, o.rate)
	}
	if err := trial.Wait(ctx, "reports of each client", func() error { return fleets[0].plane.Heard(o.clients) }); err != nil {
		return false, err
	}
	say("%d calls/s in each; the control plane of those that report is at http://%s", int(o.rate), fleets[0].plane.HTTP)
	if err := trial.Sleep(ctx, 3*time.Second); err != nil { // until it is known what is normal
		return false, err
	}
	var results []result
	for i, one := range faults() {
		if len(o.faults) > 0 && !slices.Contains(o.faults, one.name) {
			continue
		}
		r, err := show(ctx, fleets, one, i, say)
		if err != nil {
			return false, err
		}
		results = append(results, r)
	}
	say("waiting until all servers are back …")
	if err := trial.Recovered(ctx, fleets[0].ledger, 90*time.Second, findings(results)); err != nil {
		return false, err
	}
	return summarise(o, results, fleets, stdout)
}

// summarise prints what came of it and says whether all was well.
func summarise(o options, results []result, fleets [2]*fleet, stdout io.Writer) (ok bool, err error) {
	ok = trial.Conclude(fleets[0].ledger, findings(results))
	if o.json {
		return ok, json.NewEncoder(stdout).Encode(struct {
			Clients int      `json:"clients"`
			Servers int      `json:"servers"`
			Rate    float64  `json:"calls_per_second"`
			Sent    int      `json:"sent"`
			Faults  []result `json:"faults"`
			OK      bool     `json:"ok"`
		}{o.clients, o.servers, o.rate, fleets[0].ledger.Sent(), results, ok})
	}
	var errs []error
	print := func(format string, args ...any) {
		_, err := fmt.Fprintf(stdout, format, args...)
		errs = append(errs, err)
	}
	print("\n%-10s %10s %8s %8s %9s %10s  %s\n", "fault", "found", "failed", "tests", "without", "back", "by")
	for _, r := range results {
		print("%-10s %10s %8d %8d %9d %10s  %s\n", r.Name, trial.Span(r.DetectedMS), r.Failed, r.FailedTests, r.Without, trial.Span(r.BackMS), r.Rule)
		for _, p := range r.Problems {
			print("           NOT OK: %s\n", p)
		}
	}
	print("\nfound: from the fault to the verdict; failed: calls that users lost until then and on their way;\n" +
		"tests: calls lost later, to find out whether the server is well again; without: calls lost in the\n" +
		"fleet whose clients report nothing; back: from the end of the fault until it may have traffic again.\n")
	return ok, errors.Join(errs...)
}
