package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/overhear-mesh/overhear/outlier/merge"
	"github.com/overhear-mesh/overhear/test/poisson"
	"github.com/overhear-mesh/overhear/test/sim/rival"
	"github.com/overhear-mesh/overhear/test/sim/world"
)

// Swept is one product with one setting of its threshold.
type Swept struct {
	Product   string  `json:"product"`
	Model     bool    `json:"model"`
	Threshold string  `json:"threshold"`
	False     float64 `json:"false_per_endpoint_month"` // ejections that callers saw, each weighed by its share of the callers
	Upper     float64 `json:"false_per_endpoint_month_upper_95"`
	Count     int     `json:"false_outs"`
	Hours     float64 `json:"endpoint_hours"`
	Harm      Number  `json:"harm_p50"`
	Off       Number  `json:"off_p50"`
	Found     float64 `json:"found"`
}

// threshold is one threshold of a product.
type threshold struct {
	name  string
	value any
	maker world.Maker
}

// swept are the thresholds of each product: from nervous to patient.
func swept() []threshold {
	var all []threshold
	for _, hours := range []int{1, 10, 100, 722, 8766} { // an hour to a year
		interval := time.Duration(hours) * time.Hour
		all = append(all, threshold{"false_ejection_interval", fmt.Sprint(hours, "h"), world.Overhear("overhear", world.Options{Policy: func(p *merge.Policy) {
			p.Outlier.FalseEjectionInterval = interval
			// The floors are of one month: they move with the interval, as thresholds do.
			shift := math.Log(interval.Seconds() / 2.6e6)
			p.Outlier.HLocalMin = max(6, p.Outlier.HLocalMin+shift)
			p.HFleetMin = max(6, p.HFleetMin+shift)
			p.HSlow = max(6, p.HSlow+shift)
		}})})
	}
	for _, n := range []int{2, 3, 5, 7, 10} {
		cfg := rival.EnvoyEager()
		cfg.Consecutive5xx, cfg.StdevFactor, cfg.FailureThreshold = n, 0, 0
		all = append(all, threshold{"consecutive_5xx", n, rival.Envoy("envoy consecutive", rival.RoundRobin, cfg)})
	}
	for _, percent := range []float64{5, 10, 20, 30, 50, 85} {
		cfg := rival.EnvoyEager()
		cfg.Consecutive5xx, cfg.StdevFactor, cfg.FailureThreshold = 0, 0, percent
		all = append(all, threshold{"failure_percentage_threshold", percent, rival.Envoy("envoy failure percentage", rival.RoundRobin, cfg)})
	}
	for _, factor := range []float64{1.0, 1.4, 1.9, 2.4, 2.9} {
		cfg := rival.EnvoyEager()
		cfg.Consecutive5xx, cfg.StdevFactor, cfg.FailureThreshold = 0, factor, 0
		all = append(all, threshold{"success_rate_stdev_factor", 1000 * factor, rival.Envoy("envoy success rate", rival.RoundRobin, cfg)})
	}
	for _, rate := range []float64{0.95, 0.9, 0.8, 0.7, 0.5} {
		cfg := rival.LinkerdDefault(true)
		cfg.Threshold = rate
		all = append(all, threshold{"success-rate-threshold", rate, rival.Linkerd("linkerd unified", rival.PeakEWMA, cfg)})
	}
	for _, n := range []int{2, 3, 5, 7} {
		cfg := rival.LinkerdDefault(false)
		cfg.MaxFailures = n
		all = append(all, threshold{"max-failures", n, rival.Linkerd("linkerd consecutive", rival.PeakEWMA, cfg)})
	}
	for _, n := range []int{2, 3, 5, 10} {
		cfg := rival.HAProxyDefault()
		cfg.ErrorLimit = n
		all = append(all, threshold{"error-limit", n, rival.HAProxy("haproxy observe", rival.RoundRobin, cfg)})
	}
	return all
}

