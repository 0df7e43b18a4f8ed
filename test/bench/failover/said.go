package main

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
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
	path        string // of the admin address
	out, probes []counter
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
		"/metrics",
		[]counter{{"overhear_belief_changes_total", map[string][]string{"to": {"ejected", "suspended"}}}},
		[]counter{{"overhear_suspicion_probes_total", failed}, {"overhear_idle_pings_total", failed}, {"overhear_idle_close_probes_total", failed}},
	}
	controlSays = saying{"/metrics", []counter{{"overhear_verdicts_total", map[string][]string{"state": {"ejected", "suspended"}, "scope": {"fleet"}}}}, nil}
	envoySays   = saying{
		"/stats/prometheus?filter=ejections_enforced_total|health_check.failure",
		[]counter{{"envoy_cluster_outlier_detection_ejections_enforced_total", nil}},
		[]counter{{"envoy_cluster_health_check_failure", nil}},
	}
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

// read are the sums; a metric that is not there is one that has counted nothing yet.
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
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(res.Body)
	if err != nil {
		return 0, 0, fmt.Errorf("%s of %s: %w", s.path, address, err)
	}
	return sum(families, s.out), sum(families, s.probes), nil
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
