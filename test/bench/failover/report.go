package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/overhear-mesh/overhear/test/poisson"
	program "github.com/overhear-mesh/overhear/test/process"
)

// number is a figure that may be infinite: then it never happened; or not be one, where
// there was nothing to see. Both are null in JSON.
type number float64

func (n number) MarshalJSON() ([]byte, error) {
	if math.IsInf(float64(n), 0) || math.IsNaN(float64(n)) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(n))
}

// outcome is what one run came to.
type outcome struct {
	Scenario  string          `json:"scenario"`
	Product   string          `json:"product"`
	Setting   setting         `json:"setting"`
	Round     int             `json:"round"`
	Discarded string          `json:"discarded,omitempty"` // why it does not count
	Load      number          `json:"load"`                // average of the machine's last minute, at the end
	Figures   figures         `json:"figures"`
	Timeline  []int           `json:"failed_by_100ms"` // from the warm-up's second half on
	Why       json.RawMessage `json:"why,omitempty"`   // what Overhear says at the end of the fault

	broken bool // it did not take place
}

// row is all counted runs of one product in one scenario and setting.
type row struct {
	Scenario, Product string
	Setting           setting
	Runs              []figures
}

// report is everything that is known in the end.
type report struct {
	Date     string            `json:"date"`
	Machine  string            `json:"machine"`
	Command  string            `json:"command"`
	Versions map[string]string `json:"versions"`
	Missing  []string          `json:"missing"` // products, with the reason
	Outcomes []outcome         `json:"runs"`
	// Interrupted says when the rest was given up; "": it was not.
	Interrupted string `json:"interrupted,omitempty"`

	absent  []error // of the products that were asked for
	options options
	rows    []*row
}

func newReport(o options) *report {
	r := &report{
		Date: time.Now().UTC().Format(time.DateOnly), Machine: fmt.Sprintf("%d cores, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version()),
		Command:  typed(os.Args[1:]),
		Versions: map[string]string{}, options: o,
		Missing: []string{"Linkerd: its proxy needs a control plane in Kubernetes"},
	}
	for _, s := range o.scenarios {
		r.Missing = append(r.Missing, abstainers(o.products, s)...)
	}
	return r
}

// abstainers are the products that are no part of a scenario, those of one reason together.
func abstainers(all []product, s scenario) (lines []string) {
	var reasons []string
	names := map[string][]string{}
	for _, p := range all {
		why := p.abstains(s)
		if why == "" {
			continue
		}
		if names[why] == nil {
			reasons = append(reasons, why)
		}
		names[why] = append(names[why], p.name)
	}
	for _, why := range reasons {
		lines = append(lines, fmt.Sprintf("in %q: %s: %s", s.name, strings.Join(names[why], ", "), why))
	}
	return lines
}

// load is how many processes of the whole machine ran or wanted to, on average of the last
// minute (man 5 proc).
func load() number {
	n := math.NaN()
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(text), &n) // else it stays unknown
	}
	return number(n)
}

// loads are the least and the most of the runs that took place.
func (r *report) loads() string {
	low, high := math.Inf(1), math.Inf(-1)
	for _, o := range r.Outcomes {
		if !o.broken {
			low, high = min(low, float64(o.Load)), max(high, float64(o.Load))
		}
	}
	if low > high {
		return "no run took place"
	}
	return fmt.Sprintf("load %.1f to %.1f over the runs", low, high)
}

// typed is the command line as it may be typed again.
func typed(args []string) string {
	line := "go run ./test/bench/failover"
	for _, a := range args {
		if strings.ContainsAny(a, " ;") {
			a = "'" + a + "'"
		}
		line += " " + a
	}
	return line
}

