package main

import (
	"fmt"
	"html"
	"io"
	"strings"
)

// The chart's measures, in pixels.
const (
	chartLabel = 290 // room for what was measured
	chartScale = 300 // the length of 1, the base
	chartMost  = 1.6 // longer bars are cut
	barHeight  = 11
	barGap     = 3
	groupGap   = 14
)

// colours of the bars; the base is the line at 1.
var colours = []struct{ product, colour string }{
	{ours, "#1f6feb"}, {"haproxy", "#8b949e"}, {"nginx", "#57ab5a"}, {"nghttpx", "#c69026"}, {"floor", "#d0d7de"},
}

// chart draws every ratio to Envoy: shorter is better.
func chart(w io.Writer, reports []*report) error {
	var b strings.Builder
	y := 40
	for _, r := range reports {
		for i, c := range r.columns {
			if c.ratio && r.Base == "envoy" {
				y = group(&b, r, i, y)
			}
		}
	}
	width := chartLabel + int(chartScale*chartMost) + 60
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">
<rect width="100%%" height="100%%" fill="white"/>
<text x="10" y="16" font-size="13">Compared with Envoy (line at 1), shorter is better</text>
%s%s<line x1="%d" x2="%d" y1="34" y2="%d" stroke="#cf222e"/>
</svg>
`, width, y+10, legend(), b.String(), chartLabel+chartScale, chartLabel+chartScale, y)
	return err
}

func legend() string {
	var b strings.Builder
	for i, c := range colours {
		x := chartLabel + 80*i
		fmt.Fprintf(&b, `<rect x="%d" y="22" width="9" height="9" fill="%s"/><text x="%d" y="31">%s</text>`+"\n", x, c.colour, x+13, c.product)
	}
	return b.String()
}

// group draws the bars of one figure, and returns where the next begins.
func group(b *strings.Builder, r *report, column, y int) int {
	top := y
	for _, c := range colours {
		for _, s := range r.Summary {
			ratio := s.Figures[column].Ratio
			if s.Name != c.product || ratio == nil {
				continue
			}
			length := chartScale * min(max(ratio.Median, 0), chartMost)
			fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.0f" height="%d" fill="%s"/><text x="%.0f" y="%d">%.2f</text>`+"\n",
				chartLabel, y, length, barHeight, c.colour, chartLabel+length+4, y+barHeight-1, ratio.Median)
			y += barHeight + barGap
		}
	}
	if y == top {
		return y
	}
	fmt.Fprintf(b, `<text x="10" y="%d">%s</text><text x="10" y="%d" fill="#57606a">%s</text>`+"\n",
		top+barHeight-1, html.EscapeString(r.Title), top+2*barHeight+2, html.EscapeString(r.columns[column].title))
	return max(y, top+2*barHeight+barGap) + groupGap
}
