// Command push measures how fast a verdict reaches a fleet, and what that costs: our
// xDS server beside go-control-plane's LinearCache behind its MuxCache, in turns of one
// run.
//
//	go run ./test/bench/push                                      # 1 000 clients; about three minutes
//	go run ./test/bench/push -endpoints 1000                      # large assignments
//	go run ./test/bench/push -streams 10000 -subscriptions 10     # wants 10 100 file descriptors a process
//	go run ./test/bench/push -streams 10000 -connections 100      # many streams to a connection
//	go run ./test/bench/push -storm 10000 -subscriptions 10       # all clients come at once
//	go run ./test/bench/push -smoke                               # for CI: does it run; also with -storm
//
// The clients are grpc-go streams of delta ADS over loopback, each on a TCP connection
// of its own unless -connections says otherwise, in a process of their own. Each
// subscribes to the ten clusters of which verdicts speak, and to others up to the number
// wanted; each acknowledges what it is sent. Of a response they decode as much as they
// must to know that a verdict has come, so that what is measured is the server's part.
//
// A verdict changes the health of one endpoint of one cluster, whose assignment then goes
// to everybody. Told is the time from its being published until the first, half, and the
// last of the clients had it, and until the last of those had it who were named as lately
// having sent traffic there (go-control-plane has no such thing: there it is how long
// those took). Times are medians over the verdicts, with the worst of the last. CPU time
// is what the kernel charged to each process, for each client and verdict, the ACK
// included; memory is what is alive on the heaps of both processes once the fleet is
// calm, and their stacks. At high rates a client that has not acknowledged one
// response gets the next with all that has come since, in both servers.
//
// In a storm all clients dial and subscribe at the same moment, without a back-off. First
// they hold nothing, and are served when they have everything; then that server is gone,
// and they come to another replica with the versions that they hold, while one verdict
// has changed one of the ten: they are served when they have it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// setting is one fleet, and what is asked of the servers.
type setting struct {
	Streams       int `json:"streams"`
	Connections   int `json:"connections"`
	Subscriptions int `json:"subscriptions"` // of each client
	Clusters      int `json:"clusters"`
	Endpoints     int `json:"endpoints"` // of the clusters that change; the others have one
	Users         int `json:"users"`     // who lately sent traffic to the endpoint
}

// hot is how many clusters change, in turn.
const hot = 10

type options struct {
	settings []setting
	rates    []int // verdicts a second
	verdicts int   // for each rate
	rounds   int
	feeds    []feed
	within   time.Duration // a verdict must be everywhere
	storm    bool          // all clients at once, and no verdicts
	profile  string        // a directory for CPU profiles; "": none
}

func main() {
	if spec := os.Getenv(fleetSpec); spec != "" {
		if err := runFleet(spec, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "push: clients:", err)
			os.Exit(1)
		}
		return
	}
	o, asJSON, err := parse()
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		err = runAll(ctx, o, asJSON, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "push:", err)
		os.Exit(1)
	}
}