// find keeps the products that are there.
func (r *report) find(all []product, dir string) (here []product) {
	for _, p := range all {
		if p.library != "" {
			r.Versions[p.name] = grpc.Version
		}
		if p.config == "" {
			here = append(here, p)
			continue
		}
		path, err := p.find(dir)
		version := ""
		if err == nil {
			version, err = program.Version(path, p.says...)
		}
		if err != nil {
			r.Missing = append(r.Missing, fmt.Sprintf("%s: %v", p.name, err))
			r.absent = append(r.absent, fmt.Errorf("%s: %w", p.name, err))
			continue
		}
		if p.config == "overhear.yaml" {
			version += ", " + commit()
		}
		r.Versions[p.name] = version
		here = append(here, p)
	}
	return here
}

// commit is what our binaries are built from, as git tells: a build is not told it
// everywhere.
func commit() string {
	name, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "of no known commit"
	}
	return "commit " + strings.TrimSpace(string(name))
}

// do plays one run and notes what it came to.
func (r *report) do(ctx context.Context, j job, bin, dir string) {
	out := outcome{Scenario: j.scenario.name, Product: j.product.name, Setting: j.setting, Round: j.round}
	tr, err := play(ctx, j.product, j.scenario, j.setting, bin, dir)
	if ctx.Err() != nil {
		return // proxies are interrupted as well, and what they say of it is no news
	}
	if err != nil {
		out.Discarded, out.broken = err.Error(), true
		r.Outcomes = append(r.Outcomes, out)
		return
	}
	out.Load = load()
	out.Figures, out.Timeline, out.Why = measure(tr, j.scenario, j.setting), timeline(tr, j.scenario, j.setting), tr.why
	out.Discarded = r.objection(tr, out.Figures)
	r.Outcomes = append(r.Outcomes, out)
}

// objection says why a run does not count; "": it does.
func (r *report) objection(tr *trace, f figures) string {
	switch {
	case float64(f.Late) > 1e3*r.options.late.Seconds():
		return fmt.Sprintf("the generator was late by %.0f ms at p99", float64(f.Late))
	case tr.skipped > 0:
		return fmt.Sprintf("%d requests were not made: too many were waiting", tr.skipped)
	case tr.forgotten > 0:
		return fmt.Sprintf("%d requests are forgotten by the backends that had them, and would be taken for silence: want a shorter run, or a lower rate", tr.forgotten)
	}
	return ""
}

// verdict says what is wrong with the runs as a whole.
func (r *report) verdict() error {
	switch {
	case r.Interrupted != "":
		return errors.New(r.Interrupted)
	case r.options.smoke:
		return r.judge()
	case len(r.rows) == 0:
		return errors.Join(append(slices.Clone(r.absent), fmt.Errorf("no run counts, of %d", len(r.Outcomes)))...)
	}
	return nil
}

// timeline is how many requests that were to begin in each 100 ms failed.
func timeline(tr *trace, s scenario, t setting) []int {
	const bin = 100 * time.Millisecond
	from := -t.Warm / 2
	bins := make([]int, int((t.Fault+t.After-from)/bin)+1)
	for _, q := range tr.requests {
		if i := int((q.at - from) / bin); q.at >= from && i < len(bins) && q.why != "" && !s.doomed(q) {
			bins[i]++
		}
	}
	return bins
}

// summarise gathers the runs that count.
func (r *report) summarise() {
	for _, s := range r.options.scenarios {
		for _, n := range r.options.proxies {
			for _, retries := range r.options.retries {
				for _, p := range r.options.products {
					w := &row{Scenario: s.name, Product: p.name}
					for _, o := range r.Outcomes {
						if o.Scenario == s.name && o.Product == p.name && o.Setting.Proxies == n && o.Setting.Retries == retries && o.Discarded == "" {
							w.Setting, w.Runs = o.Setting, append(w.Runs, o.Figures)
						}
					}
					if len(w.Runs) > 0 {
						r.rows = append(r.rows, w)
					}
				}
			}
		}
	}
}

