package main

import (
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"math"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
	"golang.org/x/image/vector"
)

// density is how many dots a pixel of the pictures' measures has in a PNG: small text is to
// be read on a screen of today, and in print.
const density = 2

// canvas is a PNG in the making.
type canvas struct {
	image *image.RGBA
	faces map[style]font.Face
}

type style struct {
	size float64
	bold bool
}

// png writes the picture as dots.
func (d *drawing) png(w io.Writer) error {
	c, err := newCanvas(chartWidth, int(math.Ceil(d.y)))
	if err != nil {
		return err
	}
	for _, s := range d.shapes {
		s.paint(c)
	}
	return png.Encode(w, c.image)
}

func newCanvas(width, height int) (*canvas, error) {
	c := &canvas{image.NewRGBA(image.Rect(0, 0, density*width, density*height)), map[style]font.Face{}}
	draw.Draw(c.image, c.image.Bounds(), image.White, image.Point{}, draw.Src)
	for s, data := range map[style][]byte{{textSize, false}: goregular.TTF, {titleSize, true}: gobold.TTF} {
		letters, err := opentype.Parse(data)
		if err != nil {
			return nil, err
		}
		if c.faces[s], err = opentype.NewFace(letters, &opentype.FaceOptions{Size: density * s.size, DPI: 72, Hinting: font.HintingFull}); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (a area) paint(c *canvas) { c.fill(a.corners(), a.ink) }

func (b box) corners() []point {
	return []point{{b.x, b.y}, {b.x + b.width, b.y}, {b.x + b.width, b.y + b.height}, {b.x, b.y + b.height}}
}

func (d disc) corners() (all []point) {
	const corners = 32 // looks round
	for i := range corners {
		sin, cos := math.Sincos(2 * math.Pi * float64(i) / corners)
		all = append(all, point{d.at.x + d.radius*cos, d.at.y + d.radius*sin})
	}
	return all
}

func (l line) corners() []point {
	dx, dy := l.to.x-l.from.x, l.to.y-l.from.y
	length := math.Hypot(dx, dy)
	if length == 0 {
		return nil
	}
	// Half of its width to either side.
	sx, sy := -dy/length*l.width/2, dx/length*l.width/2
	return []point{{l.from.x + sx, l.from.y + sy}, {l.to.x + sx, l.to.y + sy}, {l.to.x - sx, l.to.y - sy}, {l.from.x - sx, l.from.y - sy}}
}

// fill paints what lies within the corners.
func (c *canvas) fill(corners []point, ink color.NRGBA) {
	if len(corners) == 0 {
		return
	}
	low, high := corners[0], corners[0]
	for _, p := range corners {
		low, high = point{min(low.x, p.x), min(low.y, p.y)}, point{max(high.x, p.x), max(high.y, p.y)}
	}
	// Only as much as the shape covers is looked at: a picture has thousands of bars.
	around := image.Rect(int(math.Floor(density*low.x)), int(math.Floor(density*low.y)), int(math.Ceil(density*high.x)), int(math.Ceil(density*high.y)))
	if around = around.Intersect(c.image.Bounds()); around.Empty() {
		return
	}
	r := vector.NewRasterizer(around.Dx(), around.Dy())
	for i, p := range corners {
		x, y := float32(density*p.x)-float32(around.Min.X), float32(density*p.y)-float32(around.Min.Y)
		if i == 0 {
			r.MoveTo(x, y)
		} else {
			r.LineTo(x, y)
		}
	}
	r.ClosePath()
	r.Draw(c.image, around, image.NewUniform(ink), image.Point{})
}

func (l label) paint(c *canvas) {
	d := font.Drawer{Dst: c.image, Src: image.NewUniform(l.ink), Face: c.faces[style{l.size, l.bold}]}
	x := fixed.Int26_6(64 * density * l.at.x)
	switch l.anchor {
	case "middle":
		x -= d.MeasureString(l.text) / 2
	case "end":
		x -= d.MeasureString(l.text)
	}
	d.Dot = fixed.Point26_6{X: x, Y: fixed.Int26_6(64 * density * l.at.y)}
	d.DrawString(l.text)
}
