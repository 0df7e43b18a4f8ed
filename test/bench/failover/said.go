package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// said is what a product says of itself: how often its proxies have taken an endpoint out
// since they began, how often its control plane has for the fleet, and how many probes,
// pings and checks of its proxies have failed. It finds what is too short to be seen at the
// backends. Not a number: the product has no such count.
type said struct{ Proxies, Fleet, FailedProbes number }

// since is what was said between two readings.
func (s said) since(before said) said {
	return said{s.Proxies - before.Proxies, s.Fleet - before.Fleet, s.FailedProbes - before.FailedProbes}
}

// saying is where a product tells how often it takes an endpoint out, and how many of its
// probes fail.
type saying struct {
	path string // of the admin address; "": nowhere
	sums func(page io.Reader) (out, probes number, err error)
}

// counter is a metric, and labels of which each has one of the values.
type counter struct {
	metric string
	labels map[string][]string
}

// failed are the results of a probe of ours that found something wrong; the others are ok,
// and not_run.
var failed = map[string][]string{"result": {"refused", "reset", "unreachable", "tls", "timeout", "unhealthy"}}

var (
	sidecarSays = saying{
		"/metrics", metrics(
			[]counter{{"overhear_belief_changes_total", map[string][]string{"to": {"ejected", "suspended"}}}},
			[]counter{{"overhear_suspicion_probes_total", failed}, {"overhear_idle_pings_total", failed}, {"overhear_idle_close_probes_total", failed}}),
	}
	controlSays = saying{"/metrics", metrics([]counter{{"overhear_verdicts_total", map[string][]string{"state": {"ejected", "suspended"}, "scope": {"fleet"}}}}, nil)}
	envoySays   = saying{
		"/stats/prometheus?filter=ejections_enforced_total|health_check.failure", metrics(
			[]counter{{"envoy_cluster_outlier_detection_ejections_enforced_total", nil}},
			[]counter{{"envoy_cluster_health_check_failure", nil}}),
	}
	haproxySays = saying{"/stats;csv", statistics} // its exporter for Prometheus has no hanafail
)

// say asks all processes of the fleet.
func (f *fleet) say(ctx context.Context) (said, error) {
	s := said{number(math.NaN()), number(math.NaN()), number(math.NaN())}
	if f.counts.path != "" {
		s.Proxies, s.FailedProbes = 0, 0
		for _, admin := range f.admins {
			out, probes, err := f.counts.read(ctx, admin)
			if err != nil {
				return s, err
			}
			s.Proxies, s.FailedProbes = s.Proxies+out, s.FailedProbes+probes
		}
	}
	if f.api != "" {
		out, _, err := controlSays.read(ctx, f.api)
		if err != nil {
			return s, err
		}
		s.Fleet = out
	}
	return s, nil
}

// read asks one process.
func (s saying) read(ctx context.Context, address string) (out, probes number, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+s.path, nil)
	if err != nil {
		return 0, 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return 0, 0, fmt.Errorf("%s of %s: %s", s.path, address, res.Status)
	}
	if out, probes, err = s.sums(res.Body); err != nil {
		return 0, 0, fmt.Errorf("%s of %s: %w", s.path, address, err)
	}
	return out, probes, nil
}

// metrics sums what stands in Prometheus's text; a metric that is not there is one that has
// counted nothing yet.
func metrics(out, probes []counter) func(io.Reader) (number, number, error) {
	return func(page io.Reader) (number, number, error) {
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(page)
		if err != nil {
			return 0, 0, err
		}
		return sum(families, out), sum(families, probes), nil
	}
}

// statistics sums HAProxy's over all servers
// (https://docs.haproxy.org/2.6/management.html#9.1): chkdown are the times that one went
// down. chkfail are failed checks, of servers that are not down already, and what
// "observe" makes of errors, which is no check and is hanafail as well.
func statistics(page io.Reader) (out, probes number, err error) {
	const server = "2" // type; others are frontends and backends
	rows, err := csv.NewReader(page).ReadAll()
	if err != nil {
		return 0, 0, err
	}
	if len(rows) == 0 {
		return 0, 0, errors.New("an empty page")
	}
	sums := map[string]number{"chkdown": 0, "chkfail": 0, "hanafail": 0}
	kind := slices.Index(rows[0], "type")
	for name := range sums {
		at := slices.Index(rows[0], name)
		if kind < 0 || at < 0 {
			return 0, 0, fmt.Errorf("no column %s, or no type", name)
		}
		for _, row := range rows[1:] {
			if row[kind] != server || row[at] == "" { // or it is not checked
				continue
			}
			n, err := strconv.ParseUint(row[at], 10, 64)
			if err != nil {
				return 0, 0, fmt.Errorf("%s: %w", name, err)
			}
			sums[name] += number(n)
		}
	}
	return sums["chkdown"], sums["chkfail"] - sums["hanafail"], nil
}

func sum(families map[string]*dto.MetricFamily, all []counter) (total number) {
	for _, c := range all {
		for _, m := range families[c.metric].GetMetric() {
			if c.counts(m) {
				total += number(m.GetCounter().GetValue() + m.GetUntyped().GetValue())
			}
		}
	}
	return total
}

// counts says whether the sum has this one.
func (c counter) counts(m *dto.Metric) bool {
	labels := map[string]string{}
	for _, l := range m.GetLabel() {
		labels[l.GetName()] = l.GetValue()
	}
	for name, some := range c.labels {
		if !slices.Contains(some, labels[name]) {
			return false
		}
	}
	return true
}
