package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"

	"github.com/overhear-mesh/overhear/xds/resource"
)

// landfall sends the clients of a storm to a server.
type landfall struct {
	Address string `json:"address"`
	Holding bool   `json:"holding"` // they hold what the server before had
	Verdict int    `json:"verdict"` // who has it is served
}

// runStorm lets all clients connect at once, each time that the input says so, and tells
// when all are served. They leave before it tells.
func (f *fleet) runStorm(in io.Reader, t *tally) error {
	var versions map[string]string
	for dec := json.NewDecoder(in); ; {
		var l landfall
		err := dec.Decode(&l)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		f.Address = l.Address
		if versions, err = f.land(l, versions, t); err != nil {
			return err
		}
	}
}

// land is one storm. It returns the versions of what the server has.
func (f *fleet) land(l landfall, versions map[string]string, t *tally) (map[string]string, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	conns, err := f.dial()
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, c := range conns {
			_ = c.Close() // what it was for is over
		}
	}()
	w := word{Began: monotonic()}
	var (
		clients sync.WaitGroup
		mu      sync.Mutex // guards the rest
		served  int
		failed  []error
	)
	for i := range f.Streams {
		clients.Go(func() {
			resources, err := f.arrive(ctx, conns[i%len(conns)], i, l, versions)
			now := monotonic()
			mu.Lock()
			defer mu.Unlock()
			failed = append(failed, err)
			w.Resources += resources
			if served++; served == (f.Streams+1)/2 {
				w.Half = now
			}
			w.Last = now
		})
	}
	clients.Wait()
	if err := errors.Join(failed...); err != nil {
		return nil, err
	}
	w.Served = f.Streams
	now, err := f.versions(ctx, conns[0])
	t.say(w)
	return now, err
}

// arrive is one client of a storm, until it is served; its stream stays open.
func (f *fleet) arrive(ctx context.Context, conn *grpc.ClientConn, i int, l landfall, versions map[string]string) (resources int, err error) {
	var holds map[string]string
	names := f.names(i)
	if l.Holding {
		holds = make(map[string]string, len(names))
		for _, name := range names {
			holds[name] = versions[name]
		}
	}
	st, err := subscribe(ctx, conn, nodeID(i), names, holds)
	if err != nil {
		return 0, err
	}
	for m := new(response); ; {
		if err := st.RecvMsg(m); err != nil {
			return resources, err
		}
		resources += m.resources
		if err := st.SendMsg(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.TypeEndpoints, ResponseNonce: m.nonce}); err != nil {
			return resources, err
		}
		if slices.Contains(m.verdicts, l.Verdict) {
			return resources, nil
		}
	}
}

// versions asks the server for the versions of all that it has.
func (f *fleet) versions(ctx context.Context, conn *grpc.ClientConn) (map[string]string, error) {
	all := make([]string, f.Clusters)
	for i := range all {
		all[i] = clusterName(i)
	}
	st, err := subscribe(ctx, conn, "scout", all, nil)
	if err != nil {
		return nil, err
	}
	versions := make(map[string]string, len(all))
	for len(versions) < len(all) {
		var m discoveryv3.DeltaDiscoveryResponse
		if err := st.RecvMsg(&m); err != nil {
			return nil, err
		}
		for _, r := range m.GetResources() {
			versions[r.GetName()] = r.GetVersion()
		}
	}
	return versions, nil
}

// landing is how a storm went.
type landing struct {
	// Seconds until half of the clients, and the last, were served.
	Half float64 `json:"half_s"`
	Last float64 `json:"last_s"`
	Peak float64 `json:"peak_mb"` // what the server had of the system beyond what it began with
	// Microseconds for each client.
	CPUServer  float64 `json:"cpu_server_us"`
	CPUClients float64 `json:"cpu_client_us"`
	Resources  float64 `json:"resources"` // sent to each client
}

// storm is what one turn of a server brought.
type storm struct {
	Come   landing `json:"come"`   // to a server, holding nothing
	Return landing `json:"return"` // to another replica, which has one verdict more
}

// measureStorm gives a server its turn.
func measureStorm(ctx context.Context, o options, s setting, f feed) (m storm, err error) {
	clients, err := startFleet(ctx, fleet{setting: s, Storm: true, Profile: o.profileOf(f, "clients")})
	if err != nil {
		return m, err
	}
	defer clients.stop()
	all := initial(s)
	if m.Come, err = land(ctx, o, f, all, clients, landfall{Verdict: hot - 1}); err != nil {
		return m, err
	}
	all[clusterName(0)] = assignment(s, 0, hot)
	m.Return, err = land(ctx, o, f, all, clients, landfall{Verdict: hot, Holding: true})
	return m, err
}