func parse() (options, bool, error) {
	var o options
	streams := flag.String("streams", "1000", "streams, or several numbers separated by commas")
	storm := flag.Int("storm", 0, "that many clients at once: how long until all are served; verdicts are not measured")
	subscriptions := flag.String("subscriptions", "10,1000", "clusters that each client subscribes to, at least 10")
	rates := flag.String("rates", "1,100", "verdicts a second")
	var s setting
	flag.IntVar(&s.Connections, "connections", 0, "TCP connections that share the streams; 0: one for each stream")
	flag.IntVar(&s.Clusters, "clusters", 5000, "clusters that the servers know")
	flag.IntVar(&s.Endpoints, "endpoints", 10, "endpoints of a cluster that changes")
	flag.IntVar(&s.Users, "users", 20, "clients that lately sent traffic to the endpoint")
	flag.IntVar(&o.verdicts, "verdicts", 5, "verdicts for each rate and round, ten times as many at more than ten a second")
	flag.IntVar(&o.rounds, "rounds", 2, "rounds; the servers take turns")
	flag.DurationVar(&o.within, "within", 2*time.Minute, "a verdict that is not everywhere by then ends the run")
	flag.StringVar(&o.profile, "profile", "", "a directory, for a CPU profile of each process in each turn while there are verdicts")
	only := flag.String("server", "", "measure just this one: overhear, go-control-plane")
	asJSON := flag.Bool("json", false, "print JSON instead of a table")
	smoke := flag.Bool("smoke", false, "a few clients, a few verdicts: shows that everything runs, judges nothing")
	flag.Parse()
	if *smoke {
		*streams, *subscriptions, *rates = "20", "10,30", "100"
		s.Clusters, s.Users, o.verdicts, o.rounds = 50, 3, 1, 1
		*storm = min(*storm, 20)
	}
	if *storm != 0 {
		o.storm, *streams = true, strconv.Itoa(*storm)
	}
	o.feeds = slices.DeleteFunc(slices.Clone(feeds), func(f feed) bool { return *only != "" && f.name != *only })
	if len(o.feeds) == 0 {
		return o, false, fmt.Errorf("-server: %q is not known: want overhear or go-control-plane", *only)
	}
	of := "streams"
	if o.storm {
		of = "storm"
	}
	all, err := numbers(of, *streams, 1)
	names, err2 := numbers("subscriptions", *subscriptions, hot)
	var err3 error
	o.rates, err3 = numbers("rates", *rates, 1)
	if err := errors.Join(err, err2, err3); err != nil {
		return o, false, err
	}
	for _, at := range []struct {
		flag       string
		value, min int
	}{{"clusters", s.Clusters, hot}, {"endpoints", s.Endpoints, 2}, {"users", s.Users, 1}, {"verdicts", o.verdicts, 1}, {"rounds", o.rounds, 1}} {
		if at.value < at.min {
			return o, false, fmt.Errorf("-%s: is %d: want at least %d", at.flag, at.value, at.min)
		}
	}
	for _, s.Streams = range all {
		for _, s.Subscriptions = range names {
			one := s
			if one.Connections == 0 || one.Connections > one.Streams {
				one.Connections = one.Streams
			}
			one.Users = min(one.Users, one.Streams)
			if one.Subscriptions > one.Clusters {
				return o, false, fmt.Errorf("-subscriptions: is %d: there are %d clusters", one.Subscriptions, one.Clusters)
			}
			o.settings = append(o.settings, one)
		}
	}
	return o, *asJSON, enoughFiles(o.settings)
}

// numbers reads a list of numbers.
func numbers(name, text string, least int) ([]int, error) {
	var all []int
	for word := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < least {
			return nil, fmt.Errorf("-%s: %q: want numbers of at least %d, separated by commas", name, text, least)
		}
		all = append(all, n)
	}
	return all, nil
}

// enoughFiles says when the connections do not fit into what a process may open. The Go
// runtime has raised the soft limit to the hard one already.
func enoughFiles(settings []setting) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of file descriptors: %w", err)
	}
	const others = 100
	for _, s := range settings {
		if need := uint64(s.Connections + others); need > limit.Max {
			return fmt.Errorf("%d connections need %d file descriptors, %d are allowed: raise the limit (ulimit -Hn), or share connections (-connections)",
				s.Connections, need, limit.Max)
		}
	}
	return nil
}

// runAll measures what is wanted, and prints it.
func runAll(ctx context.Context, o options, asJSON bool, w io.Writer) error {
	var all any
	var printed func() error
	var failed error
	if o.storm {
		var results []*stormResult
		results, failed = runStorms(ctx, o)
		all, printed = results, func() error { return stormTable(w, results) }
	} else {
		var results []*result
		results, failed = runVerdicts(ctx, o)
		all, printed = results, func() error { return table(w, results) }
	}
	switch {
	case failed != nil:
		return failed
	case asJSON:
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(all)
	default:
		return printed()
	}
}

// runVerdicts measures every setting. Within a round the servers take turns, each with a
// fleet of its own.
func runVerdicts(ctx context.Context, o options) ([]*result, error) {
	var all []*result
	for _, s := range o.settings {
		results := map[string]*result{} // by server and rate
		var order []*result
		for round := range o.rounds {
			for i := range o.feeds {
				f := o.feeds[(i+round)%len(o.feeds)]
				if err := measure(ctx, o, s, f, func(rate int, m measured) {
					key := fmt.Sprint(f.name, rate)
					r := results[key]
					if r == nil {
						r = &result{setting: s, Server: f.name, Rate: rate}
						results[key], order = r, append(order, r)
					}
					r.add(m)
				}); err != nil {
					return nil, fmt.Errorf("%s, %d streams of %d names: %w", f.name, s.Streams, s.Subscriptions, err)
				}
			}
		}
		all = append(all, order...)
	}
	for _, r := range all {
		r.summarise()
	}
	return all, nil
}
