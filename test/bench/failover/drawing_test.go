package main

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"testing"
)

// painted is a picture as a PNG has it.
func painted(t *testing.T, d *drawing) image.Image {
	t.Helper()
	var b bytes.Buffer
	if err := d.png(&b); err != nil {
		t.Fatal(err)
	}
	got, err := png.Decode(&b)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// inked counts the dots within a rectangle, given in pixels, that are not white.
func inked(m image.Image, x, y, width, height int) (n int) {
	for i := density * x; i < density*(x+width); i++ {
		for j := density * y; j < density*(y+height); j++ {
			if color.NRGBAModel.Convert(m.At(i, j)) != white {
				n++
			}
		}
	}
	return n
}

func TestThePicturesAreDrawnAsPNG(t *testing.T) {
	for name, d := range told(1).pictures() {
		got := painted(t, d)
		if w, h := got.Bounds().Dx(), got.Bounds().Dy(); w != density*chartWidth || h < density*int(d.y) {
			t.Errorf("%s has %d x %d dots, want %d x %.0f", name, w, h, density*chartWidth, density*d.y)
		}
		if inked(got, 0, 0, chartWidth, 40) < 1000 {
			t.Errorf("%s has no title", name)
		}
		products := map[color.NRGBA]bool{colour("overhear"): false, colour("envoy"): false, colour(none): false}
		for x := range got.Bounds().Dx() {
			for y := range got.Bounds().Dy() {
				ink := color.NRGBAModel.Convert(got.At(x, y)).(color.NRGBA)
				if _, ok := products[ink]; ok {
					products[ink] = true
				}
			}
		}
		for ink, seen := range products {
			if !seen {
				t.Errorf("%s shows nothing of the product of colour %v", name, ink)
			}
		}
	}
}

func TestAShapeIsPaintedWhereItIs(t *testing.T) {
	for _, c := range []struct {
		name                string
		draw                func(*drawing)
		x, y, width, height int // of what is inked
		least               int // dots
	}{
		{"a box", func(d *drawing) { d.box(100, 50, 20, 10, red) }, 100, 50, 20, 10, density * density * 20 * 10},
		{"a disc", func(d *drawing) { d.disc(100, 50, 5, red) }, 95, 45, 10, 10, density * density * 70},
		{"a line across", func(d *drawing) { d.line(100, 50, 140, 90, 2, red) }, 99, 49, 42, 42, density * density * 80},
		{"a line down", func(d *drawing) { d.line(100, 50, 100, 90, 1, red) }, 99, 50, 2, 40, density * 40},
		{"a line of no length", func(d *drawing) { d.line(100, 50, 100, 50, 1, red) }, 0, 0, 0, 0, 0},
		{"a box beyond the edge", func(d *drawing) { d.box(-20, 50, 30, 10, red) }, 0, 50, 10, 10, density * density * 100},
		{"a box that is out of sight", func(d *drawing) { d.box(-50, 50, 30, 10, red) }, 0, 0, 0, 0, 0},
		{"text that begins", func(d *drawing) { d.text(100, 50, "start", "overhear") }, 99, 38, 60, 16, 200},
		{"text that ends", func(d *drawing) { d.text(100, 50, "end", "overhear") }, 41, 38, 60, 16, 200},
		{"text on both sides", func(d *drawing) { d.text(100, 50, "middle", "overhear") }, 70, 38, 60, 16, 200},
	} {
		d := &drawing{y: 100}
		c.draw(d)
		got := painted(t, d)
		within, all := inked(got, c.x, c.y, c.width, c.height), inked(got, 0, 0, chartWidth, 100)
		if within < c.least || within != all {
			t.Errorf("%s: %d dots where it is to be and %d in all, want at least %d and no others", c.name, within, all, c.least)
		}
	}
}

func TestLabelsOfOneColumnDoNotCoverEachOther(t *testing.T) {
	column := apart([]caption{{y: 100, text: "a"}, {y: 300, text: "b"}, {y: 101, text: "c"}, {y: 100, text: "d"}})
	for i, want := range []caption{{y: 300, text: "b"}, {y: 101, text: "c"}, {y: 87, text: "a"}, {y: 73, text: "d"}} {
		if column[i] != want {
			t.Errorf("label %d is %+v, want %+v", i, column[i], want)
		}
	}
}