// land has the clients come to a server of their own.
func land(ctx context.Context, o options, f feed, all assignments, clients *process, l landfall) (g landing, failed error) {
	r, err := f.serve(all)
	if err != nil {
		return g, err
	}
	defer func() { failed = errors.Join(failed, r.stop()) }()
	l.Address = r.address
	settled()
	debug.FreeOSMemory()
	stop, err := startProfile(o.profileOf(f, "server"))
	if err != nil {
		return g, err
	}
	defer func() { failed = errors.Join(failed, stop()) }()
	highest := watchMemory()
	defer func() { g.Peak = float64(highest()) / 1e6 }()
	cpuServer, cpuClients, err := clients.cpu()
	if err != nil {
		return g, err
	}
	if err := json.NewEncoder(clients.input).Encode(l); err != nil {
		return g, err
	}
	w, err := clients.hear(ctx, o.within)
	if err != nil {
		return g, err
	}
	if w.Served == 0 {
		return g, fmt.Errorf("the clients say %+v instead of being served", w)
	}
	serverAfter, clientsAfter, err := clients.cpu()
	if err != nil {
		return g, err
	}
	g.Half, g.Last = (w.Half - w.Began).Seconds(), (w.Last - w.Began).Seconds()
	n := float64(w.Served)
	g.Resources = float64(w.Resources) / n
	g.CPUServer, g.CPUClients = float64((serverAfter-cpuServer).Microseconds())/n, float64((clientsAfter-cpuClients).Microseconds())/n
	return g, nil
}

// watchMemory notes how much more memory this process has of the system, until asked.
func watchMemory() (highest func() uint64) {
	before := mapped()
	end, top := make(chan struct{}), make(chan uint64)
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		most := before
		for {
			most = max(most, mapped())
			select {
			case <-tick.C:
			case <-end:
				top <- most - before
				return
			}
		}
	}()
	return func() uint64 { close(end); return <-top }
}

// mapped is what the runtime has of the system and has not given back.
func mapped() uint64 {
	all := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(all)
	return all[0].Value.Uint64() - all[1].Value.Uint64()
}

// stormResult is what a server did in one setting, each figure the median of its rounds.
type stormResult struct {
	setting
	Server string `json:"server"`
	storm
	rounds []storm
}

func (r *stormResult) summarise() {
	medians := func(of func(storm) landing) landing {
		each := func(value func(landing) float64) float64 {
			all := make([]float64, len(r.rounds))
			for i, s := range r.rounds {
				all[i] = value(of(s))
			}
			return median(all)
		}
		return landing{
			Half: each(func(l landing) float64 { return l.Half }), Last: each(func(l landing) float64 { return l.Last }),
			Peak:      each(func(l landing) float64 { return l.Peak }),
			CPUServer: each(func(l landing) float64 { return l.CPUServer }), CPUClients: each(func(l landing) float64 { return l.CPUClients }),
			Resources: each(func(l landing) float64 { return l.Resources }),
		}
	}
	r.Come, r.Return = medians(func(s storm) landing { return s.Come }), medians(func(s storm) landing { return s.Return })
}

// runStorms measures the storms of every setting; the servers take turns.
func runStorms(ctx context.Context, o options) ([]*stormResult, error) {
	var all []*stormResult
	for _, s := range o.settings {
		results := make([]*stormResult, len(o.feeds))
		for i, f := range o.feeds {
			results[i] = &stormResult{setting: s, Server: f.name}
		}
		for round := range o.rounds {
			for i := range o.feeds {
				at := (i + round) % len(o.feeds)
				m, err := measureStorm(ctx, o, s, o.feeds[at])
				if err != nil {
					return nil, fmt.Errorf("%s, storm of %d: %w", o.feeds[at].name, s.Streams, err)
				}
				results[at].rounds = append(results[at].rounds, m)
			}
		}
		all = append(all, results...)
	}
	for _, r := range all {
		r.summarise()
	}
	return all, nil
}

// stormTable prints the results for people.
func stormTable(w io.Writer, all []*stormResult) error {
	fmt.Fprintf(w, "%d cores, %s; seconds until clients are served; CPU µs, server + client, and resources sent for each; most MB that the server had\n", runtime.NumCPU(), runtime.Version())
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for i, r := range all {
		if i == 0 || all[i-1].setting != r.setting {
			if err := tw.Flush(); err != nil {
				return err
			}
			fmt.Fprintf(w, "\n%d clients at once over %d connections, each of %d of %d clusters\n\n", r.Streams, r.Connections, r.Subscriptions, r.Clusters)
			fmt.Fprintln(tw, "clients hold\tserver\thalf\tlast\tCPU\tpeak\tsent\t")
		}
		for _, l := range []struct {
			held string
			landing
		}{{"nothing", r.Come}, {"all but one", r.Return}} {
			fmt.Fprintf(tw, "%s\t%s\t%.2f\t%.2f\t%.0f + %.0f\t%.0f\t%.1f\t\n", l.held, r.Server, l.Half, l.Last, l.CPUServer, l.CPUClients, l.Peak, l.Resources)
		}
	}
	return tw.Flush()
}
