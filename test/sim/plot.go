package main

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/overhear-mesh/overhear/test/sim/world"
)

// modelled is the small print of every picture with other products in it.
const modelled = "Products marked (model) are models of their documented rules, not the products; all share users, network, endpoints and retry rules. rr: round robin, p2c: power of two choices."

// plots writes a picture for each scenario, and one over the number of sidecars for
// each scenario that varies it.
func plots(dir string, runs []Run, seeds string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	scaled := map[string][]Run{}
	for i := 0; i < len(runs); {
		j := i
		for j < len(runs) && runs[j].Scenario == runs[i].Scenario {
			j++
		}
		if name, _, ok := strings.Cut(runs[i].Scenario, " callers "); ok {
			scaled[name] = append(scaled[name], runs[i:j]...)
		}
		if err := write(dir, runs[i].Scenario, dots(runs[i:j], seeds)); err != nil {
			return err
		}
		i = j
	}
	for name, some := range scaled {
		if err := write(dir, name+" over sidecars", overSidecars(name, some, seeds)); err != nil {
			return err
		}
	}
	return nil
}

// setting says in a line what a scenario runs with.
func setting(s *world.Scenario, callers bool) string {
	var b strings.Builder
	if callers {
		fmt.Fprintf(&b, "%d sidecars, ", s.Callers)
	}
	fmt.Fprintf(&b, "%d endpoints in %d zones, %g attempts/s into each from all callers together, base error rate %g %%", s.Endpoints, s.Zones, s.Rate, 100*s.Base)
	if s.Inbound {
		b.WriteString(", behind inbound sidecars")
	}
	return b.String()
}

// harmFloor is below which harm is drawn as none.
const harmFloor = 0.1

// column is one half of a picture of dots.
type column struct {
	name  string
	of    func(r Run) (Stats, bool)
	least float64
	never bool // a missing figure means that it never happened
}

func figure(name string) func(r Run) (Stats, bool) {
	return func(r Run) (Stats, bool) { s, ok := r.Figures[name]; return s, ok }
}

// lost is the share of requests that failed, in percent.
func lost(r Run) (Stats, bool) {
	s, ok := r.Figures["goodput"]
	part := func(x Number) Number { return 100 * (1 - x) }
	// The worst twentieth of the runs is that with the least goodput, which is not told.
	return Stats{N: s.N, P50: part(s.P50), P95: part(s.P50)}, ok
}

// columnsOf are what there is to compare: harm and time where something is bad that can
// be left alone, else what users lost and how often what is well went.
func columnsOf(runs []Run) []column {
	for _, r := range runs {
		if r.Figures["harm"].Max > 0 || r.Figures["found"].N > 0 {
			return []column{
				{"failed attempts on what is bad, beyond the base rate", figure("harm"), harmFloor, false},
				{"s from the first failed attempt until all callers are off", figure("off"), 0.001, true},
			}
		}
	}
	return []column{
		{"requests that failed, in percent (median only)", lost, 0.01, false},
		{"times that a caller took out an endpoint that is well", figure("false-outs"), harmFloor, false},
	}
}

// dots are two figures of each product, on logarithmic scales: the dot is the median
// over the seeds, the whisker reaches to p95.
func dots(runs []Run, seeds string) string {
	const left, width, gap, row = 226.0, 340.0, 96.0, 21.0
	s := &runs[0].setting
	small := []string{runs[0].About + ". " + setting(s, true) + ".", "Dots: median over seeds " + seeds + "; whiskers: p95. " + modelled}
	total := left + 2*width + gap + 70
	head := newPicture(total, 0).head(runs[0].Scenario, small...)
	top := head + 40
	p := newPicture(total, top+row*float64(len(runs))+56)
	p.head(runs[0].Scenario, small...)
	columns := columnsOf(runs)
	bottom := top + row*float64(len(runs))
	for n, c := range columns {
		from := left + float64(n)*(width+gap)
		var values []float64
		for _, r := range runs {
			if f, ok := c.of(r); ok {
				values = append(values, float64(f.P50), float64(f.P95))
			}
		}
		a := newAxis(values, c.least)
		a.from, a.to = from, from+width
		if a.low <= c.least {
			a.floor = "0"
		}
		a.ticks(func(at float64, name string, major bool) {
			p.line(at, top-6, at, bottom, stroke{color: shade(major)})
			p.text(at, bottom+18, "middle", ink, name)
		})
		p.text(from+width/2, bottom+40, "middle", ink, c.name)
		for i, r := range runs {
			y := top + row*float64(i)
			l := lookOf(r.Product, r.Model)
			f, ok := c.of(r)
			if !ok {
				if c.never {
					p.text(from+5, y+row/2+3, "start", faint, "never")
				}
				continue
			}
			mid, high := float64(f.P50), float64(f.P95)
			if math.IsInf(mid, 0) {
				p.text(from+5, y+row/2+3, "start", faint, "never, in half of the runs or more")
				continue
			}
			to := a.at(mid)
			end := to
			p.line(from, y+row/2-1.5, to, y+row/2-1.5, stroke{color: l.color, width: 1, dash: "1 3"})
			if high > mid && !math.IsInf(high, 0) {
				end = a.at(high)
				p.line(to, y+row/2-1.5, end, y+row/2-1.5, stroke{color: l.color, width: 1.6})
				p.line(end, y+4, end, y+row-7, stroke{color: l.color, width: 1.6})
			}
			p.mark(to, y+row/2-1.5, l)
			text := format(mid)
			if math.IsInf(high, 0) {
				text += " (some never)"
			}
			p.over(end+8, y+row/2+3, 12, "start", ink, text)
		}
	}
	for i, r := range runs {
		p.text(left-10, top+row*float64(i)+row/2+3, "end", ink, called(r.Product, r.Model))
	}
	return p.done()
}

// overSidecars is the harm of each product over the number of sidecars.
func overSidecars(name string, runs []Run, seeds string) string {
	curves := map[string]*curve{}
	var xs, ys []float64
	for _, r := range runs {
		_, after, _ := strings.Cut(r.Scenario, " callers ")
		x, err := strconv.ParseFloat(strings.Fields(after)[0], 64)
		if err != nil {
			continue
		}
		c := curves[r.Product]
		if c == nil {
			c = &curve{product: r.Product, model: r.Model}
			curves[r.Product] = c
		}
		y := float64(r.Figures["harm"].P50)
		c.points = append(c.points, point{x: x, y: y})
		slices.SortFunc(c.points, func(a, b point) int { return cmp.Compare(a.x, b.x) })
		xs, ys = append(xs, x), append(ys, y)
	}
	c := chart{
		title:  name + ": harm over the number of sidecars",
		small:  []string{runs[0].About + ". " + setting(&runs[0].setting, false) + ", however many callers share it. Median over seeds " + seeds + ".", modelled},
		xName:  "sidecars (callers) that share the same load",
		yName:  "failed attempts on what is bad, beyond the base rate",
		curves: sortedCurves(curves), x: newAxis(xs, 1), y: newAxis(ys, harmFloor),
	}
	if c.y.low <= harmFloor {
		c.y.floor = "0"
	}
	return c.svg()
}

// sortedCurves puts ours first, then the models by name.
func sortedCurves(curves map[string]*curve) []*curve {
	var all []*curve
	for _, c := range curves {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *curve) int {
		return cmp.Or(cmp.Compare(modelLast(a), modelLast(b)), cmp.Compare(a.product, b.product))
	})
	return all
}

func modelLast(c *curve) int {
	if c.model {
		return 1
	}
	return 0
}