// sweep sets false ejections against speed while thresholds move: only at the same
// rate of false alarms is a comparison of speed fair.
func sweep(o options, seeds []uint64, out io.Writer) error {
	fault, err := world.Parse("sweep-fault", "base 1%\nlength 60s\nat 0s endpoint 3: errors 30%")
	if err != nil {
		return err
	}
	healthy, err := world.Parse("sweep-health", "base 1%\nlength 30m")
	if err != nil {
		return err
	}
	var results []Swept
	harm, speed := map[string]*curve{}, map[string]*curve{}
	for _, e := range swept() {
		runs := simulate([]world.Scenario{healthy, fault}, []world.Maker{e.maker}, seeds)
		health, sick := runs[0], runs[1]
		hours := float64(len(seeds)) * healthy.Length.Hours() * float64(healthy.Endpoints)
		count := int(health.Figures["false-outs"].Mean*float64(len(seeds)) + 0.5)
		weight := month / float64(healthy.Callers) / hours
		r := Swept{
			Product: e.maker.Name, Model: e.maker.Model, Threshold: fmt.Sprint(e.name, " ", e.value), Count: count, Hours: hours,
			False: float64(count) * weight, Upper: poisson.Upper(count) * weight,
			Harm: sick.Figures["harm"].P50, Off: Number(math.Inf(1)), Found: sick.Figures["found"].Mean,
		}
		if s, ok := sick.Figures["off"]; ok {
			r.Off = s.P50
		}
		results = append(results, r)
		// What was not seen is drawn at the bound that its absence gives.
		p := point{y: r.False, label: fmt.Sprint(e.value)}
		if count == 0 {
			p.y, p.bound = r.Upper, true
		}
		p.x = float64(r.Harm)
		put(harm, r, p)
		p.x = float64(r.Off)
		put(speed, r, p)
	}
	if o.svg != "" {
		if err := sweepPlots(o, results, harm, speed, healthy, seeds); err != nil {
			return err
		}
	}
	if o.json {
		return encode(out, map[string]any{"seeds": o.seeds, "set": setName(seeds), "sweep": results})
	}
	rows := [][]string{{"product", "threshold", "false/endpoint-month", "seen", "harm p50", "off p50 s", "found"}}
	for _, r := range results {
		name := called(r.Product, r.Model)
		rate := format(r.False)
		if r.Count == 0 {
			rate = "< " + format(r.Upper)
		}
		rows = append(rows, []string{name, r.Threshold, rate, fmt.Sprint(r.Count), format(float64(r.Harm)), format(float64(r.Off)), format(r.Found)})
	}
	grid(out, rows)
	fmt.Fprintf(out, "seeds %s (%s); errors of 30 %% at base 1 %%, 50/s into each of 10 endpoints, 10 callers; health for %.0f endpoint-hours each\n", o.seeds, setName(seeds), results[0].Hours)
	return nil
}

func put(curves map[string]*curve, r Swept, p point) {
	c := curves[r.Product]
	if c == nil {
		c = &curve{product: r.Product, model: r.Model}
		curves[r.Product] = c
	}
	c.points = append(c.points, p)
}

// sweepPlots draws false ejections against harm, and against time.
func sweepPlots(o options, results []Swept, harm, speed map[string]*curve, s world.Scenario, seeds []uint64) error {
	if err := os.MkdirAll(o.svg, 0o755); err != nil {
		return err
	}
	var harms, offs, rates []float64
	for _, r := range results {
		harms, offs = append(harms, float64(r.Harm)), append(offs, float64(r.Off))
		if r.Count == 0 {
			rates = append(rates, r.Upper)
		} else {
			rates = append(rates, r.False)
		}
	}
	small := []string{
		fmt.Sprintf("One of 10 endpoints fails 30 %% of its requests. %s. Median over seeds %s (%s).", setting(&s, true), o.seeds, setName(seeds)),
		fmt.Sprintf("False ejections: in health, for %.0f endpoint-hours each; with an arrow: none seen, and the upper 95 %% bound. Numbers at the points: the product's threshold, from nervous to patient. All with round robin, but overhear and linkerd with their own P2C. %s", results[0].Hours, modelled),
	}
	for _, c := range []chart{
		{title: "Thresholds swept: false ejections against harm", xName: "failed attempts on the faulty endpoint within 60 s, beyond the base rate", curves: sortedCurves(harm), x: newAxis(harms, 1)},
		{title: "Thresholds swept: false ejections against speed", xName: "seconds from the first failed attempt until every caller is off", curves: sortedCurves(speed), x: newAxis(offs, 0.01)},
	} {
		c.small, c.y = small, newAxis(rates, 1e-3)
		c.yName = "false ejections per endpoint-month (each by its share of callers)"
		name := "sweep harm"
		if strings.HasSuffix(c.title, "speed") {
			name, c.x.beyond = "sweep speed", "never"
		}
		if err := write(o.svg, name, c.svg()); err != nil {
			return err
		}
	}
	return nil
}