// of gathers one figure of all runs, sorted.
func (w *row) of(figure func(figures) number) []number {
	var all []number
	for _, f := range w.Runs {
		all = append(all, figure(f))
	}
	slices.Sort(all)
	return all
}

func median(sorted []number) number {
	if len(sorted)%2 == 0 {
		return (sorted[len(sorted)/2-1] + sorted[len(sorted)/2]) / 2
	}
	return sorted[len(sorted)/2]
}

const recovery = "back after s"

// later is when an endpoint came back that was not seen to while it was watched for so long:
// in the last second of this it might have begun to.
func later(watched time.Duration) string {
	if watched < time.Second {
		return format("", number(math.NaN()))
	}
	return fmt.Sprintf("> %.1f", (watched - time.Second).Seconds())
}

// columns of the table, in its order.
var columns = []struct {
	title string
	of    func(figures) number
	form  string
}{
	{"excess failed", func(f figures) number { return f.Excess }, "%.0f"},
	{"after found", func(f figures) number { return f.Later }, "%.0f"},
	{"worst return", func(f figures) number { return f.Return }, "%.0f"},
	{"p99 +ms", func(f figures) number { return f.P99 }, "%.0f"},
	{"p99.9 +ms", func(f figures) number { return f.P999 }, "%.0f"},
	{"T first s", func(f figures) number { return f.TFirst }, "%.2f"},
	{"T 95 % s", func(f figures) number { return f.T95 }, "%.2f"},
	{"share after 1 s", func(f figures) number { return f.Share }, "%.2f"},
	{"flips", func(f figures) number { return f.Flips }, "%.0f"},
	{"left alone", func(f figures) number { return f.Alone }, "%.0f"},
	{"capacity lost", func(f figures) number { return f.Capacity }, "%.3f"},
	{"said out", func(f figures) number { return f.Said }, "%.0f"},
	{"by the fleet", func(f figures) number { return f.SaidFleet }, "%.0f"},
	{recovery, func(f figures) number { return f.Recovery }, "%.1f"},
	{"overshoot", func(f figures) number { return f.Overshoot }, "%.2f"},
	{"pings/s", func(f figures) number { return f.Pings }, "%.2f"},
	{"failed probes", func(f figures) number { return f.Probes }, "%.0f"},
	{"CPU µs", func(f figures) number { return f.CPU }, "%.0f"},
}

func format(form string, n number) string {
	switch {
	case math.IsNaN(float64(n)):
		return "–"
	case math.IsInf(float64(n), 0):
		return "never"
	}
	return fmt.Sprintf(form, float64(n))
}

