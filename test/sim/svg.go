package main

import (
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// write stores a picture under a name that suits a file.
func write(dir, name, svg string) error {
	return os.WriteFile(filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".svg"), []byte(svg), 0o644)
}

// picture gathers the elements of an SVG.
type picture struct {
	strings.Builder
	width, height float64
}

// Colours of text and lines that carry no data.
const (
	ink   = "#222222"
	faint = "#555555"
	grid1 = "#e3e3e3" // between decades
	grid2 = "#c4c4c4" // at decades
)

func newPicture(width, height float64) *picture {
	p := &picture{width: width, height: height}
	fmt.Fprintf(p, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" font-family="Helvetica, Arial, sans-serif" font-size="12">`+"\n", width, height, width, height)
	fmt.Fprintf(p, `<rect width="%.0f" height="%.0f" fill="white"/>`+"\n", width, height)
	return p
}

// head writes the title and, below it, lines of small print. It returns where they end.
func (p *picture) head(title string, small ...string) float64 {
	fmt.Fprintf(p, `<text x="16" y="26" font-size="16" font-weight="bold" fill="%s">%s</text>`+"\n", ink, html.EscapeString(title))
	y := 26.0
	for _, s := range small {
		for _, line := range wrap(s, int((p.width-32)/6.6)) {
			y += 17
			fmt.Fprintf(p, `<text x="16" y="%.1f" fill="%s">%s</text>`+"\n", y, faint, html.EscapeString(line))
		}
	}
	return y
}

// wrap breaks text into lines of at most so many characters.
func wrap(text string, most int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > most {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

func (p *picture) text(x, y float64, anchor, fill, text string) {
	fmt.Fprintf(p, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s">%s</text>`+"\n", x, y, anchor, fill, html.EscapeString(text))
}

// over writes on top of lines, with a halo that keeps it readable.
func (p *picture) over(x, y, size float64, anchor, fill, text string) {
	text = html.EscapeString(text)
	for _, style := range []string{`fill="white" stroke="white" stroke-width="3" stroke-linejoin="round"`, `fill="` + fill + `"`} {
		fmt.Fprintf(p, `<text x="%.1f" y="%.1f" font-size="%.0f" text-anchor="%s" %s>%s</text>`+"\n", x, y, size, anchor, style, text)
	}
}

// upright writes along the vertical axis.
func (p *picture) upright(x, y float64, text string) {
	fmt.Fprintf(p, `<text x="%.1f" y="%.1f" text-anchor="middle" fill="%s" font-size="13" transform="rotate(-90 %.1f %.1f)">%s</text>`+"\n", x, y, ink, x, y, html.EscapeString(text))
}

func (p *picture) line(x1, y1, x2, y2 float64, s stroke) {
	dash := ""
	if s.dash != "" {
		dash = ` stroke-dasharray="` + s.dash + `"`
	}
	fmt.Fprintf(p, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%.1f"%s/>`+"\n", x1, y1, x2, y2, s.color, max(1, s.width), dash)
}

// stroke is how a line looks.
type stroke struct {
	color string
	width float64
	dash  string
}

// look is how a product is drawn, so that it can be told from the others without its
// colour too. Colours are of Okabe and Ito's palette, which the colour-blind can tell
// apart, and shades of grey.
type look struct {
	stroke
	shape  string // circle, square, up, down, diamond, cross
	hollow bool
}

// lookOf knows a product by its name: the balancing is told by the line.
func lookOf(product string, model bool) look {
	l := look{stroke: stroke{color: "#000000", width: 1.4}, shape: "circle"}
	switch {
	case !model && product == judged:
		return look{stroke: stroke{color: "#D55E00", width: 3.2}, shape: "circle"}
	case !model:
		return look{stroke: stroke{color: "#D55E00", width: 2, dash: "7 4"}, shape: "circle", hollow: true}
	}
	for _, f := range []struct{ prefix, color, shape string }{
		{"none", "#000000", "cross"},
		{"envoy-eager", "#56B4E9", "square"}, {"envoy failure", "#56B4E9", "square"}, {"envoy success", "#7a4fb5", "square"}, {"envoy", "#0072B2", "square"},
		{"linkerd-unified", "#00694d", "down"}, {"linkerd unified", "#00694d", "down"}, {"linkerd", "#009E73", "up"},
		{"haproxy", "#CC79A7", "diamond"}, {"nginx", "#8a5a00", "diamond"}, {"grpc", "#E69F00", "up"},
		{"active-1s", "#404040", "circle"}, {"active-2s", "#7d7d7d", "circle"}, {"active", "#a8a8a8", "circle"},
	} {
		if strings.HasPrefix(product, f.prefix) {
			l.color, l.shape = f.color, f.shape
			break
		}
	}
	if strings.HasSuffix(product, " p2c") {
		l.dash, l.hollow = "5 3", true
	}
	return l
}

// mark draws a point.
func (p *picture) mark(x, y float64, l look) {
	const r = 4.2
	fill := l.color
	if l.hollow {
		fill = "white"
	}
	style := fmt.Sprintf(`fill="%s" stroke="%s" stroke-width="1.5"`, fill, l.color)
	switch l.shape {
	case "square":
		fmt.Fprintf(p, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" %s/>`+"\n", x-r+.6, y-r+.6, 2*r-1.2, 2*r-1.2, style)
	case "up":
		fmt.Fprintf(p, `<polygon points="%.1f,%.1f %.1f,%.1f %.1f,%.1f" %s/>`+"\n", x, y-r, x+r, y+r-1, x-r, y+r-1, style)
	case "down":
		fmt.Fprintf(p, `<polygon points="%.1f,%.1f %.1f,%.1f %.1f,%.1f" %s/>`+"\n", x, y+r, x+r, y-r+1, x-r, y-r+1, style)
	case "diamond":
		fmt.Fprintf(p, `<polygon points="%.1f,%.1f %.1f,%.1f %.1f,%.1f %.1f,%.1f" %s/>`+"\n", x, y-r-.8, x+r+.8, y, x, y+r+.8, x-r-.8, y, style)
	case "cross":
		p.line(x-r+1, y-r+1, x+r-1, y+r-1, stroke{color: l.color, width: 1.6})
		p.line(x-r+1, y+r-1, x+r-1, y-r+1, stroke{color: l.color, width: 1.6})
	default:
		fmt.Fprintf(p, `<circle cx="%.1f" cy="%.1f" r="%.1f" %s/>`+"\n", x, y, r-.4, style)
	}
}

func (p *picture) done() string { return p.String() + "</svg>\n" }

// axis is a logarithmic scale between two powers of ten, drawn over pixels from to to.
type axis struct {
	low, high float64 // values at its ends
	from, to  float64
	floor     string // what the low end is called, where it stands for more than itself
	beyond    string // what is called what lies at infinity, drawn beyond the high end
}

// newAxis spans values; those at infinity are left out.
func newAxis(values []float64, least float64) axis {
	a := axis{low: math.Inf(1)}
	for _, v := range values {
		if v = max(v, least); !math.IsInf(v, 0) {
			a.low, a.high = min(a.low, v), max(a.high, v)
		}
	}
	if math.IsInf(a.low, 0) {
		a.low, a.high = least, least
	}
	a.low = math.Pow(10, math.Floor(math.Log10(a.low)+1e-9))
	a.high = math.Pow(10, math.Ceil(math.Log10(a.high)-1e-9))
	if a.high <= a.low {
		a.high = 10 * a.low
	}
	return a
}

// at is where a value lies.
func (a axis) at(v float64) float64 {
	room := a.to - a.from
	if a.beyond != "" {
		room *= 0.9 // the rest is for what never happened
	}
	switch {
	case math.IsInf(v, 0):
		return a.to
	case v <= a.low:
		return a.from
	}
	return a.from + room*math.Log(v/a.low)/math.Log(a.high/a.low)
}

// ticks calls each with the marks of the scale: powers of ten are major. Where there
// are few of those, 2 and 5 are named as well.
func (a axis) ticks(each func(at float64, name string, major bool)) {
	decades := math.Round(math.Log10(a.high / a.low))
	for d := range int(decades) + 1 {
		v := a.low * math.Pow(10, float64(d))
		name := plain(v)
		if d == 0 && a.floor != "" {
			name = a.floor
		}
		each(a.at(v), name, true)
		if d == int(decades) {
			break
		}
		for m := 2.0; m < 10; m++ {
			name := ""
			if decades <= 2 && (m == 2 || m == 5) {
				name = plain(m * v)
			}
			each(a.at(m*v), name, false)
		}
	}
	if a.beyond != "" {
		each(a.to, a.beyond, true)
	}
}

// plain writes a tick: 0.01, 1, 1 000, 10⁵.
func plain(v float64) string {
	switch {
	case v >= 1e5 || v < 1e-3:
		e := math.Round(math.Log10(v))
		if math.Abs(v/math.Pow(10, e)-1) < 1e-6 {
			digits := []rune("⁰¹²³⁴⁵⁶⁷⁸⁹")
			var b strings.Builder
			b.WriteString("10")
			if e < 0 {
				b.WriteString("⁻")
			}
			for _, d := range fmt.Sprint(int(math.Abs(e))) {
				b.WriteRune(digits[d-'0'])
			}
			return b.String()
		}
		return fmt.Sprintf("%.0e", v)
	case v >= 1000:
		return fmt.Sprintf("%d %03d", int(v)/1000, int(v)%1000)
	}
	return fmt.Sprintf("%g", math.Round(v*1e6)/1e6)
}

// point is one of a curve.
type point struct {
	x, y  float64
	label string
	bound bool // y is an upper bound: nothing was seen
}

// curve is what one product makes of a setting that changes.
type curve struct {
	product string
	model   bool
	points  []point
}

func (c *curve) name() string { return called(c.product, c.model) }

// called is a product's name in pictures and tables.
func called(product string, model bool) string {
	if model {
		return product + " (model)"
	}
	return product
}

// chart is curves on two logarithmic axes.
type chart struct {
	title        string
	small        []string
	xName, yName string
	x, y         axis
	curves       []*curve
}

func (c *chart) svg() string {
	const left, plotWidth, plotHeight, legend = 84.0, 640.0, 440.0, 285.0
	p := newPicture(left+plotWidth+legend, 0)
	head := newPicture(p.width, 0).head(c.title, c.small...)
	top := head + 22
	p = newPicture(left+plotWidth+legend, top+max(plotHeight, 21*float64(len(c.curves)))+64)
	p.head(c.title, c.small...)
	bottom := top + plotHeight
	c.x.from, c.x.to = left, left+plotWidth
	c.y.from, c.y.to = bottom, top
	c.x.ticks(func(at float64, name string, major bool) {
		p.line(at, top, at, bottom, stroke{color: shade(major)})
		p.text(at, bottom+18, "middle", ink, name)
	})
	c.y.ticks(func(at float64, name string, major bool) {
		p.line(left, at, left+plotWidth, at, stroke{color: shade(major)})
		p.text(left-8, at+4, "end", ink, name)
	})
	fmt.Fprintf(p, `<text x="%.1f" y="%.1f" text-anchor="middle" fill="%s" font-size="13">%s</text>`+"\n", left+plotWidth/2, bottom+42, ink, html.EscapeString(c.xName))
	p.upright(22, top+plotHeight/2, c.yName)
	for i := len(c.curves) - 1; i >= 0; i-- { // the first is ours, and drawn above all
		k := c.curves[i]
		l := lookOf(k.product, k.model)
		for j, q := range k.points {
			if j == 0 {
				continue
			}
			b := k.points[j-1]
			p.line(c.x.at(b.x), c.y.at(b.y), c.x.at(q.x), c.y.at(q.y), l.stroke)
		}
		for _, q := range k.points {
			x, y := c.x.at(q.x), c.y.at(q.y)
			if q.bound {
				p.line(x, y, x, y+15, stroke{color: l.color, width: 1.4})
				p.line(x-3, y+11, x, y+15, stroke{color: l.color, width: 1.4})
				p.line(x+3, y+11, x, y+15, stroke{color: l.color, width: 1.4})
			}
			p.mark(x, y, l)
			switch {
			case q.label == "":
			case q.bound && math.IsInf(q.x, 0): // many lie on each other there
			case q.bound:
				p.over(x, y+27, 10, "middle", l.color, q.label)
			case math.IsInf(q.x, 0):
				p.over(x-7, y-5, 10, "end", l.color, q.label)
			default:
				p.over(x+7, y-5, 10, "start", l.color, q.label)
			}
		}
	}
	for i, k := range c.curves {
		l := lookOf(k.product, k.model)
		x, y := left+plotWidth+22, top+21*float64(i)+8
		p.line(x, y, x+30, y, l.stroke)
		p.mark(x+15, y, l)
		p.text(x+38, y+4, "start", ink, k.name())
	}
	return p.done()
}

func shade(major bool) string {
	if major {
		return grid2
	}
	return grid1
}
