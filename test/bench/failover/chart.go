package main

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
)

// The pictures' measures, in pixels.
const (
	chartLabel = 190
	chartScale = 460
	barHeight  = 13
)

// drawing gathers the elements of an SVG from the top down.
type drawing struct {
	strings.Builder
	y float64
}

func (d *drawing) text(x, y float64, anchor, text string) {
	fmt.Fprintf(d, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, html.EscapeString(text))
}

// done writes the picture with its title and the command that made it.
func (d *drawing) done(w io.Writer, title, small string) error {
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%.0f" font-family="sans-serif" font-size="11">
<rect width="100%%" height="100%%" fill="white"/>
<text x="10" y="18" font-size="14" font-weight="bold">%s</text>
<text x="10" y="34" fill="#57606a">%s</text>
%s</svg>
`, chartLabel+chartScale+90, d.y+14, html.EscapeString(title), html.EscapeString(small), d.String())
	return err
}

// colour tells the products apart by their kind.
func colour(product string) string {
	for _, c := range []struct{ prefix, colour string }{
		{"overhear off", "#8b949e"}, {"overhear alone", "#e8a07a"}, {"overhear", "#d55e00"}, {"envoy tuned", "#56b4e9"}, {"envoy", "#0072b2"},
		{"haproxy", "#cc79a7"}, {"nginx", "#8a5a00"}, {"grpc", "#009e73"},
	} {
		if strings.HasPrefix(product, c.prefix) {
			return c.colour
		}
	}
	return "#222222"
}

func (r *report) small() string {
	t := r.options.setting
	return fmt.Sprintf("%d endpoints, %g requests/s, base errors %g %%; %s, %s", t.Endpoints, t.Rate, 100*t.Base, r.Machine, r.Date)
}

// bars draws the harm of each product, scenario by scenario, on a logarithmic scale.
func (r *report) bars(w io.Writer) error {
	most := number(10)
	for _, row := range r.rows {
		most = max(most, median(row.of(func(f figures) number { return f.Excess })))
	}
	scale := func(n number) float64 {
		return chartScale * math.Log10(1+max(0, float64(n))) / math.Log10(1+float64(most))
	}
	d := &drawing{y: 44}
	var above *row
	for _, row := range r.rows {
		if above == nil || above.Scenario != row.Scenario || above.Setting != row.Setting {
			d.y += 20
			d.text(10, d.y-4, "start", fmt.Sprintf("%s, %d proxies%s", row.Scenario, row.Setting.Proxies, map[bool]string{true: ", retries"}[row.Setting.Retries]))
		}
		above = row
		all := row.of(func(f figures) number { return f.Excess })
		length := scale(median(all))
		d.text(chartLabel-6, d.y+barHeight-3, "end", row.Product)
		fmt.Fprintf(d, `<rect x="%d" y="%.0f" width="%.1f" height="%d" fill="%s"/>`+"\n", chartLabel, d.y, max(1, length), barHeight-2, colour(row.Product))
		d.text(chartLabel+length+5, d.y+barHeight-3, "start", fmt.Sprintf("%.0f (%.0f–%.0f)", float64(median(all)), float64(all[0]), float64(all[len(all)-1])))
		d.y += barHeight
	}
	return d.done(w, "Excess failed requests: median (least–most), logarithmic", r.small())
}

// timelines draws when requests failed in the first crash of each product.
func (r *report) timelines(w io.Writer) error {
	const height = 34
	d := &drawing{y: 50}
	for _, p := range r.options.products {
		for _, o := range r.Outcomes {
			if o.Scenario != "crash" || o.Product != p.name || o.Discarded != "" {
				continue
			}
			d.text(chartLabel-6, d.y+height-4, "end", o.Product)
			most := 1
			total := 0
			for _, n := range o.Timeline {
				most, total = max(most, n), total+n
			}
			wide := float64(chartScale) / float64(len(o.Timeline))
			for i, n := range o.Timeline {
				if h := float64(n) / float64(most) * (height - 6); h > 0 {
					fmt.Fprintf(d, `<rect x="%.1f" y="%.1f" width="%.2f" height="%.1f" fill="%s"/>`+"\n", chartLabel+wide*float64(i), d.y+height-h, max(.8, wide), h, colour(o.Product))
				}
			}
			fmt.Fprintf(d, `<line x1="%d" x2="%d" y1="%.0f" y2="%.0f" stroke="#c4c4c4"/>`+"\n", chartLabel, chartLabel+chartScale, d.y+height, d.y+height)
			d.text(chartLabel+chartScale+5, d.y+height-4, "start", fmt.Sprint(total))
			d.y += height
			break
		}
	}
	t := r.options.setting
	whole := (t.Warm/2 + t.Fault + t.After).Seconds()
	for _, mark := range []struct {
		at   float64
		name string
	}{{t.Warm.Seconds() / 2, "crash"}, {(t.Warm/2 + t.Fault).Seconds(), "back"}} {
		x := chartLabel + chartScale*mark.at/whole
		fmt.Fprintf(d, `<line x1="%.1f" x2="%.1f" y1="50" y2="%.0f" stroke="#cf222e"/>`+"\n", x, x, d.y)
		d.text(x, d.y+14, "middle", fmt.Sprintf("%s, %.0f s", mark.name, mark.at))
	}
	d.y += 16
	return d.done(w, "One crash: failed requests in each tenth of a second, each product to its own most", r.small())
}

// fleets draws harm over the size of the fleet, for the first scenario.
func (r *report) fleets(w io.Writer) error {
	const height = 300
	d := &drawing{y: 60 + height + 30}
	scenario := r.options.scenarios[0].name
	most := number(10)
	for _, row := range r.rows {
		most = max(most, median(row.of(func(f figures) number { return f.Excess })))
	}
	at := func(i int) float64 { return chartLabel + chartScale*float64(i)/float64(len(r.options.proxies)-1) }
	high := func(n number) float64 {
		return 60 + height*(1-math.Log10(1+max(0, float64(n)))/math.Log10(1+float64(most)))
	}
	for i, n := range r.options.proxies {
		d.text(at(i), 60+height+16, "middle", fmt.Sprint(n, " proxies"))
	}
	for _, p := range r.options.products {
		var points []string
		for i, n := range r.options.proxies {
			for _, row := range r.rows {
				if row.Scenario == scenario && row.Product == p.name && row.Setting.Proxies == n && row.Setting.Retries == r.options.retries[0] {
					m := median(row.of(func(f figures) number { return f.Excess }))
					points = append(points, fmt.Sprintf("%.1f,%.1f", at(i), high(m)))
					if len(points) == 1 {
						d.text(at(i)-6, high(m)+4, "end", fmt.Sprintf("%s %.0f", p.name, float64(m)))
					} else {
						d.text(at(i)+5, high(m)-3, "start", fmt.Sprintf("%.0f", float64(m)))
					}
				}
			}
		}
		fmt.Fprintf(d, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(points, " "), colour(p.name))
	}
	return d.done(w, scenario+": excess failed requests over the number of proxies that share the same load, logarithmic", r.small())
}

// tradeoff draws the harm that each product let through in all scenarios against how often
// it left what was well: good is at the bottom on the left.
func (r *report) tradeoff(w io.Writer) error {
	const height = 300
	d := &drawing{y: 60 + height + 40}
	harm, alarms := map[string]number{}, map[string]number{}
	most, noisiest := number(10), number(10)
	for _, row := range r.rows {
		harm[row.Product] += max(0, median(row.of(func(f figures) number { return f.Excess })))
		alarms[row.Product] += median(row.of(func(f figures) number { return f.Alone }))
		most, noisiest = max(most, harm[row.Product]), max(noisiest, alarms[row.Product])
	}
	part := func(n, most number) float64 { return math.Log10(1+float64(n)) / math.Log10(1+float64(most)) }
	for i, p := range r.options.products {
		if _, ok := harm[p.name]; !ok {
			continue
		}
		x, y := chartLabel+chartScale*part(alarms[p.name], noisiest), 60+height*(1-part(harm[p.name], most))
		fmt.Fprintf(d, `<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>`+"\n", x, y, colour(p.name))
		// Names stand on the left, one below the other: many products never left anything.
		at := 70 + float64(i)*15
		d.text(chartLabel-20, at, "end", fmt.Sprintf("%s: %.0f, %.0f", p.name, float64(harm[p.name]), float64(alarms[p.name])))
		fmt.Fprintf(d, `<line x1="%d" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-opacity=".4"/>`+"\n", chartLabel-16, at-4, x, y, colour(p.name))
	}
	d.text(chartLabel+chartScale/2, 60+height+20, "middle", "times that a caller left an endpoint that was well to it, all scenarios, logarithmic")
	return d.done(w, "Excess failed requests (upwards, logarithmic) against false alarms", r.small())
}
