package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/overhear-mesh/overhear/test/poisson"
)

// columns are the figures of a table, with the statistic that it shows.
var columns = []struct{ title, figure, stat string }{
	{"off p50 s", "off", "p50"},
	{"off p95 s", "off", "p95"},
	{"found", "found", "mean"},
	{"harm p50", "harm", "p50"},
	{"harm p95", "harm", "p95"},
	{"failed", "failed", "mean"},
	{"share 1-3s", "share-1s", "p50"},
	{"back p50 s", "back", "p50"},
	{"false fleet", "false-fleet", "mean"},
	{"false outs", "false-outs", "mean"},
	{"goodput", "goodput", "mean"},
	{"pings", "pings", "mean"},
	{"probes", "probes", "mean"},
	{"reports", "reports", "mean"},
}

// tables prints a table for each scenario, then what was wanted of Overhear.
func tables(out io.Writer, runs []Run) {
	for i := 0; i < len(runs); {
		j := i
		for j < len(runs) && runs[j].Scenario == runs[i].Scenario {
			j++
		}
		one(out, runs[i:j])
		i = j
	}
	wants(out, runs)
}

func one(out io.Writer, runs []Run) {
	fmt.Fprintf(out, "\n%s: %s\n", runs[0].Scenario, runs[0].About)
	rows := [][]string{{"product"}}
	for _, c := range columns {
		rows[0] = append(rows[0], c.title)
	}
	for _, r := range runs {
		row := []string{called(r.Product, r.Model)}
		for _, c := range columns {
			s, ok := r.Figures[c.figure]
			row = append(row, cell(s, ok, c.stat))
		}
		rows = append(rows, row)
	}
	grid(out, rows)
}

func cell(s Stats, ok bool, stat string) string {
	if !ok {
		return "-"
	}
	switch stat {
	case "p50":
		return format(float64(s.P50))
	case "p95":
		return format(float64(s.P95))
	}
	return format(s.Mean)
}

// wants prints every expectation with what was measured.
func wants(out io.Writer, runs []Run) {
	rows := [][]string{{"scenario", "product", "wanted", "measured", "runs", ""}}
	count := map[string]int{}
	for _, r := range runs {
		for _, w := range r.Wants {
			count[w.mark()]++
			rows = append(rows, []string{r.Scenario, r.Product, w.Want, format(float64(w.Got)), strconv.Itoa(w.Runs), w.mark()})
		}
	}
	if len(rows) == 1 {
		return
	}
	fmt.Fprintf(out, "\nWanted of overhear: %d of %d met", count["ok"], len(rows)-1)
	if n := count["not judged"]; n > 0 {
		fmt.Fprintf(out, ", %d not judged: %d runs are needed", n, enough)
	}
	if n := count["other settings"]; n > 0 {
		fmt.Fprintf(out, ", %d not judged: they are wanted of the settings of the file", n)
	}
	fmt.Fprintln(out)
	grid(out, rows)
}

// bounds says what the false verdicts of all scenarios together prove of overhear.
func bounds(out io.Writer, runs []Run, set string) {
	count, hours := 0, 0.0
	for _, r := range runs {
		if r.Product == judged {
			count += int(r.Figures["false-fleet"].Mean*float64(r.Seeds) + 0.5)
			hours += float64(r.Seeds) * r.setting.Length.Hours() * float64(r.setting.Endpoints)
		}
	}
	if hours > 0 {
		fmt.Fprintf(out, "\n%d false verdicts of the fleet in %.4g endpoint-hours of trouble (%s): at most %.3g per endpoint and hour (95 %%)\n",
			count, hours, set, poisson.Upper(count)/hours)
	}
}

// grid prints rows in aligned columns.
func grid(out io.Writer, rows [][]string) {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	for n, row := range rows {
		var line strings.Builder
		for i, c := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			if i == 0 {
				line.WriteString("| " + c + pad)
			} else {
				line.WriteString(" | " + pad + c)
			}
		}
		fmt.Fprintln(out, line.String()+" |")
		if n == 0 {
			var rule strings.Builder
			for _, w := range width {
				rule.WriteString("|" + strings.Repeat("-", w+2))
			}
			fmt.Fprintln(out, rule.String()+"|")
		}
	}
}

// format writes a number with three figures; never for what did not happen.
func format(x float64) string {
	switch {
	case math.IsInf(x, 0) || math.IsNaN(x):
		return "never"
	case x == 0 || math.Abs(x) < 5e-4:
		return strconv.FormatFloat(x, 'g', 2, 64)
	case math.Abs(x) >= 100:
		return strconv.FormatFloat(x, 'f', 0, 64)
	case math.Abs(x) >= 0.9 && math.Abs(x) < 1:
		return strconv.FormatFloat(x, 'f', 4, 64) // shares near one differ in the last places
	}
	return strconv.FormatFloat(x, 'g', 3, 64)
}