func (r *report) markdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "`%s`, %s, %s; %s.\n\n", r.Command, r.Date, r.Machine, r.loads())
	if r.Interrupted != "" {
		fmt.Fprintf(&b, "**Not complete: %s.**\n\n", r.Interrupted)
	}
	for _, p := range r.options.products {
		if v, ok := r.Versions[p.name]; ok {
			fmt.Fprintf(&b, "- %s: %s\n", p.name, v)
		}
	}
	for _, m := range r.Missing {
		fmt.Fprintf(&b, "- not measured: %s\n", strings.ReplaceAll(m, "\n", " "))
	}
	var above *row
	for _, w := range r.rows {
		if above == nil || above.Scenario != w.Scenario || above.Setting != w.Setting {
			r.heading(&b, w)
		}
		above = w
		fmt.Fprintf(&b, "| %s | %d |", w.Product, len(w.Runs))
		for i, c := range columns {
			all := w.of(c.of)
			text := format(c.form, median(all))
			if c.title == recovery && text == "never" {
				text = later(w.Setting.After)
			}
			if i == 0 && len(all) > 1 {
				text += fmt.Sprintf(" (%s–%s)", format(c.form, all[0]), format(c.form, all[len(all)-1]))
			}
			fmt.Fprintf(&b, " %s |", text)
		}
		b.WriteString("\n")
	}
	r.alarms(&b)
	b.WriteString("\nRuns that do not count:\n\n")
	none := true
	for _, o := range r.Outcomes {
		if o.Discarded != "" {
			none = false
			fmt.Fprintf(&b, "- %s, %s, round %d: %s\n", o.Scenario, o.Product, o.Round+1, strings.ReplaceAll(o.Discarded, "\n", " "))
		}
	}
	if none {
		b.WriteString("none.\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *report) heading(b *strings.Builder, w *row) {
	i := slices.IndexFunc(r.options.scenarios, func(s scenario) bool { return s.name == w.Scenario })
	retries := "no retries"
	if w.Setting.Retries {
		retries = "retries"
	}
	if w.Setting.RPC {
		retries += ", gRPC"
	}
	held := ""
	if w.Setting.Hold > 0 {
		held = fmt.Sprintf("; each takes %v", w.Setting.Hold)
	}
	fmt.Fprintf(b, "\n## %s: %s\n\n%d proxies, %d endpoints, %g requests/s, base errors %g %%, %s, timeout %v%s; fault for %v, then %v.\n\n| | runs |", w.Scenario, r.options.scenarios[i].about,
		w.Setting.Proxies, w.Setting.Endpoints, w.Setting.Rate, 100*w.Setting.Base, retries, w.Setting.Timeout, held, w.Setting.Fault, w.Setting.After)
	for _, c := range columns {
		fmt.Fprintf(b, " %s |", c.title)
	}
	b.WriteString("\n|---|---:|" + strings.Repeat("---:|", len(columns)) + "\n")
}

// alarms says how often endpoints were left in health, with exact bounds.
func (r *report) alarms(b *strings.Builder) {
	title := "\n## False alarms\n\nAn alarm is that a healthy endpoint is left, by one caller or by many at a time, or a verdict of a control plane if there are more of these. Rates are per endpoint-hour, bounds exact upper 95 % Poisson bounds.\n\n| | base errors | proxies | endpoint-hours | alarms | rate | at most | left alone | said out | by the fleet |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
	for _, w := range r.rows {
		if w.Scenario != "health" {
			continue
		}
		var s said
		seen, alone, hours := 0, 0, float64(len(w.Runs)*w.Setting.Endpoints)*(w.Setting.Fault+w.Setting.After).Hours()
		for _, f := range w.Runs {
			alone += int(f.Alone)
			seen += int(f.Alarms)
			if f.SaidFleet > f.Alarms { // never if it is no number
				seen += int(f.SaidFleet - f.Alarms)
			}
			s.Proxies, s.Fleet = s.Proxies+f.Said, s.Fleet+f.SaidFleet
		}
		fmt.Fprintf(b, "%s| %s | %g %% | %d | %.2f | %d | %.3g | %.3g | %d | %s | %s |\n", title, w.Product, 100*w.Setting.Base, w.Setting.Proxies, hours, seen, float64(seen)/hours, poisson.Upper(seen)/hours, alone, format("%.0f", s.Proxies), format("%.0f", s.Fleet))
		title = ""
	}
}

// pictures are those that the runs are enough for, by name.
func (r *report) pictures() map[string]*drawing {
	all := map[string]*drawing{"harm": r.bars(), "tradeoff": r.tradeoff()}
	for _, s := range r.options.scenarios {
		if s.name == "crash" {
			all["crash"] = r.timelines()
		}
	}
	if len(r.options.proxies) > 1 {
		all["fleets"] = r.fleets()
	}
	return all
}

// save writes all forms of the report.
func (r *report) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := map[string]func(io.Writer) error{
		"results.json": func(w io.Writer) error {
			enc := json.NewEncoder(w)
			enc.SetIndent("", " ")
			return enc.Encode(r)
		},
		"tables.md": r.markdown,
	}
	for name, d := range r.pictures() {
		files[name+".svg"], files[name+".png"] = d.svg, d.png
	}
	for name, write := range files {
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
