package main

import (
	"bufio"
	"fmt"
	"html"
	"image/color"
	"io"
)

// The pictures' measures, in pixels.
const (
	chartLabel = 190
	chartScale = 460
	chartWidth = chartLabel + chartScale + 90
	barHeight  = 13
	textSize   = 11
	titleSize  = 14
)

var (
	black = color.NRGBA{A: 255}
	white = color.NRGBA{255, 255, 255, 255}
	grey  = color.NRGBA{0x57, 0x60, 0x6a, 255}
	faint = color.NRGBA{0xc4, 0xc4, 0xc4, 255}
	red   = color.NRGBA{0xcf, 0x22, 0x2e, 255}
)

// drawing gathers the shapes of a picture from the top down.
type drawing struct {
	y      float64 // how far down it goes by now
	shapes []shape
}

// shape is drawn in two ways that look alike.
type shape interface {
	svg(w io.Writer)
	paint(c *canvas)
}

type point struct{ x, y float64 }

type (
	box  struct{ x, y, width, height float64 }
	disc struct {
		at     point
		radius float64
	}
	line struct {
		from, to point
		width    float64
	}
	// area is a shape that a colour fills.
	area struct {
		outline
		ink color.NRGBA
	}
	label struct {
		at     point
		anchor string // start, middle or end, as in SVG
		text   string
		size   float64
		bold   bool
		ink    color.NRGBA
	}
)

// outline is the form of an area.
type outline interface {
	element(ink string) string
	corners() []point
}

func (d *drawing) box(x, y, width, height float64, ink color.NRGBA) {
	d.shapes = append(d.shapes, area{box{x, y, width, height}, ink})
}

func (d *drawing) disc(x, y, radius float64, ink color.NRGBA) {
	d.shapes = append(d.shapes, area{disc{point{x, y}, radius}, ink})
}

func (d *drawing) line(x1, y1, x2, y2, width float64, ink color.NRGBA) {
	d.shapes = append(d.shapes, area{line{point{x1, y1}, point{x2, y2}, width}, ink})
}

func (d *drawing) text(x, y float64, anchor, text string) {
	d.shapes = append(d.shapes, label{at: point{x, y}, anchor: anchor, text: text, size: textSize, ink: black})
}

// done ends a picture with its title, and what it was made of.
func (d *drawing) done(title, small string) *drawing {
	d.shapes = append(d.shapes,
		label{at: point{10, 18}, anchor: "start", text: title, size: titleSize, bold: true, ink: black},
		label{at: point{10, 34}, anchor: "start", text: small, size: textSize, ink: grey})
	d.y += 14
	return d
}

// svg writes the picture as lines and letters.
func (d *drawing) svg(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%.0f" font-family="sans-serif">`+"\n", chartWidth, d.y)
	area{box{0, 0, chartWidth, d.y}, white}.svg(b)
	for _, s := range d.shapes {
		s.svg(b)
	}
	fmt.Fprintln(b, "</svg>")
	return b.Flush()
}

func (a area) svg(w io.Writer) {
	ink := fmt.Sprintf("#%02x%02x%02x", a.ink.R, a.ink.G, a.ink.B)
	if a.ink.A < 255 {
		ink += fmt.Sprintf("%02x", a.ink.A)
	}
	fmt.Fprintln(w, a.element(ink))
}

func (b box) element(ink string) string {
	return fmt.Sprintf(`<rect x="%.1f" y="%.1f" width="%.2f" height="%.1f" fill="%s"/>`, b.x, b.y, b.width, b.height, ink)
}

func (d disc) element(ink string) string {
	return fmt.Sprintf(`<circle cx="%.1f" cy="%.1f" r="%.1f" fill="%s"/>`, d.at.x, d.at.y, d.radius, ink)
}

func (l line) element(ink string) string {
	return fmt.Sprintf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%.1f"/>`, l.from.x, l.from.y, l.to.x, l.to.y, ink, l.width)
}

func (l label) svg(w io.Writer) {
	weight := ""
	if l.bold {
		weight = ` font-weight="bold"`
	}
	fmt.Fprintf(w, `<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%.0f"%s fill="#%02x%02x%02x">%s</text>`+"\n",
		l.at.x, l.at.y, l.anchor, l.size, weight, l.ink.R, l.ink.G, l.ink.B, html.EscapeString(l.text))
}
