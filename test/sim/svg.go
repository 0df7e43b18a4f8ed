package main

import (
	"cmp"
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// plots writes a picture for each scenario, and one over the number of sidecars for
// each scenario that varies it.
func plots(dir string, runs []Run) error {
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
		if err := write(dir, runs[i].Scenario, bars(runs[i:j])); err != nil {
			return err
		}
		i = j
	}
	for name, some := range scaled {
		if err := write(dir, name+" over sidecars", lines(name, some)); err != nil {
			return err
		}
	}
	return nil
}

func write(dir, name, svg string) error {
	return os.WriteFile(filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".svg"), []byte(svg), 0o644)
}

// picture gathers the elements of an SVG.
type picture struct {
	strings.Builder
	width, height float64
}

func newPicture(width, height float64, title string) *picture {
	p := &picture{width: width, height: height}
	fmt.Fprintf(p, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(p, `<rect width="%.0f" height="%.0f" fill="white"/>`+"\n", width, height)
	p.text(10, 20, "start", title)
	return p
}

func (p *picture) text(x, y float64, anchor, text string) {
	fmt.Fprintf(p, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, html.EscapeString(text))
}

func (p *picture) rect(x, y, w, h float64, color string) {
	fmt.Fprintf(p, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x, y, w, h, color)
}

func (p *picture) line(x1, y1, x2, y2 float64, color string) {
	fmt.Fprintf(p, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x1, y1, x2, y2, color)
}

func (p *picture) dot(x, y float64, color string) {
	fmt.Fprintf(p, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x, y, color)
}

func (p *picture) done() string { return p.String() + "</svg>\n" }

// ours stands out; the models are told apart by their legend.
const ours, theirs = "#c0392b", "#7f8c8d"

var palette = []string{"#2980b9", "#27ae60", "#8e44ad", "#f39c12", "#16a085", "#2c3e50", "#d35400", "#7f8c8d", "#1abc9c", "#9b59b6", "#34495e"}

func color(model bool, n int) string {
	if !model {
		return ours
	}
	return palette[n%len(palette)]
}

// bars are the harm and the time of each product, on logarithmic scales.
func bars(runs []Run) string {
	const left, barWidth, row = 230.0, 260.0, 18.0
	p := newPicture(2*barWidth+left+150, 70+row*float64(len(runs)), runs[0].Scenario+": "+runs[0].About)
	p.text(left, 45, "start", "harm: failed attempts on what is bad (median)")
	p.text(left+barWidth+60, 45, "start", "s until every caller was off (median)")
	harm := func(r Run) float64 { return float64(r.Figures["harm"].P50) }
	off := func(r Run) float64 {
		s, ok := r.Figures["off"]
		if !ok {
			return math.Inf(1)
		}
		return float64(s.P50)
	}
	mostHarm, mostOff := 1.0, 1.0
	for _, r := range runs {
		mostHarm = max(mostHarm, harm(r))
		if o := off(r); !math.IsInf(o, 0) {
			mostOff = max(mostOff, o)
		}
	}
	for i, r := range runs {
		y := 60 + row*float64(i)
		name, fill := r.Product+" (model)", theirs
		if !r.Model {
			name, fill = r.Product, ours
		}
		p.text(left-8, y+12, "end", name)
		w := barWidth * logPart(harm(r), 0.5, mostHarm)
		p.rect(left, y, w, row-4, fill)
		p.text(left+w+4, y+12, "start", format(harm(r)))
		x := left + barWidth + 60
		w = barWidth * logPart(min(off(r), mostOff), 0.01, mostOff)
		if math.IsInf(off(r), 0) {
			p.text(x+4, y+12, "start", "never")
			continue
		}
		p.rect(x, y, w, row-4, fill)
		p.text(x+w+4, y+12, "start", format(off(r)))
	}
	return p.done()
}

// logPart is where a value lies between two others on a logarithmic scale, 0 to 1.
func logPart(x, low, high float64) float64 {
	if x <= low || high <= low {
		return 0.01
	}
	return min(1, math.Log(x/low)/math.Log(high/low))
}

// point is one of a curve.
type point struct {
	x, y  float64
	label string
}

// curve is what one product makes of a setting that changes.
type curve struct {
	product string
	model   bool
	points  []point
}

// lines are the harm of each product over the number of sidecars.
func lines(name string, runs []Run) string {
	curves := map[string]*curve{}
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
		c.points = append(c.points, point{x: x, y: max(0.5, float64(r.Figures["harm"].P50))})
	}
	return chart(name+": harm (failed attempts, median) over the number of sidecars", "sidecars", "harm", sortedCurves(curves))
}

func sortedCurves(curves map[string]*curve) []*curve {
	var all []*curve
	for _, c := range curves {
		slices.SortFunc(c.points, func(a, b point) int { return cmp.Or(cmp.Compare(a.x, b.x), cmp.Compare(a.y, b.y)) })
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

// chart draws curves on two logarithmic axes.
func chart(title, xName, yName string, curves []*curve) string {
	const left, top, width, height = 70.0, 40.0, 560.0, 380.0
	p := newPicture(left+width+240, top+height+60, title)
	lowX, highX, lowY, highY := math.Inf(1), 0.0, math.Inf(1), 0.0
	for _, c := range curves {
		for _, q := range c.points {
			lowX, highX = min(lowX, q.x), max(highX, q.x)
			lowY, highY = min(lowY, q.y), max(highY, q.y)
		}
	}
	lowX, highX = decade(lowX, highX)
	lowY, highY = decade(lowY, highY)
	at := func(q point) (x, y float64) {
		return left + width*logPart(q.x, lowX, highX), top + height*(1-logPart(q.y, lowY, highY))
	}
	for x := lowX; x <= highX*1.001; x *= 10 {
		px, _ := at(point{x: x, y: lowY})
		p.line(px, top, px, top+height, "#ddd")
		p.text(px, top+height+16, "middle", format(x))
	}
	for y := lowY; y <= highY*1.001; y *= 10 {
		_, py := at(point{x: lowX, y: y})
		p.line(left, py, left+width, py, "#ddd")
		p.text(left-6, py+4, "end", format(y))
	}
	p.text(left+width/2, top+height+36, "middle", xName)
	p.text(10, top-6, "start", yName)
	for n, c := range curves {
		fill := color(c.model, n)
		for i, q := range c.points {
			x, y := at(q)
			if i > 0 {
				px, py := at(c.points[i-1])
				p.line(px, py, x, y, fill)
			}
			p.dot(x, y, fill)
			if q.label != "" {
				p.text(x+5, y-4, "start", q.label)
			}
		}
		name := c.product
		if c.model {
			name += " (model)"
		}
		y := top + 16*float64(n)
		p.rect(left+width+20, y, 12, 12, fill)
		p.text(left+width+38, y+11, "start", name)
	}
	return p.done()
}

// decade widens a range to powers of ten.
func decade(low, high float64) (from, to float64) {
	if !(low > 0) || math.IsInf(low, 0) {
		low, high = 1, 10
	}
	from = math.Pow(10, math.Floor(math.Log10(low)))
	to = math.Pow(10, math.Ceil(math.Log10(high)))
	if to <= from {
		to = 10 * from
	}
	return from, to
}
