package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is what was measured of one work.
type report struct {
	Work        string            `json:"work"`
	Title       string            `json:"title"`
	Unit        string            `json:"unit"`
	Connections int               `json:"connections,omitempty"`
	Streams     int               `json:"streams,omitempty"`
	Cores       int               `json:"cores"`
	Go          string            `json:"go"`
	Base        string            `json:"base"` // whom the ratios compare with
	Versions    map[string]string `json:"versions"`
	Absent      []string          `json:"absent,omitempty"`
	Rounds      map[string][]turn `json:"rounds"`
	Summary     []summary         `json:"summary"`

	columns  []column
	syscalls map[string]float64
}

// summary is a product over all rounds.
type summary struct {
	Name    string   `json:"name"`
	Figures []figure `json:"figures"`
}

// figure is a median over the rounds. Ratios compare within a round.
type figure struct {
	Title  string  `json:"title"`
	Median float64 `json:"median"`
	Ratio  *spread `json:"ratio,omitempty"`
}

type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

func newReport(w work) *report {
	r := &report{
		Work: w.name, Title: w.title, Unit: w.unit, Connections: w.connections, Streams: w.streams, Base: w.base,
		Cores: runtime.NumCPU(), Go: runtime.Version(),
		Versions: map[string]string{}, Rounds: map[string][]turn{}, columns: w.columns, syscalls: map[string]float64{},
	}
	if r.Unit == "" {
		r.Unit = "request"
	}
	if r.Base == "" {
		r.Base = "envoy"
	}
	return r
}

func (r *report) add(name string, t turn) { r.Rounds[name] = append(r.Rounds[name], t) }

// without notes a product that is absent or would not start. Without ours there is
// nothing to tell.
func (r *report) without(name string, err error) error {
	if name == ours {
		return fmt.Errorf("%s: %w", name, err)
	}
	r.Absent = append(r.Absent, fmt.Sprintf("%s: %v", name, err))
	return nil
}

// ours is our product's name.
const ours = "overhear"

// count notes how many system calls a unit of work takes; where the machine does not
// let us count, the report says so.
func (r *report) count(ctx context.Context, p *process, drive func(time.Duration) (turn, error), d time.Duration) {
	if p.Process == nil {
		return
	}
	units := 0
	calls, err := p.syscalls(ctx, func() error {
		t, err := drive(d)
		units = t.Units
		return err
	})
	if err != nil {
		r.Absent = append(r.Absent, fmt.Sprintf("system calls of %s: %v", p.name, err))
		return
	}
	r.syscalls[p.name] = calls / float64(units)
}

// summarise works the medians and ratios out.
func (r *report) summarise() {
	for name, turns := range r.Rounds {
		for i := range turns {
			t := &turns[i]
			t.Syscalls = r.syscalls[name]
			if way := r.Rounds[direct]; i < len(way) {
				t.Added50, t.Added99, t.Added999 = t.P50-way[i].P50, t.P99-way[i].P99, t.P999-way[i].P999
			}
		}
	}
	r.columns = slices.DeleteFunc(slices.Clone(r.columns), func(c column) bool { return c.title == "syscalls" && len(r.syscalls) == 0 })
	base := r.Rounds[r.Base]
	for _, name := range slices.Sorted(maps.Keys(r.Rounds)) {
		if name == direct {
			continue
		}
		turns, s := r.Rounds[name], summary{Name: name}
		for _, c := range r.columns {
			values := make([]float64, len(turns))
			var ratios []float64
			for i, t := range turns {
				values[i] = c.value(t)
				if c.ratio && i < len(base) && c.value(base[i]) > 0 {
					ratios = append(ratios, values[i]/c.value(base[i]))
				}
			}
			f := figure{Title: c.title, Median: spreadOf(values).Median}
			if len(ratios) > 0 {
				f.Ratio = new(spreadOf(ratios))
			}
			s.Figures = append(s.Figures, f)
		}
		r.Summary = append(r.Summary, s)
	}
}

func spreadOf(values []float64) spread {
	sorted := slices.Sorted(slices.Values(values))
	mid := len(sorted) / 2
	median := sorted[mid]
	if len(sorted)%2 == 0 {
		median = (sorted[mid-1] + sorted[mid]) / 2
	}
	return spread{median, sorted[0], sorted[len(sorted)-1]}
}

// heading is what was done.
func (r *report) heading() string {
	h := r.Title
	if r.Connections > 0 {
		h += fmt.Sprintf(", %d connections", r.Connections)
		if r.Streams > 1 {
			h += fmt.Sprintf(" × %d streams", r.Streams)
		}
	}
	return fmt.Sprintf("%s; %d rounds, interleaved; per %s", h, len(r.Rounds[ours]), r.Unit)
}

// rows are the lines of a table, its head first.
func (r *report) rows() [][]string {
	head := []string{"product"}
	for _, c := range r.columns {
		head = append(head, c.title)
		if c.ratio {
			head = append(head, "to "+r.Base+" (min–max)")
		}
	}
	rows := [][]string{append(head, "version")}
	for _, s := range r.Summary {
		row := []string{s.Name}
		for i, f := range s.Figures {
			c := r.columns[i]
			row = append(row, fmt.Sprintf(c.format, f.Median))
			switch {
			case f.Ratio != nil:
				row = append(row, fmt.Sprintf("%.2f (%.2f–%.2f)", f.Ratio.Median, f.Ratio.Min, f.Ratio.Max))
			case c.ratio:
				row = append(row, "–")
			}
		}
		rows = append(rows, append(row, r.Versions[s.Name]))
	}
	return rows
}

// table prints a report for people at a terminal.
func (r *report) table(w io.Writer) error {
	fmt.Fprintf(w, "%s\n\n", r.heading())
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	if len(r.Summary) > 0 {
		for _, row := range r.rows() {
			fmt.Fprintln(tw, strings.Join(row, "\t")+"\t")
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, a := range r.Absent {
		fmt.Fprintln(w, "not measured:", a)
	}
	_, err := fmt.Fprintln(w)
	return err
}

// markdown prints all reports for a README.
func markdown(w io.Writer, reports []*report) error {
	fmt.Fprintf(w, "Proxy on one of %d cores, load and server on another; %s; medians over the rounds, ratios within a round.\n",
		runtime.NumCPU(), runtime.Version())
	for _, r := range reports {
		fmt.Fprintf(w, "\n**%s**\n", r.heading())
		if len(r.Summary) > 0 {
			for i, row := range r.rows() {
				if i == 0 {
					fmt.Fprintln(w)
				}
				fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
				if i == 0 {
					fmt.Fprintf(w, "|---%s|\n", strings.Repeat("|---:", len(row)-1))
				}
			}
		}
		for _, a := range r.Absent {
			fmt.Fprintf(w, "\nNot measured: %s\n", strings.ReplaceAll(a, "\n", " "))
		}
	}
	return nil
}
