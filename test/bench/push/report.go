package main

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"
)

// result is what a server did in one setting at one rate, over all rounds.
type result struct {
	setting
	Server string `json:"server"`
	Rate   int    `json:"verdicts_per_second"`
	// Milliseconds from the verdict; medians, but Worst.
	First float64 `json:"first_ms"`
	Told  float64 `json:"users_ms"`
	Half  float64 `json:"half_ms"`
	Last  float64 `json:"last_ms"`
	Worst float64 `json:"worst_ms"`
	// For each client; medians over the rounds.
	CPUServer     float64 `json:"cpu_server_us"`
	CPUClients    float64 `json:"cpu_client_us"`
	MemoryServer  float64 `json:"memory_server_kb"`
	MemoryClients float64 `json:"memory_client_kb"`

	rounds []measured
}

func (r *result) add(m measured) { r.rounds = append(r.rounds, m) }

func (r *result) summarise() {
	ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
	times := func(of func(measured) []time.Duration) []float64 {
		var all []float64
		for _, m := range r.rounds {
			for _, d := range of(m) {
				all = append(all, ms(d))
			}
		}
		return all
	}
	each := func(of func(measured) float64) float64 {
		var all []float64
		for _, m := range r.rounds {
			all = append(all, of(m))
		}
		return median(all)
	}
	last := times(func(m measured) []time.Duration { return m.last })
	r.First = median(times(func(m measured) []time.Duration { return m.first }))
	r.Told = median(times(func(m measured) []time.Duration { return m.users }))
	r.Half = median(times(func(m measured) []time.Duration { return m.half }))
	r.Last, r.Worst = median(last), slices.Max(last)
	r.CPUServer = each(func(m measured) float64 { return 1e3 * ms(m.cpuServer) })
	r.CPUClients = each(func(m measured) float64 { return 1e3 * ms(m.cpuClients) })
	r.MemoryServer = each(func(m measured) float64 { return float64(m.memoryServer) / 1000 })
	r.MemoryClients = each(func(m measured) float64 { return float64(m.memoryClient) / 1000 })
}

func median(all []float64) float64 {
	slices.Sort(all)
	mid := len(all) / 2
	if len(all)%2 == 0 {
		return (all[mid-1] + all[mid]) / 2
	}
	return all[mid]
}

// table prints the results for people, one setting after the other.
func table(w io.Writer, all []*result) error {
	fmt.Fprintf(w, "%d cores, %s; milliseconds from a verdict until clients have it; CPU µs and KB for each client, server + client\n", runtime.NumCPU(), runtime.Version())
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for i, r := range all {
		if i == 0 || all[i-1].setting != r.setting {
			if err := tw.Flush(); err != nil {
				return err
			}
			fmt.Fprintf(w, "\n%d streams over %d connections, each of %d of %d clusters, %d endpoints\n\n",
				r.Streams, r.Connections, r.Subscriptions, r.Clusters, r.Endpoints)
			fmt.Fprintf(tw, "verdicts/s\tserver\tfirst\t%d users\thalf\tlast\tworst\tCPU\tmemory\t\n", r.Users)
		}
		fmt.Fprintf(tw, "%d\t%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.0f + %.0f\t%.0f + %.0f\t\n", r.Rate, r.Server,
			r.First, r.Told, r.Half, r.Last, r.Worst, r.CPUServer, r.CPUClients, r.MemoryServer, r.MemoryClients)
	}
	return tw.Flush()
}
