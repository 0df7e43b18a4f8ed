package main

import (
	"cmp"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strings"
)

// colour tells the products apart by their kind.
func colour(product string) color.NRGBA {
	for _, c := range []struct {
		prefix string
		rgb    uint32
	}{
		{"overhear off", 0x8b949e}, {"overhear alone", 0xe8a07a}, {"overhear", 0xd55e00}, {"envoy tuned", 0x56b4e9}, {"envoy eager", 0xe69f00}, {"envoy", 0x0072b2},
		{"haproxy tuned", 0xe6bcd3}, {"haproxy", 0xcc79a7}, {"nginx", 0x8a5a00}, {"grpc", 0x009e73}, {"", 0x222222},
	} {
		if strings.HasPrefix(product, c.prefix) {
			return color.NRGBA{uint8(c.rgb >> 16), uint8(c.rgb >> 8), uint8(c.rgb), 255}
		}
	}
	return black
}

func (r *report) small() string {
	t := r.options.setting
	return fmt.Sprintf("%d endpoints, %g requests/s, base errors %g %%; %s, %s", t.Endpoints, t.Rate, 100*t.Base, r.Machine, r.Date)
}

// bars draws the harm of each product, scenario by scenario, on a logarithmic scale.
func (r *report) bars() *drawing {
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
		d.box(chartLabel, d.y, max(1, length), barHeight-2, colour(row.Product))
		d.text(chartLabel+length+5, d.y+barHeight-3, "start", fmt.Sprintf("%.0f (%.0f–%.0f)", float64(median(all)), float64(all[0]), float64(all[len(all)-1])))
		d.y += barHeight
	}
	return d.done("Excess failed requests: median (least–most), logarithmic", r.small())
}

// timelines draws when requests failed in the first crash of each product, of the first size
// of a fleet.
func (r *report) timelines() *drawing {
	const height = 34
	d := &drawing{y: 50}
	for _, p := range r.options.products {
		for _, o := range r.Outcomes {
			if o.Scenario != "crash" || o.Product != p.name || o.Discarded != "" || o.Setting.Proxies != r.options.proxies[0] || o.Setting.Retries != r.options.retries[0] {
				continue // another fleet is another picture
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
					d.box(chartLabel+wide*float64(i), d.y+height-h, max(.8, wide), h, colour(o.Product))
				}
			}
			d.line(chartLabel, d.y+height, chartLabel+chartScale, d.y+height, 1, faint)
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
		d.line(x, 50, x, d.y, 1, red)
		d.text(x, d.y+14, "middle", fmt.Sprintf("%s, %.0f s", mark.name, mark.at))
	}
	d.y += 16
	return d.done("One crash: failed requests in each tenth of a second, each product to its own most", r.small())
}

// fleets draws harm over the size of the fleet, for the first scenario.
func (r *report) fleets() *drawing {
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
	captions := make([][]caption, len(r.options.proxies))
	for _, p := range r.options.products {
		var last *point
		for i, n := range r.options.proxies {
			for _, row := range r.rows {
				if row.Scenario == scenario && row.Product == p.name && row.Setting.Proxies == n && row.Setting.Retries == r.options.retries[0] {
					m := median(row.of(func(f figures) number { return f.Excess }))
					here := &point{at(i), high(m)}
					if last == nil {
						captions[i] = append(captions[i], caption{high(m) + 4, -6, "end", fmt.Sprintf("%s %.0f", p.name, float64(m))})
					} else {
						captions[i] = append(captions[i], caption{high(m) - 3, 5, "start", fmt.Sprintf("%.0f", float64(m))})
						d.line(last.x, last.y, here.x, here.y, 2, colour(p.name))
					}
					last = here
				}
			}
		}
	}
	for i, column := range captions {
		for _, l := range apart(column) {
			d.text(at(i)+l.dx, l.y, l.anchor, l.text)
		}
	}
	return d.done(scenario+": excess failed requests over the number of proxies that share the same load, logarithmic", r.small())
}

// caption is a text beside a point.
type caption struct {
	y, dx  float64
	anchor string
	text   string
}

// apart moves captions of one column up, so that none covers another.
func apart(column []caption) []caption {
	slices.SortStableFunc(column, func(a, b caption) int { return cmp.Compare(b.y, a.y) })
	for i := 1; i < len(column); i++ {
		column[i].y = min(column[i].y, column[i-1].y-14)
	}
	return column
}

// shared are the rows of what every product took part in: a sum over the others would be
// less for who was not there.
func (r *report) shared() (rows []*row) {
	type part struct {
		scenario string
		proxies  int
		retries  bool
	}
	of := func(w *row) part { return part{w.Scenario, w.Setting.Proxies, w.Setting.Retries} }
	present, products := map[part]int{}, map[string]bool{}
	for _, w := range r.rows {
		present[of(w)]++
		products[w.Product] = true
	}
	for _, w := range r.rows {
		if present[of(w)] == len(products) {
			rows = append(rows, w)
		}
	}
	return rows
}

// tradeoff draws the harm that each product let through against how often it left what was
// well: good is at the bottom on the left.
func (r *report) tradeoff() *drawing {
	const height = 300
	d := &drawing{y: 60 + height + 40}
	harm, alarms := map[string]number{}, map[string]number{}
	most, noisiest := number(10), number(10)
	for _, row := range r.shared() {
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
		d.disc(x, y, 4, colour(p.name))
		// Names stand on the left, one below the other: many products never left anything.
		at := 70 + float64(i)*15
		d.text(chartLabel-20, at, "end", fmt.Sprintf("%s: %.0f, %.0f", p.name, float64(harm[p.name]), float64(alarms[p.name])))
		thread := colour(p.name)
		thread.A = 100
		d.line(chartLabel-16, at-4, x, y, 1, thread)
	}
	d.text(chartLabel+chartScale/2, 60+height+20, "middle", "times that a caller left an endpoint that was well to it, where all took part, logarithmic")
	return d.done("Excess failed requests (upwards, logarithmic) against false alarms", r.small())
}
