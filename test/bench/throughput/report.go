package main

import (
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"text/tabwriter"
)

type report struct {
	Work        string            `json:"work"`
	Connections int               `json:"connections"`
	Streams     int               `json:"streams"`
	Cores       int               `json:"cores"`
	Go          string            `json:"go"`
	Versions    map[string]string `json:"versions"`
	Absent      []string          `json:"absent,omitempty"`
	Rounds      map[string][]turn `json:"rounds"`
	Summary     []summary         `json:"summary"`
}

// summary is a product over all rounds. Ratios compare within a round.
type summary struct {
	Name    string  `json:"name"`
	CPU     float64 `json:"cpu_us_per_request"`
	Rate    float64 `json:"requests_per_second"`
	P50     float64 `json:"p50_us"`
	P99     float64 `json:"p99_us"`
	ToEnvoy spread  `json:"cpu_ratio_to_envoy"`
}

type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func newReport(o options) *report {
	return &report{
		Work: o.work.title, Connections: o.work.connections, Streams: o.work.streams, Cores: runtime.NumCPU(), Go: runtime.Version(),
		Versions: map[string]string{}, Rounds: map[string][]turn{},
	}
}

func (r *report) add(name string, t turn) {
	r.Rounds[name] = append(r.Rounds[name], t)
	r.Summary = r.summarise()
}

func (r *report) summarise() []summary {
	envoy := r.Rounds["envoy"]
	var all []summary
	for _, name := range slices.Sorted(maps.Keys(r.Rounds)) {
		turns := r.Rounds[name]
		each := func(value func(turn) float64) spread {
			values := make([]float64, len(turns))
			for i, t := range turns {
				values[i] = value(t)
			}
			return spreadOf(values)
		}
		s := summary{
			Name: name,
			CPU:  each(func(t turn) float64 { return t.CPU }).Median,
			Rate: each(func(t turn) float64 { return t.Rate }).Median,
			P50:  each(func(t turn) float64 { return t.P50 }).Median,
			P99:  each(func(t turn) float64 { return t.P99 }).Median,
		}
		var ratios []float64
		for i := range min(len(turns), len(envoy)) {
			ratios = append(ratios, turns[i].CPU/envoy[i].CPU)
		}
		s.ToEnvoy = spreadOf(ratios)
		all = append(all, s)
	}
	return all
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	sorted := slices.Sorted(slices.Values(values))
	mid := len(sorted) / 2
	median := sorted[mid]
	if len(sorted)%2 == 0 {
		median = (sorted[mid-1] + sorted[mid]) / 2
	}
	return spread{median, sorted[0], sorted[len(sorted)-1]}
}

func (r *report) table(w io.Writer) error {
	fmt.Fprintf(w, "%s, %d byte answers, %d connections, %d at one time on each, proxy on one of %d cores, %s, %d rounds interleaved\n\n",
		r.Work, bodySize, r.Connections, r.Streams, r.Cores, r.Go, len(r.Rounds["overhear"]))
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "product\tCPU µs/request\tCPU to Envoy (min–max)\trequests/s\tp50 µs\tp99 µs\tversion\t")
	for _, s := range r.Summary {
		ratio := "–"
		if s.ToEnvoy.Median > 0 {
			ratio = fmt.Sprintf("%.2f (%.2f–%.2f)", s.ToEnvoy.Median, s.ToEnvoy.Min, s.ToEnvoy.Max)
		}
		fmt.Fprintf(tw, "%s\t%.1f\t%s\t%.0f\t%.0f\t%.0f\t%s\t\n", s.Name, s.CPU, ratio, s.Rate, s.P50, s.P99, r.Versions[s.Name])
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, a := range r.Absent {
		fmt.Fprintln(w, "not measured:", a)
	}
	return nil
}
